/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See snapshot-aims.h. */
#include "snapshot-aims.h"

#include <math.h>
#include <stddef.h>

#define COLUMN(field) (offsetof(BenchSnapshotSample, field) / sizeof(double))

static double rank(const BenchSnapshotSamples *s, size_t column, double rank)
{
    return s->n ? bench_rank((const double *)s->sample, s->n, BENCH_SNAPSHOT_FIELDS, column, rank)
                : NAN;
}

static double median(const BenchSnapshotSamples *s, size_t column)
{
    return rank(s, column, 0.5);
}

/* 1: missed. NaN: nobody has measured it. */
static unsigned check(FILE *out, const char *name, const char *what, double value, double most)
{
    if (isnan(value)) {
        return 0;
    }
    fprintf(out, "aim, %s, %s: %.4g (at most %.4g): %s\n", name, what, value, most,
            value <= most ? "met" : "missed");
    return value > most;
}

/* Medians beside those of QEMU's own. */
static unsigned beside(FILE *out, const BenchSnapshotAims *a, const char *what, size_t column,
                       double most)
{
    const struct {
        const BenchSnapshotSamples *samples;
        const char *name;
    } row[] = {{&a->anon, "private RAM"}, {&a->memfd, "a memfd"}};
    unsigned missed = 0;

    for (unsigned i = 0; i < sizeof(row) / sizeof(*row); i++) {
        char text[128];

        snprintf(text, sizeof(text), "%s, times that of QEMU's own with %s", what, row[i].name);
        missed += check(out, a->name, text,
                        median(&a->ours, column) / median(row[i].samples, column), most);
    }
    return missed;
}

unsigned bench_snapshot_aims(FILE *out, const BenchSnapshotAims *a)
{
    size_t black = COLUMN(blackout_ms);

    if (a->slow) {
        return beside(out, a, "lost work", COLUMN(lost_s), BENCH_AIM_LOST_SLOW);
    }
    return beside(out, a, "total", COLUMN(total_ms), BENCH_AIM_TOTAL) +
           beside(out, a, "lost work", COLUMN(lost_s), BENCH_AIM_LOST) +
           check(out, a->name, "blackout, ms, median", median(&a->ours, black),
                 BENCH_AIM_BLACKOUT_MS) +
           check(out, a->name, "blackout, ms, worst", rank(&a->ours, black, 1),
                 BENCH_AIM_BLACKOUT_MS) +
           check(out, a->name, "worst blackout, times that of QEMU's own with a memfd",
                 rank(&a->ours, black, 1) / rank(&a->memfd, black, 1), 1) +
           check(out, a->name, "99 % of the faults, us, edge of the bucket",
                 median(&a->ours, COLUMN(fault_p99_us)), BENCH_AIM_FAULT_US);
}

double bench_snapshot_blackout(const BenchSnapshotSamples *samples)
{
    return median(samples, COLUMN(blackout_ms));
}

unsigned bench_snapshot_flat(FILE *out, const char *name, const double *row, unsigned n)
{
    return n < 2 ? 0
                 : check(out, name, "blackout of the largest guest, times that of the smallest",
                         row[n - 1] / row[0], BENCH_AIM_FLAT);
}
