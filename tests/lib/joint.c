/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See joint.h. */
#include "tests/lib/joint.h"

#include <sys/socket.h>
#include <unistd.h>

static void pass_on(int from, int to)
{
    char buf[65536];
    ssize_t n;

    while ((n = recv(from, buf, sizeof(buf), 0)) > 0 && send(to, buf, n, MSG_NOSIGNAL) == n) {
    }
    shutdown(to, SHUT_WR);
}

static gpointer pass_there(gpointer opaque)
{
    const Joint *j = opaque;

    pass_on(j->fds[0], j->fds[1]);
    return NULL;
}

static gpointer pass_back(gpointer opaque)
{
    const Joint *j = opaque;

    pass_on(j->fds[1], j->fds[0]);
    return NULL;
}

void joint_start(Joint *j, int a, int b)
{
    j->fds[0] = a;
    j->fds[1] = b;
    j->threads[0] = g_thread_new("there", pass_there, j);
    j->threads[1] = g_thread_new("back", pass_back, j);
}

void joint_finish(Joint *j)
{
    for (unsigned i = 0; i < 2; i++) {
        g_thread_join(j->threads[i]);
    }
    close(j->fds[0]);
    close(j->fds[1]);
}
