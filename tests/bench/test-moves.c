/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bench of migrations, run with small guests: it has a figure for all that it promises, each
 * engine with each QEMU in every round, the guests' longest steps with a reason, and the guests are
 * whole.
 */
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "tests/bench/test-run.h"

#define NO_TRACEFS 98

static const char *const program = "tests/bench/farfault-bench";

static void check_waits(JsonObject *o, const char *engine, const char *qemu)
{
    if (bench_figure(o, "waits") <= 0) {
        g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), o);
        g_autofree char *text = json_to_string(node, false);
        test_fail("%s with QEMU %s: the guest has waited for nothing: %s", engine, qemu, text);
    }
    g_assert_cmpfloat(bench_figure(o, "wait-p50-us"), >=, 32);
    g_assert_cmpfloat(bench_figure(o, "wait-p99-us"), >=, bench_figure(o, "wait-p50-us"));
    g_assert_cmpfloat(bench_figure(o, "wait-p999-us"), >=, bench_figure(o, "wait-p99-us"));
    g_assert_cmpfloat(bench_figure(o, "wait-worst-us"), >=, bench_figure(o, "wait-p999-us"));
    /* A step of the guest is longer than the touch in it. */
    g_assert_cmpfloat(bench_figure(o, "stall-ms") + 0.01, >=,
                      bench_figure(o, "wait-worst-us") / 1000);
}

static void check_result(JsonObject *o, const char *engine, const char *qemu)
{
    g_assert_cmpstr(json_object_get_string_member(o, "engine"), ==, engine);
    g_assert_cmpstr(json_object_get_string_member(o, "qemu"), ==, qemu);
    g_assert_cmpfloat(bench_figure(o, "total-ms"), >=, 0);
    g_assert_cmpfloat(bench_figure(o, "gap-ms"), >, 0);
    /* QEMU's own may be over while the guest stands at a page that is not of its work: a long step,
       and no touch that waited. */
    if (bench_figure(o, "waits") <= 0 && g_str_equal(engine, "plain")) {
        g_assert_cmpfloat(bench_figure(o, "stall-ms"), >, 0);
        g_assert_false(json_object_has_member(o, "wait-p50-us"));
    } else {
        check_waits(o, engine, qemu);
    }
    g_assert_cmpfloat(bench_figure(o, "mib"), >=, 48);
    g_assert_cmpfloat(bench_figure(o, "bad"), ==, 0);
}

/* A script that is REAL, after LINES, in which that is $real (g_free). */
static char *make_script(const char *real, const char *lines)
{
    g_autofree char *text =
        g_strdup_printf("#!/bin/bash\nreal=%s\n%sexec $real \"$@\"\n", real, lines);
    g_autoptr(GError) error = NULL;
    char *path = NULL;
    int fd = g_file_open_tmp("script-XXXXXX", &path, &error);

    g_assert_no_error(error);
    close(fd);
    g_file_set_contents(path, text, -1, &error);
    g_assert_no_error(error);
    g_assert_cmpint(g_chmod(path, 0755), ==, 0);
    return path;
}

static void test_qemus(void)
{
    static const char *const engines[] = {"plain", "farfault"};
    const char *qemu = "qemu-system-x86_64";
    g_autofree char *dir = g_dir_make_tmp("movebench-XXXXXX", NULL), *said = NULL;

    if (!bench_test_can_run()) {
        g_rmdir(dir);
        return;
    }
    g_autofree char *other = make_script(qemu, "[ \"$*\" != --version ] ||\n"
                                               "    exec echo QEMU emulator version 99.1.0\n");
    const char *words[] = {"--engines", "plain,farfault", "--qemu", qemu, "--qemu", other, NULL};
    g_assert_cmpint(bench_test_run(program, dir, words, &said), ==, 0);
    g_assert_nonnull(strstr(said, "\nmedian of 1\n"));
    g_assert_nonnull(strstr(said, "\nworst of 1\n"));
    g_assert_nonnull(strstr(said, "\nwaits of all 1\n"));
    g_assert_nonnull(strstr(said, "\nfarfault 99.1 "));
    g_autoptr(GPtrArray) results = bench_test_results(dir);
    g_assert_cmpuint(results->len, ==, 2 * G_N_ELEMENTS(engines));
    const char *first = json_object_get_string_member(results->pdata[0], "qemu");
    for (guint i = 0; i < results->len; i++) {
        check_result(results->pdata[i], engines[i % 2], i < 2 ? first : "99.1");
    }
    g_assert_cmpint(g_unlink(other), ==, 0);
    bench_test_check_folder(dir);
}

