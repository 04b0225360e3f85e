/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The arithmetic of the bench: the guest's lines, waits between two of them, ranks of figures.
 */
#include "tests/bench/restore-aims.h"
#include "tests/bench/restore-cache.h"
#include "tests/bench/restore-sample.h"
#include "tests/bench/sample.h"
#include "tests/bench/snapshot-aims.h"
#include "tests/bench/snapshot-sample.h"
#include "tests/bench/worst.h"

#include <glib/gstdio.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

static void test_report(void)
{
    BenchReport r;

    g_assert_true(
        bench_parse_report("FF t=3 clock_us=3000017 writes=715832 checks=1432100 passes=10 bad=2 "
                           "stall_ms=0.91 max_ms=5.82 hist=0:1431811,1:74,31:3",
                           &r));
    g_assert_cmpuint(r.writes, ==, 715832);
    g_assert_cmpfloat(r.clock_us, ==, 3000017);
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
    g_assert_true(
        bench_parse_report("FF t=1 clock_us=1 writes=1 checks=1 passes=0 bad=0 stall_ms=1 "
                           "max_ms=1 hist=32:7,5:9,6",
                           &r));
    g_assert_cmpuint(r.hist[5], ==, 9);
    g_assert_cmpuint(r.hist[6], ==, 0);
}

/* No value is further from the middle of its bucket than it may be; the buckets are in order. */
static void test_durations(void)
{
    unsigned last = 0;

    g_assert_false(durations_counts(31.9));
    g_assert_true(durations_counts(32));
    g_assert_cmpuint(durations_bucket(32), ==, 0);
    for (double us = 32; us < 1e8; us *= 1.003) {
        unsigned b = durations_bucket(us);
        g_assert_cmpuint(b, >=, last);
        g_assert_cmpuint(b - last, <=, 1);
        g_assert_cmpfloat_with_epsilon(durations_middle(b), us, 0.008 * us);
        last = b;
    }
    g_assert_cmpuint(durations_bucket(1e12), ==, DURATIONS_BUCKETS - 1);
}

/* Of a thousand waits the guest says how long each percentile was, and the longest as it was: with
 * buckets by powers of two the three longest of these looked alike. */
static void test_waits(void)
{
    g_autofree Durations *waits = g_new0(Durations, 1), *more = g_new0(Durations, 1);
    BenchSample s;

    bench_waits(waits, &s);
    g_assert_cmpfloat(s.waits, ==, 0);
    g_assert_true(isnan(s.wait_mean_us));
    g_assert_true(isnan(s.wait_p99_us));
    g_assert_true(isnan(s.wait_worst_us));
    for (unsigned i = 1; i <= 500; i++) {
        durations_add(waits, 100 + i);
        durations_add(more, 600 + i);
    }
    durations_merge(waits, more);
    bench_waits(waits, &s);
    g_assert_cmpfloat(s.waits, ==, 1000);
    g_assert_cmpfloat_with_epsilon(s.wait_mean_us, 600.5, 1e-9);
    g_assert_cmpfloat_with_epsilon(s.wait_p50_us, 600, 0.008 * 600);
    g_assert_cmpfloat_with_epsilon(s.wait_p99_us, 1090, 0.008 * 1090);
    g_assert_cmpfloat_with_epsilon(s.wait_p999_us, 1099, 0.008 * 1099);
    g_assert_cmpfloat(s.wait_worst_us, ==, 1100);
    /* No percentile is longer than the longest. */
    *waits = (Durations){0};
    durations_add(waits, 97);
    g_assert_cmpfloat(bench_wait_rank(waits, 0.5), ==, 97);
}

/* As the guest says them, in more than one line. */
static void test_waits_lines(void)
{
    g_autofree Durations *waits = g_new0(Durations, 1);
    bool whole;

    g_assert_true(bench_parse_waits("FF waits hist=0:3,64:2", waits, &whole));
    g_assert_false(whole);
    g_assert_true(bench_parse_waits("FF waits hist=1407:1,1408:9,7", waits, &whole));
    g_assert_false(whole);
    g_assert_false(bench_parse_waits("FF waits n=6 sum_us=1", waits, &whole));
    g_assert_false(bench_parse_waits("FF ready pages=1", waits, &whole));
    g_assert_true(bench_parse_waits("FF waits n=6 sum_us=250.5 worst_us=99.1", waits, &whole));
    g_assert_true(whole);
    g_assert_cmpuint(waits->n, ==, 6);
    g_assert_cmpfloat_with_epsilon(waits->sum_us, 250.5, 1e-9);
    g_assert_cmpfloat_with_epsilon(waits->worst_us, 99.1, 1e-9);
    g_assert_cmpuint(waits->bucket[0], ==, 3);
    g_assert_cmpuint(waits->bucket[64], ==, 2);
    g_assert_cmpuint(waits->bucket[1407], ==, 1);
    g_assert_cmpuint(waits->bucket[7], ==, 0);
}

