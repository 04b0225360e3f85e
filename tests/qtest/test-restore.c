/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lazy restores of real guests: a guest that writes everywhere is saved, by farfault or by stock
 * QEMU 10, and runs again before its memory is there; each vCPU's counters have one step at most. A
 * stopped guest comes back byte for byte. Files that are cut, damaged or of another guest are
 * refused.
 *
 * QEMU 10 and 11 are those of vm_qemu().
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/hugepages.h"
#include "tests/lib/linuxguest.h"
#include "tests/qtest/restore-rig.h"

/* Addresses of blocks that are not 0: RAM of two nodes, and a DIMM. */
static const char *const numa[] = {"-object", "memory-backend-ram,id=n0,size=16M",
                                   "-object", "memory-backend-ram,id=n1,size=48M",
                                   "-numa",   "node,memdev=n0",
                                   "-numa",   "node,memdev=n1",
                                   "-object", "memory-backend-ram,id=m0,size=128M",
                                   "-device", "pc-dimm,memdev=m0,id=d0",
                                   "-device", "virtio-rng-pci",
                                   NULL};
static const char *const huge[] = {"-object",
                                   "memory-backend-memfd,id=h,size=64M,hugetlb=on,hugetlbsize=2M",
                                   "-machine", "memory-backend=h", NULL};
#define HUGE_PAGES (2 * RESTORE_RAM_MIB / 2)

static const RestoreRow rows[] = {
    {"7.2", OURS, OLD, OLD, COMMAND, .machine = RESTORE_PC, .n_cpus = 2},
    {"7.2/10", OURS, OLD, NEW, INCOMING, .machine = RESTORE_PC, .n_cpus = 2},
    {"10", OURS, NEW, NEW, INCOMING, .machine = "q35", .n_cpus = 2},
    {"11", OURS, NEWEST, NEWEST, INCOMING, .machine = "q35", .n_cpus = 2},
    {"7.2/11", OURS, OLD, NEWEST, COMMAND, .machine = RESTORE_PC, .n_cpus = 2},
    {"stock/10", STOCK, NEW, NEW, INCOMING, .machine = "q35", .n_cpus = 2},
    {"stock/7.2", STOCK, NEW, OLD, COMMAND, .machine = RESTORE_PC, .n_cpus = 2},
    {"offset", OURS, OLD, OLD, COMMAND, .offset = OFFSET, .machine = RESTORE_PC, .n_cpus = 1},
    {"stock/offset", STOCK, NEW, NEW, INCOMING, .offset = OFFSET, .machine = "q35", .n_cpus = 1},
    {"fd", OURS, OLD, OLD, BY_FD, .offset = OFFSET, .machine = RESTORE_PC, .n_cpus = 1},
    {"numa", OURS, OLD, OLD, COMMAND, .stopped = true, .machine = RESTORE_PC, .n_cpus = 1,
     .args = numa, .size = "64M,slots=2,maxmem=1G"},
    {"huge", OURS, OLD, OLD, COMMAND, .machine = RESTORE_PC, .n_cpus = 2, .args = huge},
    {"compressed", OURS, OLD, OLD, COMMAND, .compressed = true, .machine = RESTORE_PC, .n_cpus = 2},
    {"compressed/stopped", OURS, OLD, OLD, COMMAND, .compressed = true, .stopped = true,
     .machine = RESTORE_PC, .n_cpus = 2},
    {"compressed/huge", OURS, OLD, OLD, COMMAND, .compressed = true, .machine = RESTORE_PC,
     .n_cpus = 2, .args = huge},
    {"compressed/stock/10", STOCK, NEW, NEW, INCOMING, .compressed = true, .machine = "q35",
     .n_cpus = 2},
    {"stopped", OURS, OLD, OLD, COMMAND, .stopped = true, .machine = RESTORE_PC, .n_cpus = 2},
    {"stock/stopped", STOCK, NEW, NEW, INCOMING, .stopped = true, .machine = "q35", .n_cpus = 1},
};

static void test_row(gconstpointer data)
{
    const RestoreRow *row = data;
    HugePages *pool = NULL;
    RestoreScene s;

    if (row->args == huge && !(pool = hugepages_new(HUGE_PAGES))) {
        return;
    }

    if (restore_begin(&s, data)) {
        Vm *vm = restore_start_again(&s, NULL);
        Qmp *q = vm_qmp(vm);

        restore_ask(&s, vm, s.path);
        qmp_expect_migration(q, "setup");
        qmp_expect_migration(q, "active");
        qmp_expect_migration(q, "postcopy-active");
        qmp_expect_migration(q, "completed");
        restore_check_info(vm);
        restore_check_restored(&s, vm);
        g_autofree char *said = vm_stderr(vm);
        g_assert_null(strstr(said, "the guests differ"));
        vm_end(vm);
    }
    restore_end(&s);
    hugepages_free(pool);
}

