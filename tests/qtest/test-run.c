/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tests of the started whole: launcher, agent and relay with the real QEMU, for each way in which
 * a client's monitor can be given, and for each way in which QEMU can begin and end.
 *
 * Each case has a monitor that QEMU connects to (the test listens): its greeting says that all
 * other endpoints stand, so nothing is waited for by looking again and again.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/common/userfault.h"
#include "tests/lib/qmp.h"
#include "tests/lib/vm.h"
#include "tests/qtest/launch-rig.h"

#define NOBODY 65534
#define MONITOR "-chardev", "socket,id=first,path=first.sock", "-mon", "chardev=first,mode=control"

static struct sockaddr_un unix_address(const Rig *rig, const char *name)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    g_autofree char *path = rig_path(rig, name);
    g_assert_cmpuint(g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path)), <,
                     sizeof(addr.sun_path));
    return addr;
}

static int listen_at(const Rig *rig, const char *name)
{
    struct sockaddr_un addr = unix_address(rig, name);
    struct timeval limit = {.tv_sec = 60};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(chmod(addr.sun_path, 0777), ==, 0);
    g_assert_cmpint(listen(fd, 4), ==, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

static Qmp *connect_to(const Rig *rig, const char *name)
{
    struct sockaddr_un addr = unix_address(rig, name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return qmp_new(fd, name, false);
}

/* The monitor that QEMU connects to. LISTENER is closed. */
static Qmp *first_monitor(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    close(listener);
    return qmp_new(fd, "first", false);
}

static void check_runs(Qmp *q)
{
    g_autofree char *state = qmp_run_state(q);
    g_assert_cmpstr(state, ==, "running");
}

static void check_closed(Qmp *q)
{
    g_assert_true(stream_wait_eof(qmp_stream(q), g_get_monotonic_time() + 60 * G_USEC_PER_SEC));
}

static bool exists(const Rig *rig, const char *name)
{
    g_autofree char *path = rig_path(rig, name);
    return g_file_test(path, G_FILE_TEST_EXISTS);
}

/* For the next QEMU; the one before has left the socket's file. */
static int listen_again(const Rig *rig)
{
    g_autofree char *path = rig_path(rig, "first.sock");
    g_assert_cmpint(unlink(path), ==, 0);
    return listen_at(rig, "first.sock");
}

static Rig *new_rig(int *listener)
{
    Rig *rig = rig_new("tree");
    rig_use_relay(rig);
    *listener = listen_at(rig, "first.sock");
    return rig;
}

/* Nobody outlives QEMU: the process that sees its end takes away the control group that all were
 * in. */
static void check_all_ended(void)
{
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
    }
    g_assert_cmpint(pid, ==, -1);
    g_assert_cmpint(errno, ==, ECHILD);
}

/* Ends QEMU by Q; everything must be gone, with exit status 0 and STDERR. */
static void end(Rig *rig, Qmp *q, const char *err)
{
    qmp_ok(q, "quit", NULL);
    g_assert_cmpint(rig_wait(rig), ==, 0);
    check_all_ended();
    g_autofree char *text = rig_read(rig, "err");
    g_assert_cmpstr(text, ==, err);
}

static void test_unix(void)
{
    int listener;
    g_autoptr(Rig) rig = new_rig(&listener);
    rig_run(rig, MONITOR, "-qmp", "unix:q.sock,server=on,wait=off", NULL);
    g_autoptr(Qmp) first = first_monitor(listener);
    for (int i = 0; i < 2; i++) { /* clients come again */
        g_autoptr(Qmp) q = connect_to(rig, "q.sock");
        check_runs(q);
    }
    check_runs(first);
    end(rig, first, "");
    g_assert_false(exists(rig, "q.sock"));
}

static in_port_t free_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&addr, &len), ==, 0);
    close(fd);
    return addr.sin_port;
}

