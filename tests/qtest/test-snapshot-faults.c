/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A live snapshot that fails: the engine or the relay dies at each of its steps, the disk is full,
 * the client cancels, or it cannot begin at all. The guest runs on unharmed, no file is there, and
 * what comes next is told.
 */
#include "tests/lib/attach.h"
#include "tests/qtest/snapshot-rig.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- the engine dies ------------------------------------------------------------------------- */

static const char *const steps[] = {"begins",     "setup",       "active",          "capture-pass",
                                    "protected",  "prepared",    "stopping",        "offered",
                                    "stopped",    "armed",       "saved",           "releasing",
                                    "running",    "writer-lent", "capture-lifting", "written",
                                    "committing", "named",       "rolling-back"};

static void expect_whole_or_none(Snap *t, bool named)
{
    if (named && g_file_test(t->path, G_FILE_TEST_EXISTS)) {
        g_autofree uint8_t *whole = snap_read(t->path, SNAP_RAM_MIB << 20);
        g_assert_nonnull(whole);
        g_assert_cmpint(unlink(t->path), ==, 0);
    }
    snap_expect_no_file(t);
}

/* Between the file's name and the last word: it is whole, and nobody has said so. */
static void test_killed(gconstpointer data)
{
    const char *step = data;
    bool named = !strcmp(step, "named");
    bool rolls = !strcmp(step, "rolling-back");
    g_autofree char *faults =
        rolls ? g_strdup("snapshot/*/at/rolling-back=kill;snapshot/*/call/writer-write=EIO")
              : g_strdup_printf("snapshot/*/at/%s=kill", step);
    Snap t = {0};

    if (!snap_begin(&t, faults, NULL)) {
        return;
    }
    qmp_ok_or_dies(vm_qmp(t.vm), "x-farfault-snapshot", "{'file': '%s'}", t.path);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    g_assert_true(vm_fault_happened(t.vm, 0));
    snap_expect_error(&t, "the migration engine ended unexpectedly");
    g_assert_cmpint(g_file_test(t.path, G_FILE_TEST_EXISTS), ==, named);
    expect_whole_or_none(&t, named);
    snap_expect_settings(&t);
    snap_end(&t);
}

/* ---- the relay dies -------------------------------------------------------------------------- */

typedef struct {
    const char *step;
    bool stands; /* the guest may stand then: the engine continues for a moment */
    bool named;  /* the file may have its name by then; it is whole */
} RelayStep;

static const RelayStep relay_steps[] = {
    {"begins", true},
    {"setup", true},
    {"active", true},
    {"capture-pass", true},
    {"protected", true},
    {"prepared", true},
    {"stopping", true},
    {"offered", true},
    {"stopped", true},
    {"armed", true},
    {"saved", true},
    {"releasing", true},
    {"running", false},
    {"writer-lent", true},
    {"writer-lent#20"},
    {"written", false, true},
    {"committing", false, true},
    {"named", false, true},
};

typedef struct {
    const RelayStep *at;
    const char *who; /* the fault's action: "relay", or "both" */
} RelayDeath;

/* It goes round, through all of its memory: nothing is protected any more. */
static void expect_goes_round(Snap *t)
{
    for (unsigned i = 0; i < 3; i++) {
        vm_wait_new_serial(t->vm, "B");
    }
}

/* All copies of the userfaultfd are closed. A guest that stood runs again when it has its next
 * relay, which has no other userfaultfd for its snapshots. */
static void test_relay_killed(gconstpointer data)
{
    const RelayDeath *d = data;
    g_autofree char *fault = g_strdup_printf("snapshot/*/at/%s=%s", d->at->step, d->who);
    Snap t = {.listens = true};

    if (!snap_begin(&t, fault, NULL)) {
        return;
    }
    if (!d->at->named) {
        snap_slow_down(&t); /* what the engine does without its relay does not make it whole */
    }
    qmp_ok_or_dies(vm_qmp(t.vm), "x-farfault-snapshot", "{'file': '%s', 'buffer': 4096}", t.path);
    vm_wait_qmp_end(t.vm);
    g_assert_true(vm_fault_happened(t.vm, 0));
    if (!d->at->stands) {
        expect_goes_round(&t);
    }
    attach_vm(t.vm, NULL);
    g_autofree char *status = qmp_migrate_status(vm_qmp(t.vm));
    if (g_strcmp0(status, "failed") != 0) {
        qmp_expect_migration(vm_qmp(t.vm), "failed");
    }
    expect_goes_round(&t);
    expect_whole_or_none(&t, d->at->named);
    snap_expect_settings(&t);
    g_autofree char *error =
        qmp_error(vm_qmp(t.vm), "x-farfault-snapshot", "{'file': '%s'}", t.path);
    g_assert_nonnull(strstr(error, "they need the guest to be started again"));
    snap_end(&t);
}