/* ---- a guest that knows its memory ----------------------------------------------------------- */

/* It checks all of it while it comes, and after that; and its disk. */
static void test_linux(void)
{
    const LinuxGuest guest = {
        .ram_kib = 160 * 1024, .n_cpus = 2, .load = "ff.mib=64 ff.mode=random ff.write=80"};
    const char *why = NULL;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *saved = linux_guest_start(&guest, "saved", VM_RUN, NULL);
    g_autofree char *path = vm_path(saved, "file");

    vm_wait_serial(saved, "FF ready");
    qmp_set_capability(vm_qmp(saved), "events", true);
    qmp_ok(vm_qmp(saved), "x-farfault-snapshot", "{'file': '%s'}", path);
    qmp_expect_migration(vm_qmp(saved), "completed");
    Vm *vm = linux_guest_start(&guest, "restored", VM_RUN, "defer");
    qmp_set_capability(vm_qmp(vm), "events", true);
    qmp_ok(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", path);
    qmp_expect_migration(vm_qmp(vm), "postcopy-active");
    linux_guest_assert_intact(vm, "while it comes");
    qmp_expect_migration(vm_qmp(vm), "completed");
    linux_guest_assert_intact(vm, "restored");
    linux_guest_finish(vm);
    linux_guest_finish(saved);
}

/* ---- another QEMU ---------------------------------------------------------------------------- */

/* A device that the saved guest had not is as after a reset: that is said, and of no other. */
static void test_more_devices(void)
{
    static const char *const nic[] = {"-device", "e1000,id=more,addr=9", NULL};
    RestoreRow row = restore_plain;
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        Vm *same = restore_start_again(&s, NULL);
        restore_ask(&s, same, s.path);
        qmp_expect_migration(vm_qmp(same), "completed");
        g_autofree char *nothing = vm_stderr(same);
        g_assert_null(strstr(nothing, "the guests differ"));
        vm_end(same);
        row.args = nic;
        s.row = &row;
        Vm *vm = restore_start_again(&s, NULL);
        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        vm_wait_stderr(vm, "the guests differ: QEMU has e1000 'more' at pci.0/09.0, the saved "
                           "guest nothing there\n");
        restore_check_restored(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

/* ---- two of them ----------------------------------------------------------------------------- */

static void test_two(void)
{
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        Vm *vm[] = {restore_start_again(&s, NULL), restore_start_again(&s, NULL)};

        for (unsigned i = 0; i < G_N_ELEMENTS(vm); i++) {
            restore_ask(&s, vm[i], s.path);
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(vm); i++) {
            qmp_expect_migration(vm_qmp(vm[i]), "completed");
            restore_check_restored(&s, vm[i]);
            vm_end(vm[i]);
        }
    }
    restore_end(&s);
}

/* A restored guest is one as any other: it is saved, and restored again. */
static void test_again(void)
{
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, NULL), *next;
        g_autofree char *path = vm_path(vm, "next");

        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        next = restore_start_again(&s, NULL);
        restore_ask(&s, next, path);
        qmp_expect_migration(vm_qmp(next), "completed");
        restore_check_restored(&s, next);
        vm_end(next);
        restore_check_goes_on(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

/* ---- files that are refused ------------------------------------------------------------------ */

typedef struct {
    const char *name;
    void (*spoil)(RestoreScene *s);
    const char *memory, *machine;
    const char *says;
} Bad;

static void cut_devices(RestoreScene *s)
{
    int fd = open(s->path, O_WRONLY | O_CLOEXEC);
    off_t end = lseek(fd, 0, SEEK_END);

    g_assert_cmpint(ftruncate(fd, end - 100), ==, 0);
    close(fd);
}

static void cut_memory(RestoreScene *s)
{
    g_assert_cmpint(truncate(s->path, 8 << 20), ==, 0);
}

static void hostile(RestoreScene *s)
{
    int fd = open(s->path, O_WRONLY | O_CLOEXEC);

    for (off_t at = 40; at < 200; at += 8) {
        g_assert_cmpint(pwrite(fd, "\377\377\377\377", 4, at), ==, 4);
    }
    close(fd);
}

static void empty(RestoreScene *s)
{
    g_assert_cmpint(truncate(s->path, 0), ==, 0);
}

/* The device's state is of a version that no QEMU has. */
static void newer_device(RestoreScene *s)
{
    static const char timer[] = "\5timer\0\0\0\0\0\0\0\2"; /* name, instance, version */
    g_autofree char *file = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(s->path, &file, &len, NULL));
    char *at = memmem(file, len, timer, sizeof(timer) - 1);
    g_assert_nonnull(at);
    int fd = open(s->path, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(pwrite(fd, "\143", 1, at - file + sizeof(timer) - 2), ==, 1);
    close(fd);
}

static const Bad bad[] = {
    {"version", newer_device, "64M", RESTORE_PC,
     "the saved guest cannot come in: QEMU could not load the device state: savevm: unsupported "
     "version 99 for 'timer' v2; load of migration failed: Invalid argument"},
    {"cut/devices", cut_devices, "64M", RESTORE_PC, "cut"},
    {"cut/memory", cut_memory, "64M", RESTORE_PC, "cut"},
    {"hostile", hostile, "64M", RESTORE_PC, "damaged"},
    {"empty", empty, "64M", RESTORE_PC, "no saved guest"},
    {"smaller", NULL, "32M", RESTORE_PC, "start QEMU as the saved guest was started"},
    {"larger", NULL, "128M", RESTORE_PC, "start QEMU as the saved guest was started"},
    {"machine", NULL, "64M", "pc-q35-7.2", "start it with -machine pc-i440fx-7.2"},
};

/* This QEMU ends, as after every incoming migration that fails, and has said why. */
static void test_bad(gconstpointer data)
{
    const Bad *b = data;
    RestoreRow row = restore_plain;
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        if (b->spoil) {
            b->spoil(&s);
        }
        row.machine = b->machine;
        s.row = &row;
        Vm *vm = restore_start(&s, OLD, true, b->memory, NULL);

        restore_ask(&s, vm, s.path);
        g_assert_cmpint(vm_wait_exit(vm), ==, 1);
        vm_wait_stderr(vm, b->says); /* a QEMU that cannot load ends first */
        g_autofree char *log = vm_stderr(vm);
        const char *qemus = strstr(log, "Not a migration stream");
        if (qemus) {
            g_assert_true(strstr(log, "the saved guest cannot come in: ") < qemus);
            g_assert_true(strstr(log, "(ignore its next lines)") < qemus);
        }
        g_assert_null(strstr(log, "restore failed"));
        vm_end(vm);
    }
    restore_end(&s);
}

static void test_no_file(void)
{
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, NULL);
        g_autofree char *why =
            qmp_error(vm_qmp(vm), "x-farfault-restore", "{'file': '/nowhere/file'}");

        g_assert_cmpstr(why, ==, "/nowhere/file: No such file or directory");
        /* And nothing has begun. */
        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        restore_check_restored(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

/* ---- farfault restore ------------------------------------------------------------------------ */

static void test_cli(void)
{
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        const char *args[] = {"-machine", RESTORE_PC, "-smp", "2", NULL};
        Vm *vm = vm_start(&(VmConfig){.name = "restored",
                                      .launcher = VM_RUN,
                                      .qemu = "qemu-system-x86_64",
                                      .memory = G_STRINGIFY(RESTORE_RAM_MIB) "M",
                                      .args = args,
                                      .boot = &s.boot,
                                      .restore = s.path});
        g_autofree char *says = g_strdup_printf("%s: restored: guest ran after ", s.path);

        vm_wait_stderr(vm, says);
        restore_check_info(vm);
        restore_check_restored(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

/* A QEMU that waits, before it begins, until somebody writes to the FIFO GO (g_free). */
static char *held_qemu(RestoreScene *s, const char *go)
{
    /* Not when it is asked what it takes (guest/launch/takes.c). */
    g_autofree char *text = g_strdup_printf("#!/bin/sh\ncase \"$*\" in *'-machine none'*) ;; *)\n"
                                            "read x <%s;; esac\n"
                                            "exec qemu-system-x86_64 \"$@\"\n",
                                            go);
    char *path = vm_path(s->saved, "held-qemu");

    g_assert_cmpint(mkfifo(go, 0600), ==, 0);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_assert_cmpint(chmod(path, 0700), ==, 0);
    return path;
}

/* Reads lines of what it says until one has TEXT. */
static void await_line(FILE *said, const char *text)
{
    char line[1024];

    do {
        if (!fgets(line, sizeof(line), said)) {
            g_error("it has ended, and did not say '%s'", text);
        }
        g_test_message("%s", line);
    } while (!strstr(line, text));
}

/* farfault restore by hand, with QEMU and, at the end of its command line, MORE (or NULL). What it
 * says. */
static FILE *run_restore(const RestoreScene *s, const char *qemu, const char *more, GPid *pid)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *disk = vm_path(s->saved, "late-disk");
    g_autofree char *drive = g_strdup_printf("if=none,id=disk0,file=%s,format=raw", disk);
    g_autoptr(GError) error = NULL;
    int err;

    bootsect_write(&s->boot, disk);
    const char *const argv[] = {
        farfault,  "restore",     s->path,    "--",
        qemu,      "-nodefaults", "-display", "none",
        "-accel",  "tcg",         "-machine", RESTORE_PC,
        "-smp",    "2",           "-m",       G_STRINGIFY(RESTORE_RAM_MIB) "M",
        "-drive",  drive,         "-device",  "ide-hd,drive=disk0,secs=1,cyls=1,heads=1",
        "-serial", "null",        more,       NULL};
    g_auto(GStrv) env =
        g_environ_setenv(g_get_environ(), "FARFAULT_DEADLINES", "own-greeting=1", TRUE);
    g_spawn_async_with_pipes(NULL, (char **)argv, env, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, pid,
                             NULL, NULL, &err, &error);
    g_assert_no_error(error);
    return fdopen(err, "r");
}

static void end_restore(FILE *said, GPid pid, int signal)
{
    int status;

    kill(pid, signal);
    while (fgetc(said) != EOF) { /* the process beside it has ended, too */
    }
    fclose(said);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
}

/* With -S the guest waits, and what lets it run is named. */
static void test_stands(void)
{
    RestoreScene s;
    GPid pid;

    if (!restore_begin_plain(&s)) {
        return;
    }
    FILE *said = run_restore(&s, "qemu-system-x86_64", "-S", &pid);
    await_line(said, "restored: guest stands (");
    end_restore(said, pid, SIGTERM);
    restore_end(&s);
}

/* It greets later than usual, and is waited for: or for nothing, if it is KILLED. */
static void late(bool killed)
{
    RestoreScene s;
    GPid pid;

    if (!restore_has_faults() || !restore_begin_plain(&s)) {
        return;
    }
    g_autofree char *go = vm_path(s.saved, "go"), *qemu = held_qemu(&s, go);
    FILE *said = run_restore(&s, qemu, NULL, &pid);

    await_line(said, "the restored QEMU has not greeted for ");
    if (!killed) {
        int fd = open(go, O_WRONLY | O_CLOEXEC);

        g_assert_cmpint(write(fd, "\n", 1), ==, 1);
        close(fd);
        await_line(said, "restored: guest ran after ");
    }
    end_restore(said, pid, killed ? SIGKILL : SIGTERM);
    unlink(go);
    unlink(qemu);
    restore_end(&s);
}

static void test_cli_late(void)
{
    late(false);
}

static void test_cli_never(void)
{
    late(true);
}

/* Among the pages that the guest writes, and not seen by size or time. */
static void damage(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct timespec times[2];
    struct stat st;
    uint8_t byte;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(pread(fd, &byte, 1, st.st_size / 8), ==, 1);
    byte ^= 0x10;
    g_assert_cmpint(pwrite(fd, &byte, 1, st.st_size / 8), ==, 1);
    times[0] = st.st_atim;
    times[1] = st.st_mtim;
    g_assert_cmpint(futimens(fd, times), ==, 0);
    close(fd);
}

/* A frame that does not fit its checksum is no memory: the guest waits for it, until there is a
 * file in which it does. */
static void test_damaged(void)
{
    static const RestoreRow row = {
        "compressed/damaged",  OURS,       OLD, OLD, COMMAND, .compressed = true,
        .machine = RESTORE_PC, .n_cpus = 2};
    RestoreScene s;

    if (restore_begin(&s, &row)) {
        g_autofree char *good = g_strconcat(s.path, ".good", NULL);
        const char *const argv[] = {"cp", "-p", s.path, good, NULL};
        int status;

        g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                                   NULL, &status, NULL));
        g_assert_cmpint(status, ==, 0);
        damage(s.path);
        Vm *vm = restore_start_again(&s, NULL);
        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, s.path));
        g_assert_nonnull(strstr(why, "damaged"));
        restore_recovers(&s, vm, good);
        vm_end(vm);
        unlink(good);
    }
    restore_end(&s);
}

