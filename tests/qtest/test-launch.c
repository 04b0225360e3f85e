/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tests of launcher and agent with the real QEMU, and of what the launcher hands to the relay.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rights.h"
#include "guest/agent/agent.h"
#include "tests/lib/vm.h"
#include "tests/qtest/launch-rig.h"
#include "uffd/uffd.h"

#define QEMU "qemu-system-x86_64"
#define NOBODY 65534

static int number(JsonObject *report, const char *name)
{
    return json_object_get_int_member(report, name);
}

static char *proc_link(int pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", pid, name);
    g_autoptr(GError) error = NULL;
    char *target = g_file_read_link(path, &error);
    g_assert_no_error(error);
    return target;
}

/* What UFFDIO_API has asked of the userfaultfd FD of PID; -1: it is none. An untouched one: 0. */
static int64_t features_of(int pid, const char *fd)
{
    g_autofree char *link_path = g_strdup_printf("/proc/%d/fd/%s", pid, fd);
    g_autofree char *info_path = g_strdup_printf("/proc/%d/fdinfo/%s", pid, fd);
    g_autofree char *link = g_file_read_link(link_path, NULL), *info = NULL;
    uint64_t api, features;

    if (g_strcmp0(link, "anon_inode:[userfaultfd]") != 0) {
        return -1;
    }
    g_assert_true(g_file_get_contents(info_path, &info, NULL, NULL));
    const char *line = strstr(info, "API:");
    g_assert_nonnull(line);
    g_assert_cmpint(sscanf(line, "API:\t%" SCNx64 ":%" SCNx64, &api, &features), ==, 2);
    return features & ~(1ull << 31); /* "UFFDIO_API was called" */
}

/* QEMU keeps those that the hand-over names, and none for synchronous write protection. */
static void check_kept_uffds(JsonObject *report, int pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    int kept = 0;

    while ((name = g_dir_read_name(dir))) {
        int64_t features = features_of(pid, name);
        if (features < 0) {
            continue;
        }
        kept++;
        if (atoi(name) == number(report, "test-tracking-kept")) {
            g_assert_cmpint(features, ==, FF_UFFD_TRACKING);
        } else {
            g_assert_cmpint(atoi(name), ==, number(report, "test-missing-kept"));
            /* the double has called UFFDIO_API, and asked for nothing */
            g_assert_cmpint(features, ==, 0);
        }
    }
    g_assert_cmpint(kept, ==, 2);
    g_assert_cmpint(number(report, "test-protect-kept"), ==, -1);
}

/* The hand-over came, whole, and its userfaultfds are of use in the process PID. */
static void check_hand_over(JsonObject *report, int pid, int hellos)
{
    g_assert_cmpint(number(report, "test-hellos"), ==, hellos);
    g_assert_cmpint(number(report, "test-pid"), ==, pid);
    g_assert_cmpint(number(report, "test-missing-errno"), ==, 0);
    g_assert_cmpint(number(report, "test-tracking-errno"), ==, 0);
    g_assert_cmpint(number(report, "test-protect-errno"), ==, 0);
    g_assert_cmpint(number(report, "test-n-fds"), ==, FF_AGENT_MAX_FDS);
    check_kept_uffds(report, pid);
    g_assert_cmpint(number(report, "test-register"), ==, 0);
    g_assert_true(
        g_str_has_prefix(json_object_get_string_member(report, "test-greeting"), "{\"QMP\""));
}

static bool need_root(void)
{
    if (geteuid() != 0) {
        g_test_skip("needs root: userfaultfd for the kernel's faults, change of user");
        return false;
    }
    return true;
}

