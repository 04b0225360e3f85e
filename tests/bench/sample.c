/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The arithmetic of the bench. Pure functions; any thread.
 */
#include "sample.h"

#include <math.h>

const BenchColumn bench_column[BENCH_SAMPLE_FIELDS] = {
    {"total-ms", "total ms", "%.0f"},
    {"downtime-ms", "down ms", "%.0f"},
    {"gap-ms", "gap ms", "%.1f"},
    {"stall-ms", "stall ms", "%.1f"},
    {"waits", "waits", "%.0f"},
    {"wait-mean-us", "mean us", "%.0f"},
    {"wait-p50-us", "p50 us", "%.0f"},
    {"wait-p99-us", "p99 us", "%.0f"},
    {"wait-p999-us", "p99.9 us", "%.0f"},
    {"wait-worst-us", "worst us", "%.0f"},
    {"engine-mean-us", "e.mean us", "%.0f"},
    {"engine-p99-us", "e.p99 us", "%.0f"},
    {"lost-ms", "lost ms", "%.0f"},
    {"lost-bound", NULL, "%.0f", .bound = true},
    {"lost-soon-ms", "lost 2.5 s", "%.0f"},
    {"mib", "MiB", "%.0f"},
    {"source-cpu-s-per-gib", "s cpu/GiB", "%.2f"},
    {"destination-cpu-s-per-gib", "d cpu/GiB", "%.2f"},
    {"bad", "bad", "%.0f"},
};

double bench_wait_rank(const Durations *waits, double share)
{
    uint64_t seen = 0;

    for (unsigned b = 0; b < DURATIONS_BUCKETS && waits->n; b++) {
        seen += waits->bucket[b];
        if ((double)seen >= share * (double)waits->n) {
            return MIN(durations_middle(b), waits->worst_us);
        }
    }
    return NAN;
}

void bench_waits(const Durations *waits, BenchSample *sample)
{
    sample->waits = (double)waits->n;
    sample->wait_mean_us = waits->n ? waits->sum_us / (double)waits->n : NAN;
    sample->wait_p50_us = bench_wait_rank(waits, 0.5);
    sample->wait_p99_us = bench_wait_rank(waits, 0.99);
    sample->wait_p999_us = bench_wait_rank(waits, 0.999);
    sample->wait_worst_us = waits->n ? waits->worst_us : NAN;
}

double bench_stalls(const BenchReport *before, const BenchReport *after)
{
    uint64_t n = 0;

    for (unsigned b = BENCH_STALL_BUCKET; b < BENCH_BUCKETS; b++) {
        n += after->hist[b] - MIN(before->hist[b], after->hist[b]);
    }
    return (double)n;
}

BenchLatency bench_latency(JsonArray *list)
{
    uint64_t hist[BENCH_BUCKETS] = {0};

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonArray *pair = json_array_get_array_element(list, i);
        gint64 us = json_array_get_int_element(pair, 0);
        unsigned b = us > 0 ? g_bit_storage(us) - 1 : 0;
        hist[MIN(b, BENCH_BUCKETS - 1)] += json_array_get_int_element(pair, 1);
    }
    return (BenchLatency){.p50_us = bench_hist_edge(hist, BENCH_BUCKETS, 0.5),
                          .p99_us = bench_hist_edge(hist, BENCH_BUCKETS, 0.99),
                          .worst_us = bench_hist_edge(hist, BENCH_BUCKETS, 1)};
}

void bench_points_made(BenchPoint *point, unsigned n)
{
    double offset = INFINITY;

    for (unsigned i = 0; i < n; i++) {
        offset = MIN(offset, (double)point[i].us - point[i].own_us);
    }
    for (unsigned i = 0; i < n; i++) {
        point[i].us = (int64_t)(point[i].own_us + offset);
    }
}

double bench_speed(const BenchPoint *point, unsigned n)
{
    return n < 2 ? NAN
                 : (double)(point[n - 1].steps - point[0].steps) /
                       (point[n - 1].own_us - point[0].own_us);
}

unsigned bench_recovered(const BenchPoint *point, unsigned n, double speed)
{
    for (unsigned i = 1; i < n; i++) {
        if (bench_speed(&point[i - 1], 2) >= BENCH_RECOVERED * speed) {
            return i;
        }
    }
    return 0;
}

double bench_lost(const BenchPoint *before, const BenchPoint *after, double speed, double stood_ms)
{
    double worked_us = (double)(after->steps - before->steps) / speed;

    return (after->own_us - before->own_us - worked_us) / 1000 + stood_ms;
}

bool bench_lost_known(const BenchPoint *point, unsigned n, unsigned since, double speed)
{
    return n >= 2 && (n >= since + BENCH_PATIENCE || bench_recovered(point, n, speed));
}

void bench_take_lost(const BenchPoint *before, unsigned n, const BenchPoint *after,
                     unsigned after_n, double stood_ms, BenchSample *sample)
{
    double speed = bench_speed(before, n);
    unsigned end = bench_recovered(after, after_n, speed);

    sample->lost_bound = end == 0;
    end = end ? end : after_n - 1;
    sample->lost_ms = bench_lost(&before[n - 1], &after[end], speed, stood_ms);
}

/* Steps made until US, between two points in proportion. */
static double steps_until(const BenchPoint *point, unsigned n, int64_t us)
{
    unsigned i = 1;

    while (i < n - 1 && point[i].us < us) {
        i++;
    }
    const BenchPoint *a = &point[i - 1], *b = &point[i];
    double share = b->us == a->us ? 1 : (double)(us - a->us) / (double)(b->us - a->us);

    return (double)a->steps + (double)(b->steps - a->steps) * CLAMP(share, 0, 1);
}

double bench_lost_soon(const BenchPoint *point, unsigned n, int64_t start_us, int64_t end_us)
{
    if (n < 2) {
        return NAN;
    }
    int64_t since_us = MAX(point[0].us, start_us - BENCH_SOON_US);
    double at_start = steps_until(point, n, start_us);
    double speed = (at_start - steps_until(point, n, since_us)) / (double)(start_us - since_us);
    double worked_us = (steps_until(point, n, end_us) - at_start) / speed;

    return ((double)(end_us - start_us) - worked_us) / 1000;
}

void bench_sample_clear(BenchSample *sample)
{
    for (size_t f = 0; f < BENCH_SAMPLE_FIELDS; f++) {
        ((double *)sample)[f] = NAN;
    }
}

void bench_print_row(FILE *out, const char *name, const BenchSample *sample)
{
    bench_print_figures(out, name, bench_column, BENCH_SAMPLE_FIELDS, (const double *)sample);
}
