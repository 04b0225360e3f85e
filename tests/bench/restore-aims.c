/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See restore-aims.h. */
#include "restore-aims.h"

#include <math.h>
#include <stddef.h>

#define COLUMN(field) (offsetof(BenchRestoreSample, field) / sizeof(double))

static double rank(const BenchRestoreSamples *s, size_t column, double rank)
{
    return s->n ? bench_rank((const double *)s->sample, s->n, BENCH_RESTORE_FIELDS, column, rank)
                : NAN;
}

static double median(const BenchRestoreSamples *s, size_t column)
{
    return rank(s, column, 0.5);
}

/* 1: missed. VALUE must be at most, or (LEAST) at least, LIMIT; NaN: nobody has measured it. */
static unsigned check(FILE *out, const BenchRestoreAims *a, const char *what, double value,
                      bool least, double limit)
{
    if (isnan(value)) {
        return 0;
    }
    bool met = least ? value >= limit : value <= limit;

    fprintf(out, "aim, %s, %s: %s %.4g (%s %.4g): %s\n", a->name, a->cold ? "cold" : "warm", what,
            value, least ? "at least" : "at most", limit, met ? "met" : "missed");
    return !met;
}

static unsigned check_lazy(FILE *out, const BenchRestoreAims *a, const BenchRestoreSamples *s,
                           const char *run, const char *stall)
{
    return check(out, a, run, median(s, COLUMN(run_ms)), false, BENCH_AIM_RUN_MS) +
           check(out, a, stall, rank(s, COLUMN(stall_ms), 1), false, BENCH_AIM_STALL_MS);
}

unsigned bench_restore_aims(FILE *out, const BenchRestoreAims *a)
{
    double all = median(&a->lazy, COLUMN(all_ms)), work = median(&a->lazy, COLUMN(work));
    double all_set = median(&a->set, COLUMN(all_ms)), work_set = median(&a->set, COLUMN(work));
    unsigned missed = check_lazy(out, a, &a->lazy, "runs after ms", "longest step, ms,") +
                      check_lazy(out, a, &a->set, "with a working set, runs after ms",
                                 "with a working set, longest step, ms,");

    if (a->cold) { /* of the page cache nobody reads at a disk's rate */
        missed += check(out, a, "all is in after times the file by itself",
                        all / median(&a->read, COLUMN(all_ms)), false, BENCH_AIM_FILL);
        missed += check(out, a, "work of 2 s with a working set, times that without",
                        work_set / work, true, BENCH_AIM_WORK);
    } else {
        missed += check(out, a, "work of 2 s with a working set, times that without",
                        work_set / work, true, 1 / BENCH_AIM_SAME);
    }
    return missed + check(out, a, "with a working set all is in after times without", all_set / all,
                          false, BENCH_AIM_SAME);
}
