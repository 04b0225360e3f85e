/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest of a live snapshot, stopped and let run on; for migration/snapshot/snapshot.c. Each
 * call may wait for QEMU.
 */
#ifndef FF_MIGRATION_SNAPSHOT_GUEST_H
#define FF_MIGRATION_SNAPSHOT_GUEST_H

#include "migration/snapshot/side.h"

/* FALSE and ERROR: it is cancelled, or has failed already. Any thread of the snapshot's. */
bool ff_snapshot_goes_on(FfSnapshot *s, GError **error);
/* With its disks, if they are to be branched. FALSE and ERROR: it may have been stopped
 * (FfSnapshot.stopped), and QEMU may have begun. */
bool ff_snapshot_stop_guest(FfSnapshot *s, GError **error);
/* The guest is as it was before, or as the client has said meanwhile. FALSE and ERROR: it is not,
 * and the client's stop and cont are still ours. */
bool ff_snapshot_release_guest(FfSnapshot *s, GError **error);
/* The same, again and again for some seconds. FALSE and ERROR: it is given up. */
bool ff_snapshot_release_in_the_end(FfSnapshot *s, GError **error);

#endif
