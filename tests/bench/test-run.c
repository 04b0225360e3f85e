/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See test-run.h. */
#include "tests/bench/test-run.h"

#include <sys/wait.h>

int bench_test_run(const char *program, const char *dir, const char *const *words, char **said)
{
    return bench_test_run_in(NULL, program, dir, words, said);
}

int bench_test_run_in(GSpawnChildSetupFunc setup, const char *program, const char *dir,
                      const char *const *words, char **said)
{
    g_autofree char *bench = vm_build_path(program);
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
    g_spawn_sync(NULL, all, NULL, G_SPAWN_DEFAULT, setup, NULL, said, NULL, &status, &error);
    g_assert_no_error(error);
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

GPtrArray *bench_test_results(const char *dir)
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

double bench_figure(JsonObject *o, const char *name)
{
    if (!json_object_has_member(o, name)) {
        test_fail("%s has no %s", json_object_get_string_member(o, "engine"), name);
    }
    return json_object_get_double_member(o, name);
}

void bench_test_check_folder(const char *dir)
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

bool bench_test_can_run(void)
{
    const char *why = NULL;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    return true;
}
