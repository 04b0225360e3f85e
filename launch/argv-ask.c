/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See argv-ask.h. It does not outlive this process. System calls: poll, read, waitpid, kill, prctl.
 */
#include "launch/argv-ask.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* A loaded host takes as long for the guest's own QEMU. */
#define ASK_MS 60000
/* QEMU 10 says some 40 KiB of its machines. */
#define MAX_ANSWER (1u << 20)
#define FIRST_FD 3
#define MAX_FDS 8

/* All of what FD says until its end. FALSE: it did not end in time, or says too much. */
static bool read_all(int fd, GString *text)
{
    gint64 end = g_get_monotonic_time() + ASK_MS * G_TIME_SPAN_MILLISECOND;
    char buf[4096];

    while (text->len < MAX_ANSWER) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        gint64 left = (end - g_get_monotonic_time()) / G_TIME_SPAN_MILLISECOND;
        int ready = poll(&pfd, 1, left > 0 ? (int)left : 0);
        ssize_t n = ready > 0 ? read(fd, buf, sizeof(buf)) : 0;

        if (ready > 0 && n < 0 && errno == ECONNRESET) {
            return true; /* it has ended without having read all */
        }
        if (ready == 0 || ((ready < 0 || n < 0) && errno != EINTR)) {
            return false;
        }
        if (ready > 0 && n == 0) {
            return true;
        }
        g_string_append_len(text, buf, n > 0 ? n : 0);
    }
    return false;
}

static void die_with_parent(gpointer unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static bool spawn(const FfAskStart *start, GPid *pid)
{
    int numbers[MAX_FDS];
    GSpawnFlags flags = G_SPAWN_DO_NOT_REAP_CHILD |
                        (start->in_out < 0 ? G_SPAWN_STDOUT_TO_DEV_NULL : 0) |
                        (start->err < 0 ? G_SPAWN_STDERR_TO_DEV_NULL : 0);

    g_assert(start->n_fds <= MAX_FDS);
    for (unsigned i = 0; i < start->n_fds; i++) {
        numbers[i] = FIRST_FD + (int)i;
    }
    return g_spawn_async_with_pipes_and_fds(
        NULL, (const char *const *)start->argv, (const char *const *)start->envp, flags,
        die_with_parent, NULL, start->in_out, start->in_out, start->err, start->fds, numbers,
        start->n_fds, pid, NULL, NULL, NULL, NULL);
}

char *ff_ask(const FfAskStart *start, int fd, int *status)
{
    g_autoptr(GString) text = g_string_new(NULL);
    GPid pid;
    bool ok = spawn(start, &pid), started = ok;

    /* Its end is seen when nobody has them any more. */
    for (unsigned i = 0; i < start->n_fds; i++) {
        close(start->fds[i]);
    }
    if (start->in_out >= 0) {
        close(start->in_out);
    }
    ok = ok && read_all(fd, text);
    if (started && !ok) {
        kill(pid, SIGKILL);
    }
    while (started && waitpid(pid, status, 0) < 0 && errno == EINTR) {
    }
    return ok ? g_string_free(g_steal_pointer(&text), FALSE) : NULL;
}
