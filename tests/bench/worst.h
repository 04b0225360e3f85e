/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What made the guest's longest steps: its own list of them beside the marks of both engines, as
 * examples/trace.bt prints them. Pure; any thread.
 *
 * A step is found in the marks by the page that it touched, which is missing once after the switch,
 * and by its time: guest and host count the same seconds, from another zero, and not quite at the
 * same rate, so the page comes first. Pages are of 4 KiB: of a guest on huge pages it knows the
 * times alone.
 */
#ifndef FF_BENCH_WORST_H
#define FF_BENCH_WORST_H

#include "guest.h"

#include <stdio.h>

/* Why a step took so long; bench_why[] has the words. */
typedef enum {
    BENCH_WHY_UNKNOWN, /* there are no marks */
    BENCH_WHY_BEFORE,  /* it ended before QEMU said that the guest runs at the destination, and
                          waited for no page */
    BENCH_WHY_CPU,     /* for most of it no page was waited for */
    BENCH_WHY_MANY,    /* none of its waits is half of them all; the others have such a one: */
    BENCH_WHY_RUN,     /* its page was part of a run of BENCH_LONG_RUN pages or more */
    BENCH_WHY_BULK,    /* bulk had claimed its page: it stood in bulk's queue */
    BENCH_WHY_FIRST,   /* asked for in the first BENCH_FIRST_US at the destination, or before
                          QEMU said that the guest runs there */
    BENCH_WHY_ASKED,   /* asked for, and sent as such */
    BENCH_WHYS
} BenchWhy;
extern const char *const bench_why[BENCH_WHYS];

#define BENCH_LONG_RUN 512 /* 2 MiB */
#define BENCH_FIRST_US 10000

typedef struct {
    BenchWhy why;
    unsigned pages;    /* that it waited for */
    double waited_us;  /* in all, from reading the fault to the page placed; NaN: not known */
    double early_us;   /* so long before its longest wait began bulk had claimed the page; NaN */
    unsigned run;      /* pages of the run that bulk had claimed; 0: none */
    double start_host; /* when it began, us of the host's monotonic clock */
} BenchCause;

/* The marks of one migration. */
typedef struct BenchMarks BenchMarks;
/* TEXT: what examples/trace.bt has printed of both sides. */
BenchMarks *bench_marks_new(const char *text);
void bench_marks_free(BenchMarks *marks);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BenchMarks, bench_marks_free)
/* How many are missing, as more came than could be read. */
uint64_t bench_marks_lost(const BenchMarks *marks);

/* Of N steps of a guest whose reports at the destination the POINTS are. MARKS can be NULL. */
void bench_explain(const BenchMarks *marks, const BenchStep *step, unsigned n,
                   const BenchPoint *point, unsigned points, BenchCause *cause);

/* A table of N steps of NAME; START_US: of the migration, by the host's clock. */
void bench_print_causes(FILE *out, const char *name, const BenchStep *step, const BenchCause *cause,
                        unsigned n, int64_t start_us);

#endif
