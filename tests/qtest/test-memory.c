/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel makes of guest RAM: transparent huge pages where the guest begins, also after a
 * migration that was cancelled, and where it has arrived, but not before all of it is there. So
 * under KVM, whose own mappings go with them. One thread.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/bootsect.h"
#include "tests/lib/hold.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

/* A size that nothing else in QEMU has. */
#define RAM_MIB 70
#define BUSY_MIB 40

/* The line of /proc/PID/smaps that begins the mapping of guest RAM, and what follows (g_free). */
static char *ram_mapping(const Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", (int)vm_pid(vm));
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        unsigned long start, end;

        if (sscanf(line, "%lx-%lx rw-s", &start, &end) == 2 && end - start == RAM_MIB << 20) {
            char *flags = strstr(line, "\nVmFlags:");

            return flags ? g_strndup(line, flags - line) : g_strdup(line);
        }
    }
    test_fail("%s has no mapping of %d MiB", path, RAM_MIB);
}

static char *start_and_look(const char *incoming)
{
    g_autofree char *memory = g_strdup_printf("%dM", RAM_MIB);
    g_autoptr(Vm) vm = vm_start(
        &(VmConfig){.name = "vm", .launcher = VM_RUN, .memory = memory, .incoming = incoming});

    return ram_mapping(vm);
}

/* The same two conditions as for the launcher, found in another way. */
static const char *why_none(void)
{
    g_autofree char *enabled = NULL;
    int fs = syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);

    if (fs < 0) {
        return "this user may mount nothing";
    }
    bool huge = syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "huge", "advise", 0) == 0;
    close(fs);
    if (!huge ||
        !g_file_get_contents("/sys/kernel/mm/transparent_hugepage/enabled", &enabled, NULL, NULL)) {
        return "this kernel has no huge pages for tmpfs";
    }
    return strstr(enabled, "[never]") ? "huge pages are off" : NULL;
}

/* FALSE: *WHY (static) says why not. RING3: the guest; NULL: the boot sector. */
static bool is_possible(const Ring3 *ring3, const char **why)
{
    *why = NULL;
    return vm_farfault_available(why) && !(*why = why_none()) &&
           (!ring3 || ring3_available(ring3->accel, NULL, why));
}

static void test_begins(void)
{
    const char *why = NULL;

    if (!vm_farfault_available(&why) || (why = why_none())) {
        g_test_skip(why);
        return;
    }
    g_autofree char *mapping = start_and_look(NULL);
    char *eligible = strstr(mapping, "THPeligible:");

    g_assert_nonnull(eligible);
    g_assert_cmpint(atoi(eligible + strlen("THPeligible:")), ==, 1);
}

static void test_arrives(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *mapping = start_and_look("defer");

    g_assert_nonnull(strstr(mapping, "memfd:farfault-pc.ram"));
}

/* Of shared memory: the guest's RAM, which has several mappings while pages of it are missing. */
static long huge_kib(const Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", (int)vm_pid(vm)), *text = NULL;
    bool ram = false;
    long kib = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        unsigned long start, end;
        if (sscanf(lines[i], "%lx-%lx", &start, &end) == 2) {
            ram = strstr(lines[i], " rw-s ");
        } else if (ram && g_str_has_prefix(lines[i], "ShmemPmdMapped:")) {
            kib += atol(lines[i] + strlen("ShmemPmdMapped:"));
        }
    }
    return kib;
}

/* Why there is no precopy (g_free), NULL: there is. */
static char *untracked(Vm *source)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(source), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    return g_strdup(json_object_get_string_member_with_default(own, "no-precopy", NULL));
}