/* HOST as QEMU writes it; a client must get in at 127.0.0.1 and, where V6, at ::1. */
static void tcp(const char *host, bool v6)
{
    int listener;
    g_autoptr(Rig) rig = new_rig(&listener);
    in_port_t port = free_port();
    g_autofree char *option = g_strdup_printf("tcp:%s:%u,server=on,wait=off", host, ntohs(port));
    rig_run(rig, MONITOR, "-qmp", option, NULL);
    g_autoptr(Qmp) first = first_monitor(listener);
    for (int i = 0; i < 1 + v6; i++) {
        struct sockaddr_in v4 = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = port};
        struct sockaddr_in6 a6 = {
            .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT, .sin6_port = port};
        int fd = socket(i ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int rc = i ? connect(fd, (struct sockaddr *)&a6, sizeof(a6))
                   : connect(fd, (struct sockaddr *)&v4, sizeof(v4));
        g_assert_cmpint(rc, ==, 0);
        g_autoptr(Qmp) q = qmp_new(fd, "tcp", false);
        check_runs(q);
    }
    end(rig, first, "");
}

static void test_tcp(void)
{
    tcp("127.0.0.1", false);
    tcp("localhost", false);
    tcp("", g_file_test("/proc/net/if_inet6", G_FILE_TEST_EXISTS));
}

/* As libvirt does: a listening socket, inherited. */
static void test_listen_fd(void)
{
    int listener;
    g_autoptr(Rig) rig = new_rig(&listener);
    int passed = listen_at(rig, "monitor.sock");
    int fds[] = {fcntl(passed, F_DUPFD_CLOEXEC, 31), -1};
    g_autofree char *chardev =
        g_strdup_printf("socket,id=charmonitor,fd=%d,server=on,wait=off", fds[0]);
    rig->fds = fds;
    rig_run(rig, MONITOR, "-chardev", chardev, "-mon",
            "chardev=charmonitor,id=monitor,mode=control", NULL);
    close(fds[0]);
    close(passed);
    g_autoptr(Qmp) first = first_monitor(listener);
    for (int i = 0; i < 2; i++) {
        g_autoptr(Qmp) q = connect_to(rig, "monitor.sock");
        check_runs(q);
    }
    /* the relay has it now, QEMU's number is free */
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", rig->pid, fds[0]);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    end(rig, first, "");
    g_assert_false(exists(rig, "monitor.sock"));
}

static void test_stdio(void)
{
    g_autoptr(Rig) rig = rig_new("tree");
    rig_use_relay(rig);
    g_autofree char *in = rig_path(rig, "in");
    g_assert_true(g_file_set_contents(in,
                                      "{\"execute\":\"qmp_capabilities\"}\n"
                                      "{\"execute\":\"query-memdev\"}\n{\"execute\":\"quit\"}\n",
                                      -1, NULL));
    rig_run(rig, "-qmp", "stdio", NULL);
    g_assert_cmpint(rig_wait(rig), ==, 0);
    rig_wait_all(rig);
    g_autofree char *out = rig_read(rig, "out");
    g_assert_true(g_str_has_prefix(out, "{\"QMP\""));
    g_assert_nonnull(strstr(out, "\"share\": true"));
    g_assert_nonnull(strstr(out, "\"SHUTDOWN\""));
}

/* The monitor outlives the process that was started. */
static void test_daemonize(void)
{
    int listener;
    g_autoptr(Rig) rig = new_rig(&listener);
    rig_run(rig, MONITOR, "-daemonize", "-pidfile", "pidfile", NULL);
    g_autoptr(Qmp) first = first_monitor(listener);
    g_assert_cmpint(rig_wait(rig), ==, 0);
    check_runs(first);
    qmp_ok(first, "quit", NULL);
    rig_wait_all(rig);
    g_assert_false(exists(rig, "pidfile"));
}

static void test_runas(void)
{
    if (geteuid() != 0) {
        g_test_skip("needs root to change the user");
        return;
    }
    int listener;
    g_autoptr(Rig) rig = new_rig(&listener);
    g_autofree char *word = NULL;
    const char *option = vm_runas("nobody", &word);
    rig_run(rig, MONITOR, option, word, NULL);
    g_autoptr(Qmp) first = first_monitor(listener);
    check_runs(first);
    end(rig, first, "");
}