static void test_step_line(void)
{
    BenchStep step;

    g_assert_true(bench_parse_step(
        "FF longest us=250.5 end_us=17887062329.5 touch_us=249.0 frame=4097 worker=3", &step));
    g_assert_cmpfloat_with_epsilon(step.us, 250.5, 1e-9);
    g_assert_cmpfloat_with_epsilon(step.end_us, 17887062329.5, 1e-3);
    g_assert_cmpfloat_with_epsilon(step.touch_us, 249, 1e-9);
    g_assert_cmpuint(step.frame, ==, 4097);
    g_assert_cmpuint(step.worker, ==, 3);
    g_assert_false(bench_parse_step("FF longest us=250.5 end_us=1", &step));
    g_assert_false(bench_parse_step("FF waits n=1 sum_us=1 worst_us=1", &step));
}

/* The guest runs at the destination at 10 s of the host, which is 3 s of its own; QEMU says so a
 * little later than it does. What precopy claimed counts no more, nor what is claimed again when it
 * has come, as after a lost connection. */
static const char marks[] =
    "9.500000 bench        source      bulk_claimed   block=0 page=4100 pages=32 channel=0\n"
    "9.900000 bench        source      phase          phase=2 right=MINE\n"
    "9.998000 bench        destination wait_begins    block=0 page=900 vcpu=3\n"
    "9.999500 bench        destination wait_ends      block=0 page=900 vcpu=3\n"
    "10.000000 bench        destination resumed        running=1\n"
    "10.001000 bench        destination wait_begins    block=0 page=1000 vcpu=0\n"
    "10.001010 bench        destination page_asked     block=0 page=1000 pages=1\n"
    "10.004000 bench        destination wait_ends      block=0 page=1000 vcpu=0\n"
    "10.050000 bench        source      bulk_claimed   block=0 page=1000 pages=32 channel=1\n"
    "10.100000 bench        source      bulk_claimed   block=0 page=2000 pages=32 channel=1\n"
    "10.102000 bench        destination wait_begins    block=0 page=2031 vcpu=0\n"
    "10.102100 bench        destination wait_begins    block=0 page=2031 vcpu=1\n"
    "10.107000 bench        destination wait_ends      block=0 page=2031 vcpu=0\n"
    "10.200000 bench        destination wait_begins    block=0 page=3700 vcpu=0\n"
    "10.200500 bench        source      bulk_claimed   block=0 page=3500 pages=600 channel=0\n"
    "10.209000 bench        destination wait_ends      block=0 page=3700 vcpu=0\n"
    "Lost 12 events\n"
    "10.300000 bench        destination wait_begins    block=0 page=4110 vcpu=0\n"
    "10.302000 bench        destination wait_ends      block=0 page=4110 vcpu=0\n"
    "10.400000 bench        destination wait_begins    block=0 page=5 vcpu=0\n"
    "10.401000 bench        destination wait_ends      block=0 page=5 vcpu=0\n"
    "10.401100 bench        destination wait_begins    block=1 page=5 vcpu=0\n"
    "10.402100 bench        destination wait_ends      block=1 page=5 vcpu=0\n"
    "10.402200 bench        destination wait_begins    block=0 page=6 vcpu=0\n"
    "10.403200 bench        destination wait_ends      block=0 page=6 vcpu=0\n";

/* One step for each cause. The guest's lines come 30 ms late: only the pages tell which wait was
 * which step's. */
