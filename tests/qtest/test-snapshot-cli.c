/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault snapshot with real guests: what it writes is restored by stock QEMU and every counter is
 * right there; what goes wrong is said in one line, leaves no file, and the guest continues.
 *
 * QEMU 10 is that of vm_newer_qemu().
 */
#include "tests/lib/check.h"
#include "tests/lib/hold.h"
#include "tests/lib/snapshotcli.h"
#include "tests/lib/vm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RAM_MIB 64
#define BUSY_MIB 24
#define SLOW "65536" /* bytes per second: longer than any test lasts */

static const char *const plain_args[] = {"-machine", "pc-i440fx-7.2", "-smp", "2", NULL};

/* NULL, and the test is skipped. */
static Vm *start_with(const BootsectConfig *boot, const char *const *args, VmLauncher launcher)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    Vm *vm = vm_start(&(VmConfig){.name = "saved",
                                  .launcher = launcher,
                                  .qemu = "qemu-system-x86_64",
                                  .memory = G_STRINGIFY(RAM_MIB) "M",
                                  .args = args,
                                  .boot = boot,
                                  .listens = true});
    vm_wait_serial(vm, "AB");
    return vm;
}

static BootsectConfig boot_config(void)
{
    return bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2);
}

static Vm *start(const BootsectConfig *boot)
{
    Vm *vm = start_with(boot, plain_args, VM_RUN);

    if (vm) {
        qmp_set_capability(vm_qmp(vm), "events", true);
    }
    return vm;
}

/* It runs, and has never seen a wrong counter. */
static void check_goes_on(Vm *vm, const BootsectConfig *boot)
{
    vm_wait_new_serial(vm, "B");
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, boot));
    qmp_ok(vm_qmp(vm), "cont", NULL);
    vm_wait_new_serial(vm, "B");
}

static char *monitor_of(Vm *vm)
{
    return vm_path(vm, "server");
}

/* ---- what it writes -------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    bool newer, tcp; /* restored by QEMU 10; through a TCP monitor */
    const char *args[7];
    uint64_t offset; /* of ARGS */
    bool compressed;
} Row;

static const Row rows[] = {
    {"mapped", .newer = true},
    {"mapped-offset", .newer = true, .args = {"--offset", "68K"}, .offset = 68 << 10},
    {"mapped-one-page", .newer = true, .args = {"--buffer", "4096"}},
    {"mapped-compressed", .newer = true, .args = {"--compress"}, .compressed = true},
    {"mapped-tcp", .newer = true, .tcp = true},
    {"stream", .args = {"--format", "stream"}},
    {"stream-offset", .args = {"--format", "stream", "--offset", "100"}, .offset = 100},
    {"stream-no-buffer", .args = {"--format", "stream", "--buffer", "0"}},
};

static bool is_stream(const Row *row)
{
    return row->args[0] && !strcmp(row->args[0], "--format");
}

static void check_restored(const Row *row, const char *qemu, const BootsectConfig *boot,
                           const char *path)
{
    g_autofree char *uri =
        is_stream(row)
            ? g_strdup_printf("exec:tail -c +%" G_GUINT64_FORMAT " %s", row->offset + 1, path)
            : g_strdup_printf("file:%s,offset=%" G_GUINT64_FORMAT, path, row->offset);
    Vm *vm = vm_start(&(VmConfig){.name = "restored",
                                  .qemu = qemu,
                                  .memory = G_STRINGIFY(RAM_MIB) "M",
                                  .args = plain_args,
                                  .boot = boot,
                                  .incoming = "defer"});

    qmp_set_capability(vm_qmp(vm), "events", true);
    if (!is_stream(row)) {
        qmp_set_capability(vm_qmp(vm), "mapped-ram", true);
    }
    qmp_ok(vm_qmp(vm), "migrate-incoming", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(vm), "completed");
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, boot));
    qmp_ok(vm_qmp(vm), "cont", NULL);
    check_goes_on(vm, boot);
    vm_end(vm);
}

static void check_said(const char *out, const char *path)
{
    const char *const parts[] = {": complete\n", "total time", "guest stood",
                                 "written",      "writes",     "restore      "};

    g_assert_true(g_str_has_prefix(out, path));
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        if (!strstr(out, parts[i])) {
            test_fail("it does not say '%s': %s", parts[i], out);
        }
    }
}