/* ---- the disk -------------------------------------------------------------------------------- */

typedef struct {
    const char *name, *faults, *error;
} Failure;

static const Failure failures[] = {
    {"full", "snapshot/*/call/writer-write=ENOSPC", "No space left on device"},
    {"broken", "snapshot/*/call/writer-write#40=EIO", "Input/output error"},
};

static void test_disk(gconstpointer data)
{
    const Failure *f = data;
    Snap t = {0};

    if (!snap_begin(&t, f->faults, NULL)) {
        return;
    }
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, f->error);
    snap_expect_error(&t, t.path);
    snap_expect_no_file(&t);
    snap_expect_settings(&t);
    /* The next one is good. */
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    snap_end(&t);
}

/* More of it than the engine takes: all is read, as QEMU waits for that, and the guest
 * continues. */
static void test_device_state(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/step/state-size=skip", NULL)) {
        return;
    }
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, "QEMU's device state has more than 256 MiB");
    snap_expect_no_file(&t);
    snap_expect_settings(&t);
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    snap_end(&t);
}

/* ---- the client ------------------------------------------------------------------------------ */

static void test_cancel(void)
{
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    snap_slow_down(&t);
    for (unsigned i = 0; i < 3; i++) { /* the userfaultfd comes back each time */
        snap_ask(&t);
        qmp_expect_migration(vm_qmp(t.vm), "active");
        qmp_expect(vm_qmp(t.vm), "RESUME");
        qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
        qmp_expect_migration(vm_qmp(t.vm), "cancelled");
        snap_expect_no_file(&t);
        snap_expect_settings(&t);
        snap_expect_running(&t);
    }
    snap_end(&t);
}

/* Right after it was asked for: wherever that is. */
static void test_cancel_early(void)
{
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    snap_slow_down(&t);
    for (unsigned i = 0; i < 10; i++) {
        snap_ask(&t);
        qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
        qmp_expect_migration(vm_qmp(t.vm), "cancelled");
        snap_expect_no_file(&t);
        snap_expect_settings(&t);
        snap_expect_running(&t);
    }
    snap_end(&t);
}

/* A stop of the client's while memory is written is a stop; what is saved is the same. */
static void test_stop(void)
{
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    snap_slow_down(&t);
    snap_ask(&t);
    qmp_expect(vm_qmp(t.vm), "RESUME");
    qmp_ok(vm_qmp(t.vm), "stop", NULL);
    qmp_expect(vm_qmp(t.vm), "STOP");
    qmp_ok(vm_qmp(t.vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    g_autofree char *state = qmp_run_state(vm_qmp(t.vm));
    g_assert_cmpstr(state, ==, "paused");
    qmp_ok(vm_qmp(t.vm), "cont", NULL);
    snap_end(&t);
}

/* ---- at any moment --------------------------------------------------------------------------- */

static bool is_end(JsonObject *data, const void *opaque)
{
    static const char *const ends[] = {"completed", "failed", "cancelled", NULL};

    return g_strv_contains(ends, json_object_get_string_member(data, "status"));
}

/* The engine is killed, or the client cancels, at moments that nobody chose: the guest runs on, and
 * the file is there as a whole or not at all. No more than four kills: from the fifth death on the
 * next engine comes later, and the relay gives the userfaultfd up. FF_SNAPSHOTS: so often; default
 * 8. */
static void test_random(void)
{
    const char *number = g_getenv("FF_SNAPSHOTS");
    unsigned n = number ? atoi(number) : 8, ends[3] = {0}, kills = 0;
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    qmp_ok(vm_qmp(t.vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
    for (unsigned i = 0; i < n; i++) {
        bool kill_it = kills < 4 && g_test_rand_int_range(0, 2);
        snap_ask(&t);
        g_usleep(g_test_rand_int_range(0, 300) * 1000);
        pid_t engine = kill_it ? vm_find_engine(t.vm) : 0;
        if (engine) {
            kills++;
            kill(engine, SIGKILL);
        } else {
            g_autoptr(JsonObject) answer = qmp_call(vm_qmp(t.vm), "migrate_cancel", NULL);
        }
        g_autoptr(JsonObject) end =
            qmp_wait_event(vm_qmp(t.vm), "MIGRATION", is_end, NULL, TEST_TIMEOUT);
        const char *status =
            json_object_get_string_member(json_object_get_object_member(end, "data"), "status");
        ends[status[0] == 'c' ? status[1] == 'o' : 2]++;
        if (!strcmp(status, "completed")) {
            g_assert_cmpint(unlink(t.path), ==, 0);
        } else if (unlink(t.path) < 0) { /* whole, if the engine died right after it had its name */
            snap_expect_no_file(&t);
        }
        snap_expect_settings(&t);
        snap_expect_running(&t);
    }
    g_test_message("%u completed, %u cancelled, %u failed", ends[1], ends[0], ends[2]);
    snap_end(&t);
}

/* ---- it cannot begin ------------------------------------------------------------------------- */

static void test_there_already(void)
{
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    g_assert_true(g_file_set_contents(t.path, "mine", -1, NULL));
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, "is there already");
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(t.path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "mine");
    snap_end(&t);
}

/* A block device among others: refused before anything has begun. */
static void test_device(gconstpointer path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    Snap t = {0};

    if (fd < 0) {
        g_test_skip("it cannot be opened here");
        return;
    }
    if (snap_begin(&t, NULL, NULL)) {
        qmp_getfd(vm_qmp(t.vm), "out", fd);
        g_autofree char *error =
            qmp_error(vm_qmp(t.vm), "x-farfault-snapshot", "{'fdname': 'out'}");
        g_assert_nonnull(strstr(error, "is not that of a regular file"));
        g_assert_false(qmp_has_event(vm_qmp(t.vm), "MIGRATION"));
        snap_end(&t);
    }
    close(fd);
}

static void test_no_folder(void)
{
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    qmp_ok(vm_qmp(t.vm), "x-farfault-snapshot", "{'file': '%s/no/file'}", vm_dir(t.vm));
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, "No such file or directory");
    snap_end(&t);
}

/* The limit of a file's length (ulimit -f) is an error like a full disk, and no engine's end. */
static void test_limit(void)
{
    const struct rlimit limit = {1 << 20, 1 << 20};
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    g_assert_cmpint(prlimit(vm_engine(t.vm), RLIMIT_FSIZE, &limit, NULL), ==, 0);
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, "File too large");
    snap_expect_no_file(&t);
    snap_expect_running(&t);
    snap_end(&t);
}

/* QEMU lacks the hook that keeps what the guest gives back. QEMU's own snapshot does not take its
 * place unasked. */
static void test_balloon(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/step/discards=skip", "virtio-balloon")) {
        return;
    }
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, "the guest has a balloon");
    snap_expect_no_file(&t);
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    snap_end(&t);
}