/* Write tracking splits them, and they are there again when it was for nothing. */
static void test_stays(gconstpointer ring3)
{
    const char *why = NULL;

    if (!is_possible(ring3, &why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *memory = g_strdup_printf("%dM", RAM_MIB);
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 1);
    g_autoptr(Vm) s = vm_start(&(VmConfig){.name = "source",
                                           .launcher = VM_RUN,
                                           .memory = memory,
                                           .boot = ring3 ? NULL : &boot,
                                           .ring3 = ring3});
    g_autoptr(Vm) d = vm_start(&(VmConfig){.name = "destination",
                                           .launcher = VM_RUN,
                                           .memory = memory,
                                           .boot = ring3 ? NULL : &boot,
                                           .ring3 = ring3,
                                           .incoming = "defer"});
    vm_wait_ready(s);
    move_prepare(s, d);
    qmp_ok(vm_qmp(d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(d);
    long before = huge_kib(s);
    g_assert_cmpint(before, >, 0);
    qmp_ok(vm_qmp(s), "migrate-set-parameters",
           "{'max-bandwidth': 200000000, 'downtime-limit': 0}");
    qmp_ok(vm_qmp(s), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(s), "active");
    g_autofree char *no = untracked(s);
    if (!no) {
        while (move_ram_count(s, "dirty-sync-count") < 2) {
        }
        g_assert_cmpint(huge_kib(s), <, before);
    }
    qmp_ok(vm_qmp(s), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(s), "cancelled");
    g_assert_cmpint(huge_kib(s), >=, before);
    vm_wait_works(s);
    g_assert_cmpint(vm_wait_exit(d), ==, 1); /* as a QEMU whose incoming migration fails */
    if (no) {
        g_test_skip(no);
    }
}

/* What comes in small pages gets huge ones, piece by piece, and not when all is over: the
 * coordinator is held before that. The kernel has no event for it. */
static void test_gets_them(gconstpointer ring3)
{
    const char *why = NULL;

    if (!is_possible(ring3, &why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *memory = g_strdup_printf("%dM", RAM_MIB);
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 1);
    VmConfig config = {.name = "source",
                       .launcher = VM_RUN,
                       .memory = memory,
                       .boot = ring3 ? NULL : &boot,
                       .ring3 = ring3};
    g_autoptr(Vm) s = vm_start(&config);
    config.name = "destination";
    config.incoming = "defer";
    config.faults = "destination/postcopy-active/at/all=hold";
    g_autoptr(Vm) d = vm_start(&config);
    int64_t deadline = test_deadline(TEST_TIMEOUT);

    vm_wait_ready(s);
    move_prepare(s, d);
    g_autofree char *uri = move_listen(d);
    hold_make(d);
    qmp_ok(vm_qmp(s), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(s), "migrate-start-postcopy", NULL);
    hold_wait(d);
    while (huge_kib(d) < BUSY_MIB / 2 * 1024) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        vm_wait_works(d);
    }
    hold_let_go(d);
    move_wait_completed(s, d);
    move_check_guest(s, d, &boot, (uint64_t)RAM_MIB << 20);
}

/* So does a live snapshot. */
static void test_snapshot(gconstpointer ring3)
{
    const char *why = NULL;

    if (!is_possible(ring3, &why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *memory = g_strdup_printf("%dM", RAM_MIB);
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 1);
    g_autoptr(Vm) vm = vm_start(&(VmConfig){.name = "guest",
                                            .launcher = VM_RUN,
                                            .memory = memory,
                                            .boot = ring3 ? NULL : &boot,
                                            .ring3 = ring3});
    g_autofree char *file = vm_path(vm, "file");
    vm_wait_ready(vm);
    qmp_set_capability(vm_qmp(vm), "events", true);
    long before = huge_kib(vm);
    g_assert_cmpint(before, >, 0);
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-bandwidth': 1048576}");
    qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", file);
    qmp_expect(vm_qmp(vm), "RESUME");
    g_assert_cmpint(huge_kib(vm), <, before);
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_expect_migration(vm_qmp(vm), "completed");
    g_assert_cmpint(huge_kib(vm), >=, before);
}

/* A hugetlbfs of N pages of 2 MiB, mounted nowhere. Returns an fd, -1: this user may not. */
static int limited_hugetlbfs(unsigned n)
{
    g_autofree char *size = g_strdup_printf("%uM", n * 2);
    int fs = syscall(SYS_fsopen, "hugetlbfs", FSOPEN_CLOEXEC), mount = -1;

    if (fs >= 0 && syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "pagesize", "2M", 0) == 0 &&
        syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", size, 0) == 0 &&
        syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
        mount = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
    }
    if (fs >= 0) {
        close(fs);
    }
    return mount;
}

/* farfault run of a guest with RAM in PATH, for which there is no room (g_free: what it says). */
static char *start_without_room(const char *path)
{
    g_autofree char *program = vm_build_path("cli/farfault");
    const char *const argv[] = {
        program, "run", "--",  "qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine",
        "pc",    "-m",  "16M", "-mem-path",          path,          NULL};
    g_autoptr(GError) error = NULL;
    char *text;
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                 NULL, NULL, &text, &status, &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, !=, 0);
    return text;
}

/* Huge pages are those of the mount that the user named, within its limit, though the machine has
 * more. */
static void test_mount(void)
{
    enum { PAGES = 8 };
    HugePages *pool = hugepages_new(3 * PAGES);
    int mount = pool ? limited_hugetlbfs(PAGES) : -1;
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)getpid(), mount);
    const char *const args[] = {"-machine", "pc", "-mem-path", path, NULL};
    struct statfs fs;

    if (mount < 0) {
        if (pool) {
            g_test_skip("this user may mount nothing");
        }
        hugepages_free(pool);
        return;
    }
    Vm *vm = vm_start(&(VmConfig){.name = "vm", .launcher = VM_RUN, .memory = "16M", .args = args});
    g_assert_cmpint(fstatfs(mount, &fs), ==, 0);
    g_assert_cmpuint(fs.f_blocks, ==, PAGES);
    g_assert_cmpuint(fs.f_bfree, ==, 0);
    g_autofree char *text = start_without_room(path);
    g_test_message("%s", text);
    g_assert_nonnull(strstr(text, "size= of the mount of "));
    vm_end(vm);
    g_assert_cmpint(fstatfs(mount, &fs), ==, 0);
    g_assert_cmpuint(fs.f_bfree, ==, PAGES);
    close(mount);
    hugepages_free(pool);
}