/* The guest says at the destination that a page is wrong: with farfault that is a failure, QEMU 7.2
 * does it by itself under TCG. */
static void test_damaged(void)
{
    static const char *const engines[] = {"plain", "farfault"};

    for (unsigned i = 0; i < G_N_ELEMENTS(engines) && bench_test_can_run(); i++) {
        g_autofree char *dir = g_dir_make_tmp("movebench-XXXXXX", NULL), *said = NULL;
        g_autofree char *qemu = make_script(
            "qemu-system-x86_64", "[[ \"$*\" != *-incoming* ]] ||\n"
                                  "    exec $real \"$@\" > >(exec sed -u 's/ bad=0 / bad=1 /')\n");
        const char *words[] = {"--engines", engines[i], "--qemu", qemu, NULL};

        g_assert_cmpint(bench_test_run(program, dir, words, &said), ==, (int)i);
        g_autoptr(GPtrArray) results = bench_test_results(dir);
        g_assert_cmpuint(results->len, ==, 1);
        g_assert_cmpfloat(bench_figure(results->pdata[0], "bad"), ==, 1);
        g_assert_cmpint(g_unlink(qemu), ==, 0);
        bench_test_check_folder(dir);
    }
}

/* A round that fails is in the results and in the table, without figures. */
static void test_failed(void)
{
    g_autofree char *dir = g_dir_make_tmp("movebench-XXXXXX", NULL), *said = NULL;

    if (!bench_test_can_run()) {
        g_rmdir(dir);
        return;
    }
    g_autofree char *qemu =
        make_script("qemu-system-x86_64", "[[ \"$*\" != *-incoming* ]] || exit 1\n");
    const char *words[] = {"--engines", "plain", "--qemu", qemu, NULL};
    g_assert_cmpint(bench_test_run(program, dir, words, &said), ==, 1);
    g_assert_nonnull(strstr(said, "\nmedian of 1\nplain (0 of 1) "));
    g_autoptr(GPtrArray) results = bench_test_results(dir);
    g_assert_cmpuint(results->len, ==, 1);
    JsonObject *o = results->pdata[0];
    g_assert_cmpstr(json_object_get_string_member(o, "engine"), ==, "plain");
    g_assert_nonnull(strstr(json_object_get_string_member(o, "failed"), "QEMU's monitor"));
    g_assert_false(json_object_has_member(o, "total-ms"));
    g_assert_cmpint(g_unlink(qemu), ==, 0);
    bench_test_check_folder(dir);
}

/* In the child: tracefs, where nobody else sees it. */
static void mount_tracefs(gpointer opaque)
{
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/sys/kernel/tracing", "tracefs", 0, NULL) < 0 ||
        access("/sys/kernel/tracing/uprobe_events", W_OK) < 0) {
        _exit(NO_TRACEFS);
    }
}

/* The engine saw that it waited. */
static bool is_explained(JsonObject *step)
{
    return json_object_has_member(step, "why") && json_object_get_int_member(step, "pages") > 0 &&
           json_object_get_double_member(step, "waited-ms") > 0;
}

/* The longest first, each with a reason if there are marks to know it from. With a wrong clock no
 * wait would be found of any. On a busy machine most of them have none. */
static void check_longest(JsonObject *o, bool traced)
{
    JsonArray *list = json_object_get_array_member(o, "longest");
    double before = G_MAXDOUBLE;
    bool explained = false;

    g_assert_cmpuint(json_array_get_length(list), ==, 10);
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *step = json_array_get_object_element(list, i);
        double ms = json_object_get_double_member(step, "ms");

        g_assert_cmpfloat(ms, <=, before);
        before = ms;
        g_assert_true(json_object_has_member(step, "at-ms"));
        g_assert_cmpfloat(json_object_get_double_member(step, "touch-ms"), <=, ms + 0.01);
        g_assert_cmpint(json_object_has_member(step, "why"), ==, traced);
        explained = explained || is_explained(step);
    }
    g_assert_cmpint(explained, ==, traced);
}

