/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts, watches and reaps QEMU processes for tests.
 *
 * The test program is a child subreaper: relay and engine, which are no children of QEMU, become
 * its children when their own parents end. So what is left over after the last VM ended is
 * exactly the set of its children. A report of a sanitizer in the stderr of any of them fails the
 * test. One thread.
 */
#include "tests/lib/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct Vm {
    char *name, *dir;
    pid_t pid; /* 0 once reaped */
    int pidfd;
    int status; /* as of vm_wait_exit() */
    bool expected_end, ram_changes;
    bool has_come; /* its guest did not begin in it */
    bool has_ring3;
    Ring3 ring3;
    GHashTable *known; /* names of files in DIR that are the test's */
    Qmp *qmp;
    Qtest *qtest;
    Stream *serial;
};

/* Seconds in which relay and engine must be gone once QEMU is. */
enum { LEFTOVER_SECONDS = 10 };

/* Of a failed test: a QEMU that has closed its QMP ends within so long; bytes of its console. */
enum { ENDS_MS = 1000, SAID_BYTES = 6000 };

static GPtrArray *live; /* Vm * */

/* A QEMU that is not there any more: its end, and what its guest has said last. */
static void show_end(Vm *vm)
{
    struct pollfd p = {.fd = vm->pidfd, .events = POLLIN};
    siginfo_t info;

    if (!vm->pid || poll(&p, 1, ENDS_MS) <= 0 ||
        waitid(P_PID, vm->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || !info.si_pid)
        return;
    g_printerr("# %s: QEMU ended (%s %d), its guest %s\n", vm->name,
               info.si_code == CLD_EXITED ? "exit status" : "signal", info.si_status,
               vm->has_come ? "had come from elsewhere" : "had begun in it");
    const char *said = vm->serial ? stream_rest(vm->serial) : "";
    g_printerr("%s%s\n", *said ? "# its guest's console, the end:\n" : "",
               said + MAX(0, (gssize)strlen(said) - SAID_BYTES));
}

static void show_all(void)
{
    for (unsigned i = 0; live && i < live->len; i++) {
        Vm *vm = live->pdata[i];
        g_autofree char *text = vm_stderr(vm);
        if (*text)
            g_printerr("# stderr of %s:\n%s\n", vm->name, text);
        show_end(vm);
    }
}

char *vm_listed(pid_t pid)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *text = NULL;
    g_autofree char *begin = g_strdup_printf("process %d: ", (int)pid);
    char *argv[] = {farfault, (char *)"status", NULL};
    g_autoptr(GError) error = NULL;
    int status;

    g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, &text, NULL, &status, &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
    const char *line = strstr(text, begin);
    g_assert_nonnull(line);
    line += strlen(begin);
    return g_strndup(line, strcspn(line, "\n"));
}

char *vm_build_path(const char *relative)
{
    const char *build = g_getenv("FF_BUILD");
    if (!build)
        test_fail("FF_BUILD is not set: run this with meson test, or set it to the build folder");
    return g_build_filename(build, relative, NULL);
}

bool vm_farfault_available(const char **why)
{
    static const char *const parts[] = {"cli/farfault", "guest/relay/farfault-relay",
                                        "engine/farfault-engine", "guest/agent/farfault-agent.so"};
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        g_autofree char *path = vm_build_path(parts[i]);
        if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
            g_autofree char *text = g_strconcat(parts[i], " is not in the build folder", NULL);
            *why = g_intern_string(text);
            return false;
        }
    }
    return true;
}

bool vm_faults_available(const char **why)
{
#ifdef FF_FAULTS
    return vm_farfault_available(why);
#else
    *why = "this build has no fault points: meson configure -Dfaults=true";
    return false;
#endif
}

static int listen_at(Vm *vm, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_autofree char *path = vm_path(vm, name);
    g_assert_cmpuint(strlen(path), <, sizeof address.sun_path);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4))
        test_fail("%s: %s", path, g_strerror(errno));
    return fd;
}

