/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one live snapshot of the bench came to, and its arithmetic. Pure; any thread.
 */
#ifndef FF_BENCH_SNAPSHOT_SAMPLE_H
#define FF_BENCH_SNAPSHOT_SAMPLE_H

#include "figures.h"
#include "guest.h"

/* NaN where there is no value. */
typedef struct {
    double total_ms;    /* from the command to "completed" */
    double disk_ms;     /* from the command until the file is on the disk */
    double blackout_ms; /* from QEMU's STOP to its RESUME */
    double downtime_ms; /* as query-migrate says */
    double lost_s;      /* work of the guest that is missing when it is back at its speed */
    double stalls;      /* writes of the guest */
    double stall_ms;    /* its longest step, by its own clock (stands still in the blackout) */
    double faults;      /* as farfault sees them: writes to memory that was not saved yet */
    double waits;       /* of them, those that found no room in the buffer */
    /* How long farfault took for each of the others. p99 is exact below 4 ms; else these are upper
     * edges of buckets. */
    double fault_p50_us, fault_p99_us, fault_worst_us;
    /* As the guest sees it: its writes of 32 us and longer, from the command until the end;
     * bench_waits(). */
    double guest_waits, guest_p99_us, guest_worst_us;
    double file_mib; /* allocated */
    double bad;      /* wrong pages that the guest found afterwards */
} BenchSnapshotSample;

#define BENCH_SNAPSHOT_FIELDS (sizeof(BenchSnapshotSample) / sizeof(double))

/* The fields of BenchSnapshotSample in order. */
extern const BenchColumn bench_snapshot_column[BENCH_SNAPSHOT_FIELDS];

/* All NaN. */
void bench_snapshot_clear(BenchSnapshotSample *sample);
/* N points; BEFORE is the last one before the command, END the first at whose end the guest is
 * back. Its speed is that of the points up to BEFORE and of those from END on, on average.
 * .blackout_ms is known. */
void bench_snapshot_lost(const BenchPoint *point, unsigned n, unsigned before, unsigned end,
                         BenchSnapshotSample *sample);

#endif