static bool has_events(Qmp *q)
{
    g_autoptr(JsonObject) answer = qmp_call(q, "query-migrate-capabilities", NULL);
    JsonArray *list = json_object_get_array_member(answer, "return");

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *one = json_array_get_object_element(list, i);

        if (!strcmp(json_object_get_string_member(one, "capability"), "events")) {
            return json_object_get_boolean_member(one, "state");
        }
    }
    g_assert_not_reached();
}

static unsigned free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&a, &len), ==, 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void check_file(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    g_assert_cmpint(st.st_blocks * 512, >, BUSY_MIB << 20);
}

/* By what everybody has: PATH is the plain file afterwards. */
static void unpack(const char *path)
{
    g_autofree char *packed = g_strconcat(path, ".zst", NULL);
    const char *const argv[] = {"zstd", "-d", "-q", "--sparse", packed, "-o", path, NULL};
    g_autoptr(GError) error = NULL;
    int status;

    g_assert_cmpint(g_rename(path, packed), ==, 0);
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status,
                 &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
    g_assert_cmpint(g_unlink(packed), ==, 0);
    g_assert_cmpint(g_chmod(path, 0600), ==, 0);
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    g_autofree char *newer = row->newer ? vm_newer_qemu() : NULL;

    if (row->newer && !newer) {
        return;
    }
    BootsectConfig boot = boot_config();
    g_autofree char *tcp = g_strdup_printf("tcp:127.0.0.1:%u", free_port());
    g_autofree char *listens = g_strconcat(tcp, ",server=on,wait=off", NULL);
    const char *args[] = {"-machine", "pc-i440fx-7.2", "-smp", "2", "-qmp", listens, NULL};
    Vm *vm = start_with(&boot, args, VM_RUN);
    if (!vm) {
        return;
    }
    g_autofree char *path = vm_path(vm, "file");
    g_autofree char *monitor = row->tcp ? g_strdup(tcp) : monitor_of(vm);
    /* The parameter would have it last for ever. */
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-bandwidth': " SLOW "}");
    Cli cli = cli_start(monitor, path, row->args, NULL, NULL);
    g_autofree char *out = cli_succeeds(&cli);

    check_said(out, path);
    if (row->compressed) {
        unpack(path);
    }
    check_file(path);
    g_autoptr(JsonObject) now = qmp_return(vm_qmp(vm), "query-migrate-parameters", NULL);
    g_assert_cmpint(json_object_get_int_member(now, "max-bandwidth"), ==, atoi(SLOW));
    g_assert_false(has_events(vm_qmp(vm)));
    check_restored(row, newer ? newer : "qemu-system-x86_64", &boot, path);
    check_goes_on(vm, &boot);
    vm_end(vm);
}

static void test_paused(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *path = vm_path(vm, "file"), *monitor = monitor_of(vm);
    qmp_ok(vm_qmp(vm), "stop", NULL);
    Cli cli = cli_start(monitor, path, NULL, NULL, NULL);
    g_autofree char *out = cli_succeeds(&cli);

    g_assert_nonnull(strstr(out, "it was paused"));
    g_assert_false(qmp_has_event(vm_qmp(vm), "RESUME"));
    g_assert_true(has_events(vm_qmp(vm)));
    qmp_ok(vm_qmp(vm), "cont", NULL);
    check_goes_on(vm, &boot);
    vm_end(vm);
}

/* ---- it is interrupted ----------------------------------------------------------------------- */

static const char *const slowly[] = {"--max-bandwidth", SLOW, NULL};

/* The guest runs again, and its old memory is being written. */
static Cli start_slowly(Vm *vm, const char *monitor, const char *path)
{
    Cli cli = cli_start(monitor, path, slowly, NULL, NULL);

    qmp_expect_migration(vm_qmp(vm), "active");
    qmp_expect(vm_qmp(vm), "RESUME");
    return cli;
}

/* The next one is as good as any. */
static void check_next(Vm *vm, const char *monitor, const BootsectConfig *boot)
{
    g_autofree char *path = vm_path(vm, "next");
    Cli cli = cli_start(monitor, path, NULL, NULL, NULL);
    g_autofree char *out = cli_succeeds(&cli);

    check_said(out, path);
    check_goes_on(vm, boot);
}