static void test_no_permission(void)
{
    g_autofree char *sysctl = NULL;
    g_file_get_contents("/proc/sys/vm/unprivileged_userfaultfd", &sysctl, NULL, NULL);
    if (geteuid() != 0 || !sysctl || atoi(sysctl) != 0) {
        g_test_skip("needs root to become nobody, and vm.unprivileged_userfaultfd=0");
        return;
    }
    int listener;
    g_autoptr(Rig) rig = new_rig(&listener);
    rig->uid = NOBODY;
    rig_run(rig, MONITOR, NULL);
    g_autoptr(Qmp) first = first_monitor(listener);
    check_runs(first);
    qmp_ok(first, "quit", NULL);
    g_assert_cmpint(rig_wait(rig), ==, 0);
    rig_wait_all(rig);
    g_autofree char *err = rig_read(rig, "err");
    g_assert_nonnull(strstr(err, "vm.unprivileged_userfaultfd=1"));
    g_autofree char *fix = ff_cli_userfault_fix("nobody"); /* the same text as doctor's */
    g_assert_nonnull(strstr(err, fix));
    g_assert_true(strchr(err, '\n') == err + strlen(err) - 1); /* one line */
}

static void test_killed(void)
{
    int listener;
    g_autoptr(Rig) rig = new_rig(&listener);
    rig_run(rig, MONITOR, "-qmp", "unix:q.sock,server=on,wait=off", NULL);
    g_autoptr(Qmp) first = first_monitor(listener);
    g_assert_true(exists(rig, "q.sock"));
    g_assert_cmpint(kill(rig->pid, SIGKILL), ==, 0);
    g_assert_cmpint(rig_wait(rig), ==, -SIGKILL);
    check_closed(first);
    rig_wait_all(rig);
    g_assert_false(exists(rig, "q.sock"));
}

/* A process that set PR_SET_PDEATHSIG before starting farfault takes QEMU with it. */
static void test_parent_dies(void)
{
    int listener, go[2];
    g_autoptr(Rig) rig = new_rig(&listener);
    g_assert_cmpint(pipe2(go, O_CLOEXEC), ==, 0);
    pid_t parent = fork();
    if (parent == 0) {
        char byte;
        rig_run(rig, MONITOR, NULL);
        _exit(read(go[0], &byte, 1) == 1 ? 0 : 1);
    }
    g_autoptr(Qmp) first = first_monitor(listener);
    check_runs(first);
    g_assert_cmpint(write(go[1], "x", 1), ==, 1);
    rig_wait_all(rig);
    check_closed(first);
    close(go[0]);
    close(go[1]);
}

static void test_bad_start(void)
{
    g_autoptr(Rig) rig = rig_new("tree");
    rig_use_relay(rig);
    rig_run(rig, "-qmp", "unix:q.sock,server=on,wait=off", "-device", "nosuch", NULL);
    g_assert_cmpint(rig_wait(rig), ==, 1);
    rig_wait_all(rig);
    g_autofree char *err = rig_read(rig, "err");
    g_assert_cmpstr(err, ==,
                    "qemu-system-x86_64: -device nosuch: 'nosuch' is not a valid device model "
                    "name\n");
    g_assert_false(exists(rig, "q.sock"));
}

/* A setting that is kept from the launcher's start to the engine that answers. The same as
 * [migration] KEY= of the file. */
typedef struct {
    const char *key, *variable, *option, *parameter; /* NULL: no parameter shows it */
    const char *words[4]; /* said by nobody, by the file, by the variable, by the option */
    const char *wrong;    /* what is said of the word "mad"; in front of it is who said it */
} Setting;

static const Setting settings[] = {
    {"policy",
     "FARFAULT_POLICY",
     "--policy",
     "x-farfault-policy",
     {"auto", "never", "always", "auto"},
     "\"mad\" is no policy: it must be auto, always or never"},
    {"untracked",
     "FARFAULT_UNTRACKED",
     "--untracked",
     "x-farfault-untracked",
     {"qemu", "postcopy", "wait", "qemu"},
     "\"mad\" is no such choice: it must be qemu, postcopy or wait"},
    {"restore",
     "FARFAULT_RESTORE",
     "--restore",
     NULL,
     {"eager", "lazy", "eager", "lazy"},
     "\"mad\" is no such choice: it must be eager or lazy"},
};

