/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Buffered reading with deadlines over poll(2), sending with fds. One thread per stream.
 */
#include "tests/lib/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct Stream {
    int fd;
    char *label;
    GString *in; /* what came and was not taken yet */
    bool eof;
};

enum { CHUNK = 64 * 1024, MAX_FDS = 16, MAX_REST = 1 << 20 };

void (*test_fail_hook)(void);

void test_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    if (test_fail_hook)
        test_fail_hook();
    g_error("%s", text);
}

unsigned test_slower(void)
{
    const char *slower = g_getenv("FF_TEST_SLOWER");

    return slower ? (unsigned)CLAMP(g_ascii_strtoll(slower, NULL, 10), 1, 100) : 1;
}

int64_t test_deadline(unsigned seconds)
{
    return g_get_monotonic_time() + (int64_t)test_slower() * seconds * G_USEC_PER_SEC;
}

bool test_wait_readable(int fd, int64_t deadline)
{
    for (;;) {
        int64_t left = deadline - g_get_monotonic_time();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, left > 0 ? (int)(left / 1000) + 1 : 0);
        if (n > 0)
            return true;
        if (n == 0 && left <= 0)
            return false;
        if (n < 0 && errno != EINTR)
            test_fail("poll: %s", g_strerror(errno));
    }
}

Stream *stream_new(int fd, const char *label)
{
    Stream *s = g_new0(Stream, 1);
    s->fd = fd;
    s->label = g_strdup(label);
    s->in = g_string_new(NULL);
    return s;
}

void stream_free(Stream *s)
{
    if (!s)
        return;
    close(s->fd);
    g_string_free(s->in, TRUE);
    g_free(s->label);
    g_free(s);
}

int stream_fd(const Stream *s)
{
    return s->fd;
}

void stream_send(Stream *s, const void *data, size_t length, const int *fds, unsigned n_fds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } control = {0};
    g_assert_cmpuint(n_fds, <=, MAX_FDS);
    const char *at = data;
    while (length) {
        struct iovec iov = {.iov_base = (void *)at, .iov_len = length};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        if (n_fds) {
            msg.msg_control = control.bytes;
            msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
            struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
            memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
        }
        ssize_t n = sendmsg(s->fd, &msg, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
            return; /* the next reader is told that it is closed */
        if (n < 0)
            test_fail("%s: cannot send: %s", s->label, g_strerror(errno));
        at += n;
        length -= n;
        n_fds = 0;
    }
}

/* Reads once; false when nothing came until the deadline. */
static bool fill(Stream *s, int64_t deadline)
{
    if (!test_wait_readable(s->fd, deadline))
        return false;
    gsize old = s->in->len;
    g_string_set_size(s->in, old + CHUNK);
    ssize_t n = read(s->fd, s->in->str + old, CHUNK);
    g_string_set_size(s->in, old + MAX(n, 0));
    /* A peer that was killed with unread input resets the connection: its end too. */
    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
        s->eof = true;
    return true;
}

char *stream_try_line(Stream *s, bool *timed_out, int64_t deadline)
{
    gsize seen = 0;
    *timed_out = false;
    for (;;) {
        char *end = memchr(s->in->str + seen, '\n', s->in->len - seen);
        if (end) {
            gsize length = end - s->in->str;
            char *line = g_strndup(s->in->str, length);
            if (length && line[length - 1] == '\r')
                line[length - 1] = 0;
            g_string_erase(s->in, 0, length + 1);
            return line;
        }
        seen = s->in->len;
        if (s->eof)
            return NULL;
        if (!fill(s, deadline)) {
            *timed_out = true;
            return NULL;
        }
    }
}

char *stream_read_line(Stream *s, const char *what, int64_t deadline)
{
    bool timed_out;
    char *line = stream_try_line(s, &timed_out, deadline);
    if (timed_out)
        test_fail("%s: %s did not come in time; last: \"%s\"", s->label, what, s->in->str);
    return line;
}

/* 1: TEXT has come; 0: the stream has ended; -1: the deadline. */
static int take_text(Stream *s, const char *text, int64_t deadline)
{
    for (;;) {
        char *found = memmem(s->in->str, s->in->len, text, strlen(text));
        if (found) {
            g_string_erase(s->in, 0, found + strlen(text) - s->in->str);
            return 1;
        }
        if (s->eof)
            return 0;
        if (!fill(s, deadline))
            return -1;
    }
}

bool stream_wait_text(Stream *s, const char *text, int64_t deadline)
{
    int taken = take_text(s, text, deadline);

    if (taken < 0)
        test_fail("%s: \"%s\" did not come in time; got \"%s\"", s->label, text, s->in->str);
    return taken == 1;
}

bool stream_try_text(Stream *s, const char *text, int64_t deadline)
{
    return take_text(s, text, deadline) == 1;
}

void stream_drain(Stream *s)
{
    while (!s->eof && fill(s, 0))
        g_string_set_size(s->in, 0);
    g_string_set_size(s->in, 0);
}

const char *stream_rest(Stream *s)
{
    while (!s->eof && s->in->len < MAX_REST && fill(s, 0)) {
    }
    return s->in->str;
}

bool stream_wait_eof(Stream *s, int64_t deadline)
{
    while (!s->eof) {
        if (!fill(s, deadline))
            return false;
        g_string_set_size(s->in, 0);
    }
    return true;
}