/* ARGS (one string, FILE for the file): one line, this exit status, and no QEMU. */
static void refused(const RestoreScene *s, const char *args, int status, const char *says)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_auto(GStrv) words = g_strsplit(args, " ", -1);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autofree char *err = NULL;
    int got;

    g_ptr_array_add(argv, farfault);
    g_ptr_array_add(argv, (char *)"restore");
    for (char **w = words; *w; w++) {
        g_ptr_array_add(argv, strcmp(*w, "FILE") ? *w : s->path);
    }
    g_ptr_array_add(argv, NULL);
    g_assert_true(g_spawn_sync(NULL, (char **)argv->pdata, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                               NULL, NULL, &err, &got, NULL));
    g_assert_true(WIFEXITED(got));
    g_assert_cmpint(WEXITSTATUS(got), ==, status);
    if (!strstr(err, says) || strchr(err, '\n') != err + strlen(err) - 1) {
        g_error("'%s' is not one line with '%s'", err, says);
    }
}

static void test_cli_refused(void)
{
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        refused(&s, "FILE", 2, "after --, the QEMU");
        refused(&s, "FILE qemu-system-x86_64 -machine pc", 2, "put -- in front");
        refused(&s, "FILE -- qemu-system-x86_64 -incoming defer", 2, "leave -incoming");
        refused(&s, "--offset x FILE -- qemu-system-x86_64", 2, "--offset");
        refused(&s, "--ofset 1 FILE -- qemu-system-x86_64", 2, "--offset");
        refused(&s, "/nowhere/file -- qemu-system-x86_64", 1, "No such file");
        refused(&s, "--offset 4096 FILE -- qemu-system-x86_64", 1, "no saved guest");
        cut_memory(&s);
        refused(&s, "FILE -- qemu-system-x86_64", 1, "cut");
    }
    restore_end(&s);
}