static void test_signal(gconstpointer data)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *folder = folder_new();
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    Cli cli = start_slowly(vm, monitor, path);

    assert_empty(folder);
    kill(cli.pid, GPOINTER_TO_INT(data));
    cli_fails(&cli, "the snapshot was cancelled; no file is left");
    qmp_expect_migration(vm_qmp(vm), "cancelled");
    folder_free(g_steal_pointer(&folder));
    check_goes_on(vm, &boot);
    check_next(vm, monitor, &boot);
    vm_end(vm);
}

/* Somebody else cancels. */
static void test_cancelled(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *folder = folder_new();
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    Cli cli = start_slowly(vm, monitor, path);

    qmp_ok(vm_qmp(vm), "migrate_cancel", NULL);
    cli_fails(&cli, "cancelled by another client");
    folder_free(g_steal_pointer(&folder));
    check_goes_on(vm, &boot);
    vm_end(vm);
}

/* The file would have got its name from it: the engine does not write on for nobody. */
static void test_killed(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *folder = folder_new();
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    g_autofree char *out = NULL, *err = NULL;
    Cli cli = start_slowly(vm, monitor, path);

    kill(cli.pid, SIGKILL);
    cli_end(&cli, &out, &err);
    qmp_expect_migration(vm_qmp(vm), "cancelled");
    check_goes_on(vm, &boot);
    folder_free(g_steal_pointer(&folder));
    check_next(vm, monitor, &boot);
    vm_end(vm);
}

static void test_quit(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *folder = folder_new();
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    Cli cli = start_slowly(vm, monitor, path);

    vm_kill(vm);
    cli_fails(&cli, "the monitor was closed");
    folder_free(g_steal_pointer(&folder));
    vm_end(vm);
}

static void check_status(const char *monitor)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *out = NULL;
    char *argv[] = {farfault, (char *)"status", (char *)monitor, NULL};

    g_assert_true(g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, &out, NULL, NULL, NULL));
    g_assert_nonnull(strstr(out, "live snapshot is being taken (active)\n"));
}

static void test_under_way(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *folder = folder_new();
    g_autofree char *path = g_build_filename(folder, "file", NULL);

    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-bandwidth': " SLOW "}");
    g_autofree char *other = vm_path(vm, "other");
    qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", other);
    qmp_expect_migration(vm_qmp(vm), "active");
    Cli cli = cli_start(monitor, path, NULL, NULL, NULL);
    cli_fails(&cli, "another snapshot is under way");
    check_status(monitor);
    qmp_ok(vm_qmp(vm), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(vm), "cancelled");
    folder_free(g_steal_pointer(&folder));
    check_goes_on(vm, &boot);
    vm_end(vm);
}

