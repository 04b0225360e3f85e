/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See internal.h. Who has started the guest knows another process than this one, and may start the
 * guest again as soon as that has ended: so this one must not outlive it, whoever else is there to
 * see it. Relays do the same (guest/relay/placeholder.c, behind-placeholder.c), and may have died.
 *
 * Threads: one of its own, which blocks all signals. System calls: poll, kill, fcntl.
 */
#include "guest/agent/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* A pidfd, for as long as this process lives. */
static int front = -1;

static void *await_end(void *opaque)
{
    struct pollfd pfd = {front, POLLIN, 0};

    while (poll(&pfd, 1, -1) < 0 && errno == EINTR) {
    }
    kill(getpid(), SIGKILL);
    return NULL;
}

int ff_placeholder_watch(const char *text)
{
    char *end;

    front = (int)strtol(text, &end, 10);
    if (end == text || *end || fcntl(front, F_GETFD) < 0) {
        return -EBADF;
    }
    return ff_thread_start(await_end);
}