/* What QEMU says to an invocation without a guest, or that it refuses, comes out unchanged. */
static void test_same_output(gconstpointer data)
{
    const char *const *args = data;
    const char *direct[] = {QEMU, args[0], args[1], NULL};
    const char *run[] = {"farfault", "run", "--", QEMU, args[0], args[1], NULL};
    g_autoptr(Rig) rig = rig_new("tree");
    g_autofree char *farfault = rig_path(rig, "bin/farfault");
    g_autofree char *link = rig_path(rig, "lib/farfault/" QEMU);

    rig_spawn(rig, QEMU, direct);
    int status = rig_wait(rig);
    g_autofree char *out = rig_read(rig, "out");
    g_autofree char *err = rig_read(rig, "err");
    g_assert_cmpint(strlen(out) + strlen(err), >, 0);
    for (int as_link = 0; as_link < 2; as_link++) {
        rig_spawn(rig, as_link ? link : farfault, as_link ? direct : run);
        g_assert_cmpint(rig_wait(rig), ==, status);
        g_autofree char *out2 = rig_read(rig, "out");
        g_autofree char *err2 = rig_read(rig, "err");
        g_assert_cmpstr(out2, ==, out);
        g_assert_cmpstr(err2, ==, err);
    }
}

/* fds of ours that QEMU holds (all have high numbers) are closed to its children. */
static void check_cloexec(int pid)
{
    g_autofree char *dir_path = g_strdup_printf("/proc/%d/fdinfo", pid);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    const char *name;
    int seen = 0;
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        g_autofree char *text = NULL;
        int inherited = fcntl(atoi(name), F_GETFD); /* from the user who runs the tests, to QEMU */
        if (atoi(name) < 100 || (inherited >= 0 && !(inherited & FD_CLOEXEC)) ||
            !g_file_get_contents(path, &text, NULL, NULL)) {
            continue;
        }
        const char *flags = strstr(text, "flags:");
        g_assert_nonnull(flags);
        g_assert_true(g_ascii_strtoull(flags + strlen("flags:"), NULL, 8) & O_CLOEXEC);
        seen++;
    }
    g_assert_cmpint(seen, >=, 2 + 2); /* userfaultfds; RAM, private monitor */
}

static void test_same_process(void)
{
    if (!need_root()) {
        return;
    }
    g_autoptr(Rig) rig = rig_new("tree");
    g_autofree char *file = rig_path(rig, "inherited");
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int fds[] = {fcntl(fd, F_DUPFD_CLOEXEC, 31), fcntl(fd, F_DUPFD_CLOEXEC, 120), -1};
    close(fd);
    rig->fds = fds;
    /* 120 must stay open to QEMU's children: it is the caller's */
    rig_run(rig, "-pidfile", "pidfile", "-S", NULL);
    JsonObject *report = rig_report(rig);
    check_hand_over(report, rig->pid, 1);
    g_assert_cmpint(number(report, "qemu-pid"), ==, rig->pid);
    g_assert_true(json_object_get_boolean_member(report, "start-paused"));
    g_autofree char *pidfile = rig_read(rig, "pidfile");
    g_assert_cmpint(atoi(pidfile), ==, rig->pid);

    g_assert_cmpint(number(report, "test-ppid"), !=, rig->pid);
    g_assert_cmpint(number(report, "test-sid"), !=, getsid(0));
    g_assert_cmpint(getsid(rig->pid), ==, getsid(0));
    g_assert_cmpint(getpgid(rig->pid), ==, getpgid(0));
    g_autofree char *cwd = proc_link(rig->pid, "cwd");
    g_assert_cmpstr(cwd, ==, rig->dir);
    g_autofree char *out_path = rig_path(rig, "out");
    g_autofree char *out = proc_link(rig->pid, "fd/1");
    g_assert_cmpstr(out, ==, out_path);
    for (int i = 0; i < 2; i++) {
        g_autofree char *name = g_strdup_printf("fd/%d", fds[i]);
        g_autofree char *target = proc_link(rig->pid, name);
        g_assert_cmpstr(target, ==, file);
        close(fds[i]);
    }
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
    g_autofree char *err = rig_read(rig, "err");
    g_assert_cmpstr(err, ==, "");
}

static void test_cloexec(void)
{
    if (!need_root()) {
        return;
    }
    g_autoptr(Rig) rig = rig_new("tree");
    rig_run(rig, "-qmp", "unix:q.sock,server=on,wait=off", NULL);
    rig_report(rig);
    check_cloexec(rig->pid);
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
}

