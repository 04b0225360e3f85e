/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The old QEMU's side of an upgrade (docs/design/upgrade.md): a source whose destination has the
 * same memory. It guards that memory against the new QEMU, hands the guest over, and ends its QEMU;
 * or takes the guest back.
 *
 * Threads: the coordinator; the guard's; one that looks at the disks while device state is loaded.
 * A field belongs to the coordinator unless it says otherwise; "lock" is the control's.
 */
#ifndef FF_MIGRATION_UPGRADE_OLD_SIDE_H
#define FF_MIGRATION_UPGRADE_OLD_SIDE_H

#include "contract/upgrade-commit.h"
#include "migration/common/ram.h"
#include "migration/common/stats.h"
#include "uffd/guard.h"

typedef struct {
    /* Borrowed. */
    FfMigrationConfig *cfg;
    FfControl *control;
    FfRam *ram;
    FfStats *stats;

    int link;              /* to the new engine; lock to close */
    int heir;              /* pidfd of the new QEMU; -1: it is not known yet */
    int uffd, maps;        /* the new QEMU's; -1 */
    FfUpgradeCommit *pact; /* and the guard's; NULL: nothing can have been loaded yet */
    FfGuard *guard;
    bool loads;         /* atomic; the new QEMU may write. Observer: the guard's thread */
    int inner;          /* device state of this QEMU; -1 */
    char *disks;        /* which files they are in, as this QEMU says it */
    char *theirs;       /* disks and devices that the new one has; NULL: it does not say */
    int64_t begun_us;   /* monotonic */
    GThread *looks;     /* at them once more, with the guest stopped; NULL: nobody does */
    GError *differ;     /* what it has found, when it has ended; NULL: nothing */
    char *run_state;    /* what the guest was before stop */
    bool saving;        /* this QEMU may have begun its inner migration */
    bool stopped;       /* lock to write; the client's stop and cont are ours */
    bool stopped_by_us; /* lock; nobody may start the guest but we */
    bool resumed;       /* lock; somebody did */
} FfOldSide;

void ff_old_side_init(FfOldSide *s);
/* The coordinator, from the beginning to the end; of one that adopts. */
void ff_old_side_coordinate(FfOldSide *s);
void ff_old_side_adopt(FfOldSide *s);
/* Before that coordinator. The driver. */
void ff_old_side_adopt_begin(FfOldSide *s);
/* Driver: a thread that waits for the peer stops doing so. The control's lock is held. */
void ff_old_side_wake_locked(FfOldSide *s);
void ff_old_side_clear(FfOldSide *s);

#endif
