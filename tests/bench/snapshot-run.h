/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One live snapshot of the bench's guest: farfault's, or QEMU's background-snapshot.
 *
 * QEMU's goes to a regular file that is opened here; to a throttled disk it goes by a pipe and a dd
 * that writes past the page cache, else it would be measured how fast the cache takes it. One
 * thread, the default main context.
 */
#ifndef FF_BENCH_SNAPSHOT_RUN_H
#define FF_BENCH_SNAPSHOT_RUN_H

#include "snapshot-sample.h"
#include "throttle.h"

typedef struct {
    const char *name;
    bool farfault, stream;
    bool memfd; /* guest RAM is a shared memfd; farfault makes it one by itself */
} BenchSnapshotEngine;

typedef struct {
    const BenchSnapshotEngine *engine;
    char **argv; /* QEMU's; borrowed, as all of this */
    const char *qmp, *log, *file;
    const char *farfault;          /* the program, which looks at the file */
    const BenchThrottle *throttle; /* of the disk; can be NULL */
    gint64 buffer;                 /* bytes; -1: the default */
} BenchSnapshotRun;

/* Beside the figures. */
typedef struct {
    int64_t start_us; /* of the command, monotonic */
    GArray *track;    /* BenchPoint */
    uint64_t hist[BENCH_BUCKETS];
    JsonNode *info; /* query-migrate in the end */
} BenchSnapshotSeries;

void bench_snapshot_series_clear(BenchSnapshotSeries *series);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(BenchSnapshotSeries, bench_snapshot_series_clear)

/* From a fresh QEMU to a file that was looked at and removed. */
bool bench_snapshot_run(const BenchSnapshotRun *run, BenchSnapshotSample *sample,
                        BenchSnapshotSeries *series, GError **error);

#endif
