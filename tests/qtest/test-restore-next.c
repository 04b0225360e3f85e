/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is asked for while a restore fills: a snapshot and a migration are accepted, and begin when
 * all is here. Until then they can be cancelled; if the engine dies, or the restore pauses, they
 * have failed, and the guest continues to fill. Nobody takes the end of the restore for theirs.
 */
#include <signal.h>
#include <string.h>

#include "tests/qtest/restore-rig.h"

/* It waits, and says what is left. */
static void check_waits(Vm *vm)
{
    qmp_expect_migration(vm_qmp(vm), "setup");
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    JsonObject *restore = json_object_get_object_member(own, "restore");

    g_assert_cmpstr(json_object_get_string_member(info, "status"), ==, "setup");
    g_assert_cmpint(json_object_get_int_member(restore, "remaining"), >, 0);
    g_autofree char *other = vm_path(vm, "other");
    g_autofree char *refusal =
        qmp_error(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", other);
    g_assert_cmpstr(refusal, ==, "There's a migration process in progress");
}

static void check_status(Vm *vm, const char *status)
{
    g_autofree char *now = qmp_migrate_status(vm_qmp(vm));

    g_assert_cmpstr(now, ==, status);
}

static void test_snapshot(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s), *next;

    if (vm) {
        g_autofree char *path = vm_path(vm, "next");

        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        check_waits(vm);
        restore_release(vm);
        g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
        qmp_expect_migration(vm_qmp(vm), "active");
        qmp_expect_migration(vm_qmp(vm), "completed");
        check_status(vm, "completed");
        next = restore_start_again(&s, NULL);
        restore_ask(&s, next, path);
        qmp_expect_migration(vm_qmp(next), "completed");
        restore_check_restored(&s, next);
        vm_end(next);
        restore_check_goes_on(&s, vm);
    }
    restore_end_held(&s, vm);
}

/* To another guest, by postcopy: it is the guest that was restored. */
static void test_migrate(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s), *to;

    if (vm) {
        g_autofree char *socket = vm_path(vm, "socket");

        to = restore_start_again(&s, NULL);
        qmp_set_capability(vm_qmp(to), "postcopy-ram", true);
        qmp_ok(vm_qmp(to), "migrate-incoming", "{'uri': 'unix:%s'}", socket);
        qmp_set_capability(vm_qmp(vm), "postcopy-ram", true);
        qmp_ok(vm_qmp(vm), "migrate", "{'uri': 'unix:%s'}", socket);
        check_waits(vm);
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "active");
        qmp_ok(vm_qmp(vm), "migrate-start-postcopy", NULL);
        qmp_expect_migration(vm_qmp(vm), "completed");
        qmp_expect_migration(vm_qmp(to), "completed");
        restore_check_goes_on(&s, to);
        vm_end(to);
    }
    restore_end_held(&s, vm);
}

/* By QEMU itself, to a command of its own. */
static void test_qemu(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s);

    if (vm) {
        g_autofree char *path = vm_path(vm, "stream");

        qmp_ok(vm_qmp(vm), "migrate", "{'uri': 'exec:cat > %s'}", path);
        check_waits(vm);
        restore_release(vm);
        qmp_ok(vm_qmp(vm), "stop", NULL);
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
        qmp_wait_postmigrate(vm_qmp(vm)); /* it refuses cont until then */
        qmp_ok(vm_qmp(vm), "cont", NULL);
        restore_check_goes_on(&s, vm);
    }
    restore_end_held(&s, vm);
}

static void test_cancel(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s);

    if (vm) {
        g_autofree char *path = vm_path(vm, "next");

        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        check_waits(vm);
        qmp_ok(vm_qmp(vm), "migrate_cancel", NULL);
        qmp_expect_migration(vm_qmp(vm), "cancelled");
        check_status(vm, "cancelled");
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "completed"); /* the restore */
        check_status(vm, "cancelled");
        g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
        /* The next one is one as any other. */
        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        check_status(vm, "completed");
        restore_check_goes_on(&s, vm);
    }
    restore_end_held(&s, vm);
}

static void test_killed(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s);

    if (vm) {
        g_autofree char *path = vm_path(vm, "next");

        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        check_waits(vm);
        kill(vm_find_engine(vm), SIGKILL);
        qmp_expect_migration(vm_qmp(vm), "failed");
        check_status(vm, "failed");
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "completed"); /* the restore */
        check_status(vm, "failed");
        g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
        restore_check_goes_on(&s, vm);
    }
    restore_end_held(&s, vm);
}

/* migrate-pause, too: what waits has failed, the pause is seen, and the restore continues. */
static void test_paused(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s);

    if (vm) {
        g_autofree char *path = vm_path(vm, "next");

        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        check_waits(vm);
        qmp_ok(vm_qmp(vm), "migrate-pause", NULL);
        qmp_expect_migration(vm_qmp(vm), "failed");
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        check_status(vm, "postcopy-paused");
        restore_release(vm);
        restore_recovers(&s, vm, s.path);
    }
    restore_end_held(&s, vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/restore-next/snapshot", test_snapshot);
    g_test_add_func("/restore-next/migrate", test_migrate);
    g_test_add_func("/restore-next/qemu", test_qemu);
    g_test_add_func("/restore-next/cancel", test_cancel);
    g_test_add_func("/restore-next/killed", test_killed);
    g_test_add_func("/restore-next/paused", test_paused);
    int rc = g_test_run();
    restore_rig_end();
    return rc;
}