static void test_there_already(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *path = vm_path(vm, "file"), *content = NULL;

    g_assert_true(g_file_set_contents(path, "mine", 4, NULL));
    Cli cli = cli_start(monitor, path, NULL, NULL, NULL);
    cli_fails(&cli, "is there already, and no file is replaced");
    g_assert_true(g_file_get_contents(path, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, "mine");
    const char *const record[] = {"--record", vm_dir(vm), NULL};
    g_autofree char *below = g_build_filename(path, "below", NULL);
    cli = cli_start(monitor, below, NULL, NULL, NULL);
    cli_fails(&cli, "there is no folder");
    cli = cli_start(monitor, vm_dir(vm), NULL, NULL, NULL);
    cli_fails(&cli, ": is a folder: give the name of a new file in it");
    cli = cli_start(monitor, path, record, NULL, NULL);
    cli_fails(&cli, ": is a folder: give the name of a new file in it");
    check_goes_on(vm, &boot);
    vm_end(vm);
}

/* Somebody makes a file of that name meanwhile. */
static void test_taken_meanwhile(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *path = vm_path(vm, "file"), *content = NULL;
    Cli cli = start_slowly(vm, monitor, path);

    g_assert_true(g_file_set_contents(path, "mine", 4, NULL));
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
    cli_fails(&cli, "is there already, and no file is replaced");
    g_assert_true(g_file_get_contents(path, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, "mine");
    check_goes_on(vm, &boot);
    vm_end(vm);
}

/* It stands there: "asking", it has looked whether anything is under way, and has not asked for its
 * own; "compressing", the guest has its memory for itself again. */
static Cli start_held(Vm *vm, const char *monitor, const char *path, const char *where)
{
    g_autofree char *faults = g_strdup_printf("%s;*/*/at/%s=hold", vm_dir(vm), where);
    const char *args[] = {!strcmp(where, "compressing") ? "--compress" : NULL, NULL};

    hold_make(vm);
    g_setenv("FARFAULT_FAULTS", faults, TRUE);
    Cli cli = cli_start(monitor, path, args, NULL, NULL);
    g_unsetenv("FARFAULT_FAULTS");
    hold_wait(vm);
    return cli;
}

/* Another client's comes and goes in that time: its end is not that of ours. */
static void test_another_meanwhile(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *path = vm_path(vm, "file");
    g_autofree char *other = vm_path(vm, "other");
    Cli cli = start_held(vm, monitor, path, "asking");

    qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", other);
    qmp_expect_migration(vm_qmp(vm), "completed");
    hold_let_go(vm);
    g_autofree char *out = cli_succeeds(&cli);
    check_said(out, path);
    check_file(path);
    check_goes_on(vm, &boot);
    vm_end(vm);
}

/* The snapshot is complete, and its file is not. */
static void test_compressing(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *folder = folder_new();
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    Cli cli = start_held(vm, monitor, path, "compressing");

    g_assert_cmpint(kill(cli.pid, SIGTERM), ==, 0);
    hold_let_go(vm);
    cli_fails(&cli, "no file is left, and the guest continues: compressing it: interrupted");
    folder_free(g_steal_pointer(&folder));
    check_goes_on(vm, &boot);
    vm_end(vm);
}

/* Nobody tells it of the end. */
static void test_without_events(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    qmp_set_capability(vm_qmp(vm), "events", true);
    g_autofree char *monitor = monitor_of(vm), *path = vm_path(vm, "file");
    Cli cli = start_held(vm, monitor, path, "asking");

    qmp_set_capability(vm_qmp(vm), "events", false);
    hold_let_go(vm);
    g_autofree char *out = cli_succeeds(&cli);
    g_assert_nonnull(strstr(out, "complete"));
    check_file(path);
    check_goes_on(vm, &boot);
    vm_end(vm);
}

/* Root without the right to write everywhere; of other users it is no right to lose. */
static void lose_override(void *opaque)
{
    prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0);
}

static void test_unwritable(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *folder = folder_new();
    g_autofree char *path = g_build_filename(folder, "file", NULL);

    g_assert_cmpint(g_chmod(folder, 0500), ==, 0);
    Cli cli = cli_start(monitor, path, NULL, lose_override, NULL);
    cli_fails(&cli, "you may not make a file in");
    folder_free(g_steal_pointer(&folder));
    check_goes_on(vm, &boot);
    vm_end(vm);
}

static void test_stock(void)
{
    BootsectConfig boot = boot_config();
    Vm *vm = start_with(&boot, plain_args, VM_PLAIN);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *folder = folder_new();
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    Cli cli = cli_start(monitor, path, NULL, NULL, NULL);

    cli_fails(&cli, "no farfault has this monitor");
    g_assert_false(has_events(vm_qmp(vm)));
    folder_free(g_steal_pointer(&folder));
    check_goes_on(vm, &boot);
    vm_end(vm);
}

/* Command lines that make no sense, without a guest. */
static void test_usage(void)
{
    static const struct {
        const char *args[4], *part;
    } row[] = {
        {{"--format", "tar"}, "--format mapped-ram or --format stream"},
        {{"--buffer", "much"}, "--buffer much: give a number of bytes"},
        {{"--max-bandwidth", "-1"}, "--max-bandwidth -1: give a number of bytes"},
        {{"--offset", "1x"}, "--offset 1x: give a number of bytes"},
        {{"--bufer", "1"}, "did you mean \"--buffer\"?"},
        {{"third"}, "give a QMP address and a file"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(row); i++) {
        Cli cli = cli_start("/no/monitor", "/no/file", row[i].args, NULL, NULL);
        g_autofree char *out = NULL, *err = NULL;
        int status = cli_end(&cli, &out, &err);

        g_assert_true(WIFEXITED(status));
        g_assert_cmpint(WEXITSTATUS(status), ==, 2);
        g_assert_nonnull(strstr(err, row[i].part));
    }
    Cli cli = cli_start("/no/monitor", "/no/file", NULL, NULL, NULL);
    cli_fails(&cli, "no such socket");
}

/* ---- the disk is full ------------------------------------------------------------------------ */

typedef struct {
    const char *folder, *options;
} Disk;

/* Its own file system, which nobody else sees. */
static void mount_disk(void *opaque)
{
    const Disk *d = opaque;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("fs", d->folder, "tmpfs", 0, d->options) < 0) {
        _exit(77);
    }
}

/* What is left of the file system is written full, through the process that has it. */
static void fill(const Cli *cli, const char *folder)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/root%s/rest", (int)cli->pid, folder);
    static char block[64 << 10];
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    while (write(fd, block, sizeof(block)) > 0) {
    }
    g_assert_cmpint(errno, ==, ENOSPC);
    close(fd);
}

