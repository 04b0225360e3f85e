/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts farfault from a tree of its own, with test-relay in place of the relay.
 *
 * The test program is a subreaper: relay and daemonized QEMU become its children, so the end of a
 * test is "no child left", and a test that leaves one hangs into its time limit. One thread.
 */
#include "tests/qtest/launch-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIMEOUT_MS 60000 /* of one report */

char *rig_path(const Rig *rig, const char *name)
{
    return g_build_filename(rig->dir, name, NULL);
}

char *rig_read(const Rig *rig, const char *name)
{
    g_autofree char *path = rig_path(rig, name);
    char *text = NULL;
    return g_file_get_contents(path, &text, NULL, NULL) ? text : g_strdup("");
}

void rig_setenv(Rig *rig, const char *name, const char *value)
{
    rig->env = g_environ_setenv(rig->env, name, value, true);
}

void rig_remove(const Rig *rig, const char *name)
{
    g_autofree char *path = rig_path(rig, name);
    g_assert_cmpint(unlink(path), ==, 0);
}

static void install(const Rig *rig, const char *built, const char *name)
{
    g_autofree char *from = g_build_filename(g_getenv("FF_BUILD"), built, NULL);
    g_autofree char *to = rig_path(rig, name);
    g_autofree char *bytes = NULL;
    gsize len;
    g_autoptr(GError) error = NULL;
    g_file_get_contents(from, &bytes, &len, &error);
    g_assert_no_error(error);
    g_file_set_contents(to, bytes, len, &error);
    g_assert_no_error(error);
    g_assert_cmpint(chmod(to, 0755), ==, 0);
}

/* Opened for reading and writing: no end sees the other missing, opens do not block. */
static int make_fifo(Rig *rig, const char *variable, const char *name)
{
    g_autofree char *path = rig_path(rig, name);
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    g_assert_cmpint(chmod(path, 0666), ==, 0);
    rig_setenv(rig, variable, path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    return fd;
}

Rig *rig_new(const char *name)
{
    g_assert_cmpint(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), ==, 0);
    g_assert_nonnull(g_getenv("FF_BUILD"));
    Rig *rig = g_new0(Rig, 1);
    g_autoptr(GError) error = NULL;
    rig->base = g_dir_make_tmp("farfault-test-XXXXXX", &error);
    g_assert_no_error(error);
    g_assert_cmpint(chmod(rig->base, 0755), ==, 0);
    rig->dir = g_build_filename(rig->base, name, NULL);
    g_autofree char *bin = rig_path(rig, "bin");
    g_autofree char *lib = rig_path(rig, "lib/farfault");
    g_assert_cmpint(g_mkdir_with_parents(bin, 0755), ==, 0);
    g_assert_cmpint(g_mkdir_with_parents(lib, 0755), ==, 0);
    g_assert_cmpint(chmod(rig->dir, 0777), ==, 0);
    install(rig, "cli/farfault", "bin/farfault");
    install(rig, "guest/agent/farfault-agent.so", "lib/farfault/farfault-agent.so");
    install(rig, "tests/qtest/test-relay", "lib/farfault/farfault-relay");
    g_autofree char *link = rig_path(rig, "lib/farfault/qemu-system-x86_64");
    g_assert_cmpint(symlink("../../bin/farfault", link), ==, 0);

    rig->env = g_get_environ();
    rig->env = g_environ_unsetenv(rig->env, "FARFAULT_QEMU");
    rig->env = g_environ_unsetenv(rig->env, "FARFAULT_POLICY");
    rig->env = g_environ_unsetenv(rig->env, "FARFAULT_UNTRACKED");
    rig_setenv(rig, "FARFAULT_CONF", "/nonexistent/farfault.conf");
    rig->report = make_fifo(rig, "FF_TEST_REPORT", "report");
    rig->go = make_fifo(rig, "FF_TEST_GO", "go");
    rig->uid = (uid_t)-1;
    rig->parser = json_parser_new();
    return rig;
}

