/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest saved by stock QEMU into a file, which farfault convert writes in another form, is
 * restored from there by stock QEMU: 7.2 and 10, ordinary stream and mapped-ram; of a stopped guest
 * all memory is the same, and each continues with every counter right.
 *
 * QEMU 10 is that of vm_newer_qemu().
 */
#include "tests/lib/check.h"
#include "tests/lib/vm.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_MIB 64
#define BUSY_MIB 24
#define LIBVIRT_LIKE 65672

typedef enum { OLD, NEW } Version; /* 7.2 and 10 */

typedef struct {
    const char *name;
    Version from;
    bool mapped, background; /* how it is saved; else an ordinary stream */
    uint64_t in_offset;
    const char *convert[6]; /* arguments in front of IN OUT */
    Version to;
    bool to_mapped, multifd, direct;
    uint64_t offset;
    const char *machine;
} Row;

#define PC "pc-i440fx-7.2"
#define Q35 "pc-q35-7.2"
static const Row rows[] = {
    {.name = "10-mapped/7.2-stream", .from = NEW, .mapped = true, .to = OLD, .machine = PC},
    {.name = "10-mapped/10-stream", .from = NEW, .mapped = true, .to = NEW, .machine = "q35"},
    {.name = "10-mapped-offset/7.2-stream",
     .from = NEW,
     .mapped = true,
     .in_offset = LIBVIRT_LIKE,
     .convert = {"--in-offset", "65672"},
     .to = OLD,
     .machine = Q35},
    {.name = "7.2-stream/10-mapped", .from = OLD, .to = NEW, .to_mapped = true, .machine = PC},
    {.name = "7.2-stream/10-mapped-multifd",
     .from = OLD,
     .to = NEW,
     .to_mapped = true,
     .multifd = true,
     .machine = Q35},
    {.name = "7.2-stream/10-mapped-direct",
     .from = OLD,
     .to = NEW,
     .to_mapped = true,
     .multifd = true,
     .direct = true,
     .machine = PC},
    {.name = "7.2-stream/10-mapped-offset",
     .from = OLD,
     .convert = {"--offset", "65672"},
     .to = NEW,
     .to_mapped = true,
     .offset = LIBVIRT_LIKE,
     .machine = PC},
    {.name = "10-stream/10-mapped", .from = NEW, .to = NEW, .to_mapped = true, .machine = "q35"},
    {.name = "7.2-background/10-mapped",
     .from = OLD,
     .background = true,
     .to = NEW,
     .to_mapped = true,
     .machine = PC},
    {.name = "10-background/10-mapped",
     .from = NEW,
     .background = true,
     .to = NEW,
     .to_mapped = true,
     .machine = "q35"},
};

static Vm *start(const Row *row, Version version, const char *newer, const BootsectConfig *boot,
                 const char *incoming)
{
    const char *args[] = {"-machine", row->machine, "-smp", "2", NULL};

    return vm_start(&(VmConfig){.name = incoming ? "restored" : "saved",
                                .qemu = version == OLD ? "qemu-system-x86_64" : newer,
                                .memory = G_STRINGIFY(RAM_MIB) "M",
                                .args = args,
                                .boot = boot,
                                .incoming = incoming});
}

static char *file_uri(const char *path, uint64_t offset)
{
    return offset ? g_strdup_printf("file:%s,offset=%" G_GUINT64_FORMAT, path, offset)
                  : g_strdup_printf("file:%s", path);
}

static void save(const Row *row, Vm *vm, const char *path)
{
    Qmp *q = vm_qmp(vm);
    g_autofree char *end = vm_path(vm, "written"), *nothing = NULL;
    g_autofree char *uri = row->mapped ? file_uri(path, row->in_offset)
                                       : g_strdup_printf("exec:cat > %s; echo > %s", path, end);

    g_assert_cmpint(mkfifo(end, 0600), ==, 0);
    vm_wait_serial(vm, "AB");
    qmp_set_capability(q, "events", true);
    if (row->mapped) {
        qmp_set_capability(q, "mapped-ram", true);
    }
    if (row->background) {
        qmp_set_capability(q, "background-snapshot", true);
    } else {
        qmp_ok(q, "stop", NULL);
    }
    qmp_ok(q, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(q, "completed");
    /* QEMU has written it to a pipe by then. */
    g_assert_true(row->mapped || g_file_get_contents(end, &nothing, NULL, NULL));
    unlink(end);
}

static void convert(const Row *row, const char *in, const char *out)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autofree char *said = NULL;
    int status = -1;

    g_ptr_array_add(argv, farfault);
    g_ptr_array_add(argv, (char *)"convert");
    for (unsigned i = 0; row->convert[i]; i++) {
        g_ptr_array_add(argv, (char *)row->convert[i]);
    }
    g_ptr_array_add(argv, (char *)in);
    g_ptr_array_add(argv, (char *)out);
    g_ptr_array_add(argv, NULL);
    g_assert_true(
        g_spawn_sync(NULL, (char **)argv->pdata, NULL, 0, NULL, NULL, NULL, &said, &status, NULL));
    if (status) {
        test_fail("farfault convert: %s", said);
    }
}

static void restore(const Row *row, Vm *vm, const char *path)
{
    Qmp *q = vm_qmp(vm);
    g_autofree char *uri =
        row->to_mapped ? file_uri(path, row->offset) : g_strdup_printf("exec:cat %s", path);

    qmp_set_capability(q, "events", true);
    if (row->to_mapped) {
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

static void go_on(const Row *row, Vm *saved, Vm *restored, const BootsectConfig *boot)
{
    if (!row->background) {
        check_right(check_equal(saved, restored, 1 << 20, (uint64_t)RAM_MIB << 20));
        qmp_ok(vm_qmp(restored), "cont", NULL);
    }
    vm_wait_new_serial(restored, "B");
    qmp_ok(vm_qmp(restored), "stop", NULL);
    check_right(check_counters(restored, boot));
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2);

    if (!vm_is_qemu("qemu-system-x86_64", "7.2")) {
        g_test_skip("the installed QEMU is not 7.2");
        return;
    }
    g_autofree char *newer = vm_newer_qemu();
    if (!newer) {
        return;
    }
    Vm *saved = start(row, row->from, newer, &boot, NULL);
    g_autofree char *in = vm_path(saved, "in"), *out = vm_path(saved, "out");

    save(row, saved, in);
    convert(row, in, out);
    if (row->direct && !has_direct_io(out)) {
        g_test_skip("no direct I/O where temporary files are");
    } else {
        Vm *restored = start(row, row->to, newer, &boot, "defer");

        restore(row, restored, out);
        go_on(row, saved, restored, &boot);
        vm_end(restored);
    }
    vm_end(saved);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/saved/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
