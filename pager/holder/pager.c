/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager's process as the holder has it: started, told of the spaces, and started again when it
 * has died. See internal.h. System calls: socketpair, posix_spawn, pidfd_open,
 * pidfd_send_signal, poll, close.
 */
#include "pager/holder/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"

/* A pager that has lived for less is not started again at once. */
#define LIVED_US (1000 * 1000)
#define WAIT_MS 200
/* So many pagers may die over a client that none of them has taken. */
#define TRIES_MAX 3

static int spawn_pager(FfHolder *h, int link, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, defaults;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, h->null_fd, 0);
    posix_spawn_file_actions_adddup2(&actions, link, FF_HOLD_LINK_FD);
    for (unsigned i = 0; i < h->cfg->n_inherit; i++) {
        if (h->cfg->inherit[i] >= 0) {
            posix_spawn_file_actions_adddup2(&actions, h->cfg->inherit[i],
                                             (int)(FF_HOLD_LINK_FD + 1 + i));
        }
    }
    posix_spawnattr_init(&attr);
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGCHLD);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &defaults);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    /* The program that runs here, also if another one has its name by now. */
    int rc = posix_spawn(pid, "/proc/self/exe", &actions, &attr, h->cfg->pager_argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return -rc;
}

void ff_holder_start_pager(FfHolder *h)
{
    int link[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) < 0) {
        ff_holder_set_timer(h, WAIT_MS);
        return;
    }
    int rc = spawn_pager(h, link[1], &h->pid);
    close(link[1]);
    h->pidfd = rc == 0 ? (int)syscall(SYS_pidfd_open, h->pid, 0) : -1;
    if (h->pidfd < 0) {
        ff_say("the pager cannot be started: %s", g_strerror(rc ? -rc : errno));
        close(link[0]);
        h->pid = 0;
        ff_holder_set_timer(h, WAIT_MS);
        return;
    }
    h->link = link[0];
    h->started_us = g_get_monotonic_time();
    ff_holder_watch(h, h->link, FF_ON_LINK, 0, EPOLLIN);
    ff_holder_watch(h, h->pidfd, FF_ON_PAGER, 0, EPOLLIN);
    ff_holder_tell_anew(h);
}

/* A client that made pager after pager die is not given to the next one. A pager looks at one first
 * message at a time, so one that is there at the same time is not suspected. */
static void count_tries(FfHolder *h)
{
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        FfHeldSpace *s = &h->space[i];
        if (!s->id || s->uffd < 0 ||
            __atomic_load_n(&s->rec->taken, __ATOMIC_ACQUIRE) != FF_TAKEN_BEGUN) {
            continue;
        }
        __atomic_store_n(&s->rec->taken, FF_TAKEN_NOT, __ATOMIC_RELEASE);
        if (++s->tries >= TRIES_MAX && s->root == (int)i) {
            ff_say("process %d is given up: %u pagers died over its first message", s->rec->pid,
                   s->tries);
            ff_holder_drop(h, s->id, true);
        }
    }
}

/* All its threads have left the kernel: a pidfd is readable when the last one has. */
void ff_holder_on_pager_end(FfHolder *h)
{
    gint64 lived = g_get_monotonic_time() - h->started_us;

    ff_holder_on_link(h); /* what it said last */
    ff_holder_close(h, &h->pidfd);
    ff_holder_close(h, &h->link);
    h->pid = 0;
    ff_say("the pager has died: the next one continues");
    count_tries(h);
    ff_holder_reset_gates(h);
    if (lived < LIVED_US) {
        ff_holder_set_timer(h, WAIT_MS);
    } else {
        ff_holder_start_pager(h);
    }
}

void ff_holder_on_link(FfHolder *h)
{
    FfHoldMessage msg;
    int fds[FF_HOLD_FDS], rc;
    unsigned n;
    bool dropped = false;
    struct pollfd pfd = {.fd = h->link, .events = POLLIN};

    while (poll(&pfd, 1, 0) == 1 && pfd.revents & POLLIN) {
        rc = ff_hold_receive(h->link, &msg, fds, &n);
        for (unsigned i = 0; i < n; i++) {
            close(fds[i]);
        }
        if (rc <= 0) {
            /* Its pidfd tells. */
            epoll_ctl(h->epoll, EPOLL_CTL_DEL, h->link, NULL);
            return;
        }
        if (msg.type == FF_HOLD_DROP) {
            const FfHeldSpace *s = ff_holder_find(h, msg.id);
            if (s && msg.text[0]) {
                ff_say("process %d: %s", s->rec->pid, msg.text);
            }
            ff_holder_drop(h, msg.id, msg.text[0]);
            dropped = true;
        }
    }
    if (dropped) {
        ff_holder_end_if_placed(h);
        ff_holder_try_again(h); /* a client that waited for a place */
    }
    if (pfd.revents & (POLLHUP | POLLERR)) {
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, h->link, NULL);
    } else {
        ff_holder_tell_pager(h); /* it may have room again */
    }
}

void ff_holder_hurry(FfHolder *h)
{
    if (h->hurries) {
        return;
    }
    h->hurries = true;
    ff_say("the page server has given its processes up: this ends when those here have all of "
           "their pages");
    ff_holder_tell_pager(h);
}

void ff_holder_end_pager(FfHolder *h)
{
    if (h->pid) {
        struct pollfd pfd = {.fd = h->pidfd, .events = POLLIN};
        syscall(SYS_pidfd_send_signal, h->pidfd, SIGKILL, NULL, 0);
        while (poll(&pfd, 1, -1) < 0 && errno == EINTR) {
        }
    }
}