/* QEMU finds no /proc there, by which it opens what farfault plugs: it plugs the client's own. */
static void test_chroot(void)
{
    const char *why = NULL;

    if (geteuid() != 0 || !vm_farfault_available(&why)) {
        g_test_skip(why ? why : "only root may chroot()");
        return;
    }
    g_autofree char *folder = g_dir_make_tmp("ff-chroot-XXXXXX", NULL);
    g_autofree char *run_with = g_strconcat("chroot=", folder, NULL);
    const char *const old[] = {"-chroot", folder, NULL};
    const char *const newer[] = {"-run-with", run_with, NULL}; /* there are both in 8.2 and 9 */
    const char *const *args = vm_is_tests_qemu("7.") ? old : newer;
    Vm *vm = vm_start(&(VmConfig){
        .name = "vm", .launcher = VM_RUN, .memory = "64M,slots=2,maxmem=1G", .args = args});

    qmp_ok(vm_qmp(vm), "object-add",
           "{'qom-type': 'memory-backend-ram', 'id': 'more', 'size': 134217728}");
    qmp_ok(vm_qmp(vm), "device_add", "{'driver': 'pc-dimm', 'memdev': 'more'}");
    g_autofree char *hmp =
        qmp_hmp(vm_qmp(vm), "object_add memory-backend-ram,id=other,size=134217728");
    g_assert_cmpstr(hmp, ==, "");
    g_autoptr(JsonObject) memory = qmp_return(vm_qmp(vm), "query-memory-size-summary", NULL);
    g_assert_cmpint(json_object_get_int_member(memory, "plugged-memory"), ==, 128 << 20);
    g_autofree char *backends = qmp_hmp(vm_qmp(vm), "info memdev");
    g_assert_nonnull(strstr(backends, "memory backend: other"));
    vm_end(vm);
    g_assert_cmpint(rmdir(folder), ==, 0);
}

/* ---- memory that comes and goes -------------------------------------------------------------- */

static uint64_t bytes_of(int fd)
{
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}

/* A size that nothing else in QEMU has. */
#define LATE_BYTES (18u << 20)
#define LATE "memory-backend-ram,id=late,size=18M,prealloc=on"

static int open_late(Vm *vm)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)vm_pid(vm));
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        struct stat st;

        if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == LATE_BYTES &&
            st.st_blocks) {
            return open(path, O_RDONLY | O_CLOEXEC);
        }
    }
    test_fail("%s has no file with content of %u bytes", folder, LATE_BYTES);
}

/* What is unplugged goes back to the host, also what QEMU was started with, whose file stays open.
 */
static void test_unplugged(void)
{
    static const char *const args[] = {"-object", LATE, NULL};
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) vm =
        vm_start(&(VmConfig){.name = "vm", .launcher = VM_RUN, .memory = "32M", .args = args});

    for (unsigned i = 0; i < 2; i++) {
        int fd = open_late(vm);

        g_assert_cmpuint(bytes_of(fd), ==, LATE_BYTES);
        qmp_ok(vm_qmp(vm), "object-del", "{'id': 'late'}");
        g_assert_cmpuint(bytes_of(fd), ==, 0);
        close(fd);
        qmp_ok(vm_qmp(vm), "object-add",
               "{'qom-type': 'memory-backend-ram', 'id': 'late', 'size': %u, 'prealloc': true}",
               LATE_BYTES);
    }
}

/* It is there at once if the client wants that; not while the guest is still to come, as it would
 * be emptied again. */
static void test_prealloc(void)
{
    Move *m = move_new(NULL);

    if (!m) {
        return;
    }
    move_start(m);
    move_switch(m);
    qmp_expect_migration(vm_qmp(m->source), "postcopy-active");
    qmp_expect(vm_qmp(m->destination), "RESUME");
    qmp_ok(vm_qmp(m->destination), "object-add",
           "{'qom-type': 'memory-backend-ram', 'id': 'late', 'size': %u, 'prealloc': true}",
           LATE_BYTES);
    int fd = open_late(m->destination);
    g_assert_cmpuint(bytes_of(fd), ==, LATE_BYTES);
    close(fd);
    move_finish(m);
}

int main(int argc, char **argv)
{
    static const Ring3 kvm = {.accel = RING3_KVM, .busy_mib = BUSY_MIB, .n_cpus = 2};

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memory/begins", test_begins);
    g_test_add_func("/memory/arrives", test_arrives);
    g_test_add_data_func("/memory/stays", NULL, test_stays);
    g_test_add_data_func("/memory/gets-them", NULL, test_gets_them);
    g_test_add_data_func("/memory/snapshot", NULL, test_snapshot);
    g_test_add_data_func("/memory/kvm/stays", &kvm, test_stays);
    g_test_add_data_func("/memory/kvm/gets-them", &kvm, test_gets_them);
    g_test_add_data_func("/memory/kvm/snapshot", &kvm, test_snapshot);
    g_test_add_func("/memory/mount", test_mount);
    g_test_add_func("/memory/chroot", test_chroot);
    g_test_add_func("/memory/unplugged", test_unplugged);
    g_test_add_func("/memory/prealloc", test_prealloc);
    return g_test_run();
}
