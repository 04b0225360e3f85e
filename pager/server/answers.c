/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Answers those that ask how clients stand; see answers.h. One thread, one at a time: one that does
 * not read or ask for PATIENCE_S is left. No locks but that of FfSessions.
 *
 * System calls: poll, accept4, setsockopt, recv, send, shutdown, close.
 */
#include "pager/server/answers.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/io-result.h"
#include "pager/server/report.h"

#define PATIENCE_S 2
#define REQUEST_MAX 8192
#define SHORT_US 100000

static bool send_all(int sock, const char *text, size_t len)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_S * G_USEC_PER_SEC;

    for (size_t at = 0; at < len;) {
        if (g_get_monotonic_time() >= end) {
            return false;
        }
        ssize_t n = send(sock, text + at, len - at, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        at += n;
    }
    return true;
}

/* All of the request, as a socket that is closed with something in it loses what was sent. */
static bool read_request(int sock)
{
    char text[REQUEST_MAX + 1];
    gint64 end = g_get_monotonic_time() + PATIENCE_S * G_USEC_PER_SEC;
    size_t len = 0;

    while (len < REQUEST_MAX && g_get_monotonic_time() < end) {
        ssize_t n = recv(sock, text + len, REQUEST_MAX - len, 0);
        if (n <= 0) {
            return false;
        }
        len += n;
        text[len] = 0;
        if (strstr(text, "\r\n\r\n") || strstr(text, "\n\n")) {
            return true;
        }
    }
    return false;
}

static void answer_control(FfSessions *all, int sock)
{
    g_autoptr(JsonNode) report = ff_sessions_report(all);
    g_autofree char *text = json_to_string(report, true);
    g_autofree char *line = g_strconcat(text, "\n", NULL);

    send_all(sock, line, strlen(line));
}

static void answer_metrics(FfSessions *all, int sock)
{
    if (!read_request(sock)) {
        return;
    }
    g_autofree char *text = ff_sessions_metrics(all);
    g_autofree char *head = g_strdup_printf(
        "HTTP/1.0 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; "
        "charset=utf-8\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
        strlen(text));
    if (send_all(sock, head, strlen(head))) {
        send_all(sock, text, strlen(text));
    }
}

/* FALSE: no fd is free. */
static bool answer_client(const FfAnswers *a, int listener)
{
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (sock < 0) {
        return !ff_io_is_short(errno);
    }
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (listener == a->control) {
        answer_control(a->all, sock);
    } else {
        answer_metrics(a->all, sock);
    }
    shutdown(sock, SHUT_WR);
    close(sock);
    return true;
}

static gpointer run_answers(gpointer p)
{
    const FfAnswers *a = p;
    struct pollfd pfd[2] = {{.fd = a->control, .events = POLLIN},
                            {.fd = a->metrics, .events = POLLIN}};

    for (;;) {
        if (poll(pfd, 2, -1) <= 0) {
            continue;
        }
        for (unsigned i = 0; i < 2; i++) {
            if (pfd[i].revents && !answer_client(a, pfd[i].fd)) {
                g_usleep(SHORT_US); /* what becomes free has no event */
            }
        }
    }
    return NULL;
}

bool ff_answers_start(FfAnswers *a, GError **error)
{
    GThread *thread = g_thread_try_new("answers", run_answers, a, error);

    if (thread) {
        g_thread_unref(thread);
    }
    return thread;
}
