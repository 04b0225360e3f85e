/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lazy restores in which something fails: the engine dies at each phase, the relay dies, the file
 * cannot be read or is another one: nothing is lost, and no zeros are seen.
 *
 * FF_ROUNDS: how often an engine dies at random (default 3); with it, it dies at more moments as
 * well.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/attach.h"
#include "tests/qtest/restore-rig.h"

/* A thread that waits for a page does not read it once more by itself, which would succeed. */
#define EIO_ONCE                                                                                   \
    "destination/postcopy-active/call/read-file#20=EIO;destination/*/step/page-alone=skip"

/* ---- the engine dies ------------------------------------------------------------------------- */

/* Another one continues, and the guest does not know. */
static void test_killed(gconstpointer point)
{
    g_autofree char *faults = g_strdup_printf("destination/*/at/%s=kill", (const char *)point);
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, faults);

        qmp_ok_or_dies(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", s.path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_true(vm_fault_happened(vm, 0));
        restore_check_restored(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

/* The same while the memory comes, the file having lost its name. */
static void test_killed_deleted(void)
{
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, "destination/postcopy-active/call/read-file#9=kill");

        qmp_ok_or_dies(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", s.path);
        g_assert_cmpint(unlink(s.path), ==, 0);
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_true(vm_fault_happened(vm, 0));
        restore_check_restored(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

/* The same, and the next engine cannot read the file at first: it is still held, and the name that
 * it had finds it. */
static void test_killed_unread(void)
{
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, "destination/postcopy-active/call/read-file#9=kill;"
                                         "destination/postcopy-recover/call/read-input=EIO");

        qmp_ok_or_dies(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", s.path);
        g_assert_cmpint(unlink(s.path), ==, 0);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_assert_true(vm_fault_happened(vm, 1));
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, g_strerror(EIO)));
        restore_recovers(&s, vm, s.path);
        vm_end(vm);
    }
    restore_end(&s);
}

/* TRUE: it has ended. FALSE: all of its memory is there. */
static bool has_ended(Vm *vm)
{
    for (;;) {
        g_autoptr(JsonObject) answer = qmp_call(vm_qmp(vm), "query-migrate", NULL);
        JsonObject *info = answer ? json_object_get_object_member(answer, "return") : NULL;

        if (!answer) {
            g_assert_cmpint(vm_wait_exit(vm), !=, 0);
            return true;
        }
        if (info && !g_strcmp0(json_object_get_string_member_with_default(info, "status", NULL),
                               "completed")) {
            return false;
        }
    }
}

/* At any moment: this QEMU ends before its guest ran, or all is right. */
static void test_killed_at_random(void)
{
    const char *rounds = g_getenv("FF_ROUNDS");
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        for (int i = rounds ? atoi(rounds) : 3; i > 0; i--) {
            Vm *vm = restore_start_again(&s, NULL);

            qmp_ok_or_dies(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", s.path);
            g_usleep(g_test_rand_int_range(0, 60000)); /* the moment, not an event */
            pid_t engine = vm_find_engine(vm);
            if (engine) {
                kill(engine, SIGKILL);
            }
            if (!has_ended(vm)) {
                restore_check_restored(&s, vm);
            }
            vm_end(vm);
        }
    }
    restore_end(&s);
}

/* Before device state is loaded: this QEMU ends, and another one restores the same file. */
static void test_killed_early(gconstpointer point)
{
    g_autofree char *faults = g_strdup_printf("destination/*/at/%s=kill", (const char *)point);
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, faults), *next;

        qmp_ok_or_dies(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", s.path);
        g_assert_cmpint(vm_wait_exit(vm), !=, 0);
        g_assert_true(vm_fault_happened(vm, 0));
        vm_end(vm);
        next = restore_start_again(&s, NULL);
        restore_ask(&s, next, s.path);
        qmp_expect_migration(vm_qmp(next), "completed");
        restore_check_restored(&s, next);
        vm_end(next);
    }
    restore_end(&s);
}

/* A QEMU that lives on has no use for the file any more, and nobody holds it. */
static void test_lives_on(void)
{
    const RestoreRow row = {"lives-on", OURS, OLD, NEW, INCOMING, .machine = RESTORE_PC,
                            .n_cpus = 2};
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s) && (s.newer = vm_newer_qemu())) {
        s.row = &row;
        Vm *vm = restore_start_again(&s, "destination/*/call/uffd-register=ENOMEM");
        Qmp *q = vm_qmp(vm);

        qmp_set_capability(q, "mapped-ram", true);
        qmp_set_capability(q, "postcopy-ram", true);
        qmp_ok(q, "migrate-incoming", "{'uri': 'file:%s', 'exit-on-error': false}", s.path);
        qmp_expect_migration(q, "failed");
        g_assert_true(vm_fault_happened(vm, 0));
        g_assert_false(vm_relay_holds(vm, s.path));
        vm_end(vm);
    }
    restore_end(&s);
}