/* A child of QEMU sees nothing of the agent, and what else was preloaded. */
static void test_environment(void)
{
    static const char *const foreign[] = {NULL, "libutil.so.1", "libutil.so.1:librt.so.1"};
    for (size_t i = 0; i < G_N_ELEMENTS(foreign); i++) {
        g_autoptr(Rig) rig = rig_new("tree");
        if (foreign[i]) {
            rig_setenv(rig, "LD_PRELOAD", foreign[i]);
            /* a sanitized farfault refuses to run behind another library */
            rig_setenv(rig, "ASAN_OPTIONS", "verify_asan_link_order=0");
        } else {
            rig->env = g_environ_unsetenv(rig->env, "LD_PRELOAD");
        }
        rig_run(rig, "-incoming", "exec:env > env; ls -l /proc/self/fd > fds; echo no guest", NULL);
        g_assert_cmpint(rig_wait(rig), ==, 1); /* QEMU refuses what it reads, and ends */
        g_autofree char *env = rig_read(rig, "env");
        g_autofree char *fds = rig_read(rig, "fds");
        g_assert_nonnull(strstr(env, "PATH="));
        g_assert_null(strstr(env, "FARFAULT_AGENT"));
        g_assert_null(strstr(env, "farfault-agent"));
        g_assert_nonnull(strstr(fds, " -> "));
        g_assert_null(strstr(fds, "memfd"));
        g_assert_null(strstr(fds, "userfaultfd"));
        g_auto(GStrv) vars = g_strsplit(env, "\n", -1);
        g_assert_cmpstr(g_environ_getenv(vars, "LD_PRELOAD"), ==, foreign[i]);
    }
}

static void test_sandbox(void)
{
    if (!need_root()) {
        return;
    }
    g_autoptr(Rig) rig = rig_new("tree");
    rig_run(rig, "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", NULL);
    check_hand_over(rig_report(rig), rig->pid, 1);
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
}

static void daemonize(const char *option, const char *value)
{
    if (!need_root()) {
        return;
    }
    g_autoptr(Rig) rig = rig_new("tree");
    rig_run(rig, "-daemonize", "-pidfile", "pidfile", option, value, NULL);
    JsonObject *report = rig_report(rig);
    int first = rig->pid;
    g_assert_cmpint(rig_wait(rig), ==, 0); /* the process that was started ends, the guest lives */
    g_autofree char *pidfile = rig_read(rig, "pidfile");
    int daemon = atoi(pidfile);
    g_assert_cmpint(daemon, !=, first);
    check_hand_over(report, daemon, 2);
    g_assert_true(json_object_get_boolean_member(report, "daemonize"));
    g_assert_cmpint(number(report, "stderr-fd"), ==, -1);
    check_cloexec(daemon);
    g_autofree char *relay_err = proc_link(number(report, "test-relay-pid"), "fd/2");
    g_assert_cmpstr(relay_err, ==, "/dev/null");
}

static void test_daemonize(void)
{
    daemonize(NULL, NULL);
}

/* QEMU's filter is in place before it forks. */
static void test_daemonize_sandbox(void)
{
    daemonize("-sandbox", "on,obsolete=deny,resourcecontrol=deny");
}

/* QEMU would name the socket before it goes to /. */
static void test_daemonize_incoming(void)
{
    if (!need_root()) {
        return;
    }
    g_autoptr(Rig) rig = rig_new("tree");
    rig_run(rig, "-daemonize", "-incoming", "unix:m", NULL);
    JsonObject *report = rig_report(rig);
    g_autofree char *uri = g_strdup_printf("unix:%s/m", rig->dir);
    g_assert_cmpint(rig_wait(rig), ==, 0);
    g_assert_cmpstr(json_object_get_string_member(report, "incoming"), ==, uri);
}

static void test_runas(void)
{
    static const char *const users[] = {"nobody", "65534:65534"};
    for (size_t i = 0; i < G_N_ELEMENTS(users) && need_root(); i++) {
        g_autoptr(Rig) rig = rig_new("tree");
        g_autofree char *word = NULL;
        const char *option = vm_runas(users[i], &word);
        rig_run(rig, option, word, NULL);
        JsonObject *report = rig_report(rig);
        check_hand_over(report, rig->pid, 1);
        g_assert_cmpint(number(report, "test-uid"), ==, NOBODY);
        rig_quit(rig);
        g_assert_cmpint(rig_wait(rig), ==, 0);
    }
}

