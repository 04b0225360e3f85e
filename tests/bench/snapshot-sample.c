/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See snapshot-sample.h. */
#include "snapshot-sample.h"

#include <math.h>

#include "sample.h"

const BenchColumn bench_snapshot_column[BENCH_SNAPSHOT_FIELDS] = {
    {"total-ms", "total ms", "%.0f"},
    {"disk-ms", "disk ms", "%.0f"},
    {"blackout-ms", "black ms", "%.1f"},
    {"downtime-ms", "down ms", "%.0f"},
    {"lost-s", "lost s", "%.2f"},
    {"stalls", "stalls", "%.0f"},
    {"stall-ms", "stall ms", "%.1f"},
    {"faults", "faults", "%.0f"},
    {"waits", "waits", "%.0f"},
    {"fault-p50-us", "f.p50 us", "%.0f"},
    {"fault-p99-us", "f.p99 us", "%.0f"},
    {"fault-worst-us", "worst us", "%.0f"},
    {"guest-waits", "g.waits", "%.0f"},
    {"guest-p99-us", "g.p99 us", "%.0f"},
    {"guest-worst-us", "g.wor us", "%.0f"},
    {"file-mib", "MiB", "%.0f"},
    {"bad", "bad", "%.0f"},
};

void bench_snapshot_clear(BenchSnapshotSample *sample)
{
    for (size_t f = 0; f < BENCH_SNAPSHOT_FIELDS; f++) {
        ((double *)sample)[f] = NAN;
    }
}

void bench_snapshot_lost(const BenchPoint *point, unsigned n, unsigned before, unsigned end,
                         BenchSnapshotSample *sample)
{
    double was = bench_speed(point, before + 1), is = bench_speed(&point[end], n - end);

    sample->lost_s =
        bench_lost(&point[before], &point[end], (was + is) / 2, sample->blackout_ms) / 1000;
}
