/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The new QEMU's side of an upgrade (docs/design/upgrade.md): a destination that has the guest's
 * memory already. It loads device state, and runs the guest when the pact says that it may.
 *
 * Thread: the coordinator. A field belongs to it unless it says otherwise; "lock" is the control's.
 */
#ifndef FF_MIGRATION_UPGRADE_NEW_SIDE_H
#define FF_MIGRATION_UPGRADE_NEW_SIDE_H

#include "content/image/run-state.h"
#include "contract/upgrade-commit.h"
#include "migration/common/ram.h"
#include "migration/common/stats.h"

typedef struct {
    /* Borrowed. */
    FfMigrationConfig *cfg;
    FfControl *control;
    FfRam *ram;
    FfStats *stats;

    pid_t relay;           /* this process's parent */
    int link;              /* to the old engine; lock to close */
    int inner;             /* device state into QEMU; -1 */
    FfUpgradeCommit *pact; /* NULL: the old engine has not accepted yet */
    int started_fd;        /* while the guest is being started: that it was; for the thread that
                            * lifts */
    char *not_started; /* lock; why the guest, which is this QEMU's, could not be started; NULL */
    bool uffd_is_free; /* coordinator, then the driver: nothing is registered in it */
    FfRunStateSeeker run_state; /* of the device state that has come */
    uint8_t said[516];          /* a message of QEMU's return path, as far as it has come */
    unsigned n_said;
} FfNewSide;

void ff_new_side_init(FfNewSide *t);
/* The coordinator, from the beginning to the end; of one that adopts. */
void ff_new_side_coordinate(FfNewSide *t);
void ff_new_side_adopt(FfNewSide *t);
/* A new engine, before it does anything: the one before it may have taken the guest and died
 * before it could store that. PACT_FD: what the relay holds, -1. The driver. */
void ff_new_side_look(FfStateHeader *state, int pact_fd);
/* Driver: a thread that waits for the peer stops doing so. The control's lock is held. */
void ff_new_side_wake_locked(FfNewSide *t);
void ff_new_side_clear(FfNewSide *t);

#endif
