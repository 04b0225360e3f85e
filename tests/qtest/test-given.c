/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cont at a source whose guest has moved away for good: refused, however it is said, until the user
 * says that the guest is nowhere else; but obeyed where the guest was not to run at the destination
 * and has not, as a client then may find that it cannot, and continue at the source (libvirt).
 */
#include <string.h>

#include "tests/lib/attach.h"
#include "tests/lib/move.h"

#define FORCE "{'force': true}"

static const char moved_away[] = "the guest has moved away";

static Vm *start_with(const char *name, const char *incoming, bool paused,
                      const BootsectConfig *boot)
{
    static const char *const args[] = {"-machine", "pc", NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = "32M",
                                .args = args,
                                .boot = boot,
                                .incoming = incoming,
                                .paused = paused,
                                .listens = true});
}

static Vm *start(const char *name, const char *incoming, bool paused)
{
    return start_with(name, incoming, paused, NULL);
}

/* By postcopy; PRECOPY: as a client sees it, by precopy. */
static void move(Vm *source, Vm *destination, bool precopy)
{
    Vm *both[] = {source, destination};

    move_prepare(source, destination);
    for (unsigned i = 0; precopy && i < G_N_ELEMENTS(both); i++) {
        qmp_set_capability(vm_qmp(both[i]), "postcopy-ram", false);
        qmp_ok(vm_qmp(both[i]), "migrate-set-parameters",
               "{'x-farfault-policy': 'always', 'max-bandwidth': 1000000000}");
    }
    g_autofree char *uri = move_listen(destination);

    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    if (!precopy) {
        qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    }
    move_wait_completed(source, destination);
    qmp_wait_postmigrate(vm_qmp(source));
}

static void check_refused(Vm *vm)
{
    static const char *const lines[] = {"cont", "c", " cont "};
    g_autofree char *error = qmp_error(vm_qmp(vm), "cont", NULL);

    g_assert_true(g_str_has_prefix(error, moved_away));
    g_assert_null(strchr(error, '\n'));
    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autofree char *said =
            qmp_error(vm_qmp(vm), "human-monitor-command", "{'command-line': '%s'}", lines[i]);
        g_assert_cmpstr(said, ==, error);
    }
    g_assert_false(qmp_has_event(vm_qmp(vm), "RESUME"));
}

static bool may_run(void)
{
    const char *why;

    if (vm_farfault_available(&why)) {
        return true;
    }
    g_test_skip(why);
    return false;
}

/* Whatever is said to it before, and whoever serves it, until the user says that it may. */
static void test_refused(gconstpointer precopy)
{
    if (!may_run()) {
        return;
    }
    g_autoptr(Vm) s = start("source", NULL, false);
    g_autoptr(Vm) d = start("destination", "defer", false);

    move(s, d, precopy);
    check_refused(s);
    qmp_ok(vm_qmp(s), "stop", NULL);
    check_refused(s);
    qmp_ok(vm_qmp(s), "system_reset", NULL);
    qmp_expect(vm_qmp(s), "RESET");
    check_refused(s);
    /* Nor does what fails after that make it forget. */
    g_autofree char *again = qmp_error(vm_qmp(s), "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
    g_assert_nonnull(strstr(again, "moved away from here"));
    check_refused(s);
    attach_kill_relay(s, true);
    attach_vm(s, NULL);
    check_refused(s);
    attach_replace(s);
    check_refused(s);
    qmp_ok(vm_qmp(d), "quit", NULL);
    g_assert_cmpint(vm_wait_exit(d), ==, 0);
    g_autofree char *asked = qmp_error(vm_qmp(s), "x-farfault-revoke", NULL);
    g_assert_nonnull(strstr(asked, "\"force\": true"));
    check_refused(s);
    qmp_ok(vm_qmp(s), "x-farfault-revoke", FORCE);
    g_autofree char *twice = qmp_error(vm_qmp(s), "x-farfault-revoke", FORCE);
    g_assert_true(g_str_has_prefix(twice, "There is no paused migration"));
    qmp_ok(vm_qmp(s), "cont", NULL);
    qmp_expect(vm_qmp(s), "RESUME");
    /* As any guest from here on. */
    qmp_ok(vm_qmp(s), "stop", NULL);
    qmp_ok(vm_qmp(s), "cont", NULL);
    g_autofree char *state = qmp_run_state(vm_qmp(s));
    g_assert_cmpstr(state, ==, "running");
}

/* What the source has given up does not come back. */
static void test_released(void)
{
    if (!may_run()) {
        return;
    }
    BootsectConfig boot = bootsect_config(32 << 20, 16 << 20, 1);
    g_autoptr(Vm) s = start_with("source", NULL, false, &boot);
    g_autoptr(Vm) d = start_with("destination", "defer", false, &boot);

    vm_wait_serial(s, "B");
    qmp_set_capability(vm_qmp(s), "release-ram", true);
    move(s, d, false);
    check_refused(s);
    g_autofree char *error = qmp_error(vm_qmp(s), "x-farfault-revoke", FORCE);
    g_assert_nonnull(strstr(error, "release-ram"));
    check_refused(s);
}

/* A destination of -S, as libvirt's: whose guest arrived, and did it run there? */
static void test_stands(gconstpointer postcopy)
{
    if (!may_run()) {
        return;
    }
    g_autoptr(Vm) s = start("source", NULL, false);
    g_autoptr(Vm) d = start("destination", "defer", true);

    move(s, d, !postcopy);
    g_autofree char *there = qmp_run_state(vm_qmp(d));
    g_assert_cmpstr(there, ==, "paused");
    if (postcopy) {
        check_refused(s);
        return;
    }
    /* The client could not start it there. */
    vm_kill(d);
    for (unsigned i = 0; i < 2; i++) {
        qmp_ok(vm_qmp(s), "cont", NULL);
        qmp_expect(vm_qmp(s), "RESUME");
        qmp_ok(vm_qmp(s), "stop", NULL);
    }
    qmp_ok(vm_qmp(s), "cont", NULL);
    qmp_expect(vm_qmp(s), "RESUME");
    /* And moves once more. */
    g_autoptr(Vm) again = start("again", "defer", false);
    move(s, again, false);
    check_refused(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/given/postcopy", NULL, test_refused);
    g_test_add_data_func("/given/precopy", "", test_refused);
    g_test_add_func("/given/released", test_released);
    g_test_add_data_func("/given/stands/precopy", NULL, test_stands);
    g_test_add_data_func("/given/stands/postcopy", "", test_stands);
    return g_test_run();
}
