/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager's main thread: hears the holder, and answers who asks how it stands. It waits for no
 * session. See server.h. System calls: accept4, fcntl, poll, setrlimit, send, close, prctl.
 */
#include "server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fault/fault.h"
#include "server/family.h"
#include "server/report.h"
#include "server/session.h"

#define SOURCE_AGAIN_MS 1000
#define START_AGAIN_MS 1000

typedef struct {
    FfSessions sessions;
    bool ready, all_started;
} Server;

static void close_all(const int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        close(fds[i]);
    }
}

/* FALSE: the holder has gone. */
static bool on_link(Server *s)
{
    FfHoldMessage msg;
    int fds[FF_HOLD_FDS];
    unsigned n;
    int rc = ff_hold_receive(FF_HOLD_LINK_FD, &msg, fds, &n);

    if (rc == -EPROTO) {
        /* Not all fds have come. The next pager may have more. */
        fprintf(stderr, "farfault pager: not enough files for all clients: ulimit -n\n");
    }
    if (rc <= 0) {
        return false;
    }
    switch (msg.type) {
    case FF_HOLD_SPACE:
        g_assert_cmpuint(n, ==, FF_HOLD_FDS);
        ff_session_add(&s->sessions, &msg, fds);
        s->all_started = s->ready && ff_sessions_start_all(&s->sessions);
        break;
    case FF_HOLD_READY:
        s->ready = true;
        s->all_started = ff_sessions_start_all(&s->sessions);
        break;
    case FF_HOLD_PROBE:
        ff_family_probe(&s->sessions, msg.root);
        break;
    default:
        close_all(fds, n);
    }
    return true;
}

/* What the socket does not take at once is cut: it has room for some hundred clients. */
static void on_control(Server *s)
{
    int sock = accept4(FF_SERVER_CONTROL_FD, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (sock < 0) {
        return;
    }
    g_autoptr(JsonNode) report = ff_sessions_report(&s->sessions);
    g_autofree char *text = json_to_string(report, true);
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    size_t len = strlen(line);
    int size = (int)MIN(len + 4096, 8 << 20);
    setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    for (size_t at = 0; at < len;) {
        ssize_t n = send(sock, line + at, len - at, MSG_NOSIGNAL);
        if (n <= 0) {
            break;
        }
        at += n;
    }
    close(sock);
}

static void run(Server *s, bool control)
{
    struct pollfd pfd[2] = {{.fd = FF_HOLD_LINK_FD, .events = POLLIN},
                            {.fd = control ? FF_SERVER_CONTROL_FD : -1, .events = POLLIN}};

    for (;;) {
        /* A thread that can be had again has no event. */
        int n = poll(pfd, 2, s->ready && !s->all_started ? START_AGAIN_MS : -1);
        if (n == 0) {
            s->all_started = ff_sessions_start_all(&s->sessions);
        }
        if (n <= 0) {
            continue;
        }
        if (pfd[0].revents && !on_link(s)) {
            return;
        }
        if (pfd[1].revents) {
            on_control(s);
        }
    }
}

/* Until it can be opened: clients wait, and the holder's messages as well. NULL: it has gone. */
static FfSource *wait_for_source(const FfServerConfig *cfg)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", FF_SERVER_SOURCE_FD), *said = NULL;
    struct pollfd link = {.fd = FF_HOLD_LINK_FD}; /* nothing but POLLHUP */

    for (;;) {
        g_autoptr(GError) error = NULL;
        /* By its fd: another file may have its name by now. */
        FfSource *source = ff_source_open(path, &cfg->source, &error);
        if (source) {
            return source;
        }
        if (g_strcmp0(said, error->message)) {
            fprintf(stderr, "farfault pager: %s: all clients wait, and it is tried again\n",
                    error->message);
            g_free(said);
            said = g_strdup(error->message);
        }
        if (poll(&link, 1, SOURCE_AGAIN_MS) != 0) {
            return NULL;
        }
    }
}

int ff_server_run(const FfServerConfig *cfg)
{
    Server s = {0};
    struct rlimit files;

    FF_FAULT_SIDE("pager");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* of a terminal: the holder ends this */
    for (int fd = FF_HOLD_LINK_FD; fd <= FF_SERVER_CONTROL_FD; fd++) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    g_autoptr(FfSource) source = wait_for_source(cfg);
    if (!source) {
        return 1;
    }
    FF_FAULT_AT("pager-begins");
    ff_sessions_init(&s.sessions, source, FF_HOLD_LINK_FD, cfg->bulk);
    run(&s, cfg->control);
    /* Sessions' threads end with the process, and what they hold is in their records. */
    _exit(1);
}
