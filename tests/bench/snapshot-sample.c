/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See snapshot-sample.h. */
#include "snapshot-sample.h"

#include <math.h>

#include "sample.h"

const BenchColumn bench_snapshot_column[BENCH_SNAPSHOT_FIELDS] = {
    {"total-ms", "total ms", "%.0f"},     {"disk-ms", "disk ms", "%.0f"},
    {"blackout-ms", "black ms", "%.1f"},  {"downtime-ms", "down ms", "%.0f"},
    {"lost-s", "lost s", "%.2f"},         {"stalls", "stalls", "%.0f"},
    {"stall-ms", "stall ms", "%.1f"},     {"faults", "faults", "%.0f"},
    {"waits", "waits", "%.0f"},           {"fault-p50-us", "f.p50 us", "%.0f"},
    {"fault-p99-us", "f.p99 us", "%.0f"}, {"fault-worst-us", "worst us", "%.0f"},
    {"file-mib", "MiB", "%.0f"},          {"bad", "bad", "%.0f"},
};

void bench_snapshot_clear(BenchSnapshotSample *sample)
{
    for (size_t f = 0; f < BENCH_SNAPSHOT_FIELDS; f++) {
        ((double *)sample)[f] = NAN;
    }
}

void bench_snapshot_stalls(const BenchReport *before, const BenchReport *after,
                           BenchSnapshotSample *sample)
{
    uint64_t n = 0;

    for (unsigned b = BENCH_STALL_BUCKET; b < BENCH_BUCKETS; b++) {
        n += after->hist[b] - MIN(before->hist[b], after->hist[b]);
    }
    sample->stalls = n;
}

void bench_snapshot_faults(JsonArray *list, BenchSnapshotSample *sample)
{
    uint64_t hist[BENCH_BUCKETS] = {0};

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonArray *pair = json_array_get_array_element(list, i);
        gint64 us = json_array_get_int_element(pair, 0);
        unsigned b = us > 0 ? g_bit_storage(us) - 1 : 0;
        hist[MIN(b, BENCH_BUCKETS - 1)] += json_array_get_int_element(pair, 1);
    }
    sample->fault_p50_us = bench_hist_edge(hist, BENCH_BUCKETS, 0.5);
    sample->fault_p99_us = bench_hist_edge(hist, BENCH_BUCKETS, 0.99);
    sample->fault_worst_us = bench_hist_edge(hist, BENCH_BUCKETS, 1);
}

void bench_snapshot_lost(const BenchPoint *point, unsigned n, unsigned before, unsigned end,
                         BenchSnapshotSample *sample)
{
    double was = bench_speed(point, before + 1), is = bench_speed(&point[end], n - end);

    sample->lost_s = bench_lost(&point[before], &point[end], (was + is) / 2) / 1000;
}
