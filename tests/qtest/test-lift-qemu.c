/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An engine is killed while the memory of a real guest is protected, in a live snapshot: the
 * guest's vCPUs wait for nobody then. The next engine takes the protection away, the guest
 * continues, and can be saved again.
 */
#include <string.h>

#include "tests/lib/vm.h"

#define RAM_MIB 64
#define BUSY_MIB 24

typedef struct {
    const char *moment;
    bool newer;
} Row;

static const Row rows[] = {
    {"snapshot/*/at/protected=kill", false},
    {"snapshot/*/at/running=kill", false},
    {"snapshot/*/at/protected=kill", true},
};

/* The guest has written to all of its memory since. */
static void check_goes_on(Vm *vm)
{
    for (unsigned i = 0; i < 3; i++) {
        vm_wait_new_serial(vm, "B");
    }
}

static void snapshot(Vm *vm, const char *name)
{
    g_autofree char *path = vm_path(vm, name);

    qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
}

static void test_killed(gconstpointer data)
{
    const Row *row = data;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *qemu = row->newer ? vm_newer_qemu() : NULL;
    if (row->newer && !qemu) {
        return;
    }
    static const char *const args[] = {"-machine", "pc", NULL};
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 1);
    g_autoptr(Vm) vm = vm_start(&(VmConfig){.name = "guest",
                                            .launcher = VM_RUN,
                                            .qemu = qemu,
                                            .memory = G_STRINGIFY(RAM_MIB) "M",
                                            .args = args,
                                            .boot = &boot,
                                            .faults = row->moment});

    vm_wait_serial(vm, "AB");
    qmp_set_capability(vm_qmp(vm), "events", true);
    snapshot(vm, "first");
    qmp_expect_migration(vm_qmp(vm), "failed");
    int64_t died = g_get_monotonic_time();
    vm_wait_stderr(vm, "the guest is unharmed");
    g_test_message("%d ms until nothing was protected any more",
                   (int)((g_get_monotonic_time() - died) / 1000));
    g_assert_true(vm_fault_happened(vm, 0));
    check_goes_on(vm);
    g_autofree char *log = vm_stderr(vm);
    g_assert_null(strstr(log, "no live snapshots"));
    snapshot(vm, "second");
    qmp_expect_migration(vm_qmp(vm), "completed");
    check_goes_on(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_auto(GStrv) parts = g_strsplit_set(rows[i].moment, "/=", -1);
        g_autofree char *path =
            g_strdup_printf("/lift/%s/%s", rows[i].newer ? "10" : "installed", parts[3]);

        g_test_add_data_func(path, &rows[i], test_killed);
    }
    return g_test_run();
}
