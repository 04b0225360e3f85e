/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live snapshots of real guests: a guest that writes everywhere is saved while it runs, continues
 * unharmed, and what stock QEMU restores from the file is the guest as it was at one instant: each
 * vCPU's counters have one step at most. Of a stopped guest the file is its memory, byte for byte.
 *
 * QEMU 10 is that of vm_newer_qemu().
 */
#include "tests/lib/check.h"
#include "tests/lib/vm.h"

#include <fcntl.h>
#include <unistd.h>

#define RAM_MIB 64
#define BUSY_MIB 24
#define LIBVIRT_LIKE 65672

typedef enum { OLD, NEW } Version; /* 7.2 and 10 */
typedef enum { COMMAND, MIGRATE, MIGRATE_FD } Way;

typedef struct {
    const char *name;
    Version from, to;
    Way way;
    bool stream, multifd, direct, stopped;
    const char *buffer; /* bytes; NULL: the default */
    uint64_t offset;
    const char *machine;
    unsigned n_cpus;
} Row;

#define PC "pc-i440fx-7.2"
#define Q35 "pc-q35-7.2"
static const Row rows[] = {
    {"7.2/mapped", OLD, NEW, COMMAND, .machine = PC, .n_cpus = 2},
    {"7.2/stream", OLD, OLD, COMMAND, .stream = true, .machine = Q35, .n_cpus = 2},
    {"10/mapped", NEW, NEW, COMMAND, .machine = "q35", .n_cpus = 1},
    {"10/stream", NEW, NEW, COMMAND, .stream = true, .machine = "q35", .n_cpus = 2},
    {"10/stream/7.2", NEW, OLD, COMMAND, .stream = true, .machine = PC, .n_cpus = 1},
    {"multifd", OLD, NEW, COMMAND, .multifd = true, .machine = PC, .n_cpus = 2},
    {"direct", OLD, NEW, COMMAND, .multifd = true, .direct = true, .machine = PC, .n_cpus = 2},
    {"offset", NEW, NEW, COMMAND, .offset = LIBVIRT_LIKE, .machine = "q35", .n_cpus = 4},
    {"offset/stream", OLD, NEW, COMMAND, .stream = true, .offset = 65672, .machine = PC,
     .n_cpus = 1},
    {"buffer/none", OLD, NEW, COMMAND, .buffer = "0", .machine = PC, .n_cpus = 2},
    {"buffer/one-page", OLD, NEW, COMMAND, .buffer = "4096", .machine = PC, .n_cpus = 2},
    {"buffer/none/stream", OLD, OLD, COMMAND, .stream = true, .buffer = "0", .machine = PC,
     .n_cpus = 2},
    {"buffer/one-page/stream", NEW, NEW, COMMAND, .stream = true, .buffer = "4096",
     .machine = "q35", .n_cpus = 2},
    {"stopped/mapped", OLD, NEW, COMMAND, .stopped = true, .machine = PC, .n_cpus = 2},
    {"stopped/stream", NEW, OLD, COMMAND, .stopped = true, .stream = true, .machine = PC,
     .n_cpus = 2},
    {"migrate/7.2", OLD, OLD, MIGRATE, .stream = true, .machine = PC, .n_cpus = 2},
    {"migrate/10/mapped", NEW, NEW, MIGRATE, .machine = "q35", .n_cpus = 2},
    {"migrate/10/mapped/offset", NEW, NEW, MIGRATE, .offset = LIBVIRT_LIKE, .machine = "q35",
     .n_cpus = 2},
    {"migrate/7.2/fd", OLD, OLD, MIGRATE_FD, .stream = true, .machine = PC, .n_cpus = 2},
};

static Vm *start(const Row *row, Version version, const char *newer, const BootsectConfig *boot,
                 const char *incoming)
{
    g_autofree char *cpus = g_strdup_printf("%u", row->n_cpus);
    const char *args[] = {"-machine", row->machine, "-smp", cpus, NULL};

    return vm_start(&(VmConfig){.name = incoming ? "restored" : "saved",
                                .launcher = incoming ? VM_PLAIN : VM_RUN,
                                .qemu = version == OLD ? "qemu-system-x86_64" : newer,
                                .memory = G_STRINGIFY(RAM_MIB) "M",
                                .args = args,
                                .boot = boot,
                                .incoming = incoming});
}

/* ---- taking one ------------------------------------------------------------------------------ */

static void ask_command(const Row *row, Qmp *q, const char *path)
{
    g_autofree char *buffer = row->buffer ? g_strdup_printf(", 'buffer': %s", row->buffer) : NULL;

    qmp_ok(q, "x-farfault-snapshot",
           "{'file': '%s', 'offset': %" G_GUINT64_FORMAT ", 'format': '%s'%s}", path, row->offset,
           row->stream ? "stream" : "mapped-ram", buffer ? buffer : "");
}

static void ask_migrate(const Row *row, Qmp *q, const char *path)
{
    qmp_set_capability(q, "background-snapshot", true);
    if (!row->stream) {
        qmp_set_capability(q, "mapped-ram", true);
    }
    if (row->way == MIGRATE_FD) {
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

        g_assert_cmpint(fd, >=, 0);
        qmp_getfd(q, "out", fd);
        close(fd);
        qmp_ok(q, "migrate", "{'uri': 'fd:out'}");
    } else {
        qmp_ok(q, "migrate", "{'uri': 'file:%s,offset=%" G_GUINT64_FORMAT "'}", path, row->offset);
    }
}