static void test_worst(void)
{
    static const struct {
        BenchStep step;
        BenchWhy why;
        unsigned pages, run;
    } rows[] = {
        {{9500, 3209500, 9400, 3700}, BENCH_WHY_RUN, 1, 600},
        {{5200, 3107200, 5100, 2031}, BENCH_WHY_BULK, 1, 32},
        {{4000, 2999000, 3990, 77}, BENCH_WHY_BEFORE, 0, 0},
        {{3400, 3403300, 0, 0}, BENCH_WHY_MANY, 3, 0},
        {{3200, 3004100, 3150, 1000}, BENCH_WHY_FIRST, 1, 0},
        {{2300, 3302200, 2250, 4110}, BENCH_WHY_ASKED, 1, 0},
        {{1700, 2999600, 1650, 900, 3}, BENCH_WHY_FIRST, 1, 0},
        {{2000, 3502000, 0, 0}, BENCH_WHY_CPU, 0, 0},
        /* Another vCPU waits then. */
        {{1900, 3302200, 0, 0, 2}, BENCH_WHY_CPU, 0, 0},
        /* Most of it is none. */
        {{9800, 3312000, 0, 0}, BENCH_WHY_CPU, 1, 0},
    };
    static const BenchPoint point[] = {{10530000, 0, 3500000}, {11540000, 0, 4500000}};
    g_autoptr(BenchMarks) m = bench_marks_new(marks);
    BenchStep step[G_N_ELEMENTS(rows)];
    BenchCause cause[G_N_ELEMENTS(rows)];

    g_assert_cmpuint(bench_marks_lost(m), ==, 12);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        step[i] = rows[i].step;
    }
    bench_explain(m, step, G_N_ELEMENTS(rows), point, G_N_ELEMENTS(point), cause);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_test_message("%s", bench_why[cause[i].why]);
        g_assert_cmpint(cause[i].why, ==, rows[i].why);
        g_assert_cmpuint(cause[i].pages, ==, rows[i].pages);
        g_assert_cmpuint(cause[i].run, ==, rows[i].run);
        g_assert_cmpfloat_with_epsilon(cause[i].start_host, step[i].end_us - step[i].us + 7e6, 200);
    }
    g_assert_cmpfloat_with_epsilon(cause[1].early_us, 2000, 1);
    g_assert_cmpfloat_with_epsilon(cause[1].waited_us, 5000, 1);
    g_assert_cmpfloat_with_epsilon(cause[0].early_us, -500, 1);
}

/* The guest's seconds are 0.2 per mille longer than the host's: after 8 s they are 1.6 ms apart,
 * and only the pages say which waits were whose. One page is touched again, when it is there. */
static void test_worst_drift(void)
{
    static const struct {
        double at, ms; /* since the switch, by the host */
        uint64_t page;
        BenchWhy why;
        unsigned pages;
    } rows[] = {{0.5, 1, 1000, BENCH_WHY_ASKED, 1},   {2, 1.2, 2000, BENCH_WHY_ASKED, 1},
                {4, 0.9, 3000, BENCH_WHY_ASKED, 1},   {6, 1, 4000, BENCH_WHY_ASKED, 1},
                {7.9, 1.1, 5000, BENCH_WHY_ASKED, 1}, {7.905, 0.6, 1000, BENCH_WHY_CPU, 0}};
    static const BenchPoint point[] = {{11000000, 0, 4000000 - 200},
                                       {18000000, 0, 11000000 - 1600}};
    g_autoptr(GString) text = g_string_new("10.000000 b destination resumed running=1\n");
    BenchStep step[G_N_ELEMENTS(rows)];
    BenchCause cause[G_N_ELEMENTS(rows)];

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        double begin = 10 + rows[i].at, end = begin + rows[i].ms / 1000;

        step[i] = (BenchStep){.us = rows[i].ms * 1000 + 120,
                              .touch_us = rows[i].ms * 1000 + 60,
                              .frame = rows[i].page,
                              .end_us = 3e6 + (end - 10) * 1e6 * 0.9998 + 80};
        if (rows[i].pages) {
            g_string_append_printf(text,
                                   "%.6f b destination wait_begins block=0 page=%u vcpu=0\n"
                                   "%.6f b destination wait_ends block=0 page=%u vcpu=0\n",
                                   begin, (unsigned)rows[i].page, end, (unsigned)rows[i].page);
        }
    }
    g_autoptr(BenchMarks) m = bench_marks_new(text->str);
    bench_explain(m, step, G_N_ELEMENTS(rows), point, G_N_ELEMENTS(point), cause);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_test_message("%g s: %s", rows[i].at, bench_why[cause[i].why]);
        g_assert_cmpint(cause[i].why, ==, rows[i].why);
        g_assert_cmpuint(cause[i].pages, ==, rows[i].pages);
    }
}

/* Of QEMU's own postcopy nothing is known but the steps, and when they were. */
static void test_worst_alone(void)
{
    static const BenchStep step = {9500, 3209500, 9400, 3700};
    static const BenchPoint point[] = {{10530000, 0, 3500000}, {11502000, 0, 4500000}};
    g_autofree char *text = NULL;
    BenchCause cause;
    size_t n;
    FILE *out = open_memstream(&text, &n);

    bench_explain(NULL, &step, 1, point, G_N_ELEMENTS(point), &cause);
    bench_print_causes(out, "plain", &step, &cause, 1, 10000000);
    fclose(out);
    g_assert_cmpint(cause.why, ==, BENCH_WHY_UNKNOWN);
    g_assert_nonnull(strstr(text, "\n        9.5     202.0       9.4      -         -  -\n"));
}

