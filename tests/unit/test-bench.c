/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The arithmetic of the bench: the guest's lines, waits between two of them, ranks of figures.
 */
#include "tests/bench/sample.h"
#include "tests/bench/snapshot-sample.h"

#include <math.h>

static void test_report(void)
{
    BenchReport r;

    g_assert_true(bench_parse_report("FF t=3 writes=715832 checks=1432100 passes=10 bad=2 "
                                     "stall_ms=0.91 max_ms=5.82 hist=0:1431811,1:74,31:3",
                                     &r));
    g_assert_cmpuint(r.writes, ==, 715832);
    g_assert_cmpuint(r.checks, ==, 1432100);
    g_assert_cmpuint(r.bad, ==, 2);
    g_assert_cmpfloat_with_epsilon(r.stall_ms, 0.91, 1e-9);
    g_assert_cmpuint(r.hist[0], ==, 1431811);
    g_assert_cmpuint(r.hist[1], ==, 74);
    g_assert_cmpuint(r.hist[2], ==, 0);
    g_assert_cmpuint(r.hist[31], ==, 3);
    g_assert_false(bench_parse_report("FF ready pages=65536 threads=1 fill_ms=2499", &r));
    g_assert_false(bench_parse_report("FF t=3 writes=71", &r));
    /* A bucket out of range and a torn end are left out. */
    g_assert_true(bench_parse_report("FF t=1 writes=1 checks=1 passes=0 bad=0 stall_ms=1 max_ms=1 "
                                     "hist=32:7,5:9,6",
                                     &r));
    g_assert_cmpuint(r.hist[5], ==, 9);
    g_assert_cmpuint(r.hist[6], ==, 0);
}

static void test_waits(void)
{
    BenchReport before = {0}, after = {0};
    BenchSample s;

    /* Below the threshold: no wait. */
    before.hist[0] = 100;
    after.hist[0] = 100000;
    after.hist[BENCH_WAIT_BUCKET - 1] = 50;
    bench_waits(&before, &after, &s);
    g_assert_cmpfloat(s.waits, ==, 0);
    g_assert_true(isnan(s.wait_mean_us));
    g_assert_true(isnan(s.wait_p99_us));
    /* 99 in [64, 128), 1 in [1024, 2048): the 99th of 100 is still in the first bucket. */
    before.hist[6] = 5;
    after.hist[6] = 104;
    after.hist[10] = 1;
    bench_waits(&before, &after, &s);
    g_assert_cmpfloat(s.waits, ==, 100);
    g_assert_cmpfloat_with_epsilon(s.wait_mean_us, (99 * 96 + 1536) / 100.0, 1e-9);
    g_assert_cmpfloat(s.wait_p50_us, ==, 128);
    g_assert_cmpfloat(s.wait_p99_us, ==, 128);
    g_assert_cmpfloat(s.wait_p999_us, ==, 2048);
    g_assert_cmpfloat(s.wait_worst_us, ==, 2048);
    after.hist[10] = 2;
    bench_waits(&before, &after, &s);
    g_assert_cmpfloat(s.wait_p99_us, ==, 2048);
}

/* 10 steps per us; stands for half a second, then half as fast for one, then back. */
static void test_lost(void)
{
    static const BenchPoint before[] = {{0, 0}, {1000000, 10000000}},
                            after[] = {
                                {2500000, 20000000}, {3500000, 25000000}, {4500000, 35000000}};
    double speed = bench_speed(before, 2);

    g_assert_cmpfloat_with_epsilon(speed, 10, 1e-9);
    g_assert_cmpuint(bench_recovered(after, 2, speed), ==, 0);
    g_assert_cmpuint(bench_recovered(after, 3, speed), ==, 2);
    g_assert_cmpfloat_with_epsilon(bench_lost(&before[1], &after[2], speed), 1000, 1e-6);
}

