/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See daemon.h. */
#include "tests/pager/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_S 60

static void make_file(const Daemon *d, unsigned pages, uint64_t page_size, DaemonFill fill)
{
    int fd = open(d->file, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    g_autofree char *buf = g_malloc(page_size);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)(pages * page_size)), ==, 0);
    for (unsigned i = 0; i < pages; i++) {
        if (fill(i, buf)) {
            g_assert_cmpint(pwrite(fd, buf, page_size, (off_t)(i * page_size)), ==, page_size);
        }
    }
    close(fd);
}

static int connect_to(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static DaemonKind next = {.said_to = -1};

void daemon_next(const DaemonKind *kind)
{
    next = *kind;
}

static void become_other(void)
{
    struct rlimit processes = {next.processes, next.processes};

    if (next.processes) {
        setrlimit(RLIMIT_NPROC, &processes);
    }
    if (next.uid && (setgid(next.uid) < 0 || setuid(next.uid) < 0)) {
        _exit(126);
    }
}

static void become(const Daemon *d, const char *faults, const char *more)
{
    const char *build = g_getenv("FF_BUILD");
    g_autofree char *program = g_strdup_printf("%s/cli/farfault", build ? build : "build");
    g_autofree char *env = faults ? g_strdup_printf("%s;%s", d->dir, faults) : NULL;
    int log = open(d->log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);

    dup2(next.said_to >= 0 ? next.said_to : log, 2);
    become_other();
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* setuid() has taken it back */
    if (env) {
        setenv("FARFAULT_FAULTS", env, 1);
    }
    if (next.file_max) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){next.file_max, next.file_max});
    }
    if (next.into) {
        execl(program, "farfault", "pager", "--receive", d->socket, "--into", next.into, more,
              NULL);
        _exit(127);
    }
    if (next.restores) {
        execl(program, "farfault", "pager", "--to", d->socket, "--from", d->dir, "--control",
              d->control, more, NULL);
        _exit(127);
    }
    execl(program, "farfault", "pager", "--listen", d->socket, "--from",
          next.file ? next.file : d->file, "--control", d->control,
          next.page_server ? next.page_server : more, next.page_server ? more : NULL, NULL);
    _exit(127);
}

Daemon *daemon_start(unsigned pages, uint64_t page_size, DaemonFill fill, const char *faults,
                     const char *more)
{
    Daemon *d = g_new0(Daemon, 1);

    d->dir = g_dir_make_tmp("farfault-pager-XXXXXX", NULL);
    g_assert_nonnull(d->dir);
    d->socket = g_build_filename(d->dir, "socket", NULL);
    d->control = g_build_filename(d->dir, "control", NULL);
    d->file = g_build_filename(d->dir, "memory", NULL);
    d->log = g_build_filename(d->dir, "log", NULL);
    if (next.restores) {
        next.restores(d->dir, d->socket, next.opaque);
    } else if (!next.file && !next.into) {
        make_file(d, pages, page_size, fill);
    }
    g_assert_true(g_file_set_contents(d->log, "", 0, NULL));
    if (next.uid) {
        g_assert_cmpint(chown(d->dir, next.uid, next.uid), ==, 0);
        g_assert_cmpint(chown(d->file, next.uid, next.uid), ==, 0);
        g_assert_cmpint(chown(d->log, next.uid, next.uid), ==, 0);
    }
    d->pid = fork();
    g_assert_cmpint(d->pid, >=, 0);
    if (d->pid == 0) {
        become(d, faults, more);
    }
    if (next.said_to < 0 && !next.restores && !next.into && !next.dies) {
        daemon_wait_said(d, "listens at");
    }
    next = (DaemonKind){.said_to = -1};
    return d;
}

char *daemon_said(const Daemon *d)
{
    char *text = NULL;

    g_file_get_contents(d->log, &text, NULL, NULL);
    return text ? text : g_strdup("");
}

void daemon_wait_said(const Daemon *d, const char *text)
{
    char events[4096];
    int watch = inotify_init1(IN_CLOEXEC);
    struct pollfd pfd = {.fd = watch, .events = POLLIN};

    g_assert_cmpint(inotify_add_watch(watch, d->log, IN_MODIFY), >=, 0);
    for (;;) {
        g_autofree char *said = daemon_said(d);
        if (strstr(said, text)) {
            break;
        }
        if (poll(&pfd, 1, PATIENCE_S * 1000) != 1) {
            g_error("not said: %s; but: %s", text, said);
        }
        g_assert_cmpint(read(watch, events, sizeof(events)), >, 0);
    }
    close(watch);
}

