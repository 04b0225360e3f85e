/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lines on stderr, for processes in which no thread may stand still because nobody reads them; see
 * log.h. A pipe or a terminal is opened once more, as O_NONBLOCK of fd 2 is also that of the others
 * that have it. No locks.
 *
 * System calls: fstat, open, write, send.
 */
#include "pager/holder/log.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    int fd;
    bool is_socket;
} Target;

static Target target = {STDERR_FILENO, false};

static gpointer find_target(gpointer unused)
{
    struct stat st;

    if (fstat(STDERR_FILENO, &st) < 0) {
        return &target;
    }
    target.is_socket = S_ISSOCK(st.st_mode);
    if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)) {
        int fd = open("/proc/self/fd/2", O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        target.fd = fd < 0 ? target.fd : fd;
    }
    return &target;
}

static bool write_line(const char *line, size_t len)
{
    static GOnce once = G_ONCE_INIT;
    const Target *t = g_once(&once, find_target, NULL);
    ssize_t n = t->is_socket ? send(t->fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL)
                             : write(t->fd, line, len);

    return n >= 0;
}

void ff_say_forked(void)
{
    target = (Target){STDERR_FILENO, false};
    find_target(NULL); /* whether or not that was done before */
}

void ff_say(const char *format, ...)
{
    static unsigned lost; /* atomic; observer: the thread that says the next line */
    va_list ap;

    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    unsigned n = __atomic_exchange_n(&lost, 0, __ATOMIC_RELAXED);
    g_autofree char *line = n ? g_strdup_printf("farfault pager: (%u lines are lost)\n"
                                                "farfault pager: %s\n",
                                                n, text)
                              : g_strdup_printf("farfault pager: %s\n", text);
    /* A pipe takes so much as one piece, or nothing. */
    if (!write_line(line, MIN(strlen(line), PIPE_BUF))) {
        __atomic_add_fetch(&lost, n + 1, __ATOMIC_RELAXED);
    }
}
