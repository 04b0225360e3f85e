/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A live snapshot that fails: the engine dies at each of its steps, the disk is full, the client
 * cancels, or it cannot begin at all. The guest runs on unharmed, no file is there, and what comes
 * next is told.
 */
#include "tests/lib/check.h"
#include "tests/lib/vm.h"

#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_MIB 64
#define BUSY_MIB 24

typedef struct {
    Vm *vm;
    BootsectConfig boot;
    char *path;
} Test;

/* FALSE: skipped. */
static bool begin(Test *t, const char *faults, const char *device)
{
    const char *args[] = {"-smp", "2", device ? "-device" : NULL, device, NULL}, *why;

    *t = (Test){.boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2)};
    if (!(faults ? vm_faults_available : vm_farfault_available)(&why)) {
        g_test_skip(why);
        return false;
    }
    t->vm = vm_start(&(VmConfig){.name = "guest",
                                 .launcher = VM_RUN,
                                 .memory = G_STRINGIFY(RAM_MIB) "M",
                                 .args = args,
                                 .boot = &t->boot,
                                 .faults = faults});
    t->path = vm_path(t->vm, "file");
    vm_wait_serial(t->vm, "AB");
    qmp_set_capability(vm_qmp(t->vm), "events", true);
    return true;
}

static void ask(Test *t)
{
    qmp_ok(vm_qmp(t->vm), "x-farfault-snapshot", "{'file': '%s'}", t->path);
}

static char *error_desc(Test *t)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(t->vm), "query-migrate", NULL);

    g_assert_cmpstr(json_object_get_string_member(info, "status"), ==, "failed");
    return g_strdup(json_object_get_string_member(info, "error-desc"));
}

static void expect_error(Test *t, const char *text)
{
    g_autofree char *desc = error_desc(t);

    if (!strstr(desc, text)) {
        test_fail("error-desc is not about \"%s\": %s", text, desc);
    }
}

/* Nothing of the file, whatever its name. */
static void expect_no_file(const Test *t)
{
    g_autofree char *base = g_path_get_basename(t->path);
    g_autoptr(GDir) dir = g_dir_open(vm_dir(t->vm), 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        if (g_str_has_prefix(name, base)) {
            test_fail("%s is there", name);
        }
    }
}

static void expect_running(Test *t)
{
    g_autofree char *state = qmp_run_state(vm_qmp(t->vm));

    g_assert_cmpstr(state, ==, "running");
    vm_wait_new_serial(t->vm, "B");
}

static void end(Test *t)
{
    expect_running(t);
    qmp_ok(vm_qmp(t->vm), "stop", NULL);
    check_right(check_counters(t->vm, &t->boot));
    g_free(t->path);
    vm_end(t->vm);
}

/* QEMU is as it was: its own snapshot has all memory. */
static void expect_settings(Test *t)
{
    g_autoptr(JsonObject) answer = qmp_call(vm_qmp(t->vm), "query-migrate-capabilities", NULL);
    JsonArray *list = json_object_get_array_member(answer, "return");

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *c = json_array_get_object_element(list, i);
        bool on = json_object_get_boolean_member(c, "state");
        g_assert_true(!on || !g_strcmp0(json_object_get_string_member(c, "capability"), "events"));
    }
}

/* ---- the engine dies ---------------------------------------------------------------------------
 */

static const char *const steps[] = {
    "setup",   "active", "capture-pass", "protected", "prepared",    "stopping", "offered",
    "stopped", "armed",  "saved",        "running",   "writer-lent", "written",  "rolling-back"};

static void test_killed(gconstpointer data)
{
    const char *step = data;
    bool rolls = !strcmp(step, "rolling-back");
    g_autofree char *faults =
        rolls ? g_strdup("snapshot/*/at/rolling-back=kill;snapshot/*/call/writer-write=EIO")
              : g_strdup_printf("snapshot/*/at/%s=kill", step);
    Test t;

    if (!begin(&t, faults, NULL)) {
        return;
    }
    ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    g_assert_true(vm_fault_happened(t.vm, 0));
    expect_error(&t, "the migration engine ended unexpectedly");
    expect_no_file(&t);
    expect_settings(&t);
    end(&t);
}

/* ---- the disk ----------------------------------------------------------------------------------
 */

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
    Test t;

    if (!begin(&t, f->faults, NULL)) {
        return;
    }
    ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    expect_error(&t, f->error);
    expect_error(&t, t.path);
    expect_no_file(&t);
    expect_settings(&t);
    /* The next one is good. */
    ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    end(&t);
}

/* ---- the client --------------------------------------------------------------------------------
 */