static void reap(Vm *vm)
{
    int status;
    g_assert_cmpint(waitpid(vm->pid, &status, 0), ==, vm->pid);
    vm->pid = 0;
    vm->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* What killed it, if anything did, is not in its stderr. */
G_NORETURN static void fail_early_end(Vm *vm, const char *what)
{
    reap(vm);
    g_autofree char *text = vm_stderr(vm);
    test_fail("%s: QEMU ended (%s %d) before it connected its %s socket, %s", vm->name,
              vm->status < 0 ? "signal" : "exit status", ABS(vm->status), what,
              *text ? "and said why on stderr" : "and said nothing on stderr");
}

/* Accepts one connection; QEMU's end before that fails the test. Closes LISTENER. */
static int accept_from(Vm *vm, int listener, const char *what)
{
    struct pollfd p[] = {{.fd = listener, .events = POLLIN}, {.fd = vm->pidfd, .events = POLLIN}};
    int n;
    do
        n = poll(p, 2, TEST_TIMEOUT * 1000);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        test_fail("%s: poll: %s", vm->name, g_strerror(errno));
    if (n == 0)
        test_fail("%s: too much time went by before it connected its %s socket", vm->name, what);
    if (!(p[0].revents & POLLIN))
        fail_early_end(vm, what);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        test_fail("%s: accept: %s", vm->name, g_strerror(errno));
    close(listener);
    return fd;
}

static void add(GPtrArray *argv, const char *first, ...)
{
    va_list args;
    va_start(args, first);
    for (const char *arg = first; arg; arg = va_arg(args, const char *))
        g_ptr_array_add(argv, g_strdup(arg));
    va_end(args);
}

static const char *qemu_binary(void)
{
    const char *qemu = g_getenv("FF_QEMU");
    return qemu ? qemu : "qemu-system-x86_64";
}

bool vm_is_qemu(const char *qemu, const char *number)
{
    char *argv[] = {(char *)qemu, (char *)"--version", NULL};
    g_autofree char *text = NULL, *wanted = g_strconcat("version ", number, NULL);
    int status = -1;

    return g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &text, NULL, &status,
                        NULL) &&
           !status && strstr(text, wanted);
}

bool vm_is_tests_qemu(const char *number)
{
    return vm_is_qemu(qemu_binary(), number);
}

const char *vm_runas(const char *user, char **word)
{
    bool old = vm_is_tests_qemu("7.");

    *word = g_strconcat(old ? "" : "user=", user, NULL);
    return old ? "-runas" : "-run-with";
}

char *vm_qemu(unsigned major)
{
    g_autofree char *variable = g_strdup_printf("FF_QEMU%u", major);
    g_autofree char *number = g_strdup_printf("%u.", major);
    const char *given = g_getenv(variable);
    g_autofree char *path = given ? g_strdup(given)
                                  : g_strdup_printf("%s/.cache/qemu%u/qemu-system-x86_64",
                                                    g_getenv("FF_SOURCE"), major);

    if (vm_is_qemu(path, given ? "" : number)) {
        return g_steal_pointer(&path);
    }
    g_autofree char *why =
        g_strdup_printf("no QEMU %u is here: run scripts/get qemu %u", major, major);
    g_test_skip(why);
    return NULL;
}

char *vm_newer_qemu(void)
{
    return vm_qemu(10);
}

static void add_launcher(Vm *vm, const VmConfig *config, GPtrArray *argv)
{
    if (config->launcher == VM_PLAIN) {
        /* Another version as the peer. */
        const char *peer = g_getenv("FF_PEER_QEMU");
        add(argv, config->qemu ? config->qemu : peer ? peer : qemu_binary(), NULL);
        return;
    }
    g_autofree char *farfault = config->build
                                    ? g_build_filename(config->build, "cli/farfault", NULL)
                                    : vm_build_path("cli/farfault");
    if (config->restore) {
        add(argv, farfault, "restore", config->restore, NULL);
        if (config->restore_option) {
            add(argv, config->restore_option, NULL);
        }
        add(argv, "--", config->qemu ? config->qemu : qemu_binary(), NULL);
        return;
    }
    if (config->launcher == VM_RUN) {
        add(argv, farfault, "run", "--", config->qemu ? config->qemu : qemu_binary(), NULL);
        return;
    }
    g_autofree char *link = vm_path(vm, "qemu-system-x86_64");
    if (symlink(farfault, link))
        test_fail("%s: %s", link, g_strerror(errno));
    add(argv, link, NULL);
}