static void test_median(void)
{
    BenchSample s[4];

    for (unsigned i = 0; i < G_N_ELEMENTS(s); i++) {
        static const double total[] = {40, 10, 30, 20};
        s[i] = (BenchSample){.total_ms = total[i], .bad = NAN, .engine_mean_us = i ? NAN : 7};
    }
    g_assert_cmpfloat(bench_median(s, 4).total_ms, ==, 25);
    g_assert_cmpfloat(bench_median(s, 3).total_ms, ==, 30);
    g_assert_cmpfloat(bench_median(s, 4).engine_mean_us, ==, 7);
    g_assert_true(isnan(bench_median(s, 4).bad));
}

/* Rows of two columns; what has no value does not count. */
static void test_rank(void)
{
    static const double rows[] = {4, NAN, 1, NAN, 3, NAN, 2, 5};
    double ranked[2];

    bench_rank_row(rows, 4, 2, 0, ranked);
    g_assert_cmpfloat(ranked[0], ==, 1);
    g_assert_cmpfloat(ranked[1], ==, 5);
    g_assert_cmpfloat(bench_rank(rows, 4, 2, 0, 0.5), ==, 2.5);
    g_assert_cmpfloat_with_epsilon(bench_rank(rows, 4, 2, 0, 0.9), 3.7, 1e-9);
    g_assert_cmpfloat(bench_rank(rows, 4, 2, 0, 1), ==, 4);
    g_assert_true(isnan(bench_rank(rows, 3, 2, 1, 0.5)));
}

static void test_hist_edge(void)
{
    uint64_t hist[8] = {0};

    g_assert_true(isnan(bench_hist_edge(hist, 8, 0.5)));
    hist[2] = 98;
    hist[5] = 1;
    hist[7] = 1;
    g_assert_cmpfloat(bench_hist_edge(hist, 8, 0.5), ==, 8);
    g_assert_cmpfloat(bench_hist_edge(hist, 8, 0.99), ==, 64);
    g_assert_cmpfloat(bench_hist_edge(hist, 8, 1), ==, 256);
}

static void test_snapshot_faults(void)
{
    g_autoptr(JsonNode) list = json_from_string("[[0, 1], [16, 90], [32, 8], [65536, 1]]", NULL);
    BenchSnapshotSample s;

    bench_snapshot_clear(&s);
    bench_snapshot_faults(NULL, &s);
    g_assert_true(isnan(s.fault_p50_us) && isnan(s.fault_p99_us));
    bench_snapshot_faults(json_node_get_array(list), &s);
    g_assert_cmpfloat(s.fault_p50_us, ==, 32);
    g_assert_cmpfloat(s.fault_p99_us, ==, 64);
    g_assert_cmpfloat(s.fault_worst_us, ==, 131072);
}

static void test_snapshot_stalls(void)
{
    BenchReport before = {.hist = {[9] = 4, [10] = 2}},
                after = {.hist = {[9] = 50, [10] = 5, [14] = 1}};
    BenchSnapshotSample s;

    bench_snapshot_stalls(&before, &after, &s);
    g_assert_cmpfloat(s.stalls, ==, 4);
}

/* 10 steps per us; a second without any; then 8 per us. */
static void test_snapshot_lost(void)
{
    static const BenchPoint point[] = {
        {0, 0}, {1000000, 10000000}, {2000000, 10000000}, {3000000, 18000000}, {4000000, 26000000}};
    BenchSnapshotSample s;

    bench_snapshot_lost(point, G_N_ELEMENTS(point), 1, 3, &s);
    g_assert_cmpfloat_with_epsilon(s.lost_s, 2 - 8.0 / 9, 1e-9);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/report", test_report);
    g_test_add_func("/bench/waits", test_waits);
    g_test_add_func("/bench/lost", test_lost);
    g_test_add_func("/bench/median", test_median);
    g_test_add_func("/bench/rank", test_rank);
    g_test_add_func("/bench/hist-edge", test_hist_edge);
    g_test_add_func("/bench/snapshot/faults", test_snapshot_faults);
    g_test_add_func("/bench/snapshot/stalls", test_snapshot_stalls);
    g_test_add_func("/bench/snapshot/lost", test_snapshot_lost);
    return g_test_run();
}
