/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a live snapshot is the guest's memory at the instant, byte for byte: the engine is
 * held at the instant, QEMU itself copies the memory, and then the guest writes everywhere while
 * its old memory is written. With buffers of any size, in both forms, slowly and fast. That the
 * comparison can fail is tested as well: with the memory of a moment later.
 *
 * FF_SNAPSHOTS: so many of each kind; default 2.
 */
#include "tests/qtest/snapshot-rig.h"

#include <sys/stat.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define RAM (64 * MIB)

typedef struct {
    const char *name;
    unsigned n_cpus;
    const char *buffer;
    bool stream;
    unsigned rate; /* MiB/s; 0: no limit */
    bool later;    /* compared with the memory of a moment later */
} Row;

static const Row rows[] = {
    {"mapped", 2, "67108864", false, 0, false},
    {"mapped/none", 1, "0", false, 0, false},
    {"mapped/one-page", 4, "4096", false, 0, false},
    {"mapped/slow", 2, "4194304", false, 40, false},
    {"stream", 2, "67108864", true, 0, false},
    {"stream/none", 4, "0", true, 0, false},
    {"stream/one-page", 1, "4096", true, 0, false},
    {"stream/slow", 2, "4194304", true, 40, false},
    {"later", 2, "67108864", false, 0, true},
};

/* ---- one snapshot ---------------------------------------------------------------------------- */

/* FALSE: the file is not what the memory was. */
static bool take(Vm *vm, const Row *row)
{
    Qmp *q = vm_qmp(vm);
    g_autofree char *file = vm_path(vm, "file"), *then = vm_path(vm, "then");

    qmp_ok(q, "x-farfault-snapshot", "{'file': '%s', 'buffer': %s, 'format': '%s'}", file,
           row->buffer, row->stream ? "stream" : "mapped-ram");
    qmp_expect(q, "STOP");
    if (!row->later) {
        snap_save_memory(vm, RAM, then);
        g_assert_false(qmp_has_event(q, "RESUME"));
    }
    snap_let_go(&(Snap){.vm = vm});
    qmp_expect(q, "RESUME");
    if (row->later) {
        vm_wait_new_serial(vm, "B");
        snap_save_memory(vm, RAM, then);
    }
    qmp_expect_migration(q, "completed");
    bool equal = snap_is_equal(then, file, RAM);

    g_assert_cmpint(unlink(file), ==, 0);
    g_assert_cmpint(unlink(then), ==, 0);
    return equal;
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    const char *number = g_getenv("FF_SNAPSHOTS"), *why;
    unsigned n = number ? atoi(number) : 2;
    g_autofree char *cpus = g_strdup_printf("%u", row->n_cpus);
    const char *args[] = {"-smp", cpus, NULL};
    BootsectConfig boot = bootsect_config(RAM, 0, row->n_cpus);
    unsigned wrong = 0;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *vm = vm_start(&(VmConfig){.name = "guest",
                                  .launcher = VM_RUN,
                                  .memory = "64M",
                                  .args = args,
                                  .boot = &boot,
                                  .faults = "snapshot/*/at/armed=hold"});
    g_autofree char *hold = vm_path(vm, "hold");
    g_assert_cmpint(mkfifo(hold, 0600), ==, 0);
    vm_wait_serial(vm, "AB");
    qmp_set_capability(vm_qmp(vm), "events", true);
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-bandwidth': %u}", row->rate << 20);
    for (unsigned i = 0; i < n; i++) {
        wrong += !take(vm, row);
    }
    g_assert_cmpuint(wrong, ==, row->later ? n : 0);
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, &boot));
    vm_end(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/snapshot/equal/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
