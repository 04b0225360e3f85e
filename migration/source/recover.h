/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source after the grant. The coordinator.
 */
#ifndef FF_MIGRATION_SOURCE_RECOVER_H
#define FF_MIGRATION_SOURCE_RECOVER_H

#include "migration/source/side.h"

/* From postcopy-active on: waits until everything is at the destination, over as many
 * connections as it takes. FALSE: the object is being freed, or the guest is ours again. */
bool ff_source_persist(FfSource *s);
/* Joins the threads that live as long as one connection. */
void ff_source_end_connection(FfSource *s);
/* Takes what an engine that died has left of a guest that is the peer's. FALSE: may be called
 * again. */
bool ff_source_adopt(FfSource *s, GError **error);

#endif