/* 10 steps per us; stands for half a second, in which its clock stands, then half as fast for one,
 * then back. */
static void test_lost(void)
{
    static const BenchPoint before[] = {{0, 0, 0}, {1000000, 10000000, 1000000}},
                            after[] = {{2500000, 20000000, 2000000},
                                       {3500000, 25000000, 3000000},
                                       {4500000, 35000000, 4000000}};
    double speed = bench_speed(before, 2);

    g_assert_cmpfloat_with_epsilon(speed, 10, 1e-9);
    g_assert_cmpuint(bench_recovered(after, 2, speed), ==, 0);
    g_assert_cmpuint(bench_recovered(after, 3, speed), ==, 2);
    g_assert_cmpfloat_with_epsilon(bench_lost(&before[1], &after[2], speed, 500), 1000, 1e-6);
}

/* 10 steps per us; a command at 3 s, then nothing for half a second, then half as fast: after
 * another two seconds it lacks 1.5 s of work. Times between two points count in proportion. */
static void test_lost_soon(void)
{
    static const BenchPoint point[] = {{1000000, 0, 0},
                                       {2000000, 10000000, 0},
                                       {3000000, 20000000, 0},
                                       {3500000, 20000000, 0},
                                       {6500000, 35000000, 0}};
    unsigned n = G_N_ELEMENTS(point);

    g_assert_cmpfloat_with_epsilon(bench_lost_soon(point, n, 3000000, 5500000), 1500, 1e-6);
    g_assert_cmpfloat_with_epsilon(bench_lost_soon(point, n, 2500000, 3250000), 250, 1e-6);
    g_assert_true(isnan(bench_lost_soon(point, 1, 0, 1)));
}

/* A migration that takes longer than the guest is given up after: it has its speed back in the
 * second report after it, and what is lost is known. One that does not have it back is waited for
 * just as long, and what it has lost until then is the least. */
static void test_lost_long(void)
{
    static const BenchPoint before[] = {{0, 0, 0}, {1000000, 10000000, 1000000}};
    BenchPoint after[BENCH_PATIENCE + 25];
    BenchSample s;

    for (unsigned i = 0; i < G_N_ELEMENTS(after); i++) {
        after[i] = (BenchPoint){0, 15000000 + 5000000 * i, 2000000.0 + 1000000.0 * i};
    }
    g_assert_false(bench_lost_known(after, 25, 25, 10));
    g_assert_false(bench_lost_known(after, BENCH_PATIENCE + 24, 25, 10));
    g_assert_true(bench_lost_known(after, BENCH_PATIENCE + 25, 25, 10));
    bench_take_lost(before, 2, after, BENCH_PATIENCE + 25, 100, &s);
    g_assert_cmpfloat(s.lost_bound, ==, 1);
    g_assert_cmpfloat_with_epsilon(s.lost_ms, 500.0 * (BENCH_PATIENCE + 25) + 100, 1e-6);
    after[26].steps = after[25].steps + 10000000;
    g_assert_true(bench_lost_known(after, 27, 25, 10));
    bench_take_lost(before, 2, after, 27, 100, &s);
    g_assert_cmpfloat(s.lost_bound, ==, 0);
    g_assert_cmpfloat_with_epsilon(s.lost_ms, 500.0 * 26 + 100, 1e-6);
}

/* By when reports came, as the bench did it once. */
static double speed_as_heard(const BenchPoint *p, unsigned n)
{
    return (double)(p[n - 1].steps - p[0].steps) / (double)(p[n - 1].us - p[0].us);
}

static double lost_as_heard(const BenchPoint *before, const BenchPoint *after, double speed)
{
    double heard_us = (double)(after->us - before->us);

    return (heard_us - (double)(after->steps - before->steps) / speed) / 1000;
}

/*
 * A guest of 10 steps per us that stands for 10 ms and then has half of its speed for a second: 510
 * ms are lost. What says so waits for pages itself, so its second line after the switch comes 600
 * ms late, and seems to tell of a guest that is slower for longer; the last line before it was 200
 * ms late, too. By its own clock the guest is back a second earlier.
 */
