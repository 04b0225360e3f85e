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

/* NaN: nobody has measured it. */
static void check(FILE *out, const char *name, const char *what, double value, double most,
                  BenchVerdict *v)
{
    if (isnan(value)) {
        return;
    }
    fprintf(out, "aim, %s, %s: %.4g (at most %.4g): %s\n", name, what, value, most,
            value <= most ? "met" : "missed");
    v->judged++;
    v->missed += value > most;
}

/* Medians beside those of QEMU's own. */
static void beside(FILE *out, const BenchSnapshotAims *a, const char *what, size_t column,
                   double most, BenchVerdict *v)
{
    const struct {
        const BenchSnapshotSamples *samples;
        const char *name;
    } row[] = {{&a->anon, "private RAM"}, {&a->memfd, "a memfd"}};

    for (unsigned i = 0; i < sizeof(row) / sizeof(*row); i++) {
        char text[128];

        snprintf(text, sizeof(text), "%s, times that of QEMU's own with %s", what, row[i].name);
        check(out, a->name, text, median(&a->ours, column) / median(row[i].samples, column), most,
              v);
    }
}

void bench_snapshot_aims(FILE *out, const BenchSnapshotAims *a, BenchVerdict *v)
{
    size_t black = COLUMN(blackout_ms);

    if (a->slow) {
        beside(out, a, "lost work", COLUMN(lost_s), BENCH_AIM_LOST_SLOW, v);
        return;
    }
    beside(out, a, "total", COLUMN(total_ms), BENCH_AIM_TOTAL, v);
    beside(out, a, "lost work", COLUMN(lost_s), BENCH_AIM_LOST, v);
    check(out, a->name, "blackout, ms, median", median(&a->ours, black), BENCH_AIM_BLACKOUT_MS, v);
    check(out, a->name, "blackout, ms, worst", rank(&a->ours, black, 1), BENCH_AIM_BLACKOUT_MS, v);
    check(out, a->name, "worst blackout, times that of QEMU's own with a memfd",
          rank(&a->ours, black, 1) / rank(&a->memfd, black, 1), 1, v);
    check(out, a->name, "99 % of the faults, us", median(&a->ours, COLUMN(fault_p99_us)),
          BENCH_AIM_FAULT_US, v);
}

double bench_snapshot_blackout(const BenchSnapshotSamples *samples)
{
    return median(samples, COLUMN(blackout_ms));
}

void bench_snapshot_flat(FILE *out, const char *name, const double *row, unsigned n,
                         BenchVerdict *v)
{
    if (n >= 2) {
        check(out, name, "blackout of the largest guest, times that of the smallest",
              row[n - 1] / row[0], BENCH_AIM_FLAT, v);
    }
}

bool bench_snapshot_tell(FILE *out, const BenchVerdict *v)
{
    if (!v->judged) {
        fprintf(out, "aims: FAILED: none could be judged\n");
    } else if (v->missed) {
        fprintf(out, "aims: FAILED: %u of %u missed\n", v->missed, v->judged);
    } else {
        fprintf(out, "aims: all %u met\n", v->judged);
    }
    return v->judged && !v->missed;
}
