/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bench of live snapshots, run with small guests: it has a figure for all that it promises, the
 * files and guests are whole, nothing is left, and a disk that is to be slow is.
 */
#include "tests/bench/test-run.h"

#define SKIPPED 77
#define RATE 20 /* MB/s */

static const char *const program = "tests/bench/farfault-snapshot-bench";

static void check_result(JsonObject *o, const char *engine)
{
    g_assert_cmpstr(json_object_get_string_member(o, "engine"), ==, engine);
    g_assert_cmpfloat(bench_figure(o, "total-ms"), >, bench_figure(o, "blackout-ms"));
    g_assert_cmpfloat(bench_figure(o, "disk-ms"), >=, bench_figure(o, "total-ms"));
    g_assert_cmpfloat(bench_figure(o, "blackout-ms"), >, 0);
    g_assert_cmpfloat(bench_figure(o, "stalls"), >=, 0);
    g_assert_cmpfloat(bench_figure(o, "stall-ms"), >, 0);
    g_assert_cmpfloat(bench_figure(o, "file-mib"), >=, 48);
    g_assert_cmpfloat(bench_figure(o, "bad"), ==, 0);
    if (g_str_has_prefix(engine, "farfault")) {
        g_assert_cmpfloat(bench_figure(o, "faults"), >, 0);
        g_assert_cmpfloat(bench_figure(o, "fault-p99-us"), >=, bench_figure(o, "fault-p50-us"));
        g_assert_cmpfloat(bench_figure(o, "fault-worst-us"), >=, bench_figure(o, "fault-p99-us"));
    }
}

static void test_engines(void)
{
    static const char *const engines[] = {"farfault", "farfault-stream", "qemu-anon", "qemu-memfd"};
    static const char *const words[] = {"--vcpus", "2", "--buffer", "8", NULL};
    g_autofree char *dir = g_dir_make_tmp("snapbench-XXXXXX", NULL), *said = NULL;

    if (!bench_test_can_run()) {
        g_rmdir(dir);
        return;
    }
    g_assert_cmpint(bench_test_run(program, dir, words, &said), ==, 0);
    g_assert_nonnull(strstr(said, "median of 1\n"));
    g_autoptr(GPtrArray) results = bench_test_results(dir);
    g_assert_cmpuint(results->len, ==, G_N_ELEMENTS(engines));
    for (guint i = 0; i < results->len; i++) {
        check_result(results->pdata[i], engines[i]);
    }
    bench_test_check_folder(dir);
}

/* Both write past the page cache, so neither can be faster than the disk. The kernel lets one
 * piece through at once. */
static void test_disk_rate(void)
{
    static const char *const engines[] = {"farfault", "qemu-anon"};
    static const char *const words[] = {"--engines", "farfault,qemu-anon", "--disk-rate",
                                        G_STRINGIFY(RATE), NULL};
    g_autofree char *dir = g_dir_make_tmp("snapbench-XXXXXX", NULL), *said = NULL;
    int status;

    if (!bench_test_can_run()) {
        g_rmdir(dir);
        return;
    }
    status = bench_test_run(program, dir, words, &said);
    if (status == SKIPPED) {
        g_test_skip("no cgroup here that slows the disk of temporary files");
        g_rmdir(dir);
        return;
    }
    g_assert_cmpint(status, ==, 0);
    g_autoptr(GPtrArray) results = bench_test_results(dir);
    g_assert_cmpuint(results->len, ==, G_N_ELEMENTS(engines));
    for (guint i = 0; i < results->len; i++) {
        JsonObject *o = results->pdata[i];
        double mb = bench_figure(o, "file-mib") * 1.048576;
        check_result(o, engines[i]);
        g_assert_cmpfloat(bench_figure(o, "disk-ms"), >, 0.8 * mb / RATE * 1000);
    }
    bench_test_check_folder(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/snapshot/engines", test_engines);
    g_test_add_func("/bench/snapshot/disk-rate", test_disk_rate);
    return g_test_run();
}