void rig_use_relay(Rig *rig)
{
    install(rig, "guest/relay/farfault-relay", "lib/farfault/farfault-relay");
    install(rig, "engine/farfault-engine", "lib/farfault/farfault-engine");
}

static void remove_tree(const char *path)
{
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
        const char *name;
        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *child = g_build_filename(path, name, NULL);
            remove_tree(child);
        }
    }
    g_remove(path);
}

void rig_wait_all(Rig *rig)
{
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) {
    }
    g_assert_cmpint(errno, ==, ECHILD);
    rig->pid = 0;
}

void rig_free(Rig *rig)
{
    for (int i = 0; i < 8; i++) {
        rig_quit(rig); /* one for each that was started; nobody may be there to read it */
    }
    rig_wait_all(rig);
    close(rig->report);
    close(rig->go);
    remove_tree(rig->base);
    g_object_unref(rig->parser);
    g_strfreev(rig->env);
    g_free(rig->dir);
    g_free(rig->base);
    g_free(rig);
}

static void redirect(const Rig *rig, const char *name, int flags, int fd)
{
    g_autofree char *path = rig_path(rig, name);
    int file = open(path, flags, 0666);
    if (file < 0 || dup2(file, fd) < 0) {
        _exit(99);
    }
    close(file);
}

void rig_spawn(Rig *rig, const char *program, const char *const *argv)
{
    rig->pid = fork();
    g_assert_cmpint(rig->pid, >=, 0);
    if (rig->pid > 0) {
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    redirect(rig, "in", O_RDONLY | O_CREAT, 0);
    redirect(rig, "out", O_WRONLY | O_CREAT | O_TRUNC, 1);
    redirect(rig, "err", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 2);
    for (int i = 0; rig->fds && rig->fds[i] >= 0; i++) {
        fcntl(rig->fds[i], F_SETFD, 0);
    }
    if (chdir(rig->dir) < 0 ||
        (rig->uid != (uid_t)-1 && setresuid(rig->uid, rig->uid, rig->uid) < 0)) {
        _exit(99);
    }
    execvpe(program, (char *const *)argv, rig->env);
    _exit(98);
}

void rig_run(Rig *rig, ...)
{
    static const char *const start[] = {"farfault", "run", "qemu-system-x86_64", "-display", "none",
                                        "-m",       "64M"};
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    for (size_t i = 0; i < G_N_ELEMENTS(start); i++) {
        g_ptr_array_add(argv, (char *)start[i]);
    }
    va_list ap;
    va_start(ap, rig);
    const char *arg;
    while ((arg = va_arg(ap, const char *))) {
        g_ptr_array_add(argv, (char *)arg);
    }
    va_end(ap);
    g_ptr_array_add(argv, NULL);
    g_autofree char *program = rig_path(rig, "bin/farfault");
    rig_spawn(rig, program, (const char *const *)argv->pdata);
}

int rig_wait(Rig *rig)
{
    int status;
    g_assert_cmpint(waitpid(rig->pid, &status, 0), ==, rig->pid);
    rig->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

JsonObject *rig_report(Rig *rig)
{
    struct pollfd p = {.fd = rig->report, .events = POLLIN};
    g_autoptr(GString) line = g_string_new(NULL);
    while (line->len == 0 || line->str[line->len - 1] != '\n') {
        char buf[4096];
        if (poll(&p, 1, TIMEOUT_MS) != 1) {
            g_autofree char *err = rig_read(rig, "err");
            g_error("no report came; stderr: %s", err);
        }
        ssize_t n = read(rig->report, buf, sizeof(buf));
        g_assert_cmpint(n, >, 0);
        g_string_append_len(line, buf, n);
    }
    g_autoptr(GError) error = NULL;
    json_parser_load_from_data(rig->parser, line->str, line->len, &error);
    g_assert_no_error(error);
    return json_node_get_object(json_parser_get_root(rig->parser));
}

void rig_quit(Rig *rig)
{
    g_assert_cmpint(write(rig->go, "x", 1), ==, 1);
}
