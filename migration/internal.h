/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind migration.h: the parts of a migration, and which side it is. Private to
 * migration.c, upgrade-ops.c, recovery.c and dump.c: no thread of a migration has it.
 *
 * The role is asked in one place, where `side` is set; what differs is in the table.
 */
#ifndef FF_MIGRATION_INTERNAL_H
#define FF_MIGRATION_INTERNAL_H

#include "migration/destination/side.h"
#include "migration/snapshot/snapshot.h"
#include "migration/source/side.h"
#include "migration/upgrade/new-side.h"
#include "migration/upgrade/old-side.h"

typedef struct FfMigration FfMigration; /* migration.h */

/* The client's commands that not every side obeys. */
typedef enum {
    FF_ORDER_SWITCH = 1 << 0,  /* migrate-start-postcopy */
    FF_ORDER_RESUME = 1 << 1,  /* migrate with resume */
    FF_ORDER_REVOKE = 1 << 2,  /* taking the guest back */
    FF_ORDER_RECOVER = 1 << 3, /* migrate-recover */
} FfOrder;

typedef struct {
    const char *name;
    unsigned obeys; /* of FfOrder */
    bool receives;  /* a block's bitmap says what is here, not what is still to be sent */
    /* Driver, before the coordinator starts. */
    bool (*init)(FfMigration *m, GError **error);
    bool (*listen)(FfMigration *m, GError **error); /* not of one that adopts */
    FfStatus (*begin_adoption)(FfMigration *m);
    /* The coordinator. */
    void (*coordinate)(FfMigration *m);
    void (*adopt)(FfMigration *m);
    void (*part)(FfMigration *m); /* after done(), of a migration that lives on */
    /* Driver. Those with _locked: the control's lock is held. */
    bool (*holds_guest_locked)(const FfMigration *m);
    /* The client's cont. FALSE: refused. *NOW: it is QEMU's; else it is remembered. */
    bool (*cont_locked)(FfMigration *m, bool *now);
    /* The guest runs though it was stopped for its move; a source may roll back. TRUE: it has no
     * right to run here. */
    bool (*resumed_locked)(FfMigration *m);
    /* The client's stop, of a guest that this side holds. FALSE: it cannot be seen to any more.
     * NULL: it can. */
    bool (*stop_locked)(FfMigration *m);
    bool (*may_roll_back_locked)(const FfMigration *m); /* its guest is stopped, and not given */
    void (*cancel_locked)(FfMigration *m);              /* NULL: it hears of it by the events */
    void (*set_bandwidth_locked)(FfMigration *m);       /* NULL: likewise */
    bool (*lives_on)(const FfMigration *m);
    bool (*speaks)(FfMigration *m);
    void (*vmm_ended)(FfMigration *m); /* NULL: the connection's end says it */
    void (*describe_locked)(const FfMigration *m, FfMigrationInfo *info);
    /* For pages; NULL, and what it returns: nobody waits on this side. */
    const FfWaits *(*waits)(const FfMigration *m);
    void (*clear)(FfMigration *m); /* no thread is left */
} FfSideOps;

/* upgrade-ops.c */
extern const FfSideOps ff_old_side_ops, ff_new_side_ops;

struct FfMigration {
    const FfSideOps *side;
    FfMigrationConfig cfg;
    FfControl *control;
    FfRam ram;
    FfConnection conn;
    FfStats stats;
    FfPlain plain;
    FfDeviceCopy copy;
    union {
        FfSource source;
        FfDestination dest;
        FfSnapshot snapshot;
        FfOldSide handover;
        FfNewSide takeover;
    };
    GThread *coordinator;
    bool adopting;
    /* Driver: for mbps. */
    uint64_t rate_bytes, rate_x100;
    int64_t rate_us;
};

#endif