static void test_lost_late(void)
{
    static const BenchPoint before[] = {{0, 0, 0},
                                        {1000000, 10000000, 1000000},
                                        {2200000, 20000000, 2000000}},
                            after[] = {{3010000, 25000000, 3000000},
                                       {4610000, 35000000, 4000000},
                                       {5010000, 45000000, 5000000}};
    double own = bench_speed(before, 3), heard = speed_as_heard(before, 3);
    unsigned back = bench_recovered(after, 3, own);

    g_assert_cmpfloat_with_epsilon(own, 10, 1e-9);
    g_assert_cmpuint(back, ==, 1);
    g_assert_cmpfloat_with_epsilon(bench_lost(&before[2], &after[back], own, 10), 510, 1e-6);
    /* As they are heard of, the speed was a tenth less, the guest is back one line later, and
     * hardly any work is lost. */
    g_assert_cmpfloat(heard, <, 9.1);
    g_assert_cmpfloat(speed_as_heard(after, 2), <, BENCH_RECOVERED * heard);
    g_assert_cmpfloat(lost_as_heard(&before[2], &after[2], heard), <, 100);
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

/* The worst of a column is its largest value, or its least where more is better; of whom rounds are
 * missing that is said, also if all are. */
static void test_ranks(void)
{
    static const BenchColumn column[] = {{"time", "time", "%.0f"},
                                         {"work", "work", "%.0f", .more = true}};
    static const double rows[] = {1, 10, 5, 50, 7, 70, 0, 0, 0, 0, 0, 0};
    static const char *const name[] = {"a", "b", "c"};
    static const unsigned taken[] = {2, 1, 0};
    g_autofree char *line = NULL, *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);

    bench_print_ranks(out, column, 2, rows, 2, 3, name, taken);
    fclose(out);
    line = g_strdup_printf("worst of 2\n%-20s %9s %9s\n%-20s %9s %9s\n%-20s %9s %9s\n", "a", "5",
                           "10", "b (1 of 2)", "7", "70", "c (0 of 2)", "-", "-");
    g_assert_true(g_str_has_suffix(text, line));
}

/* A rank is exact while all that is only known to be at least so much is beyond it. */
static void test_bounds(void)
{
    static const BenchColumn column[] = {{"lost", "lost", "%.0f"},
                                         {"lost-bound", NULL, "%.0f", .bound = true},
                                         {"bad", "bad", "%.0f"}};
    static const double rows[] = {1, 0, 0, 9, 1, 0, 5, 0, 0, /* of the next */
                                  1, 1, 0, 9, 0, 0, 5, 0, 0};
    static const char *const name[] = {"a", "b"};
    static const unsigned taken[] = {3, 3};
    g_autofree char *head = NULL, *text = NULL, *median = NULL, *worst = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);

    bench_print_figures(out, "", column, 3, NULL);
    bench_print_ranks(out, column, 3, rows, 3, 2, name, taken);
    fclose(out);
    head = g_strdup_printf("%-20s %9s %9s\nmedian", "", "lost", "bad");
    median = g_strdup_printf("median of 3\n%-20s %9s %9s\n%-20s %9s %9s\n", "a", "5", "0", "b",
                             ">=5", "0");
    worst = g_strdup_printf("worst of 3\n%-20s %9s %9s\n%-20s %9s %9s\n", "a", ">=9", "0", "b",
                            ">=9", "0");
    g_assert_true(g_str_has_prefix(text, head));
    g_assert_nonnull(strstr(text, median));
    g_assert_true(g_str_has_suffix(text, worst));
}

