/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one restore of the bench came to, and its arithmetic. Pure; any thread.
 */
#ifndef FF_BENCH_RESTORE_SAMPLE_H
#define FF_BENCH_RESTORE_SAMPLE_H

#include "figures.h"
#include "guest.h"

#define BENCH_RESTORE_WORK_US 2000000 /* the guest's first work: so long after the command */

/* NaN where there is no value. */
typedef struct {
    double run_ms; /* from the command to QEMU's RESUME */
    double all_ms; /* from the command until all memory is in; the file read by itself: its time */
    double mib_s;  /* the file's data by that time */
    double work;   /* steps of the guest until 2 s after the command, thousands */
    double speed;  /* thousands of steps per second when all is in */
    double stalls; /* touches of the guest that took 1 ms or longer */
    double stall_ms;                                   /* its longest step, by its own clock */
    double faults;                                     /* as farfault sees them */
    double fault_p50_us, fault_p99_us, fault_worst_us; /* upper edges of buckets */
    double set; /* % of the working set's pages that came before they were asked for */
    double bad; /* wrong pages that the guest found afterwards */
} BenchRestoreSample;

#define BENCH_RESTORE_FIELDS (sizeof(BenchRestoreSample) / sizeof(double))

/* The fields of BenchRestoreSample in order. */
extern const BenchColumn bench_restore_column[BENCH_RESTORE_FIELDS];

/* All NaN. */
void bench_restore_clear(BenchRestoreSample *sample);

/* Steps at AT us, of a guest whose work over time the N points are, in order; between two of them
 * in proportion. Before the first one: its steps; after the last one NaN. */
double bench_restore_steps_at(const BenchPoint *point, unsigned n, int64_t at);

/* N points of a guest that was restored by a command at START us: the first is that of its RESUME,
 * with the steps that it had when it was saved. From point STEADY on it has its own speed. Sets
 * .work and .speed; needs two points from STEADY on. */
void bench_restore_work(const BenchPoint *point, unsigned n, unsigned steady, int64_t start,
                        BenchRestoreSample *sample);

#endif
