/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See argv-ask.h. It does not outlive this process. System calls: poll, read, pidfd_open,
 * waitpid, kill, prctl, socketpair, write.
 */
#include "guest/launch/argv-ask.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/deadline.h"

/* A loaded host takes as long for the guest's own QEMU. */
#define ASK_MS 60000
/* From its end on. */
#define LEFT_MS 200
/* QEMU 10 says some 40 KiB of its machines. */
#define MAX_ANSWER (1u << 20)
#define FIRST_FD 3
#define MAX_FDS 8

/* All that FD says, until its end, or until the process of PIDFD (-1: none) has ended, and a moment
 * longer: what a script has left behind may hold FD open for ever. FALSE: neither came until END,
 * or it says too much. */
static bool read_all(int fd, int pidfd, gint64 end, GString *text)
{
    struct pollfd pfd[] = {{.fd = fd, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
    bool ended = false;
    char buf[4096];

    while (text->len < MAX_ANSWER) {
        int ready = poll(pfd, 2, (int)ff_deadline_left_ms(end));

        if (ready == 0 || (ready < 0 && errno != EINTR)) {
            return ready == 0 && ended;
        }
        if (ready > 0 && pfd[1].revents) {
            ended = true;
            pfd[1].fd = -1;
            gint64 last = g_get_monotonic_time() + LEFT_MS * G_TIME_SPAN_MILLISECOND;
            end = MIN(end, last);
        }
        if (ready < 0 || !pfd[0].revents) {
            continue;
        }
        ssize_t n = read(fd, buf, sizeof(buf));
        if (n == 0 || (n < 0 && errno == ECONNRESET)) {
            return true; /* by reset: it has ended without having read all */
        }
        if (n < 0 && errno != EINTR) {
            return false;
        }
        g_string_append_len(text, buf, n > 0 ? n : 0);
    }
    return false;
}

/* The process has ended by END. */
static bool wait_end(int pidfd, gint64 end)
{
    struct pollfd pfd = {.fd = pidfd, .events = POLLIN};
    int ready;

    while ((ready = poll(&pfd, 1, (int)ff_deadline_left_ms(end))) < 0 && errno == EINTR) {
    }
    return ready > 0;
}

static void die_with_parent(gpointer unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static bool spawn_qemu(const FfAskStart *start, GPid *pid)
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
    gint64 end = g_get_monotonic_time() + ASK_MS * G_TIME_SPAN_MILLISECOND;
    GPid pid;
    bool ok = spawn_qemu(start, &pid), started = ok;

    /* Its end is seen when nobody has them any more. */
    for (unsigned i = 0; i < start->n_fds; i++) {
        close(start->fds[i]);
    }
    if (start->in_out >= 0) {
        close(start->in_out);
    }
    /* Of a kernel that has none (before 5.3) the end is not seen. */
    int pidfd = started ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    ok = ok && read_all(fd, pidfd, end, text) && (pidfd < 0 || wait_end(pidfd, end));
    if (started && !ok) {
        kill(pid, SIGKILL);
    }
    if (pidfd >= 0) {
        close(pidfd);
    }
    while (started && waitpid(pid, status, 0) < 0 && errno == EINTR) {
    }
    return ok ? g_string_free(g_steal_pointer(&text), FALSE) : NULL;
}

JsonNode *ff_ask_list(const char *qemu, const char *command)
{
    g_autofree char *questions = g_strdup_printf("{\"execute\": \"qmp_capabilities\"}\n"
                                                 "{\"execute\": \"%s\"}\n"
                                                 "{\"execute\": \"quit\"}\n",
                                                 command);
    const char *argv[] = {qemu,       "-machine", "none", "-nodefaults", "-no-user-config",
                          "-display", "none",     "-qmp", "stdio",       NULL};
    int pair[2], status;

    /* It takes that much without waiting. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return NULL;
    }
    bool asked = write(pair[0], questions, strlen(questions)) == (ssize_t)strlen(questions);
    g_autofree char *text =
        asked ? ff_ask(&(FfAskStart){.argv = (char **)argv, .in_out = pair[1], .err = -1}, pair[0],
                       &status)
              : NULL;
    if (!asked) {
        close(pair[1]);
    }
    close(pair[0]);
    g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;

    for (char **line = lines; line && *line; line++) {
        g_autoptr(JsonNode) node = json_from_string(*line, NULL);
        JsonObject *answer =
            node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
        JsonNode *list = answer ? json_object_get_member(answer, "return") : NULL;

        if (list && JSON_NODE_HOLDS_ARRAY(list)) {
            return json_node_copy(list);
        }
    }
    return NULL;
}