/* What scripts/bench-plot hands to gnuplot, of RESULTS (g_free); NULL: it cannot run here. */
static char *plotted(const char *results)
{
    g_autofree char *dir = g_dir_make_tmp("plot-XXXXXX", NULL);
    g_autofree char *program = g_test_build_filename(G_TEST_DIST, "scripts", "bench-plot", NULL);
    g_autofree char *file = g_build_filename(dir, "results.jsonl", NULL);
    g_autofree char *gnuplot = g_build_filename(dir, "gnuplot", NULL);
    g_autofree char *said = g_build_filename(dir, "said", NULL);
    /* Its pictures are empty, and removed with the folder. */
    g_autofree char *script = g_strdup_printf(
        "#!/bin/sh\ntee -a %s | sed -n \"s/^set output '\\(.*\\)'$/\\1/p\" | while read -r f\n"
        "do : >\"$f\"\ndone\n",
        said);
    g_autofree char *path = g_strdup_printf("%s:%s", dir, g_getenv("PATH"));
    g_autofree char *python = g_find_program_in_path("python3");
    char *argv[] = {program, file, dir, NULL}, *text = NULL;
    g_auto(GStrv) env = g_environ_setenv(g_get_environ(), "PATH", path, TRUE);
    g_autoptr(GError) error = NULL;
    int status = -1;

    g_assert_true(g_file_set_contents(file, results, -1, NULL));
    g_assert_true(g_file_set_contents(gnuplot, script, -1, NULL));
    g_assert_cmpint(g_chmod(gnuplot, 0755), ==, 0);
    if (python) {
        g_spawn_sync(NULL, argv, env, G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL, NULL, &status,
                     &error);
        g_assert_no_error(error);
        g_assert_cmpint(status, ==, 0);
        g_assert_true(g_file_get_contents(said, &text, NULL, NULL));
    } else {
        g_test_skip("no python3 here");
    }
    g_autoptr(GDir) left = g_dir_open(dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(left));) {
        g_autofree char *one = g_build_filename(dir, name, NULL);
        g_unlink(one);
    }
    g_rmdir(dir);
    return text;
}

/* A guest of a thousand steps per second stands still for a second, in which its clock stands
 * still, too: between the sides it has half of its speed. Rounds that failed are said. */
