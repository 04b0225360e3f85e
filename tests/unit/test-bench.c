/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The arithmetic of the bench: the guest's lines, waits between two of them, medians.
 */
#include "tests/bench/sample.h"

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
    g_assert_cmpfloat(s.wait_p99_us, ==, 128);
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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/report", test_report);
    g_test_add_func("/bench/waits", test_waits);
    g_test_add_func("/bench/lost", test_lost);
    g_test_add_func("/bench/median", test_median);
    return g_test_run();
}
