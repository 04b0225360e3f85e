/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source wants the guest back. The coordinator.
 */
#ifndef FF_MIGRATION_SOURCE_REVOKE_H
#define FF_MIGRATION_SOURCE_REVOKE_H

#include "migration/source/side.h"

/* Paused: TRUE if the destination has ended without ever having had the guest. */
bool ff_source_revoke(FfSource *s, GError **error);
/* After a roll back: tells the destination, as long as there is hope to. */
void ff_source_tell_roll_back(FfSource *s);

#endif