static void test_plot(void)
{
    static const char results[] =
        "{\"engine\":\"farfault\",\"link\":\"none\",\"failed\":\"lost\"}\n"
        "{\"engine\":\"farfault\",\"link\":\"none\",\"gap-ms\":1000,\"touches\":[0],"
        "\"waits-us\":[[40,1]],\"track-at-source\":2,"
        "\"track\":[[-1000,0,0],[0,1000,1000],[1500,2000,2000],[2500,3000,3000]]}\n"
        "{\"engine\":\"plain\",\"link\":\"none\",\"failed\":\"lost\"}\n";
    g_autofree char *text = plotted(results);

    if (text) {
        g_assert_nonnull(strstr(text, "\n-0.5 1000.0\n0.75 500.0\n2.0 1000.0\n"));
        g_assert_nonnull(strstr(text, " title 'farfault (1 of 2 rounds)'"));
        g_assert_nonnull(strstr(text, ": link not shaped, plain (0 of 1 rounds)'\n"));
    }
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

static void test_latency(void)
{
    g_autoptr(JsonNode) list = json_from_string("[[0, 1], [16, 90], [32, 8], [65536, 1]]", NULL);
    BenchLatency l = bench_latency(NULL);

    g_assert_true(isnan(l.p50_us) && isnan(l.p99_us));
    l = bench_latency(json_node_get_array(list));
    g_assert_cmpfloat(l.p50_us, ==, 32);
    g_assert_cmpfloat(l.p99_us, ==, 64);
    g_assert_cmpfloat(l.worst_us, ==, 131072);
}

static void test_stalls(void)
{
    BenchReport before = {.hist = {[9] = 4, [10] = 2}},
                after = {.hist = {[9] = 50, [10] = 5, [14] = 1}};

    g_assert_cmpfloat(bench_stalls(&before, &after), ==, 4);
}

/* 10 steps per us; a second without any, of which its clock misses a part; then 8 per us. */
static void test_snapshot_lost(void)
{
    static const BenchPoint point[] = {{0, 0, 0},
                                       {1000000, 10000000, 1000000},
                                       {2000000, 10000000, 1800000},
                                       {3000000, 18000000, 2800000},
                                       {4000000, 26000000, 3800000}};
    BenchSnapshotSample s = {.blackout_ms = 200};

    bench_snapshot_lost(point, G_N_ELEMENTS(point), 1, 3, &s);
    g_assert_cmpfloat_with_epsilon(s.lost_s, 2 - 8.0 / 9, 1e-9);
}

/* 10 steps per ms. Asked at 1 s, runs at 1.5 s with 100 steps, does 100 until 2 s, then stands
 * still until 4 s, then has its speed. */
static void test_restore_work(void)
{
    static const BenchPoint point[] = {{1500000, 100, 0},
                                       {2000000, 200, 500000},
                                       {4000000, 200, 2500000},
                                       {5000000, 10200, 3500000},
                                       {6000000, 20200, 4500000}};
    BenchRestoreSample s;

    g_assert_cmpfloat(bench_restore_steps_at(point, 5, 0), ==, 100);
    g_assert_cmpfloat(bench_restore_steps_at(point, 5, 1750000), ==, 150);
    g_assert_cmpfloat(bench_restore_steps_at(point, 5, 6000000), ==, 20200);
    g_assert_true(isnan(bench_restore_steps_at(point, 5, 6000001)));
    bench_restore_clear(&s);
    bench_restore_work(point, 5, 3, 1000000, &s);
    g_assert_cmpfloat_with_epsilon(s.speed, 10, 1e-9);
    g_assert_cmpfloat_with_epsilon(s.work, 0.1, 1e-9);
    /* It runs later than is looked at. */
    bench_restore_work(&point[3], 2, 0, 2000000, &s);
    g_assert_cmpfloat(s.work, ==, 0);
}

/* The guest says at 3 s what it has done, and that comes a second late, as what says so waits for
 * pages: of the steps until 3.5 s none are missing for that. */
static void test_restore_late(void)
{
    const BenchPoint first = {1500000, 0, 0};
    BenchPoint point[] = {
        first, {2000000, 5000, 500000}, {4000000, 15000, 1500000}, {4000000, 25000, 2500000}};

    g_assert_cmpfloat(bench_restore_steps_at(point, 4, 3500000), <, 13000); /* as they came */
    bench_points_made(&point[1], 3);
    g_assert_cmpint(point[0].us, ==, 1500000);
    g_assert_cmpint(point[1].us, ==, 2000000);
    g_assert_cmpint(point[2].us, ==, 3000000);
    g_assert_cmpint(point[3].us, ==, 4000000);
    g_assert_cmpfloat(bench_restore_steps_at(point, 4, 3500000), ==, 20000);
}

/* The first point is ahead of the guest by what was reckoned too much. */
static void test_restore_ahead(void)
{
    const BenchPoint point[] = {
        {1000000, 500, 0}, {4000000, 200, 3000000}, {5000000, 400, 4000000}};
    BenchRestoreSample s;

    bench_restore_clear(&s);
    bench_restore_work(point, 3, 1, 1000000, &s);
    g_assert_cmpfloat(s.work, >=, 0);
    g_assert_cmpfloat(s.work, <, 1);
}

/* What it says of restores that reach all, of ones that do not, and of what nobody has measured. */
static void test_restore_aims(void)
{
    BenchRestoreSample read = {.all_ms = 1000};
    BenchRestoreSample lazy[3] = {{.run_ms = 20, .all_ms = 1100, .work = 10, .stall_ms = 40},
                                  {.run_ms = 90, .all_ms = 1000, .work = 10, .stall_ms = 10},
                                  {.run_ms = 30, .all_ms = 1200, .work = 10, .stall_ms = 20}};
    BenchRestoreSample set = {.run_ms = 49, .all_ms = 1150, .work = 50, .stall_ms = 50};
    BenchRestoreAims aims = {
        .name = "QEMU", .cold = true, .read = {&read, 1}, .lazy = {lazy, 3}, .set = {&set, 1}};
    g_autofree char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);

    g_assert_cmpuint(bench_restore_aims(out, &aims), ==, 0);
    lazy[1].stall_ms = 51; /* the worst counts, */
    lazy[2].run_ms = 51;   /* and here the median */
    lazy[0].all_ms = lazy[2].all_ms = 1151;
    set.work = 49;
    g_assert_cmpuint(bench_restore_aims(out, &aims), ==, 4);
    set.all_ms = 1300;
    g_assert_cmpuint(bench_restore_aims(out, &aims), ==, 5);
    aims.cold = false; /* as much work is enough, and the disk is not read */
    g_assert_cmpuint(bench_restore_aims(out, &aims), ==, 3);
    fclose(out);
    g_assert_nonnull(strstr(text, "aim, QEMU, cold: runs after ms 51 (at most 50): missed\n"));
    g_autofree char *nothing = NULL;
    out = open_memstream(&nothing, &n);
    g_assert_cmpuint(bench_restore_aims(out, &(BenchRestoreAims){.name = "QEMU"}), ==, 0);
    fclose(out);
    g_assert_cmpstr(nothing, ==, "");
}

static unsigned missed_aims(FILE *out, const BenchSnapshotAims *aims)
{
    BenchVerdict v = {0};

    bench_snapshot_aims(out, aims, &v);
    return v.missed;
}

