/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What lazy restores must reach, and whether those of a table do. Pure; any thread.
 */
#ifndef FF_BENCH_RESTORE_AIMS_H
#define FF_BENCH_RESTORE_AIMS_H

#include <stdio.h>

#include "restore-sample.h"

#define BENCH_AIM_RUN_MS 50.0
#define BENCH_AIM_FILL 1.15 /* times what reading the file takes by itself */
#define BENCH_AIM_STALL_MS 50.0
#define BENCH_AIM_WORK 5.0 /* with a working set, times that without, cold */
/* Two medians that differ by less are the same. */
#define BENCH_AIM_SAME 1.05

/* N samples of one kind; n 0: there are none. */
typedef struct {
    const BenchRestoreSample *sample;
    unsigned n;
} BenchRestoreSamples;

typedef struct {
    const char *name; /* of the contender, for the lines */
    bool cold;
    BenchRestoreSamples read, lazy, set; /* the file by itself; without, with a working set */
} BenchRestoreAims;

/* A line for each aim of which there are samples. Returns how many are missed. */
unsigned bench_restore_aims(FILE *out, const BenchRestoreAims *aims);

#endif