static void test_second(void)
{
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    snap_slow_down(&t);
    snap_ask(&t);
    qmp_expect(vm_qmp(t.vm), "RESUME");
    g_autofree char *error =
        qmp_error(vm_qmp(t.vm), "x-farfault-snapshot", "{'file': '%s.2'}", t.path);
    g_assert_cmpstr(error, ==, "There's a migration process in progress");
    g_autofree char *other = qmp_error(vm_qmp(t.vm), "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
    g_assert_cmpstr(other, ==, "There's a migration process in progress");
    qmp_ok(vm_qmp(t.vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    snap_end(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        g_autofree char *path = g_strconcat("/snapshot/killed/", steps[i], NULL);

        g_test_add_data_func(path, steps[i], test_killed);
    }
    static RelayDeath deaths[2 * G_N_ELEMENTS(relay_steps)];
    for (unsigned i = 0; i < G_N_ELEMENTS(deaths); i++) {
        deaths[i] = (RelayDeath){&relay_steps[i / 2], i % 2 ? "both" : "relay"};
        g_autofree char *path =
            g_strdup_printf("/snapshot/%s-killed/%s", deaths[i].who, deaths[i].at->step);

        g_test_add_data_func(path, &deaths[i], test_relay_killed);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(failures); i++) {
        g_autofree char *path = g_strconcat("/snapshot/disk/", failures[i].name, NULL);

        g_test_add_data_func(path, &failures[i], test_disk);
    }
    g_test_add_func("/snapshot/device-state", test_device_state);
    g_test_add_func("/snapshot/cancel/late", test_cancel);
    g_test_add_func("/snapshot/cancel/early", test_cancel_early);
    g_test_add_func("/snapshot/stop", test_stop);
    g_test_add_func("/snapshot/random", test_random);
    g_test_add_func("/snapshot/there-already", test_there_already);
    g_test_add_data_func("/snapshot/device/null", "/dev/null", test_device);
    g_test_add_data_func("/snapshot/device/block", "/dev/loop0", test_device);
    g_test_add_func("/snapshot/no-folder", test_no_folder);
    g_test_add_func("/snapshot/limit", test_limit);
    g_test_add_func("/snapshot/balloon", test_balloon);
    g_test_add_func("/snapshot/second", test_second);
    return g_test_run();
}
