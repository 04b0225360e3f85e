/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the file of a live snapshot comes to: a FUSE file system that can little, a slow one, one
 * that is read-only, and one that does not answer any more. The file is the guest's memory at the
 * instant, byte for byte, or there is none and one line says why; the guest runs on.
 */
#include "tests/lib/fusefolder.h"
#include "tests/lib/snapshotcli.h"
#include "tests/qtest/snapshot-rig.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define RAM ((uint64_t)SNAP_RAM_MIB << 20)
#define TIMEOUT_MS "3000" /* how long the relay waits for an engine that does not answer */

/* FALSE: the test is skipped. */
static bool begin(Snap *t, FuseFolder **folder, const FuseFolderConfig *config, const char *faults)
{
    const char *why;

    *folder = fusefolder_new(config, &why);
    if (!*folder) {
        g_test_skip(why);
        return false;
    }
    if (!snap_begin(t, faults, NULL)) {
        fusefolder_free(g_steal_pointer(folder));
        return false;
    }
    g_free(t->path);
    t->path = fusefolder_path(*folder, "file");
    return true;
}

static void expect_files(FuseFolder *folder, const char *names)
{
    g_autofree char *list = fusefolder_list(folder);

    g_assert_cmpstr(list, ==, names);
}

static void expect_goes_round(Snap *t)
{
    for (unsigned i = 0; i < 3; i++) {
        vm_wait_new_serial(t->vm, "B");
    }
}

static JsonObject *snapshot_info(Snap *t)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(t->vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    return json_object_ref(json_object_get_object_member(own, "snapshot"));
}

/* ---- it answers ------------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    FuseFolderConfig config;
    const char *more; /* members of the command */
    const char *way;  /* in which it is written */
    bool must_wait;   /* the guest, for the disk */
} Row;

static const Row rows[] = {
    {"plain", {0}, "", "direct"},
    {"plain/stream", {0}, ", 'format': 'stream'", NULL},
    {"poor", {.no_direct = true, .no_rename2 = true}, "", "buffered"},
    {"poor/stream", {.no_direct = true, .no_rename2 = true}, ", 'format': 'stream'", NULL},
    {"no-link", {.no_link = true}, "", "direct"},
    {"no-flag", {.rename2_error = EOPNOTSUPP}, "", "direct"},
    {"link-twice", {.no_rename2 = true, .link_twice = true}, "", "direct"},
    {"slow", {.write_us = 2000}, ", 'buffer': 4096", "direct", true},
    {"slow/poor",
     {.no_direct = true, .no_rename2 = true, .write_us = 2000},
     ", 'buffer': 4096",
     "buffered",
     true},
};

static void test_row(gconstpointer data)
{
    const Row *row = data;
    FuseFolder *folder;
    Snap t = {0};

    if (!begin(&t, &folder, &row->config, "snapshot/*/at/armed=hold")) {
        return;
    }
    g_autofree char *then = vm_path(t.vm, "then");
    snap_ask_with(&t, row->more);
    snap_wait_held(&t);
    snap_save_memory(t.vm, RAM, then);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    g_autoptr(JsonObject) info = snapshot_info(&t);
    if (row->way) {
        g_assert_cmpstr(json_object_get_string_member(info, "way"), ==, row->way);
    }
    g_assert_true(!row->must_wait || json_object_get_int_member(info, "waits") > 0);
    expect_files(folder, "file ");
    g_assert_true(snap_is_equal(then, t.path, RAM));
    snap_expect_settings(&t);
    snap_end(&t);
    fusefolder_free(folder);
}

typedef struct {
    const char *name;
    FuseFolderConfig config;
    const char *args[2];
} Command;

static const Command commands[] = {
    {"plain", {0}, {NULL}},
    {"poor", {.no_direct = true, .no_rename2 = true}, {NULL}},
    {"poor/compress", {.no_direct = true, .no_rename2 = true}, {"--compress"}},
    {"bare", {.no_rename2 = true, .no_link = true}, {NULL}},
    {"bare/compress", {.no_rename2 = true, .no_link = true}, {"--compress"}},
};

static void test_command(gconstpointer data)
{
    const Command *c = data;
    Snap t = {.listens = true};
    FuseFolder *folder;

    if (!begin(&t, &folder, &c->config, NULL)) {
        return;
    }
    g_autofree char *monitor = vm_path(t.vm, "server");
    Cli cli = cli_start(monitor, t.path, c->args, NULL, NULL);
    g_autofree char *out = cli_succeeds(&cli);

    expect_files(folder, "file ");
    g_autofree uint8_t *whole = c->args[0] ? NULL : snap_read(t.path, RAM);
    g_assert_true(c->args[0] || whole);
    snap_end(&t);
    fusefolder_free(folder);
}

/* The engine can give a file no name there that surely replaces none: it says so before the guest
 * stands, and not when all of it is written. */
static void test_bare(void)
{
    const FuseFolderConfig bare = {.no_rename2 = true, .no_link = true};
    FuseFolder *folder;
    Snap t = {0};

    if (!begin(&t, &folder, &bare, NULL)) {
        return;
    }
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, t.path);
    snap_expect_error(&t, "no hard links");
    g_assert_false(qmp_has_event(vm_qmp(t.vm), "STOP"));
    expect_files(folder, "");
    snap_end(&t);
    fusefolder_free(folder);
}