static void slow_down(Test *t)
{
    qmp_ok(vm_qmp(t->vm), "migrate-set-parameters", "{'max-bandwidth': 1048576}");
}

static void test_cancel(void)
{
    Test t;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    slow_down(&t);
    for (unsigned i = 0; i < 3; i++) { /* the userfaultfd comes back each time */
        ask(&t);
        qmp_expect_migration(vm_qmp(t.vm), "active");
        qmp_expect(vm_qmp(t.vm), "RESUME");
        qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
        qmp_expect_migration(vm_qmp(t.vm), "cancelled");
        expect_no_file(&t);
        expect_settings(&t);
        expect_running(&t);
    }
    end(&t);
}

/* Right after it was asked for: wherever that is. */
static void test_cancel_early(void)
{
    Test t;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    slow_down(&t);
    for (unsigned i = 0; i < 10; i++) {
        ask(&t);
        qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
        qmp_expect_migration(vm_qmp(t.vm), "cancelled");
        expect_no_file(&t);
        expect_settings(&t);
        expect_running(&t);
    }
    end(&t);
}

/* A stop of the client's while memory is written is a stop; what is saved is the same. */
static void test_stop(void)
{
    Test t;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    slow_down(&t);
    ask(&t);
    qmp_expect(vm_qmp(t.vm), "RESUME");
    qmp_ok(vm_qmp(t.vm), "stop", NULL);
    qmp_expect(vm_qmp(t.vm), "STOP");
    qmp_ok(vm_qmp(t.vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    g_autofree char *state = qmp_run_state(vm_qmp(t.vm));
    g_assert_cmpstr(state, ==, "paused");
    qmp_ok(vm_qmp(t.vm), "cont", NULL);
    end(&t);
}

/* ---- at any moment -----------------------------------------------------------------------------
 */

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
    Test t;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    qmp_ok(vm_qmp(t.vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
    for (unsigned i = 0; i < n; i++) {
        bool kill_it = kills < 4 && g_test_rand_int_range(0, 2);
        ask(&t);
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
            expect_no_file(&t);
        }
        expect_settings(&t);
        expect_running(&t);
    }
    g_test_message("%u completed, %u cancelled, %u failed", ends[1], ends[0], ends[2]);
    end(&t);
}

/* ---- it cannot begin ---------------------------------------------------------------------------
 */

static void test_there_already(void)
{
    Test t;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    g_assert_true(g_file_set_contents(t.path, "mine", -1, NULL));
    ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    expect_error(&t, "File exists");
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(t.path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "mine");
    end(&t);
}

static void test_no_folder(void)
{
    Test t;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    qmp_ok(vm_qmp(t.vm), "x-farfault-snapshot", "{'file': '%s/no/file'}", vm_dir(t.vm));
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    expect_error(&t, "No such file or directory");
    end(&t);
}

/* QEMU lacks the hook that keeps what the guest gives back. QEMU's own snapshot does not take its
 * place unasked. */
static void test_balloon(void)
{
    Test t;

    if (!begin(&t, "snapshot/*/step/discards=skip", "virtio-balloon")) {
        return;
    }
    ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    expect_error(&t, "the guest has a balloon");
    expect_no_file(&t);
    ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    end(&t);
}

static void test_second(void)
{
    Test t;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    slow_down(&t);
    ask(&t);
    qmp_expect(vm_qmp(t.vm), "RESUME");
    g_autofree char *error =
        qmp_error(vm_qmp(t.vm), "x-farfault-snapshot", "{'file': '%s.2'}", t.path);
    g_assert_cmpstr(error, ==, "There's a migration process in progress");
    g_autofree char *other = qmp_error(vm_qmp(t.vm), "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
    g_assert_cmpstr(other, ==, "There's a migration process in progress");
    qmp_ok(vm_qmp(t.vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    end(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        g_autofree char *path = g_strconcat("/snapshot/killed/", steps[i], NULL);

        g_test_add_data_func(path, steps[i], test_killed);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(failures); i++) {
        g_autofree char *path = g_strconcat("/snapshot/disk/", failures[i].name, NULL);

        g_test_add_data_func(path, &failures[i], test_disk);
    }
    g_test_add_func("/snapshot/cancel/late", test_cancel);
    g_test_add_func("/snapshot/cancel/early", test_cancel_early);
    g_test_add_func("/snapshot/stop", test_stop);
    g_test_add_func("/snapshot/random", test_random);
    g_test_add_func("/snapshot/there-already", test_there_already);
    g_test_add_func("/snapshot/no-folder", test_no_folder);
    g_test_add_func("/snapshot/balloon", test_balloon);
    g_test_add_func("/snapshot/second", test_second);
    return g_test_run();
}