pid_t daemon_pager(const Daemon *d)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/children", d->pid, d->pid);
    g_autofree char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return 0;
    }
    g_auto(GStrv) pids = g_strsplit(g_strstrip(text), " ", -1);
    for (char **pid = pids; *pid; pid++) {
        g_autofree char *name = g_strdup_printf("/proc/%s/cmdline", *pid), *line = NULL;
        gsize len = 0;
        if (**pid && g_file_get_contents(name, &line, &len, NULL) &&
            memmem(line, len, "--serve", strlen("--serve"))) {
            return atoi(*pid);
        }
    }
    return 0;
}

int daemon_wait(Daemon *d)
{
    int status;

    g_assert_cmpint(waitpid(d->pid, &status, 0), ==, d->pid);
    d->pid = 0;
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static pid_t find_guard(const Daemon *d)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/children", d->pid, d->pid);
    g_autofree char *text = NULL;
    pid_t guard = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (char *at = g_strstrip(text); *at;) {
        pid_t pid = (pid_t)g_ascii_strtoll(at, &at, 10);
        g_autofree char *of_child = g_strdup_printf("/proc/%d/comm", pid), *name = NULL;
        bool is = g_file_get_contents(of_child, &name, NULL, NULL) && !strcmp(name, "guard\n");
        guard = is ? pid : guard;
    }
    return guard;
}

pid_t daemon_guard(const Daemon *d)
{
    pid_t guard;

    while (!(guard = find_guard(d))) {
    } /* there is no event of it */
    return guard;
}

void daemon_kill_guard(const Daemon *d)
{
    g_assert_cmpint(kill(daemon_guard(d), SIGKILL), ==, 0);
    daemon_wait_said(d, "the guard has died");
}

bool daemon_fault_happened(const Daemon *d, unsigned i)
{
    g_autofree char *path = g_strdup_printf("%s/fault-%u", d->dir, i);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

/* The socket is the pager's, and its backlog outlives it. */
JsonNode *daemon_report(const Daemon *d)
{
    for (;;) {
        g_autoptr(GString) text = g_string_new(NULL);
        char some[4096];
        ssize_t n;
        int fd = connect_to(d->control);
        g_assert_cmpint(fd, >=, 0);
        while ((n = read(fd, some, sizeof(some))) > 0) {
            g_string_append_len(text, some, n);
        }
        close(fd);
        if (text->len) { /* else it died before it had answered */
            JsonNode *node = json_from_string(text->str, NULL);
            g_assert_nonnull(node);
            return node;
        }
    }
}

void daemon_wait_threads(pid_t pid, unsigned n)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", pid);
    unsigned found;

    do {
        GDir *dir = g_dir_open(path, 0, NULL);
        for (found = 0; dir && g_dir_read_name(dir); found++) {
        }
        g_dir_close(dir);
    } while (found < n);
}

bool is_waiting_in(pid_t pid, const char *where)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *task;
    bool waits = false;

    while (dir && (task = g_dir_read_name(dir))) {
        g_autofree char *name = g_build_filename(path, task, "wchan", NULL), *wchan = NULL;
        g_autofree char *name_of_children = g_build_filename(path, task, "children", NULL);
        g_autofree char *children = NULL;
        waits = waits || (g_file_get_contents(name, &wchan, NULL, NULL) && strstr(wchan, where));
        if (g_file_get_contents(name_of_children, &children, NULL, NULL)) {
            for (char *at = children; *g_strstrip(at);) {
                waits = is_waiting_in((pid_t)g_ascii_strtoll(at, &at, 10), where) || waits;
            }
        }
    }
    return waits;
}

void assert_ended_well(pid_t pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (status) {
        g_error("process %d has ended with %x", pid, status);
    }
}

static void remove_all(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_unlink(file);
    }
    if (dir) {
        g_dir_close(dir);
    }
    g_rmdir(path);
}

void daemon_stop(Daemon *d)
{
    if (d->pid) {
        kill(d->pid, SIGTERM);
        assert_ended_well(d->pid);
    }
    if (g_test_failed() || g_getenv("FF_KEEP")) {
        g_autofree char *said = daemon_said(d);
        g_test_message("it said: %s", said);
    }
    remove_all(d->dir);
    g_free(d->dir);
    g_free(d->socket);
    g_free(d->control);
    g_free(d->file);
    g_free(d->log);
    g_free(d);
}
