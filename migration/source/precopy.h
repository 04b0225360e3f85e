/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's precopy; all of it is the coordinator's.
 */
#ifndef FF_MIGRATION_SOURCE_PRECOPY_H
#define FF_MIGRATION_SOURCE_PRECOPY_H

#include "migration/source/side.h"

/* Before a peer is spoken to: begins to track, or decides what becomes of a migration without that.
 * FALSE and ERROR: QEMU is to carry it. */
bool ff_precopy_begin(FfSource *s, GError **error);
/* Sends rounds until it is time to switch: conn->complete_at_grant says how. */
bool ff_precopy_run(FfSource *s, GError **error);
/* Tells the peer which of the pages it has are stale by now, the guest still running: everything
 * (before PREPARE), then what was written since (after READY). */
bool ff_precopy_tell(FfSource *s, GError **error);
bool ff_precopy_tell_again(FfSource *s, GError **error);
/* The guest is stopped: the last of that. From here on the dirty bitmap is final. */
bool ff_precopy_freeze(FfSource *s, GError **error);
/* Ends the tracking. Safe to call twice. STAYS: the guest continues here, and gets back what
 * tracking took from it. */
void ff_precopy_end(FfSource *s, bool stays);
void ff_precopy_free(FfSource *s);

/* What must be done while the guest stands still, if that were now. */
typedef struct {
    uint64_t limit_ms;     /* the client's downtime-limit */
    uint64_t ram;          /* bytes of the guest that are left */
    uint64_t private_rest; /* bytes of the memory that QEMU keeps to itself */
    int64_t scan_us;       /* what a scan takes */
    double bandwidth; /* bytes of the guest per second, in which compression counts; 0: unknown */
    double link;      /* bytes per second on the link */
} FfStandstill;

/* It is within the limit, or RAM within a fixed share of that. */
bool ff_precopy_fits(const FfStandstill *t);
/* How long it takes; the bandwidth is known. */
int64_t ff_precopy_standstill_ms(const FfStandstill *t);

#endif