static void test_snapshot_aims(void)
{
    BenchVerdict v = {0};
    BenchSnapshotSample ours[2] = {
        {.total_ms = 1000, .lost_s = 1, .blackout_ms = 5, .fault_p99_us = 32},
        {.total_ms = 1000, .lost_s = 1, .blackout_ms = 9, .fault_p99_us = 32}};
    BenchSnapshotSample qemu = {.total_ms = 3000, .lost_s = 2, .blackout_ms = 9};
    BenchSnapshotAims aims = {.name = "us", .ours = {ours, 2}, .memfd = {&qemu, 1}};
    const double flat[] = {5, 6, 7}, steep[] = {5, 6, 8};
    g_autofree char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);

    g_assert_cmpuint(missed_aims(out, &aims), ==, 0);
    ours[1].blackout_ms = 11; /* the worst counts, twice */
    qemu.total_ms = 2999;
    qemu.lost_s = 1.9;
    g_assert_cmpuint(missed_aims(out, &aims), ==, 4);
    aims.slow = true; /* then work alone */
    g_assert_cmpuint(missed_aims(out, &aims), ==, 0);
    g_assert_false(bench_snapshot_tell(out, &v));
    bench_snapshot_flat(out, "us", flat, 3, &v);
    g_assert_true(bench_snapshot_tell(out, &v));
    bench_snapshot_flat(out, "us", steep, 1, &v);
    g_assert_cmpuint(v.judged, ==, 1);
    bench_snapshot_flat(out, "us", steep, 3, &v);
    g_assert_false(bench_snapshot_tell(out, &v));
    fclose(out);
    g_assert_nonnull(strstr(text, "aim, us, blackout, ms, worst: 11 (at most 10): missed\n"));
    g_assert_nonnull(strstr(text, "aims: FAILED: none could be judged\n"));
    g_assert_nonnull(strstr(text, "aims: all 1 met\n"));
    g_assert_true(g_str_has_suffix(text, "aims: FAILED: 1 of 2 missed\n"));
}

/* One MiB of data between holes; where its file system is a disk, it can be dropped. */
static void test_restore_cache(void)
{
    g_autofree char *path = NULL, *mib = g_malloc0(1 << 20);
    g_autoptr(GError) error = NULL;
    int fd = g_file_open_tmp("bench-XXXXXX", &path, NULL);
    uint64_t bytes;
    int64_t us;

    memset(mib, 7, 1 << 20);
    g_assert_cmpint(ftruncate(fd, 8 << 20), ==, 0);
    g_assert_cmpint(pwrite(fd, mib, 1 << 20, 2 << 20), ==, 1 << 20);
    close(fd);
    for (unsigned direct = 0; direct < 2; direct++) {
        g_assert_true(bench_cache_read(path, direct, &bytes, &us, &error));
        g_assert_cmpuint(bytes, ==, 1 << 20);
        g_assert_cmpint(us, >, 0);
    }
    g_assert_true(bench_cache_data(path, &bytes, &error));
    g_assert_cmpuint(bytes, ==, 1 << 20);
    g_assert_true(bench_cache_fill(path, &error));
    if (!bench_cache_drop(path, &error)) {
        g_assert_nonnull(strstr(error->message, "stays in the page cache"));
    }
    g_unlink(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/report", test_report);
    g_test_add_func("/bench/durations", test_durations);
    g_test_add_func("/bench/waits", test_waits);
    g_test_add_func("/bench/waits-lines", test_waits_lines);
    g_test_add_func("/bench/step-line", test_step_line);
    g_test_add_func("/bench/worst", test_worst);
    g_test_add_func("/bench/worst-drift", test_worst_drift);
    g_test_add_func("/bench/worst-alone", test_worst_alone);
    g_test_add_func("/bench/lost", test_lost);
    g_test_add_func("/bench/lost-soon", test_lost_soon);
    g_test_add_func("/bench/lost-late", test_lost_late);
    g_test_add_func("/bench/lost-long", test_lost_long);
    g_test_add_func("/bench/rank", test_rank);
    g_test_add_func("/bench/hist-edge", test_hist_edge);
    g_test_add_func("/bench/latency", test_latency);
    g_test_add_func("/bench/stalls", test_stalls);
    g_test_add_func("/bench/ranks", test_ranks);
    g_test_add_func("/bench/bounds", test_bounds);
    g_test_add_func("/bench/plot", test_plot);
    g_test_add_func("/bench/snapshot/lost", test_snapshot_lost);
    g_test_add_func("/bench/restore/work", test_restore_work);
    g_test_add_func("/bench/restore/late", test_restore_late);
    g_test_add_func("/bench/restore/ahead", test_restore_ahead);
    g_test_add_func("/bench/restore/aims", test_restore_aims);
    g_test_add_func("/bench/snapshot/aims", test_snapshot_aims);
    g_test_add_func("/bench/restore/cache", test_restore_cache);
    return g_test_run();
}
