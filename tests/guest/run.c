/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See run.h. */
#include "tests/guest/run.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

GuestRun guest_run_start(const char *program, const char *dir, const char *const *options)
{
    int ends[2];
    g_autofree char *path = vm_build_path(program);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    GuestRun m;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    g_ptr_array_add(argv, path);
    for (unsigned i = 0; options[i]; i++) {
        g_ptr_array_add(argv, (char *)options[i]);
    }
    g_ptr_array_add(argv, NULL);
    g_spawn_async_with_pipes_and_fds(dir, (const char *const *)argv->pdata, NULL,
                                     G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, ends[1], ends[1], -1,
                                     NULL, NULL, 0, &m.pid, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    close(ends[1]);
    m.console = stream_new(ends[0], program);
    return m;
}

char *guest_run_line(GuestRun *m, const char *prefix)
{
    for (;;) {
        char *line = stream_read_line(m->console, prefix, test_deadline(TEST_TIMEOUT));
        if (!line) {
            test_fail("the guest's program ended before \"%s\"", prefix);
        }
        if (g_str_has_prefix(line, prefix)) {
            return line;
        }
        g_free(line);
    }
}

void guest_run_key(GuestRun *m, const char *key)
{
    stream_send(m->console, key, 1, NULL, 0);
}

int guest_run_end(GuestRun *m)
{
    int status;

    g_assert_cmpint(waitpid(m->pid, &status, 0), ==, m->pid);
    stream_free(m->console);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

uint64_t guest_run_number(const char *line, const char *name)
{
    g_autofree char *key = g_strconcat(" ", name, "=", NULL);
    const char *at = strstr(line, key);

    if (!at) {
        test_fail("no %s in \"%s\"", name, line);
    }
    return g_ascii_strtoull(at + strlen(key), NULL, 10);
}