/* ---- it is read-only ------------------------------------------------------------------------- */

static void test_read_only(void)
{
    Snap t = {.listens = true};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    g_autofree char *folder = folder_new(), *monitor = vm_path(t.vm, "server");
    if (mount("full", folder, "tmpfs", MS_RDONLY, NULL) < 0) {
        g_test_skip("no permission to mount a file system");
    } else {
        static const char *const compress[] = {"--compress", NULL};
        g_free(t.path);
        t.path = g_build_filename(folder, "file", NULL);
        g_autofree char *line = g_strconcat(t.path, ": Read-only file system", NULL);

        snap_ask(&t);
        qmp_expect_migration(vm_qmp(t.vm), "failed");
        snap_expect_error(&t, line);
        snap_expect_settings(&t);
        Cli cli = cli_start(monitor, t.path, NULL, NULL, NULL);
        cli_fails(&cli, line);
        cli = cli_start(monitor, t.path, compress, NULL, NULL);
        cli_fails(&cli, line);
        g_assert_false(qmp_has_event(vm_qmp(t.vm), "STOP"));
        g_assert_cmpint(umount(folder), ==, 0);
    }
    folder_free(g_steal_pointer(&folder));
    snap_end(&t);
}

/* ---- it does not answer ---------------------------------------------------------------------- */

static const FuseFolderConfig any = {0}, buffered = {.no_direct = true};

/* The guest runs, and waits for the disk with whatever it writes. */
static void hang(Snap *t, FuseFolder *folder)
{
    fusefolder_hold(folder);
    snap_ask_with(t, ", 'buffer': 0");
    qmp_expect(vm_qmp(t->vm), "RESUME");
    fusefolder_wait_held(folder);
}

static void test_cancel(gconstpointer config)
{
    FuseFolder *folder;
    Snap t = {0};

    if (!begin(&t, &folder, config, NULL)) {
        return;
    }
    hang(&t, folder);
    qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
    expect_goes_round(&t);
    fusefolder_release(folder);
    qmp_expect_migration(vm_qmp(t.vm), "cancelled");
    expect_files(folder, "");
    snap_expect_settings(&t);
    snap_end(&t);
    fusefolder_free(folder);
}

/* Killed, and the kernel holds a thread of it: one that has handed a write to a FUSE daemon waits
 * for its answer, whatever signal comes (request_wait_answer() in fs/fuse/dev.c). */
static void expect_held_by_kernel(pid_t engine)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", engine);
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_nonnull(strstr(text, "\nState:\tZ"));
}

/* The engine's copy of the userfaultfd stays open, no other engine may be started, and the disk
 * does not answer for a long time: the relay lets the guest continue. */
static void test_killed(gconstpointer config)
{
    FuseFolder *folder;
    Snap t = {0};

    g_setenv("FARFAULT_DEADLINES", "engine-hung=" TIMEOUT_MS, TRUE);
    bool ok = begin(&t, &folder, config, NULL);
    g_unsetenv("FARFAULT_DEADLINES");
    if (!ok) {
        return;
    }
    hang(&t, folder);
    pid_t engine = vm_engine(t.vm);
    g_assert_cmpint(kill(engine, SIGKILL), ==, 0);
    int64_t killed = g_get_monotonic_time();
    expect_goes_round(&t);
    g_test_message("%d ms after the kill the guest had gone round",
                   (int)((g_get_monotonic_time() - killed) / 1000));
    expect_held_by_kernel(engine);
    vm_wait_stderr(t.vm, "it was killed, and does not end");
    vm_wait_stderr(t.vm, "the live snapshot has ended with its engine, which was killed");
    g_autofree char *error = qmp_error(vm_qmp(t.vm), "query-migrate", NULL);
    g_assert_nonnull(strstr(error, "has not ended yet, as the kernel holds it"));
    expect_held_by_kernel(engine);
    g_autofree char *part = fusefolder_list(folder);
    g_assert_true(g_str_has_suffix(part, ".part "));
    /* The disk answers, to an engine that is dead by then. */
    fusefolder_release(folder);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, "the migration engine ended unexpectedly");
    expect_files(folder, part);
    snap_expect_settings(&t);
    /* The next one is good. */
    g_free(t.path);
    t.path = fusefolder_path(folder, "next");
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    g_autofree uint8_t *whole = snap_read(t.path, RAM);
    g_assert_nonnull(whole);
    snap_end(&t);
    fusefolder_free(folder);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/snapshot/targets/fuse/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/snapshot/targets/fuse/bare", test_bare);
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_autofree char *path = g_strconcat("/snapshot/targets/command/", commands[i].name, NULL);

        g_test_add_data_func(path, &commands[i], test_command);
    }
    g_test_add_func("/snapshot/targets/read-only", test_read_only);
    g_test_add_data_func("/snapshot/targets/hangs/cancel", &any, test_cancel);
    g_test_add_data_func("/snapshot/targets/hangs/killed", &any, test_killed);
    g_test_add_data_func("/snapshot/targets/hangs/killed/buffered", &buffered, test_killed);
    return g_test_run();
}
