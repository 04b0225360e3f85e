/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the installed QEMU 7.2 to QEMU 10, with a machine type that both have: by postcopy, after
 * passes of precopy, and by precopy alone; through farfault, and by QEMU itself, to know that what
 * is asked for is possible.
 *
 * QEMU 10 is that of vm_newer_qemu().
 */
#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM_MIB 64
#define BUSY_MIB 24
#define MACHINE "pc-i440fx-7.2"

typedef struct {
    const char *name;
    VmLauncher launcher;
    int passes; /* of precopy, then postcopy; -1: never */
} Row;

static const Row rows[] = {
    {"native/postcopy", VM_PLAIN, 0}, {"farfault/postcopy", VM_RUN, 0},
    {"farfault/hybrid", VM_RUN, 3},   {"native/precopy", VM_PLAIN, -1},
    {"farfault/precopy", VM_RUN, -1},
};

/* As vm_newer_qemu(), where there is such a pair. */
static char *newer_qemu(void)
{
    if (vm_is_qemu("qemu-system-x86_64", "7.2")) {
        return vm_newer_qemu();
    }
    g_test_skip("the installed QEMU is not 7.2");
    return NULL;
}

static void move(const Row *row, Vm *source, Vm *destination)
{
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "AB");
    move_prepare(source, destination);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 1000000000, 'downtime-limit': %d}",
           row->passes < 0 ? 30000 : 0);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    while (row->passes > 0 && move_ram_count(source, "dirty-sync-count") < row->passes) {
    }
    if (row->passes >= 0)
        qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(d, "RESUME");
    move_wait_completed(source, destination);
}

static void test_row(gconstpointer data)
{
    static const char *const args[] = {"-machine", MACHINE, "-smp", "2", NULL};
    const Row *row = data;
    const char *why = NULL;
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2);

    if (row->launcher == VM_RUN && !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *newer = newer_qemu();
    if (!newer)
        return;
    VmConfig config = {.name = "source",
                       .launcher = row->launcher,
                       .qemu = "qemu-system-x86_64",
                       .memory = G_STRINGIFY(RAM_MIB) "M",
                       .args = args,
                       .boot = &boot};
    Vm *source = vm_start(&config);
    config.name = "destination";
    config.qemu = newer;
    config.incoming = "defer";
    Vm *destination = vm_start(&config);
    move(row, source, destination);
    vm_wait_new_serial(destination, "B");
    qmp_ok(vm_qmp(destination), "stop", NULL);
    g_autofree char *wrong = check_counters(destination, &boot);
    /* QEMU 7.2's own precopy under TCG may lose pages. */
    if (wrong && row->launcher == VM_RUN)
        g_test_fail_printf("%s", wrong);
    vm_end(source);
    vm_end(destination);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/versions/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