/* The QMP monitor, in either place. */
static void add_qmp(Vm *vm, const VmConfig *config, GPtrArray *argv)
{
    if (!config->sections) {
        g_autofree char *qmp = g_strdup_printf("socket,id=qmp0,path=%s/qmp", vm->dir);
        add(argv, "-chardev", qmp, "-mon", "chardev=qmp0,mode=control", NULL);
        return;
    }
    g_autofree char *path = vm_path(vm, "config");
    g_autofree char *text = g_strdup_printf("%s[chardev \"qmp0\"]\n"
                                            "backend = \"socket\"\n"
                                            "path = \"%s/qmp\"\n\n"
                                            "[mon]\n"
                                            "chardev = \"qmp0\"\n"
                                            "mode = \"control\"\n",
                                            config->sections, vm->dir);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    add(argv, "-no-user-config", "-readconfig", path, NULL);
}

const char *vm_accel(void)
{
    const char *accel = g_getenv("FF_TEST_ACCEL");

    return accel ? accel : "tcg";
}

static GPtrArray *command_line(Vm *vm, const VmConfig *config)
{
    GPtrArray *argv = g_ptr_array_new_with_free_func(g_free);
    add_launcher(vm, config, argv);
    g_autofree char *qtest = g_strdup_printf("unix:%s/qtest", vm->dir);
    g_autofree char *serial = g_strdup_printf("socket,id=serial0,path=%s/serial", vm->dir);
    g_autofree char *name = g_strdup_printf("%s,debug-threads=on", vm->name);
    add(argv, "-name", name, "-nodefaults", "-display", "none", NULL);
    add_qmp(vm, config, argv);
    add(argv, "-qtest", qtest, "-qtest-log", "/dev/null", "-chardev", serial, "-serial",
        "chardev:serial0", NULL);
    if (!config->ring3)
        add(argv, "-accel", vm_accel(), NULL);
    if (config->memory)
        add(argv, "-m", config->memory, NULL);
    if (config->boot) {
        g_autofree char *image = vm_path(vm, "disk");
        bootsect_write(config->boot, image);
        g_autofree char *drive = g_strdup_printf("if=none,id=disk0,file=%s,format=raw", image);
        /* SeaBIOS boots one sector from AHCI only where the geometry is given. */
        add(argv, "-drive", drive, "-device", "ide-hd,drive=disk0,secs=1,cyls=1,heads=1", NULL);
    }
    for (unsigned i = 0; config->args && config->args[i]; i++)
        add(argv, config->args[i], NULL);
    if (config->ring3) {
        g_autofree char *rom = vm_path(vm, "rom");
        ring3_add_args(config->ring3, rom, argv);
    }
    if (config->listens) {
        /* The relay removes its file a moment after QEMU has ended, a killed QEMU does not. */
        g_autofree char *path = vm_path(vm, "server");
        g_autofree char *server = g_strdup_printf("unix:%s,server=on,wait=off", path);
        g_autofree char *other = vm_path(vm, "human");
        g_autofree char *human = g_strdup_printf("unix:%s,server=on,wait=off", other);
        add(argv, "-qmp", server, "-monitor", human, NULL);
    }
    if (config->paused)
        add(argv, "-S", NULL);
    if (config->incoming)
        add(argv, "-incoming", config->incoming, NULL);
    g_ptr_array_add(argv, NULL);
    return argv;
}

