/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much slower a guest is while its writes are tracked and sent: by QEMU's dirty logging and
 * precopy, or by farfault's. One thread, the default main context.
 */
#ifndef FF_BENCH_TRACKING_H
#define FF_BENCH_TRACKING_H

#include "cli/move.h"
#include "guest.h"

#include <stdio.h>

typedef struct {
    double before, during; /* pages that the guest wrote per second of its vCPUs' CPU time */
    double percent;        /* how much less that is */
    double passes, mib;    /* of the precopy, when it was cancelled */
} BenchTracking;

/*
 * Takes SECONDS reports of the guest at SRC, begins a precopy to DST at BANDWIDTH bytes per second
 * that cannot end by itself, takes SECONDS more, and cancels it. The guest then checks its memory:
 * a wrong page is an error.
 */
bool bench_track(BenchGuest *src, BenchGuest *dst, const char *listen, uint64_t bandwidth,
                 unsigned seconds, BenchTracking *result, GError **error);

/* One row of the table, or its head if RESULT is NULL. */
void bench_print_tracking(FILE *out, const char *name, const BenchTracking *result);
/* The median, field by field. */
BenchTracking bench_median_tracking(const BenchTracking *result, unsigned n);

#endif