static void test_worst(void)
{
    g_autofree char *script = g_build_filename(g_getenv("FF_SOURCE"), "examples/trace.bt", NULL);
    g_autofree char *engine = vm_build_path("engine/farfault-engine");
    g_autofree char *tracer = g_strdup_printf("bpftrace -B line %s %s", script, engine);
    g_autofree char *bpftrace = g_find_program_in_path("bpftrace");
    const char *words[] = {"--engines", "plain,farfault", "--worst", "--tracer", tracer, NULL};
    g_autofree char *dir = g_dir_make_tmp("movebench-XXXXXX", NULL), *said = NULL;
    g_autofree char *log = g_build_filename(dir, "farfault-trace.log", NULL), *text = NULL;

    if (!bpftrace) {
        g_test_skip("there is no bpftrace: install it");
    }
    if (!bpftrace || !bench_test_can_run()) {
        g_rmdir(dir);
        return;
    }
    int status = bench_test_run_in(mount_tracefs, program, dir, words, &said);
    if (status == NO_TRACEFS) {
        g_test_skip("tracefs cannot be mounted here, or the kernel has no uprobes");
        g_rmdir(dir);
        return;
    }
    g_assert_cmpint(status, ==, 0);
    g_assert_nonnull(strstr(said, "\n  longest steps of farfault\n"));
    g_autoptr(GPtrArray) results = bench_test_results(dir);
    g_assert_cmpuint(results->len, ==, 2);
    check_longest(results->pdata[0], false);
    check_longest(results->pdata[1], true);
    g_assert_true(g_file_get_contents(log, &text, NULL, NULL));
    g_assert_nonnull(strstr(text, " source bulk_claimed "));
    g_assert_nonnull(strstr(text, " destination wait_ends "));
    bench_test_check_folder(dir);
}

/* A trace that ends with an error: the round has its figures, and the run says that it was not all
 * that was asked for. */
static void test_trace_fails(void)
{
    g_autofree char *dir = g_dir_make_tmp("movebench-XXXXXX", NULL), *said = NULL;
    static const char *const words[] = {"--engines",
                                        "farfault",
                                        "--worst",
                                        "--tracer",
                                        "sh -c 'echo tracing; exec tail -f /dev/null'",
                                        NULL};

    if (!bench_test_can_run()) {
        g_rmdir(dir);
        return;
    }
    g_assert_cmpint(bench_test_run(program, dir, words, &said), ==, 1);
    g_autoptr(GPtrArray) results = bench_test_results(dir);
    g_assert_cmpuint(results->len, ==, 1);
    g_assert_cmpfloat(bench_figure(results->pdata[0], "gap-ms"), >, 0);
    check_longest(results->pdata[0], false);
    bench_test_check_folder(dir);
}

/* A guest with a database, and one with a compiler, work, and are whole behind the move. */
static void test_load(gconstpointer mode)
{
    g_autofree char *dir = g_dir_make_tmp("movebench-XXXXXX", NULL), *said = NULL;
    g_autofree char *guest = g_build_filename(g_getenv("FF_SOURCE"), ".cache", "guest-load", NULL);
    g_autofree char *initrd = g_build_filename(guest, "initrd.img", NULL);
    const char *words[] = {"--engines", "farfault", "--mem",  "384", "--hot",        "16",
                           "--guest",   guest,      "--mode", mode,  "--after-pass", NULL};

    if (!bench_test_can_run()) {
        g_rmdir(dir);
        return;
    }
    if (!g_file_test(initrd, G_FILE_TEST_EXISTS)) {
        g_test_skip("no guest with a load: scripts/build-guest --load makes it");
        g_rmdir(dir);
        return;
    }
    g_assert_cmpint(bench_test_run(program, dir, words, &said), ==, 0);
    g_autoptr(GPtrArray) results = bench_test_results(dir);
    g_assert_cmpuint(results->len, ==, 1);
    g_assert_cmpstr(json_object_get_string_member(results->pdata[0], "mode"), ==, mode);
    g_assert_cmpfloat(bench_figure(results->pdata[0], "waits"), >, 0);
    g_assert_cmpfloat(bench_figure(results->pdata[0], "bad"), ==, 0);
    bench_test_check_folder(dir);
}

/* ---- the ring-3 guest ------------------------------------------------------------------------ */

/* FALSE: skipped. */
static bool has_ring3(const char *accel)
{
    const char *why = NULL;

    if (vm_farfault_available(&why) &&
        ring3_available(g_str_equal(accel, "kvm") ? RING3_KVM : RING3_TCG, NULL, &why)) {
        return true;
    }
    g_test_skip(why);
    return false;
}

