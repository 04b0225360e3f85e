/* SPDX-License-Identifier: GPL-2.0-or-later */
/* getaddrinfo() as slow as the test wants it to be: slow-names.c is linked into the test or
 * preloaded. Threads: those that ask. */
#ifndef FF_TESTS_SLOW_NAMES_H
#define FF_TESTS_SLOW_NAMES_H

#include <fcntl.h>
#include <glib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Asking for this name waits until the process that has the FIFO that SLOW_NAMES_GATE names open
 * for writing closes it: opening it so waits, in turn, until somebody asks. The answer is
 * 127.0.0.1, or that there is no such name if a byte was written before. */
#define SLOW_NAME "slow.example.org"
#define SLOW_NAMES_GATE "FF_SLOW_NAMES_GATE"

/* Somebody asks, and waits until the fd that is returned is closed. The next question comes to a
 * FIFO of its own: the one that asked before may not have left the old one yet. */
static inline int slow_names_await(const char *gate)
{
    int fd = open(gate, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(unlink(gate), ==, 0);
    g_assert_cmpint(mkfifo(gate, 0600), ==, 0);
    return fd;
}

#endif