#define CROWDED 54322 /* a user */
#define LIMIT 1024

static bool send_fds(const int *fds)
{
    int pair[2];

    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 &&
           ff_rights_send(pair[0], "", 1, fds, FF_RIGHTS_MAX) == 1;
}

/* CROWDED has as many fds in the queues of sockets as LIMIT leaves to all. Returns the process. */
static pid_t crowd(const int *go)
{
    int fds[FF_RIGHTS_MAX], ready[2];
    char byte;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(go[1]);
        for (int i = 0; i < FF_RIGHTS_MAX; i++) {
            fds[i] = STDERR_FILENO;
        }
        bool ok = setresuid(CROWDED, CROWDED, CROWDED) == 0;
        for (int n = 0; n < LIMIT / 2 + 1; n += FF_RIGHTS_MAX) {
            ok = ok && send_fds(fds);
        }
        _exit(!ok || write(ready[1], "", 1) != 1 || read(go[0], &byte, 1) < 0);
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    return pid;
}

static JsonObject *run_limited(Rig *rig)
{
    struct rlimit before, limit;

    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &before), ==, 0);
    limit = (struct rlimit){LIMIT, before.rlim_max};
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    rig_run(rig, NULL);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &before), ==, 0);
    return rig_report(rig);
}

static void uncrowd(pid_t pid, int *go)
{
    int status;

    close(go[1]);
    close(go[0]);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

/* What QEMU keeps for the next relay has numbers only where the user's sockets hold too much, and
 * that is said. */
static void check_kept(bool crowded)
{
    static const char *const members[] = {"kept-state", "qemu-monitor"};
    g_autoptr(Rig) rig = rig_new("tree");
    int go[2];

    g_assert_cmpint(pipe2(go, O_CLOEXEC), ==, 0);
    pid_t pid = crowded ? crowd(go) : 0;
    rig->uid = CROWDED;
    JsonObject *report = run_limited(rig);
    g_assert_cmpint(number(report, "kept") >= 0, ==, !crowded);
    g_assert_cmpint(number(report, "kept-state") >= 0, ==, crowded);
    g_autofree char *err = rig_read(rig, "err");
    g_test_message("%s", err);
    g_assert_true(!strstr(err, "hold half as many fds as RLIMIT_NOFILE\n") == !crowded);
    for (unsigned i = 0; i < G_N_ELEMENTS(members); i++) {
        g_autofree char *path =
            g_strdup_printf("/proc/%d/fd/%d", rig->pid, number(report, members[i]));
        struct stat st;
        g_assert_cmpint(lstat(path, &st) == 0, ==, crowded);
    }
    if (crowded) {
        uncrowd(pid, go);
    }
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
}

static void test_kept(void)
{
    if (need_root()) {
        check_kept(false);
        check_kept(true);
    }
}

/* No permission for userfaultfd: the guest runs all the same, and the reason is handed over. */
static void test_no_permission(void)
{
    g_autofree char *sysctl = NULL;
    if (!need_root()) {
        return;
    }
    if (g_file_get_contents("/proc/sys/vm/unprivileged_userfaultfd", &sysctl, NULL, NULL) &&
        atoi(sysctl) != 0) {
        g_test_skip("vm.unprivileged_userfaultfd is set: everybody has the permission");
        return;
    }
    g_autoptr(Rig) rig = rig_new("tree");
    rig->uid = NOBODY;
    rig_run(rig, NULL);
    JsonObject *report = rig_report(rig);
    g_assert_cmpint(number(report, "test-hellos"), ==, 1);
    g_assert_cmpint(number(report, "test-missing-errno"), ==, EPERM);
    g_assert_cmpint(number(report, "test-tracking-errno"), ==, EPERM);
    g_assert_cmpint(number(report, "test-protect-errno"), ==, EPERM);
    g_assert_cmpint(number(report, "test-n-fds"), ==, FF_AGENT_FD_UFFDS + 1); /* the hook's */
    g_assert_true(
        g_str_has_prefix(json_object_get_string_member(report, "test-greeting"), "{\"QMP\""));
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
}

/* The loader splits LD_PRELOAD at these letters. */
static void test_odd_path(void)
{
    if (!need_root()) {
        return;
    }
    g_autoptr(Rig) rig = rig_new("a b:c$ORIGIN");
    rig_run(rig, NULL);
    check_hand_over(rig_report(rig), rig->pid, 1);
    check_cloexec(rig->pid);
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
}

/* A script that becomes QEMU: the shell gets no userfaultfds, QEMU does. */
static void check_script(Rig *rig, const char *qemu)
{
    g_autofree char *script = rig_path(rig, "my-qemu");
    g_autofree char *text = g_strdup_printf("#!/bin/sh\n/bin/true\nexec %s \"$@\"\n", qemu);
    g_assert_true(g_file_set_contents(script, text, -1, NULL));
    g_assert_cmpint(chmod(script, 0755), ==, 0);
    rig_setenv(rig, "FARFAULT_QEMU", script);
    rig_run(rig, NULL);
    check_hand_over(rig_report(rig), rig->pid, 1);
    check_cloexec(rig->pid);
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
}

static void test_script(void)
{
    g_autofree char *qemu = g_find_program_in_path(QEMU);

    if (need_root()) {
        g_autoptr(Rig) rig = rig_new("tree");
        check_script(rig, qemu);
    }
}

/* QEMU as RHEL names it. It looks for its parts in the folders beside its own. */
static void test_script_kvm(void)
{
    if (!need_root()) {
        return;
    }
    g_autoptr(Rig) rig = rig_new("tree");
    g_autofree char *dir = rig_path(rig, "usr");
    g_autofree char *qemu = g_find_program_in_path(QEMU);
    g_autofree char *kvm = g_build_filename(dir, "bin/qemu-kvm", NULL);
    g_autofree char *copy = g_strdup_printf(
        "mkdir -p %s/bin && ln -s /usr/share /usr/lib %s && cp -L %s %s", dir, dir, qemu, kvm);
    g_assert_cmpint(system(copy), ==, 0);
    check_script(rig, kvm);
}

static void test_missing_agent(void)
{
    g_autoptr(Rig) rig = rig_new("tree");
    rig_remove(rig, "lib/farfault/farfault-agent.so");
    rig_run(rig, NULL);
    JsonObject *report = rig_report(rig);
    g_assert_cmpint(number(report, "agent-fd"), ==, -1);
    g_assert_true(
        g_str_has_prefix(json_object_get_string_member(report, "test-greeting"), "{\"QMP\""));
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
    g_autofree char *err = rig_read(rig, "err");
    g_assert_cmpstr(err, ==,
                    "farfault: warning: farfault-agent.so was not found beside farfault, this "
                    "guest cannot migrate by postcopy: install farfault again\n");
}

static void test_missing_relay(void)
{
    g_autoptr(Rig) rig = rig_new("tree");
    g_autofree char *sock = rig_path(rig, "q.sock");
    rig_remove(rig, "lib/farfault/farfault-relay");
    rig_run(rig, "-qmp", "unix:q.sock,server=on,wait=off", NULL);
    g_assert_cmpint(rig_wait(rig), ==, 1);
    g_autofree char *err = rig_read(rig, "err");
    g_assert_cmpstr(err, ==,
                    "farfault: farfault-relay was not found beside farfault: install farfault "
                    "again\n");
    g_assert_false(g_file_test(sock, G_FILE_TEST_EXISTS));
}

static void test_relay_dies(void)
{
    g_autoptr(Rig) rig = rig_new("tree");
    rig_setenv(rig, "FF_TEST_DIE", "1");
    rig_run(rig, "-qmp", "unix:q.sock,server=on,wait=off", NULL);
    g_assert_cmpint(rig_wait(rig), ==, 1);
    g_autofree char *err = rig_read(rig, "err");
    g_assert_nonnull(strstr(err, "ended before it was ready, the guest was not started\n"));
    g_autofree char *sock = rig_path(rig, "q.sock");
    g_assert_false(g_file_test(sock, G_FILE_TEST_EXISTS));
}

/* A client's endpoint that cannot be opened: QEMU's own words and exit status. */
static void test_endpoint_error(gconstpointer data)
{
    const char *option = data;
    g_autoptr(Rig) rig = rig_new("tree");
    const char *argv[] = {QEMU, "-display", "none", "-qmp", option, NULL};
    rig_spawn(rig, QEMU, argv);
    int status = rig_wait(rig);
    g_autofree char *native = rig_read(rig, "err");
    rig_run(rig, "-qmp", option, NULL);
    g_assert_cmpint(rig_wait(rig), ==, status);
    g_autofree char *ours = rig_read(rig, "err");
    g_assert_nonnull(strstr(native, "Failed to"));
    g_assert_nonnull(strstr(ours, "Failed to"));
    g_assert_cmpstr(strstr(ours, "Failed to"), ==, strstr(native, "Failed to"));
    g_assert_true(g_str_has_prefix(ours, QEMU ": "));
}

static void test_port_in_use(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&addr, &len), ==, 0);
    g_autofree char *option =
        g_strdup_printf("tcp:127.0.0.1:%u,server=on,wait=off", ntohs(addr.sin_port));
    test_endpoint_error(option);
    close(fd);
}

