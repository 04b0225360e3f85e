/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A destination whose source is a file: device state first, then the guest runs, and its memory
 * comes by faults and by a fill beside them.
 */
#ifndef FF_MIGRATION_RESTORE_RESTORE_H
#define FF_MIGRATION_RESTORE_RESTORE_H

#include "migration/destination/side.h"

/* D becomes one: before the coordinator. Takes CFG's fd. */
void ff_restore_init(FfDestination *d, FfRestoreConfig *cfg);
/* The same for an engine that adopts one. */
void ff_restore_adopt_init(FfDestination *d, FfRestoreConfig *cfg);
/* The coordinator, from the beginning to the end. */
void ff_restore_coordinate(FfDestination *d);
/* Its journal is at its end: nothing is left to know of the file. */
void ff_restore_forget(FfDestination *d);
/* Driver, under the control's lock. */
void ff_restore_describe_locked(const FfDestination *d, FfMigrationInfo *info);
/* What a client names to it when it has paused (g_free). Any thread. */
char *ff_restore_uri(const FfDestination *d);
/* No thread is left. */
void ff_restore_clear(FfDestination *d);

#endif
