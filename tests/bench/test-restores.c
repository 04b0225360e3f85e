/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bench of restores, run with a small guest: it has a figure for all that it promises, the
 * restored guests are whole, and nothing is left.
 */
#include "tests/bench/test-run.h"

static const char *const program = "tests/bench/farfault-restore-bench";

static void check_restored(JsonObject *o)
{
    const char *engine = json_object_get_string_member(o, "engine");
    bool farfault = g_str_has_prefix(engine, "farfault");

    g_assert_cmpfloat(bench_figure(o, "run-ms"), >, 0);
    g_assert_cmpfloat(bench_figure(o, "all-ms"), >, 0);
    g_assert_cmpfloat(bench_figure(o, "work"), >=, 0);
    g_assert_cmpfloat(bench_figure(o, "speed"), >, 0);
    g_assert_cmpfloat(bench_figure(o, "stall-ms"), >, 0);
    g_assert_cmpfloat(bench_figure(o, "bad"), ==, 0);
    if (farfault) {
        g_assert_cmpfloat(bench_figure(o, "all-ms"), >=, bench_figure(o, "run-ms"));
        g_assert_true(json_object_has_member(o, "faults"));
    }
    /* What is in the page cache needs no working set. */
    if (!strcmp(engine, "farfault-set") &&
        !strcmp(json_object_get_string_member(o, "cache"), "cold")) {
        g_assert_cmpfloat(bench_figure(o, "set-percent"), >, 0);
    }
}

static void check_result(JsonObject *o, const char *engine)
{
    g_assert_cmpstr(json_object_get_string_member(o, "engine"), ==, engine);
    g_assert_cmpfloat(bench_figure(o, "mib-s"), >, 0);
    if (strcmp(engine, "read") != 0) {
        check_restored(o);
    }
}

/* Both caches, cold first. A file of a file system in memory cannot be dropped: one line for each
 * restore, and no figure. */
static void test_engines(void)
{
    static const char *const engines[] = {"read", "farfault-set", "qemu-stream"};
    static const char *const words[] = {"--core", "16", "--engines",
                                        "read,farfault-set,qemu-stream", NULL};
    g_autofree char *dir = g_dir_make_tmp("restorebench-XXXXXX", NULL), *said = NULL;
    unsigned n = vm_is_qemu("qemu-system-x86_64", "7.2") ? 3 : 2; /* newer ones have mapped-ram */

    if (!bench_test_can_run()) {
        g_rmdir(dir);
        return;
    }
    int status = bench_test_run(program, dir, words, &said);
    g_autoptr(GPtrArray) results = bench_test_results(dir);
    g_assert_nonnull(strstr(said, "median of 1\n"));
    g_assert_nonnull(strstr(said, "aim, farfault "));
    g_assert_cmpuint(results->len, ==, status == 0 ? 2 * n : n);
    for (guint i = 0; i < results->len; i++) {
        check_result(results->pdata[i], engines[i % n]);
    }
    bench_test_check_folder(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/restore/engines", test_engines);
    return g_test_run();
}
