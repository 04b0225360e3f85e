/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's coordinator.
 */
#ifndef FF_MIGRATION_SOURCE_SOURCE_H
#define FF_MIGRATION_SOURCE_SOURCE_H

#include "migration/source/side.h"

/* A source without threads; ff_source_free() ends it. What it stands on is set by the caller. FALSE
 * and ERROR: no eventfd can be had. */
bool ff_source_init(FfSource *s, GError **error);
/* No thread is left but the coordinator's callers. */
void ff_source_clear(FfSource *s);
/* The coordinator, from the beginning to the end. */
void ff_source_coordinate(FfSource *s);
/* From postcopy-active to the end. */
void ff_source_see_through(FfSource *s);
/* The guest continues here; it was never the peer's. */
void ff_source_roll_back(FfSource *s, const GError *why);
/* The client's stop and cont are QEMU's from now on. The guest is stopped once more if the client
 * has said so meanwhile. */
void ff_source_release_guest(FfSource *s);

#endif
