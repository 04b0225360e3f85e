/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices in other processes (vhost-user) in a live snapshot: nothing catches what their back-ends
 * write, so they stand from the instant until all memory is saved. The coordinator's thread.
 */
#ifndef FF_MIGRATION_SNAPSHOT_DEVICES_H
#define FF_MIGRATION_SNAPSHOT_DEVICES_H

#include "migration/snapshot/side.h"

/* Before the guest is stopped. FALSE and ERROR: nobody could say that they had finished. */
bool ff_snapshot_devices_begin(FfSnapshot *s, GError **error);
/* The guest has stopped: they have finished, and begin nothing more. FALSE and ERROR: they have
 * not. */
bool ff_snapshot_devices_park(FfSnapshot *s, GError **error);
/* They go on. Safe to call at any time after ff_snapshot_devices_begin(), and twice. */
void ff_snapshot_devices_end(FfSnapshot *s);
/* The same for an engine after that one: STATE, and the MEMORY of its VMM. */
void ff_snapshot_devices_unpark(FfStateHeader *state, FfVmmMemory *memory);

#endif