/* The child: only calls that are safe after fork. */
G_NORETURN static void become_qemu(char **argv, char **env, const int *fds, int err, pid_t parent)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(open("/dev/null", O_RDWR), STDIN_FILENO);
    dup2(err, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    for (; fds && *fds >= 0; fds++)
        fcntl(*fds, F_SETFD, 0);
    execvpe(argv[0], argv, env);
    dprintf(STDERR_FILENO, "cannot start %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* Engines have the faults and the deadlines from the environment, which they get from QEMU's
 * launcher. */
static char **environment(Vm *vm, const VmConfig *config)
{
    char **env = g_get_environ();
    if (config->deadlines) {
        env = g_environ_setenv(env, "FARFAULT_DEADLINES", config->deadlines, TRUE);
    }
    if (!config->faults)
        return env;
    g_autofree char *value = g_strdup_printf("%s;%s", vm->dir, config->faults);
    g_auto(GStrv) parts = g_strsplit(config->faults, ";", -1);
    for (unsigned i = 0; parts[i]; i++) {
        g_autofree char *mark = g_strdup_printf("fault-%u", i);
        g_free(vm_path(vm, mark));
    }
    return g_environ_setenv(env, "FARFAULT_FAULTS", value, TRUE);
}

bool vm_fault_happened(Vm *vm, unsigned i)
{
    g_autofree char *path = g_strdup_printf("%s/fault-%u", vm->dir, i);
    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static void spawn(Vm *vm, const VmConfig *config)
{
    g_autoptr(GPtrArray) argv = command_line(vm, config);
    g_auto(GStrv) env = environment(vm, config);
    vm->has_come = config->incoming;
    g_autofree char *path = vm_path(vm, "stderr");
    int err = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    g_assert_cmpint(err, >=, 0);
    pid_t parent = getpid();
    vm->pid = fork();
    if (vm->pid == 0)
        become_qemu((char **)argv->pdata, env, config->fds, err, parent);
    close(err);
    g_assert_cmpint(vm->pid, >, 0);
    vm->pidfd = syscall(SYS_pidfd_open, vm->pid, 0);
    g_assert_cmpint(vm->pidfd, >=, 0);
    fcntl(vm->pidfd, F_SETFD, FD_CLOEXEC);
}

Vm *vm_start(const VmConfig *config)
{
    g_autoptr(GError) error = NULL;
    Vm *vm = g_new0(Vm, 1);
    if (!live) {
        live = g_ptr_array_new();
        test_fail_hook = show_all;
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        g_setenv("FARFAULT_DEBUG_HASH", "1", FALSE);
    }
    vm->name = g_strdup(config->name);
    if (config->ring3) {
        vm->has_ring3 = true;
        vm->ring3 = *config->ring3;
    }
    vm->known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    vm->dir = g_dir_make_tmp("ff-XXXXXX", &error);
    g_assert_no_error(error);
    g_ptr_array_add(live, vm);

    int qmp = listen_at(vm, "qmp"), qtest = listen_at(vm, "qtest");
    int serial = listen_at(vm, "serial");
    spawn(vm, config);
    vm->serial = stream_new(accept_from(vm, serial, "serial"), vm->name);
    vm->qtest = qtest_new(accept_from(vm, qtest, "qtest"), vm->name);
    vm->qmp = qmp_new(accept_from(vm, qmp, "QMP"), vm->name, config->oob);
    return vm;
}

Vm *vm_start_pc(VmConfig config)
{
    static const char *const args[] = {"-machine", "pc", NULL};

    config.launcher = VM_RUN;
    config.args = args;
    return vm_start(&config);
}

int vm_wait_exit(Vm *vm)
{
    if (vm->pid) {
        if (!test_wait_readable(vm->pidfd, test_deadline(TEST_TIMEOUT)))
            test_fail("%s: QEMU did not end", vm->name);
        reap(vm);
    }
    vm->expected_end = true;
    return vm->status;
}

void vm_kill(Vm *vm)
{
    kill(vm->pid, SIGKILL);
    vm_wait_exit(vm);
}

static pid_t parent_of(const char *pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/stat", pid);
    g_autofree char *text = NULL;
    int parent;
    /* "PID (NAME) S PPID": the name may hold anything, its last parenthesis ends it. */
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    const char *end = strrchr(text, ')');
    return end && sscanf(end + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

/* All children of this program. */
static GArray *children(void)
{
    GArray *pids = g_array_new(FALSE, FALSE, sizeof(pid_t));
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    const char *name;
    while ((name = g_dir_read_name(proc))) {
        pid_t pid = atoi(name);
        if (pid > 0 && parent_of(name) == getpid())
            g_array_append_val(pids, pid);
    }
    return pids;
}

/* Waits for one left-over process; true if it ended in time. */
static bool gone_in_time(pid_t pid, int64_t deadline)
{
    int fd = syscall(SYS_pidfd_open, pid, 0);
    bool gone = fd < 0 || test_wait_readable(fd, deadline);
    if (!gone) {
        g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", pid);
        g_autofree char *text = NULL;
        g_file_get_contents(path, &text, NULL, NULL);
        g_test_message("left over: process %d: %s", pid, text ? text : "?");
        kill(pid, SIGKILL);
    }
    if (fd >= 0)
        close(fd);
    waitpid(pid, NULL, 0);
    return gone;
}

/* When no VM lives any more, no child may be left. An engine becomes a child only when its relay
 * ended, so look again until there is none. */
static void check_processes(void)
{
    int64_t deadline = test_deadline(LEFTOVER_SECONDS);
    for (;;) {
        g_autoptr(GArray) pids = children();
        if (!pids->len)
            return;
        for (unsigned i = 0; i < pids->len; i++)
            if (!gone_in_time(g_array_index(pids, pid_t, i), deadline))
                g_test_fail_printf("a process of farfault outlived QEMU");
    }
}

static void check_files(Vm *vm)
{
    g_autoptr(GDir) dir = g_dir_open(vm->dir, 0, NULL);
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
        if (!g_hash_table_contains(vm->known, name))
            g_test_fail_printf("%s: file %s was left in the guest's directory", vm->name, name);
        g_autofree char *path = g_build_filename(vm->dir, name, NULL);
        unlink(path);
    }
    rmdir(vm->dir);
}

/* Programs of a sanitizer build write their reports to QEMU's stderr, and the engine says there
 * whether the RAM of the stopped source stayed as it was. */
static void check_reports(Vm *vm)
{
    static const char *const signs[] = {"Sanitizer:", "runtime error:", VM_RAM_CHANGED};
    g_autofree char *text = vm_stderr(vm);
    for (unsigned i = 0; i < G_N_ELEMENTS(signs) - vm->ram_changes; i++) {
        if (strstr(text, signs[i])) {
            g_test_fail_printf("%s: %s: stderr: %s", vm->name, signs[i], text);
            return;
        }
    }
}

void vm_expect_ram_change(Vm *vm)
{
    vm->ram_changes = true;
}

void vm_end(Vm *vm)
{
    if (!vm)
        return;
    if (vm->pid) {
        kill(vm->pid, SIGTERM);
        if (!test_wait_readable(vm->pidfd, test_deadline(TEST_TIMEOUT)))
            test_fail("%s: QEMU did not end at SIGTERM", vm->name);
        reap(vm);
    }
    if (vm->status && !vm->expected_end) {
        g_autofree char *text = vm_stderr(vm);
        g_test_fail_printf("%s: exit status %d; stderr: %s", vm->name, vm->status, text);
    }
    g_ptr_array_remove(live, vm);
    qmp_free(vm->qmp);
    qtest_free(vm->qtest);
    stream_free(vm->serial);
    close(vm->pidfd);
    if (!live->len)
        check_processes();
    check_reports(vm);
    check_files(vm);
    g_hash_table_unref(vm->known);
    g_free(vm->name);
    g_free(vm->dir);
    g_free(vm);
}

pid_t vm_pid(const Vm *vm)
{
    return vm->pid;
}

const char *vm_dir(const Vm *vm)
{
    return vm->dir;
}

char *vm_path(Vm *vm, const char *name)
{
    g_hash_table_add(vm->known, g_strdup(name));
    return g_build_filename(vm->dir, name, NULL);
}

Qmp *vm_qmp(Vm *vm)
{
    return vm->qmp;
}

Qtest *vm_qtest(Vm *vm)
{
    return vm->qtest;
}

const Ring3 *vm_ring3(const Vm *vm)
{
    return vm->has_ring3 ? &vm->ring3 : NULL;
}

static void read_records(void *vm, uint8_t *records)
{
    qtest_read(vm_qtest(vm), RING3_RECORDS, records, RING3_RECORDS_SIZE);
}

void vm_wait_ready(Vm *vm)
{
    if (vm->has_ring3)
        ring3_wait_ready(&vm->ring3, read_records, vm);
    else
        vm_wait_serial(vm, "AB");
}

void vm_wait_works(Vm *vm)
{
    if (vm->has_ring3)
        ring3_wait_sweep(&vm->ring3, read_records, vm);
    else
        vm_wait_new_serial(vm, "B");
}

Ring3Record vm_record(Vm *vm)
{
    uint8_t records[RING3_RECORDS_SIZE];

    read_records(vm, records);
    return ring3_read_record(&vm->ring3, records);
}

char *vm_wait_finding(Vm *vm)
{
    return ring3_wait_finding(&vm->ring3, read_records, vm);
}

void vm_wait_serial(Vm *vm, const char *text)
{
    if (!stream_wait_text(vm->serial, text, test_deadline(TEST_TIMEOUT)))
        test_fail("%s: the console was closed before \"%s\" came", vm->name, text);
}

bool vm_try_serial(Vm *vm, const char *text, unsigned seconds)
{
    return stream_try_text(vm->serial, text, test_deadline(seconds));
}

void vm_wait_new_serial(Vm *vm, const char *text)
{
    stream_drain(vm->serial);
    vm_wait_serial(vm, text);
}

char *vm_serial_line(Vm *vm, const char *text)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    for (;;) {
        char *line = stream_read_line(vm->serial, text, deadline);
        if (!line)
            test_fail("%s: the console was closed before \"%s\" came", vm->name, text);
        if (strstr(line, text))
            return line;
        g_free(line);
    }
}

void vm_type_serial(Vm *vm, const char *text)
{
    stream_send(vm->serial, text, strlen(text), NULL, 0);
}

void vm_set_svme(Vm *vm, bool on)
{
    vm_type_serial(vm, on ? "1" : "0");
    for (;;) {
        g_autofree char *text = qmp_hmp(vm_qmp(vm), "info registers");
        const char *efer = strstr(text, "EFER=");

        g_assert_nonnull(efer);
        if ((g_ascii_strtoull(efer + strlen("EFER="), NULL, 16) & 0x1000) == (on ? 0x1000 : 0)) {
            return;
        }
        vm_wait_new_serial(vm, "B");
    }
}

char *vm_stderr(Vm *vm)
{
    g_autofree char *path = g_build_filename(vm->dir, "stderr", NULL);
    char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return g_strdup("");
    return text;
}

void vm_wait_stderr(Vm *vm, const char *text)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    g_autofree char *path = g_build_filename(vm->dir, "stderr", NULL);
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    char sink[4096];

    g_assert_cmpint(inotify_add_watch(fd, path, IN_MODIFY), >=, 0);
    for (;;) {
        g_autofree char *log = vm_stderr(vm);
        if (strstr(log, text))
            break;
        if (!test_wait_readable(fd, deadline))
            test_fail("%s: \"%s\" was not written; stderr: %s", vm->name, text, log);
        G_GNUC_UNUSED ssize_t n = read(fd, sink, sizeof(sink));
    }
    close(fd);
}

/* TRUE if one of the fds of process PID is a file in VM's directory. */
static bool is_of(const char *pid, Vm *vm)
{
    g_autofree char *path = g_build_filename("/proc", pid, "fd", NULL);
    g_autoptr(GDir) fds = g_dir_open(path, 0, NULL);
    const char *name;

    while (fds && (name = g_dir_read_name(fds))) {
        g_autofree char *fd = g_build_filename(path, name, NULL);
        g_autofree char *link = g_file_read_link(fd, NULL);

        if (link && g_str_has_prefix(link, vm->dir))
            return true;
    }
    return false;
}

pid_t vm_relay(Vm *vm)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(proc))) {
        g_autofree char *exe_link = g_build_filename("/proc", name, "exe", NULL);
        g_autofree char *exe = g_file_read_link(exe_link, NULL);

        if (exe && g_str_has_suffix(exe, "/farfault-relay") && is_of(name, vm))
            return atoi(name);
    }
    test_fail("%s: it has no relay", vm->name);
}

