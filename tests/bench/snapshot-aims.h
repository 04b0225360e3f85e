/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What live snapshots must reach, and whether those of a table do. Pure; any thread.
 */
#ifndef FF_BENCH_SNAPSHOT_AIMS_H
#define FF_BENCH_SNAPSHOT_AIMS_H

#include <stdbool.h>
#include <stdio.h>

#include "snapshot-sample.h"

#define BENCH_AIM_TOTAL (1 / 3.0) /* times QEMU's own */
#define BENCH_AIM_LOST 0.5        /* the same of the guest's work */
#define BENCH_AIM_LOST_SLOW 1.0   /* with a slow disk */
#define BENCH_AIM_BLACKOUT_MS 10.0
#define BENCH_AIM_FAULT_US 50.0 /* 99 % of the writes that cost a fault */
#define BENCH_AIM_FLAT 1.5      /* the blackout of the largest guest, times that of the smallest */

/* N samples of one kind; n 0: there are none. */
typedef struct {
    const BenchSnapshotSample *sample;
    unsigned n;
} BenchSnapshotSamples;

typedef struct {
    const char *name;                       /* of the contender, for the lines */
    bool slow;                              /* the disk, by --disk-rate */
    BenchSnapshotSamples ours, anon, memfd; /* QEMU's own: with private RAM, with a memfd */
} BenchSnapshotAims;

typedef struct {
    unsigned judged, missed;
} BenchVerdict;

/* A line for each aim of which there are samples; added to VERDICT. */
void bench_snapshot_aims(FILE *out, const BenchSnapshotAims *aims, BenchVerdict *verdict);
/* The same of the medians of NAME's blackouts (ms), from the smallest guest to the largest. */
void bench_snapshot_flat(FILE *out, const char *name, const double *median, unsigned n,
                         BenchVerdict *verdict);
/* The last line of all. FALSE: an aim is missed, or none was judged. */
bool bench_snapshot_tell(FILE *out, const BenchVerdict *verdict);
/* Of its blackouts, ms; NaN: there are none. */
double bench_snapshot_blackout(const BenchSnapshotSamples *samples);

#endif
