/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much slower a guest is while its writes are tracked and sent: by QEMU's dirty logging and
 * precopy, or by farfault's. One thread, the default main context.
 */
#ifndef FF_BENCH_TRACKING_H
#define FF_BENCH_TRACKING_H

#include "cli/migrate/run.h"
#include "guest.h"

#include <stdio.h>

typedef struct {
    double before, during, after; /* pages written per second of the CPU time of the vCPUs */
    double percent;               /* how much less DURING is than BEFORE */
    double after_percent;         /* the same of AFTER */
    double faults;                /* page faults of the vCPUs' threads DURING, in thousands */
    double passes, mib;           /* of the precopy, when it was cancelled */
} BenchTracking;

/*
 * Takes SECONDS reports of the guest at SRC, begins a precopy to DST at BANDWIDTH bytes per second
 * that cannot end by itself, takes SECONDS more, cancels it, and takes SECONDS again. The guest
 * then checks its memory: a wrong page is an error.
 */
bool bench_track(BenchGuest *src, BenchGuest *dst, const char *listen, uint64_t bandwidth,
                 unsigned seconds, BenchTracking *result, GError **error);

/* One row of the table, or its head if RESULT is NULL. */
void bench_print_tracking(FILE *out, const char *name, const BenchTracking *result);
/* Field by field the value that RANK (0 to 1) of the N results are below: 0 is the smallest, 0.5
 * the median, 1 the greatest. */
BenchTracking bench_rank_tracking(const BenchTracking *result, unsigned n, double rank);

#endif
