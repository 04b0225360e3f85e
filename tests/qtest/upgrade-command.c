/* SPDX-License-Identifier: GPL-2.0-or-later */
/* farfault upgrade as tests call it: at once, or meanwhile; see upgrade-rig.h. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/qtest/upgrade-rig.h"

/* ARGS: after "farfault upgrade QMP", NULL-terminated. Returns the exit status; *SAID (g_free): the
 * last line that it wrote. */
int up_run(Guest *g, const char *const *args, char **said)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *out = NULL, *err = NULL;
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_auto(GStrv) env = up_environment(g);
    g_autoptr(GError) error = NULL;
    int status;

    up_disconnect(g);
    g_ptr_array_add(argv, farfault);
    g_ptr_array_add(argv, (char *)"upgrade");
    g_ptr_array_add(argv, g->monitor);
    for (unsigned i = 0; args && args[i]; i++) {
        g_ptr_array_add(argv, (char *)args[i]);
    }
    g_ptr_array_add(argv, NULL);
    g_spawn_sync(NULL, (char **)argv->pdata, env, G_SPAWN_DEFAULT, NULL, NULL, &out, &err, &status,
                 &error);
    g_assert_no_error(error);
    g_test_message("%s%s", out, err);
    g_assert_true(WIFEXITED(status));
    *said = WEXITSTATUS(status) ? g_strdup(err) : g_strconcat(out, err, NULL);
    return WEXITSTATUS(status);
}

void up_to(Guest *g, const char *program)
{
    g_autofree char *said = NULL;
    pid_t before = up_only_qemu(g);

    g_assert_cmpint(up_run(g, (const char *const[]){"--qemu", program, NULL}, &said), ==, 0);
    g_assert_cmpint(up_only_qemu(g), !=, before);
    up_runs(g);
}

/* It fails, and says PART; the QEMU that was there continues. */
void up_fails(Guest *g, const char *const *args, const char *part)
{
    g_autofree char *said = NULL;
    pid_t before = up_only_qemu(g);

    g_assert_cmpint(up_run(g, args, &said), ==, 1);
    if (!strstr(said, part)) {
        g_error("\"%s\" is not in: %s", part, said);
    }
    g_assert_true(strchr(said, '\n') == said + strlen(said) - 1);
    g_assert_cmpint(up_only_qemu(g), ==, before);
    up_runs(g);
}

struct Command {
    pid_t pid; /* 0: it was waited for */
    int out;
    GString *said; /* that was read already; NULL: nothing was */
};

Command *up_begin(Guest *g, const char *program)
{
    return up_begin_with(g, program, NULL);
}

Command *up_begin_with(Guest *g, const char *program, const char *option)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    const char *argv[] = {farfault, "upgrade", g->monitor, NULL, NULL, NULL, NULL};
    unsigned n = 3;

    if (option) {
        argv[n++] = option;
    }
    if (program) {
        argv[n++] = "--qemu";
        argv[n++] = program;
    }
    g_auto(GStrv) env = up_environment(g);
    Command *c = g_new0(Command, 1);
    int fds[2];

    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    up_disconnect(g);
    c->out = fds[0];
    c->pid = fork();
    if (c->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(fds[1], 1);
        dup2(fds[1], 2);
        execve(farfault, (char **)argv, env);
        _exit(127);
    }
    close(fds[1]);
    return c;
}

bool up_is_under_way(Command *c)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && !info.si_pid;
}

void up_await_said(Command *c, const char *text)
{
    char byte;

    c->said = c->said ? c->said : g_string_new(NULL);
    while (!strstr(c->said->str, text)) {
        if (read(c->out, &byte, 1) != 1) {
            g_error("it has ended, and did not say \"%s\": %s", text, c->said->str);
        }
        g_string_append_c(c->said, byte);
    }
}

int up_finish(Command *c, char **said)
{
    g_autoptr(GString) text = c->said ? g_steal_pointer(&c->said) : g_string_new(NULL);
    char buf[1024];
    ssize_t n;
    int status;

    while ((n = read(c->out, buf, sizeof(buf))) > 0) {
        g_string_append_len(text, buf, n);
    }
    while (waitpid(c->pid, &status, 0) < 0) {
        g_assert_cmpint(errno, ==, EINTR);
    }
    c->pid = 0;
    g_test_message("%s", text->str);
    *said = g_string_free(g_steal_pointer(&text), FALSE);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void up_kill(Command *c)
{
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
    c->pid = 0;
}

void up_command_free(Command *c)
{
    if (c->pid) {
        kill(c->pid, SIGKILL);
    }
    close(c->out);
    if (c->said) {
        g_string_free(c->said, TRUE);
    }
    g_free(c);
}

char *up_slow_program(Guest *g)
{
    static const char *const names[] = {"slow-waits", "slow-go"};
    g_autofree char *installed = up_installed();
    /* Not when it is asked what it takes (guest/launch/takes.c). */
    g_autofree char *text = g_strdup_printf("#!/bin/sh\ncase \"$*\" in *'-machine none'*) ;; *)\n"
                                            ": >%s/slow-waits\nread x <%s/slow-go;;\nesac\n"
                                            "exec %s \"$@\"\n",
                                            g->dir, g->dir, installed);
    char *path = g_build_filename(g->dir, "slow-qemu", NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *fifo = g_build_filename(g->dir, names[i], NULL);

        g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    }
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_assert_cmpint(chmod(path, 0700), ==, 0);
    return path;
}

void up_slow_program_waits(Guest *g)
{
    g_autofree char *path = g_build_filename(g->dir, "slow-waits", NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
}

void up_slow_program_goes_on(Guest *g)
{
    up_open_fifo(g, "slow-go");
}