static void test_full(gconstpointer data)
{
    const char *options = data; /* NULL: room enough at first, none later */
    BootsectConfig boot = boot_config();
    if (geteuid() != 0) {
        g_test_skip("may not mount");
        return;
    }
    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *folder = folder_new();
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    Disk disk = {folder, options ? options : "size=128m"};
    Cli cli = cli_start(monitor, path, options ? NULL : slowly, mount_disk, &disk);

    if (options) {
        g_autofree char *part = g_strconcat(path, ": the guest has ", NULL);
        cli_fails(&cli, part);
    } else {
        qmp_expect(vm_qmp(vm), "RESUME");
        fill(&cli, folder);
        qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
        g_autofree char *part = g_strconcat(path, ": writing: No space left on device", NULL);
        cli_fails(&cli, part);
    }
    qmp_expect_migration(vm_qmp(vm), "failed");
    /* The file that the engine got as an open one is named. */
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    g_assert_true(g_str_has_prefix(json_object_get_string_member(info, "error-desc"), path));
    folder_free(g_steal_pointer(&folder));
    check_goes_on(vm, &boot);
    check_next(vm, monitor, &boot);
    vm_end(vm);
}

/* Its words cannot be written: that is no success, whatever became of the file. */
static void test_dev_full(void)
{
    BootsectConfig boot = boot_config();
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autoptr(GError) error = NULL;
    int status;

    Vm *vm = start(&boot);
    if (!vm) {
        return;
    }
    g_autofree char *monitor = monitor_of(vm), *file = vm_path(vm, "file"), *err = NULL;
    const char *const argv[] = {"/bin/sh", "-c",    "exec \"$0\" snapshot \"$1\" \"$2\" >/dev/full",
                                farfault,  monitor, file,
                                NULL};
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, &err, &status,
                 &error);
    g_assert_no_error(error);
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    g_assert_nonnull(strstr(err, "No space left on device"));
    check_goes_on(vm, &boot);
    vm_end(vm);
}

int main(int argc, char **argv)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    g_test_init(&argc, &argv, NULL);
    /* The command inherits what is ignored: of a job in the background, or of nohup. */
    for (unsigned i = 0; i < G_N_ELEMENTS(signals); i++) {
        g_autofree char *path = g_strdup_printf("/snapshot-cli/signal/%s", strsignal(signals[i]));

        signal(signals[i], SIG_DFL);
        g_test_add_data_func(path, GINT_TO_POINTER(signals[i]), test_signal);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/snapshot-cli/file/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/snapshot-cli/dev-full", test_dev_full);
    g_test_add_func("/snapshot-cli/paused", test_paused);
    g_test_add_func("/snapshot-cli/cancelled", test_cancelled);
    g_test_add_func("/snapshot-cli/killed", test_killed);
    g_test_add_func("/snapshot-cli/quit", test_quit);
    g_test_add_func("/snapshot-cli/under-way", test_under_way);
    g_test_add_func("/snapshot-cli/there-already", test_there_already);
    g_test_add_func("/snapshot-cli/taken-meanwhile", test_taken_meanwhile);
    g_test_add_func("/snapshot-cli/another-meanwhile", test_another_meanwhile);
    g_test_add_func("/snapshot-cli/compressing", test_compressing);
    g_test_add_func("/snapshot-cli/without-events", test_without_events);
    g_test_add_func("/snapshot-cli/unwritable", test_unwritable);
    g_test_add_func("/snapshot-cli/stock", test_stock);
    g_test_add_func("/snapshot-cli/usage", test_usage);
    g_test_add_data_func("/snapshot-cli/full", NULL, test_full);
    g_test_add_data_func("/snapshot-cli/no-room", "size=4m", test_full);
    return g_test_run();
}
