/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One restore of the bench's guest from a file: farfault's lazy one, or stock QEMU's.
 *
 * A QEMU is started that waits, the file is dropped from the page cache or read into it, and the
 * command is given. QEMU's own events say when the guest runs and when all is in; the guest's lines
 * what it does. Then it checks all of its memory. One thread, the default main context.
 */
#ifndef FF_BENCH_RESTORE_RUN_H
#define FF_BENCH_RESTORE_RUN_H

#include "restore-sample.h"

typedef enum { BENCH_CACHE_AS_IT_IS, BENCH_CACHE_COLD, BENCH_CACHE_WARM } BenchCache;

/* How a guest is restored. */
typedef struct {
    const char *name;
    bool read;              /* nothing is restored: the file is only read */
    bool farfault;          /* lazily; else by QEMU itself */
    const char *set;        /* farfault's working set: use, ignore, learn */
    bool stream;            /* from the ordinary stream; else from mapped-ram */
    bool multifd, direct;   /* QEMU's capability, and its direct-io */
    unsigned since, before; /* versions of QEMU as 702; 0: any */
} BenchRestoreEngine;

/* A saved guest. */
typedef struct {
    char *mapped, *stream, *set; /* paths; the last two are there if somebody needs them */
    BenchPoint at;               /* its work when it was saved */
    BenchReport report;          /* just before that */
} BenchSaved;

typedef struct {
    const BenchRestoreEngine *engine; /* not one that reads */
    char **argv;                      /* of a QEMU that waits with -incoming defer; borrowed, as all
                                       * of this */
    const char *qmp, *log;
    const BenchSaved *saved;
    BenchCache cache;
    char key; /* '0' to '9': typed to the guest as soon as it runs */
} BenchRestoreRun;

/* Beside the figures. */
typedef struct {
    int64_t start_us; /* of the command, monotonic */
    GArray *track;    /* BenchPoint; the first one is RESUME */
    JsonNode *info;   /* query-migrate when all is in */
} BenchRestoreSeries;

void bench_restore_series_clear(BenchRestoreSeries *series);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(BenchRestoreSeries, bench_restore_series_clear)

/* From a fresh QEMU until the guest has checked itself. Not .mib_s. */
bool bench_restore_run(const BenchRestoreRun *run, BenchRestoreSample *sample,
                       BenchRestoreSeries *series, GError **error);

/* The file that ENGINE reads. */
const char *bench_restore_file(const BenchRestoreEngine *engine, const BenchSaved *saved);

#endif