/* ---- the file cannot be read ----------------------------------------------------------------- */

static void test_eio(void)
{
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, EIO_ONCE);

        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, s.path));
        g_assert_nonnull(strstr(why, "errno 5"));
        /* Nothing else begins meanwhile. */
        g_autofree char *other = vm_path(vm, "other");
        g_autofree char *refusal =
            qmp_error(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", other);
        g_assert_nonnull(strstr(refusal, "MiB are left"));
        /* What was read before the error may still arrive: fewer are left then. */
        g_autofree char *again = qmp_error(vm_qmp(vm), "migrate", "{'uri': 'unix:%s'}", other);
        g_assert_nonnull(strstr(again, "MiB are left"));
        restore_recovers(&s, vm, s.path);
        vm_end(vm);
    }
    restore_end(&s);
}

/* A file system whose daemon has died is no server that may be back: the restore pauses at once. */
static void test_daemon_gone(void)
{
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, "destination/postcopy-active/call/read-input#9=ENOTCONN;"
                                         "destination/*/step/page-alone=skip");
        gint64 began = g_get_monotonic_time();

        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_assert_cmpint(g_get_monotonic_time() - began, <, 20 * G_USEC_PER_SEC);
        g_assert_true(vm_fault_happened(vm, 0));
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, s.path));
        g_assert_nonnull(strstr(why, g_strerror(ENOTCONN)));
        restore_recovers(&s, vm, s.path);
        vm_end(vm);
    }
    restore_end(&s);
}

/* A file from 1970, of which a page is changed while the engine is dead: the next one sees it. */
static void test_time_zero(void)
{
    RestoreScene s;

    if (!restore_has_faults() || !restore_begin_plain(&s)) {
        return;
    }
    const struct timespec none[2] = {{0}};
    g_assert_cmpint(utimensat(AT_FDCWD, s.path, none, 0), ==, 0);
    Vm *vm = restore_start_held(&s);
    int fd = open(s.path, O_RDWR | O_CLOEXEC);
    uint8_t byte;
    g_assert_cmpint(pread(fd, &byte, 1, (4 << 20) + 100), ==, 1);
    byte ^= 1;
    g_assert_cmpint(pwrite(fd, &byte, 1, (4 << 20) + 100), ==, 1);
    kill(vm_engine(vm), SIGKILL);
    restore_release(vm);
    qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
    g_autofree char *why = restore_error_desc(vm);
    g_assert_nonnull(strstr(why, "touch -d"));
    byte ^= 1;
    g_assert_cmpint(pwrite(fd, &byte, 1, (4 << 20) + 100), ==, 1);
    g_assert_cmpint(futimens(fd, none), ==, 0);
    close(fd);
    restore_recovers(&s, vm, s.path);
    restore_end_held(&s, vm);
}

/* Another snapshot, of the same size and the same time: its pages are none of this guest's. */
static void test_another(void)
{
    RestoreScene s;
    struct stat st;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, EIO_ONCE);
        g_autofree char *other = g_strconcat(s.path, "-other", NULL), *text = NULL, *why = NULL;
        gsize n;

        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_assert_cmpint(stat(s.path, &st), ==, 0);
        g_assert_true(g_file_get_contents(s.path, &text, &n, NULL));
        char *name = memmem(text, n, "globalstate", strlen("globalstate"));
        g_assert_nonnull(name);
        text[name - text + 60] ^= 1; /* after the name of its run state: nothing reads it */
        g_assert_true(g_file_set_contents(other, text, n, NULL));
        g_assert_cmpint(utimensat(AT_FDCWD, other, (struct timespec[]){st.st_atim, st.st_mtim}, 0),
                        ==, 0);
        qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': 'file:%s'}", other);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, "it is not the file that this guest is restored from"));
        restore_recovers(&s, vm, s.path);
        vm_end(vm);
    }
    restore_end(&s);
}

/* ---- the relay dies -------------------------------------------------------------------------- */