/* Its buckets are those of Durations: the longest wait is in the last one that has any. */
static void check_buckets(JsonObject *o)
{
    JsonArray *list = json_object_get_array_member(o, "waits-us");
    guint n = json_array_get_length(list);
    double worst = bench_figure(o, "wait-worst-us"), sum = 0, all = 0;

    for (guint i = 0; i < n; i++) {
        JsonArray *pair = json_array_get_array_element(list, i);
        double us = json_array_get_double_element(pair, 0);
        double count = (double)json_array_get_int_element(pair, 1);

        all += count;
        sum += us * count;
        g_assert_cmpfloat(us, >=, 32);
        if (i + 1 == n) {
            g_assert_cmpfloat_with_epsilon(us, worst, worst * 0.01);
        }
    }
    g_assert_cmpfloat(all, ==, bench_figure(o, "waits"));
    g_assert_cmpfloat_with_epsilon(sum / all, bench_figure(o, "wait-mean-us"), sum / all * 0.02);
}

/* Its steps over time: the guest has gone on, and so has time. */
static void check_track(JsonObject *o)
{
    JsonArray *track = json_object_get_array_member(o, "track");
    gint64 at_source = json_object_get_int_member(o, "track-at-source");
    double ms = -G_MAXDOUBLE;
    gint64 steps = 0;

    g_assert_cmpint(at_source, >, 0);
    g_assert_cmpint(json_array_get_length(track), >, at_source);
    for (guint i = 0; i < json_array_get_length(track); i++) {
        JsonArray *pair = json_array_get_array_element(track, i);

        g_assert_cmpfloat(json_array_get_double_element(pair, 0), >, ms);
        g_assert_cmpint(json_array_get_int_element(pair, 1), >=, steps);
        ms = json_array_get_double_element(pair, 0);
        steps = json_array_get_int_element(pair, 1);
    }
}

/* Under KVM QEMU's own guest stays in small pages, and is not back at its speed for long. */
static void test_ring3(gconstpointer accel)
{
    static const char *const engines[] = {"farfault", "plain"};
    bool kvm = g_str_equal(accel, "kvm");
    const char *words[] = {"--accel", accel, "--engines", kvm ? "farfault" : "farfault,plain",
                           NULL};

    if (!has_ring3(accel)) {
        return;
    }
    g_autofree char *dir = g_dir_make_tmp("movebench-XXXXXX", NULL), *said = NULL;
    g_assert_cmpint(bench_test_run(program, dir, words, &said), ==, 0);
    g_autoptr(GPtrArray) results = bench_test_results(dir);
    g_assert_cmpuint(results->len, ==, kvm ? 1 : 2);
    for (guint i = 0; i < results->len; i++) {
        JsonObject *o = results->pdata[i];
        g_assert_cmpstr(json_object_get_string_member(o, "accel"), ==, accel);
        g_assert_cmpstr(json_object_get_string_member(o, "guest"), ==, "ring-3");
        check_result(o, engines[i], json_object_get_string_member(o, "qemu"));
        check_track(o);
        if (bench_figure(o, "waits") > 0) {
            check_buckets(o);
        }
    }
    bench_test_check_folder(dir);
}

/* What is for Linux alone is refused, in one line. */
static void test_refused(void)
{
    static const char *const options[] = {"--mode=zipf",  "--alike=3", "--write=10", "--core=8",
                                          "--tracking=1", "--worst",   "--vcpus=5",  "--hot=1000"};

    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++) {
        g_autofree char *bench = vm_build_path(program), *said = NULL;
        const char *argv[] = {bench, "--accel", "tcg", "--engines", "plain", options[i], NULL};
        int status;

        g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL,
                                   &said, &status, NULL));
        g_assert_false(g_spawn_check_wait_status(status, NULL));
        g_assert_true(g_str_has_prefix(said, "bench: ") && strchr(said, '\n')[1] == '\0');
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/move/qemus", test_qemus);
    g_test_add_func("/bench/move/damaged", test_damaged);
    g_test_add_func("/bench/move/failed", test_failed);
    g_test_add_func("/bench/move/worst", test_worst);
    g_test_add_func("/bench/move/trace-fails", test_trace_fails);
    g_test_add_data_func("/bench/move/kvm", "kvm", test_ring3);
    g_test_add_data_func("/bench/move/ring3-tcg", "tcg", test_ring3);
    g_test_add_func("/bench/move/ring3-refused", test_refused);
    g_test_add_data_func("/bench/move/database", "database", test_load);
    g_test_add_data_func("/bench/move/compile", "compile", test_load);
    return g_test_run();
}