static void test_hugepages(void)
{
    g_autoptr(Rig) rig = rig_new("tree");
    rig_run(rig, "-m", "1T", "-object",
            "memory-backend-memfd,id=m,hugetlb=on,hugetlbsize=2M,size=1T", "-machine",
            "memory-backend=m", NULL);
    g_assert_cmpint(rig_wait(rig), ==, 1);
    g_autofree char *err = rig_read(rig, "err");
    g_assert_true(g_str_has_prefix(
        err, "farfault: memory backend 'm' needs 524288 huge pages of 2048 KiB, "));
    g_assert_nonnull(strstr(err, "raise /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"));
}

/* Huge pages that need not be there at the start. */
static void test_hugepages_unreserved(void)
{
    g_autoptr(Rig) rig = rig_new("tree");
    rig_run(rig, "-object",
            "memory-backend-memfd,id=m,hugetlb=on,hugetlbsize=2M,size=1T,reserve=off", NULL);
    g_assert_true(g_str_has_prefix(json_object_get_string_member(rig_report(rig), "test-greeting"),
                                   "{\"QMP\""));
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
}

static void check_policy(Rig *rig, const char *option, const char *policy)
{
    const char *argv[] = {"farfault", "run", option ?: "--", QEMU, "-display", "none", NULL};
    g_autofree char *program = rig_path(rig, "bin/farfault");
    rig_spawn(rig, program, argv);
    g_assert_cmpstr(json_object_get_string_member(rig_report(rig), "policy"), ==, policy);
    rig_quit(rig);
    g_assert_cmpint(rig_wait(rig), ==, 0);
}