/* The printed command, while the guest that it was printed for still runs, has its sockets. */
static void test_cli_taken(void)
{
    RestoreScene s;

    if (!restore_begin_plain(&s)) {
        return;
    }
    Vm *vm =
        vm_start_pc((VmConfig){.name = "runs", .memory = "24M", .boot = &s.boot, .listens = true});
    g_autofree char *server = vm_path(vm, "server"), *human = vm_path(vm, "human");
    g_autofree char *says = g_strdup_printf("process %d listens there: end that guest", vm_pid(vm));
    g_autofree char *relays = g_strdup_printf(
        "FILE -- qemu-system-x86_64 -nodefaults -qmp unix:%s,server=on,wait=off", server);
    g_autofree char *own = g_strdup_printf(
        "FILE -- qemu-system-x86_64 -nodefaults -serial unix:%s,server,nowait", human);
    g_autofree char *chardev = g_strdup_printf(
        "FILE -- qemu-system-x86_64 -chardev socket,id=a,path=%s,server=on,wait=off", human);

    refused(&s, relays, 1, says);
    refused(&s, own, 1, says);
    refused(&s, chardev, 1, says);
    vm_reconnect(vm);
    qmp_ok(vm_qmp(vm), "query-status", NULL);
    vm_end(vm);
    restore_end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/restore/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/restore/compressed/damaged", test_damaged);
    g_test_add_func("/restore/linux", test_linux);
    g_test_add_func("/restore/more-devices", test_more_devices);
    g_test_add_func("/restore/two", test_two);
    g_test_add_func("/restore/again", test_again);
    g_test_add_func("/restore/no-file", test_no_file);
    g_test_add_func("/restore/cli", test_cli);
    g_test_add_func("/restore/cli-stands", test_stands);
    g_test_add_func("/restore/cli-late", test_cli_late);
    g_test_add_func("/restore/cli-never", test_cli_never);
    g_test_add_func("/restore/cli-refused", test_cli_refused);
    g_test_add_func("/restore/cli-taken", test_cli_taken);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *path = g_strconcat("/restore/bad/", bad[i].name, NULL);
        g_test_add_data_func(path, &bad[i], test_bad);
    }
    int rc = g_test_run();
    restore_rig_end();
    return rc;
}
