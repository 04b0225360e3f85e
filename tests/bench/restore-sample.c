/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See restore-sample.h. */
#include "restore-sample.h"

#include <math.h>

#include "sample.h"

const BenchColumn bench_restore_column[BENCH_RESTORE_FIELDS] = {
    {"run-ms", "run ms", "%.1f"},
    {"all-ms", "all ms", "%.0f"},
    {"mib-s", "MiB/s", "%.0f", .more = true},
    {"work", "2s ksteps", "%.1f", .more = true},
    {"speed", "ksteps/s", "%.1f", .more = true},
    {"stalls", "stalls", "%.0f"},
    {"stall-ms", "stall ms", "%.1f"},
    {"faults", "faults", "%.0f"},
    {"fault-p50-us", "f.p50 us", "%.0f"},
    {"fault-p99-us", "f.p99 us", "%.0f"},
    {"fault-worst-us", "worst us", "%.0f"},
    {"set-percent", "set %", "%.0f", .more = true},
    {"bad", "bad", "%.0f"},
};

void bench_restore_clear(BenchRestoreSample *sample)
{
    for (size_t f = 0; f < BENCH_RESTORE_FIELDS; f++) {
        ((double *)sample)[f] = NAN;
    }
}

double bench_restore_steps_at(const BenchPoint *point, unsigned n, int64_t at)
{
    unsigned i = 0;

    while (i < n && point[i].us < at) {
        i++;
    }
    if (i == n) {
        return NAN;
    }
    if (i == 0) {
        return (double)point[0].steps;
    }
    const BenchPoint *p = &point[i - 1], *q = &point[i];
    return (double)p->steps +
           ((double)q->steps - (double)p->steps) * (double)(at - p->us) / (double)(q->us - p->us);
}

void bench_restore_work(const BenchPoint *point, unsigned n, unsigned steady, int64_t start,
                        BenchRestoreSample *sample)
{
    sample->speed = bench_speed(&point[steady], n - steady) * 1000;
    /* What it had when it was saved is reckoned from its last line, and may be too much. */
    sample->work = (bench_restore_steps_at(point, n, start + BENCH_RESTORE_WORK_US) -
                    (double)MIN(point[0].steps, point[1].steps)) /
                   1000;
    sample->work = sample->work < 0 ? 0 : sample->work;
}