static void test_policy(void)
{
    g_autoptr(Rig) rig = rig_new("tree");
    g_autofree char *conf = rig_path(rig, "conf");
    check_policy(rig, NULL, "auto");
    g_assert_true(g_file_set_contents(conf, "[migration]\npolicy=never\n", -1, NULL));
    rig_setenv(rig, "FARFAULT_CONF", conf);
    check_policy(rig, NULL, "never");
    rig_setenv(rig, "FARFAULT_POLICY", "always");
    check_policy(rig, NULL, "always");
    check_policy(rig, "--policy=auto", "auto");
}

/* {expected stderr, exit status, arguments...} */
typedef struct {
    const char *name, *err;
    int status;
    const char *args[3];
} CliCase;

static const CliCase cli_cases[] = {
    {"typo", "farfault: there is no command \"statsu\", did you mean \"status\"?\n", 2, {"statsu"}},
    {"no-such", "farfault: there is no command \"fly\", see farfault --help\n", 2, {"fly"}},
    {"none", "farfault: name a command, see farfault --help\n", 2, {NULL}},
    {"run-what",
     "farfault: run: name the QEMU to start, e.g. farfault run qemu-system-x86_64 -m 1G ...\n",
     2,
     {"run"}},
    {"policy",
     "farfault: --policy: \"mad\" is no policy: it must be auto, always or never\n",
     2,
     {"run", "--policy=mad", QEMU}},
    {"option",
     "farfault: unknown option \"--josn\", did you mean \"--json\"? (farfault status --help)\n",
     2,
     {"status", "--josn", "x"}},
    {"option-value",
     "farfault: unknown option \"--bandwith\", did you mean \"--bandwidth\"? (farfault migrate "
     "--help)\n",
     2,
     {"migrate", "--uri=--x", "--bandwith=1G"}},
    {"option-no-such",
     "farfault: unknown option \"--fly\" (there are --help, --check) (farfault dump --help)\n",
     2,
     {"dump", "--fly"}},
    {"run-option",
     "farfault: run: unknown option \"--polcy\", did you mean \"--policy\"? (options of QEMU come "
     "after its name; see farfault help run)\n",
     2,
     {"run", "--polcy=auto", QEMU}},
    {"no-qemu",
     "farfault: there is no qemu-system-none on PATH (besides farfault itself): install QEMU, or "
     "name it in FARFAULT_QEMU or in /etc/farfault/farfault.conf, [qemu] binary=\n",
     127,
     {"run", "qemu-system-none"}},
    {"no-file",
     "farfault: cannot run /nonexistent/qemu: No such file or directory\n",
     127,
     {"run", "/nonexistent/qemu"}},
};