/* One that others can look at. */
static Vm *start_listening(const RestoreScene *s, const char *faults)
{
    const char *args[] = {"-machine", RESTORE_PC, "-smp", "2", NULL};
    Vm *vm = vm_start(&(VmConfig){.name = "restored",
                                  .launcher = VM_RUN,
                                  .qemu = "qemu-system-x86_64",
                                  .memory = G_STRINGIFY(RESTORE_RAM_MIB) "M",
                                  .args = args,
                                  .boot = &s->boot,
                                  .faults = faults,
                                  .listens = true,
                                  .incoming = "defer"});

    qmp_set_capability(vm_qmp(vm), "events", true);
    return vm;
}

/* What a person reads: the rest is in the file, and not with a source that may be gone. */
static void check_status(const RestoreScene *s, Vm *vm)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *socket = vm_path(vm, "server");
    g_autofree char *uri = g_strconcat("\"uri\": \"file:", s->path, "\"", NULL);
    g_autofree char *text = NULL;
    char *argv[] = {farfault, (char *)"status", socket, NULL};
    int status;

    g_assert_true(
        g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &text, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    if (!strstr(text, uri) || strstr(text, "source")) {
        g_error("'%s' does not say what to do", text);
    }
}

static void test_status(void)
{
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        Vm *vm = start_listening(&s, EIO_ONCE);

        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        check_status(&s, vm);
        restore_recovers(&s, vm, s.path);
        vm_end(vm);
    }
    restore_end(&s);
}

/* With it goes the file that it held: the client names it again, and it must be the same. */
/* It is paused, says what TEXT is in, and tries no more by itself. Nobody has events of it yet. */
static void wait_paused(Vm *vm, const char *text)
{
    bool paused = false;

    while (!paused) {
        g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
        const char *status = json_object_get_string_member_with_default(info, "status", "none");
        const char *why = json_object_get_string_member_with_default(info, "error-desc", "");

        g_assert_cmpstr(status, !=, "completed");
        paused = !strcmp(status, "postcopy-paused") && strstr(why, text);
    }
}

static void test_relay(void)
{
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        /* The fill does not come to its end before the relay's: both readers are late. */
        Vm *vm = start_listening(&s, "destination/postcopy-active/call/read-file=delay:3000;"
                                     "destination/postcopy-active/call/read-file=delay:3000");
        g_autofree char *other = g_strconcat(s.path, "-other", NULL);

        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-active");
        attach_kill_relay(vm, true);
        attach_vm(vm, NULL);
        wait_paused(vm, "name it (migrate-recover");
        g_assert_true(g_file_set_contents(other, "other", -1, NULL));
        qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': 'file:%s'}", other);
        wait_paused(vm, other);
        g_assert_cmpint(unlink(other), ==, 0);
        qmp_set_capability(vm_qmp(vm), "events", true);
        restore_recovers(&s, vm, s.path);
        vm_end(vm);
    }
    restore_end(&s);
}

int main(int argc, char **argv)
{
    static const char *const late[] = {"loaded",  "granted",  "running",
                                       "all",     "done",     /* and, with FF_ROUNDS: */ "grant",
                                       "resumed", "disarmed", "undone"};
    static const char *const early[] = {"setup", "loading", "shut", "held", "prepared", "armed"};
    bool long_run = g_getenv("FF_ROUNDS") != NULL;
    unsigned n_late = long_run ? G_N_ELEMENTS(late) : 5,
             n_early = long_run ? G_N_ELEMENTS(early) : 3;

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < n_late; i++) {
        g_autofree char *path = g_strconcat("/restore-faults/killed/", late[i], NULL);
        g_test_add_data_func(path, late[i], test_killed);
    }
    for (unsigned i = 0; i < n_early; i++) {
        g_autofree char *path = g_strconcat("/restore-faults/killed-early/", early[i], NULL);
        g_test_add_data_func(path, early[i], test_killed_early);
    }
    g_test_add_func("/restore-faults/killed-deleted", test_killed_deleted);
    g_test_add_func("/restore-faults/killed-unread", test_killed_unread);
    g_test_add_func("/restore-faults/killed-at-random", test_killed_at_random);
    g_test_add_func("/restore-faults/lives-on", test_lives_on);
    g_test_add_func("/restore-faults/eio", test_eio);
    g_test_add_func("/restore-faults/status", test_status);
    g_test_add_func("/restore-faults/daemon-gone", test_daemon_gone);
    g_test_add_func("/restore-faults/time-zero", test_time_zero);
    g_test_add_func("/restore-faults/another", test_another);
    g_test_add_func("/restore-faults/relay", test_relay);
    int rc = g_test_run();
    restore_rig_end();
    return rc;
}