/* The engine took it, QEMU did not. */
static void check_info(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    JsonObject *ram = json_object_get_object_member(info, "ram");

    g_assert_cmpstr(json_object_get_string_member(info, "status"), ==, "completed");
    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "farfault");
    g_assert_true(json_object_has_member(own, "snapshot"));
    g_assert_cmpint(json_object_get_int_member(ram, "remaining"), ==, 0);
    g_assert_cmpint(json_object_get_int_member(ram, "transferred"), >, BUSY_MIB << 20);
}

static void save(const Row *row, Vm *vm, const char *path)
{
    Qmp *q = vm_qmp(vm);

    vm_wait_serial(vm, "AB");
    qmp_set_capability(q, "events", true);
    if (row->stopped) {
        qmp_ok(q, "stop", NULL);
    }
    if (row->way == COMMAND) {
        ask_command(row, q, path);
    } else {
        ask_migrate(row, q, path);
    }
    qmp_expect_migration(q, "setup");
    qmp_expect_migration(q, "active");
    qmp_expect_migration(q, "completed");
    check_info(vm);
}

/* ---- and back -------------------------------------------------------------------------------- */

static void restore(const Row *row, Vm *vm, const char *path)
{
    Qmp *q = vm_qmp(vm);
    g_autofree char *uri =
        row->stream
            ? g_strdup_printf("exec:tail -c +%" G_GUINT64_FORMAT " %s", row->offset + 1, path)
            : g_strdup_printf("file:%s,offset=%" G_GUINT64_FORMAT, path, row->offset);

    qmp_set_capability(q, "events", true);
    if (!row->stream) {
        qmp_set_capability(q, "mapped-ram", true);
    }
    if (row->multifd) {
        qmp_set_capability(q, "multifd", true);
        qmp_ok(q, "migrate-set-parameters", "{'multifd-channels': 2, 'direct-io': %s}",
               row->direct ? "true" : "false");
    }
    qmp_ok(q, "migrate-incoming", "{'uri': '%s'}", uri);
    qmp_expect_migration(q, "completed");
}

static bool has_direct_io(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);

    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

/* It runs, and has never seen a wrong counter. */
static void check_goes_on(Vm *vm, const BootsectConfig *boot)
{
    vm_wait_new_serial(vm, "B");
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, boot));
}

static void check_restored(const Row *row, Vm *saved, const char *newer, const BootsectConfig *boot,
                           const char *path)
{
    Vm *restored = start(row, row->to, newer, boot, "defer");

    restore(row, restored, path);
    if (row->stopped) {
        check_right(check_equal(saved, restored, 1 << 20, (uint64_t)RAM_MIB << 20));
        qmp_ok(vm_qmp(restored), "cont", NULL);
    } else {
        g_autofree char *state = qmp_run_state(vm_qmp(restored));
        g_assert_cmpstr(state, ==, "running");
        qmp_ok(vm_qmp(restored), "stop", NULL);
        check_right(check_counters(restored, boot));
        qmp_ok(vm_qmp(restored), "cont", NULL);
    }
    check_goes_on(restored, boot);
    vm_end(restored);
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (!vm_is_qemu("qemu-system-x86_64", "7.2")) {
        g_test_skip("the installed QEMU is not 7.2");
        return;
    }
    g_autofree char *newer = vm_newer_qemu();
    if (!newer) {
        return;
    }
    BootsectConfig boot =
        bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, row->n_cpus);
    Vm *saved = start(row, row->from, newer, &boot, NULL);
    g_autofree char *path = vm_path(saved, "file");

    save(row, saved, path);
    if (row->direct && !has_direct_io(path)) {
        g_test_skip("no direct I/O where temporary files are");
    } else {
        check_restored(row, saved, newer, &boot, path);
    }
    if (row->stopped) {
        qmp_ok(vm_qmp(saved), "cont", NULL);
    }
    check_goes_on(saved, &boot);
    vm_end(saved);
}

/* By QEMU itself, as without farfault. */
static void test_exec(void)
{
    static const Row row = {"exec", OLD, OLD, MIGRATE, .stream = true, .machine = PC, .n_cpus = 1};
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 1);
    Vm *saved = start(&row, OLD, NULL, &boot, NULL);
    g_autofree char *path = vm_path(saved, "file");
    Qmp *q = vm_qmp(saved);

    vm_wait_serial(saved, "AB");
    qmp_set_capability(q, "events", true);
    qmp_set_capability(q, "background-snapshot", true);
    qmp_ok(q, "migrate", "{'uri': 'exec:cat > %s'}", path);
    qmp_expect_migration(q, "completed");
    g_autoptr(JsonObject) info = qmp_return(q, "query-migrate", NULL);
    g_assert_false(
        json_object_has_member(info, "x-farfault") &&
        json_object_has_member(json_object_get_object_member(info, "x-farfault"), "snapshot"));
    check_restored(&row, saved, NULL, &boot, path);
    check_goes_on(saved, &boot);
    vm_end(saved);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/snapshot/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/snapshot/exec", test_exec);
    return g_test_run();
}
