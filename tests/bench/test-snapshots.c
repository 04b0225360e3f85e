/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bench of live snapshots, run with small guests: it has a figure for all that it promises, the
 * files and guests are whole, nothing is left, and a disk that is to be slow is.
 */
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <sys/wait.h>

#include "tests/lib/linuxguest.h"

#define SKIPPED 77
#define RATE 20 /* MB/s */

/* Runs it with WORDS in DIR; the exit status. */
static int run_bench(const char *dir, const char *const *words, char **said)
{
    g_autofree char *bench = vm_build_path("tests/bench/farfault-snapshot-bench");
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *guest = g_build_filename(g_getenv("FF_SOURCE"), ".cache", "guest", NULL);
    const char *fixed[] = {bench,   "--rounds", "1",       "--mem", "160",        "--hot",  "48",
                           "--out", dir,        "--guest", guest,   "--farfault", farfault, NULL};
    g_autoptr(GStrvBuilder) argv = g_strv_builder_new();
    g_autoptr(GError) error = NULL;
    int status;

    g_strv_builder_addv(argv, fixed);
    g_strv_builder_addv(argv, (const char **)words);
    g_auto(GStrv) all = g_strv_builder_end(argv);
    g_spawn_sync(NULL, all, NULL, G_SPAWN_DEFAULT, NULL, NULL, said, NULL, &status, &error);
    g_assert_no_error(error);
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* The lines of results.jsonl: JsonObject. */
static GPtrArray *read_results(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, "results.jsonl", NULL);
    g_autofree char *text = NULL;
    GPtrArray *results = g_ptr_array_new_with_free_func((GDestroyNotify)json_object_unref);

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_auto(GStrv) line = g_strsplit(g_strchomp(text), "\n", -1);
    for (char **l = line; *l; l++) {
        g_autoptr(JsonNode) node = json_from_string(*l, NULL);
        g_assert_true(JSON_NODE_HOLDS_OBJECT(node));
        g_ptr_array_add(results, json_node_dup_object(node));
    }
    return results;
}

static double figure(JsonObject *o, const char *name)
{
    if (!json_object_has_member(o, name)) {
        test_fail("%s has no %s", json_object_get_string_member(o, "engine"), name);
    }
    return json_object_get_double_member(o, name);
}

static void check_result(JsonObject *o, const char *engine)
{
    g_assert_cmpstr(json_object_get_string_member(o, "engine"), ==, engine);
    g_assert_cmpfloat(figure(o, "total-ms"), >, figure(o, "blackout-ms"));
    g_assert_cmpfloat(figure(o, "disk-ms"), >=, figure(o, "total-ms"));
    g_assert_cmpfloat(figure(o, "blackout-ms"), >, 0);
    g_assert_cmpfloat(figure(o, "stalls"), >=, 0);
    g_assert_cmpfloat(figure(o, "stall-ms"), >, 0);
    g_assert_cmpfloat(figure(o, "file-mib"), >=, 48);
    g_assert_cmpfloat(figure(o, "bad"), ==, 0);
    if (g_str_has_prefix(engine, "farfault")) {
        g_assert_cmpfloat(figure(o, "faults"), >, 0);
        g_assert_cmpfloat(figure(o, "fault-p99-us"), >=, figure(o, "fault-p50-us"));
        g_assert_cmpfloat(figure(o, "fault-worst-us"), >=, figure(o, "fault-p99-us"));
    }
}

/* Results and logs stay, files of snapshots do not. Empties and removes it. */
static void check_folder(const char *dir)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_assert_true(g_str_has_suffix(name, ".jsonl") || g_str_has_suffix(name, ".log"));
        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static bool can_run(void)
{
    const char *why = NULL;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    return true;
}

static void test_engines(void)
{
    static const char *const engines[] = {"farfault", "farfault-stream", "qemu-anon", "qemu-memfd"};
    static const char *const words[] = {"--vcpus", "2", "--buffer", "8", NULL};
    g_autofree char *dir = g_dir_make_tmp("snapbench-XXXXXX", NULL), *said = NULL;

    if (!can_run()) {
        g_rmdir(dir);
        return;
    }
    g_assert_cmpint(run_bench(dir, words, &said), ==, 0);
    g_assert_nonnull(strstr(said, "median of 1\n"));
    g_autoptr(GPtrArray) results = read_results(dir);
    g_assert_cmpuint(results->len, ==, G_N_ELEMENTS(engines));
    for (guint i = 0; i < results->len; i++) {
        check_result(results->pdata[i], engines[i]);
    }
    check_folder(dir);
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

    if (!can_run()) {
        g_rmdir(dir);
        return;
    }
    status = run_bench(dir, words, &said);
    if (status == SKIPPED) {
        g_test_skip("no cgroup here that slows the disk of temporary files");
        g_rmdir(dir);
        return;
    }
    g_assert_cmpint(status, ==, 0);
    g_autoptr(GPtrArray) results = read_results(dir);
    g_assert_cmpuint(results->len, ==, G_N_ELEMENTS(engines));
    for (guint i = 0; i < results->len; i++) {
        JsonObject *o = results->pdata[i];
        double mb = figure(o, "file-mib") * 1.048576;
        check_result(o, engines[i]);
        g_assert_cmpfloat(figure(o, "disk-ms"), >, 0.8 * mb / RATE * 1000);
    }
    check_folder(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/snapshot/engines", test_engines);
    g_test_add_func("/bench/snapshot/disk-rate", test_disk_rate);
    return g_test_run();
}