bool vm_relay_holds(Vm *vm, const char *path)
{
    g_autofree char *name = g_strdup_printf("/proc/%d/fd", (int)vm_relay(vm));
    g_autoptr(GDir) dir = g_dir_open(name, 0, NULL);
    const char *fd;
    bool holds = false;

    g_assert_nonnull(dir);
    while ((fd = g_dir_read_name(dir))) {
        g_autofree char *link = g_build_filename(name, fd, NULL);
        g_autofree char *to = g_file_read_link(link, NULL);

        holds = holds || !g_strcmp0(to, path);
    }
    return holds;
}

void vm_wait_qmp_end(Vm *vm)
{
    if (!stream_wait_eof(qmp_stream(vm->qmp), test_deadline(TEST_TIMEOUT)))
        test_fail("%s: its QMP connection did not end", vm->name);
}

static int connect_to(Vm *vm, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_autofree char *path = g_build_filename(vm->dir, name, NULL);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpuint(strlen(path), <, sizeof address.sun_path);
    strcpy(address.sun_path, path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        test_fail("%s: %s", path, g_strerror(errno));
    return fd;
}

void vm_reconnect(Vm *vm)
{
    qmp_free(vm->qmp);
    vm->qmp = qmp_new(connect_to(vm, "server"), vm->name, false);
}

char *vm_human_line(Vm *vm, const char *said, const char *words)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    g_autoptr(Stream) s = stream_new(connect_to(vm, "human"), vm->name);

    g_autofree char *text = g_strconcat(said, "\n", NULL);
    stream_send(s, text, strlen(text), NULL, 0);
    for (;;) {
        g_autofree char *line = stream_read_line(s, words, deadline);
        if (!line)
            test_fail("%s: the human monitor was closed", vm->name);
        if (g_str_has_prefix(line, words))
            return g_strdup(line + strlen(words));
    }
}

char *vm_human(Vm *vm, const char *first)
{
    g_autofree char *said = g_strconcat(first, "\ninfo status", NULL);

    return vm_human_line(vm, said, "VM status: ");
}

char *vm_human_state(Vm *vm, bool cont)
{
    return vm_human(vm, cont ? "cont" : "");
}

static bool is_in(const char *path, const char *folder)
{
    size_t n = strlen(folder);

    return n && strncmp(path, folder, n) == 0 && path[n] == '/';
}

pid_t vm_find_engine(Vm *vm)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(proc))) {
        g_autofree char *exe_link = g_build_filename("/proc", name, "exe", NULL);
        g_autofree char *err_link = g_build_filename("/proc", name, "fd", "2", NULL);
        g_autofree char *exe = g_file_read_link(exe_link, NULL);
        g_autofree char *err = exe ? g_file_read_link(err_link, NULL) : NULL;
        if (err && g_str_has_suffix(exe, "/farfault-engine") && is_in(err, vm_dir(vm))) {
            return atoi(name);
        }
    }
    return 0;
}

pid_t vm_engine(Vm *vm)
{
    pid_t pid = vm_find_engine(vm);
    if (!pid)
        g_error("no engine works for %s", vm_dir(vm));
    return pid;
}