static void test_cli(gconstpointer data)
{
    const CliCase *c = data;
    g_autoptr(Rig) rig = rig_new("tree");
    const char *argv[] = {"farfault", c->args[0], c->args[1], c->args[2], NULL};
    g_autofree char *program = rig_path(rig, "bin/farfault");
    rig_spawn(rig, program, argv);
    g_assert_cmpint(rig_wait(rig), ==, c->status);
    g_autofree char *err = rig_read(rig, "err");
    g_assert_cmpstr(err, ==, c->err);
}

static const char *const same_output[][2] = {
    {"-version"},           {"--help"},         {"-machine", "help"}, {"-cpu", "help"},
    {"-device", "e1000,?"}, {"-accel", "help"}, {"-nosuch"},
};
static const char *const bad_endpoints[][2] = {
    {"listen", "unix:/nonexistent/q.sock,server=on,wait=off"},
    {"connect", "unix:/nonexistent/q.sock"},
    {"connect-tcp", "tcp:127.0.0.1:1"},
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(same_output); i++) {
        g_autofree char *path = g_strdup_printf("/launch/same-output/%s", same_output[i][0] + 1);
        g_test_add_data_func(path, same_output[i], test_same_output);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad_endpoints); i++) {
        g_autofree char *path = g_strdup_printf("/launch/endpoint-error/%s", bad_endpoints[i][0]);
        g_test_add_data_func(path, bad_endpoints[i][1], test_endpoint_error);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cli_cases); i++) {
        g_autofree char *path = g_strdup_printf("/launch/cli/%s", cli_cases[i].name);
        g_test_add_data_func(path, &cli_cases[i], test_cli);
    }
    g_test_add_func("/launch/endpoint-error/port-in-use", test_port_in_use);
    g_test_add_func("/launch/same-process", test_same_process);
    g_test_add_func("/launch/cloexec", test_cloexec);
    g_test_add_func("/launch/environment", test_environment);
    g_test_add_func("/launch/sandbox", test_sandbox);
    g_test_add_func("/launch/daemonize/plain", test_daemonize);
    g_test_add_func("/launch/daemonize/sandbox", test_daemonize_sandbox);
    g_test_add_func("/launch/daemonize/incoming", test_daemonize_incoming);
    g_test_add_func("/launch/runas", test_runas);
    g_test_add_func("/launch/kept", test_kept);
    g_test_add_func("/launch/no-permission", test_no_permission);
    g_test_add_func("/launch/odd-path", test_odd_path);
    g_test_add_func("/launch/script", test_script);
    g_test_add_func("/launch/script-kvm", test_script_kvm);
    g_test_add_func("/launch/missing/agent", test_missing_agent);
    g_test_add_func("/launch/missing/relay", test_missing_relay);
    g_test_add_func("/launch/missing/relay-dies", test_relay_dies);
    g_test_add_func("/launch/hugepages", test_hugepages);
    g_test_add_func("/launch/hugepages-unreserved", test_hugepages_unreserved);
    g_test_add_func("/launch/policy", test_policy);
    return g_test_run();
}