static void set_by_file(Rig *rig, const Setting *setting, const char *word)
{
    g_autofree char *conf = rig_path(rig, "conf");
    g_autofree char *text = g_strdup_printf("[migration]\n%s=%s\n", setting->key, word);
    g_assert_true(g_file_set_contents(conf, text, -1, NULL));
    rig_setenv(rig, "FARFAULT_CONF", conf);
}

/* Starts QEMU by farfault run with OPTION in front; NULL: with none. */
static void start_set(Rig *rig, const char *option)
{
    const char *argv[] = {"farfault", "run",  option ?: "--", "qemu-system-x86_64",
                          "-display", "none", "-m",           "64M",
                          MONITOR,    NULL};
    g_autofree char *program = rig_path(rig, "bin/farfault");
    rig_spawn(rig, program, argv);
}

static void check_set(Rig *rig, int listener, const Setting *setting, const char *option,
                      const char *word)
{
    start_set(rig, option);
    g_autoptr(Qmp) first = first_monitor(listener);
    g_autoptr(JsonObject) all = qmp_return(first, "query-migrate-parameters", NULL);
    if (setting->parameter) {
        g_assert_cmpstr(json_object_get_string_member(all, setting->parameter), ==, word);
    }
    end(rig, first, "");
}

/* Nothing is started, and the one line that is said names who said it. */
static void check_wrong(Rig *rig, const Setting *setting, const char *option, const char *who)
{
    start_set(rig, option);
    g_assert_cmpint(rig_wait(rig), ==, option ? 2 : 1);
    g_autofree char *err = rig_read(rig, "err");
    g_autofree char *line = g_strdup_printf("farfault: %s: %s\n", who, setting->wrong);
    g_assert_cmpstr(err, ==, line);
}

static void test_setting(gconstpointer data)
{
    const Setting *setting = data;
    int listener;
    g_autoptr(Rig) rig = new_rig(&listener);
    g_autofree char *option = g_strdup_printf("%s=%s", setting->option, setting->words[3]);
    g_autofree char *mad = g_strdup_printf("%s=mad", setting->option);
    g_autofree char *file =
        g_strdup_printf("[migration] %s= of /etc/farfault/farfault.conf", setting->key);

    check_set(rig, listener, setting, NULL, setting->words[0]);
    set_by_file(rig, setting, "mad");
    check_wrong(rig, setting, NULL, file);
    set_by_file(rig, setting, setting->words[1]);
    check_set(rig, listen_again(rig), setting, NULL, setting->words[1]);
    rig_setenv(rig, setting->variable, setting->words[2]);
    check_set(rig, listen_again(rig), setting, NULL, setting->words[2]);
    check_set(rig, listen_again(rig), setting, option, setting->words[3]);
    check_wrong(rig, setting, mad, setting->option);
    rig_setenv(rig, setting->variable, "mad");
    check_wrong(rig, setting, NULL, setting->variable);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/run/monitor/unix", test_unix);
    g_test_add_func("/run/monitor/tcp", test_tcp);
    g_test_add_func("/run/monitor/listen-fd", test_listen_fd);
    g_test_add_func("/run/monitor/stdio", test_stdio);
    g_test_add_func("/run/daemonize", test_daemonize);
    g_test_add_func("/run/runas", test_runas);
    g_test_add_func("/run/no-permission", test_no_permission);
    g_test_add_func("/run/killed", test_killed);
    g_test_add_func("/run/parent-dies", test_parent_dies);
    g_test_add_func("/run/bad-start", test_bad_start);
    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        g_autofree char *path = g_strdup_printf("/run/setting/%s", settings[i].key);
        g_test_add_data_func(path, &settings[i], test_setting);
    }
    return g_test_run();
}
