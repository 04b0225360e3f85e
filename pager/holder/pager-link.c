/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What all parts of the holder use: its epoll and timer, and messages to the pager. See
 * internal.h. System calls: epoll_ctl, timerfd_settime, sendmsg, close.
 */
#include "pager/holder/internal.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define AGAIN_MS 10

bool ff_holder_watch(FfHolder *h, int fd, FfHolderOn on, unsigned index, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u64 = (uint64_t)on << 32 | index};

    return epoll_ctl(h->epoll, EPOLL_CTL_ADD, fd, &e) == 0;
}

void ff_holder_close(FfHolder *h, int *fd)
{
    if (*fd >= 0) {
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, *fd, NULL);
        close(*fd);
    }
    *fd = -1;
}

void ff_holder_set_timer(FfHolder *h, unsigned ms)
{
    struct itimerspec when = {.it_value = {ms / 1000, ms % 1000 * 1000000L + 1}};
    gint64 at_us = g_get_monotonic_time() + (gint64)ms * 1000;

    if (!h->timer_us || at_us < h->timer_us) {
        timerfd_settime(h->timer, 0, &when, NULL);
        h->timer_us = at_us;
    }
}

/* ---- the pager ------------------------------------------------------------------------------- */

static uint64_t number_of(const FfHeldSpace *s)
{
    return s->id / FF_HOLDER_SPACES;
}

/* Each parent before its children: in order of age. NULL: it knows all. */
static FfHeldSpace *next_space(FfHolder *h)
{
    FfHeldSpace *next = NULL;

    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        FfHeldSpace *s = &h->space[i];
        if (s->id && s->uffd >= 0 && number_of(s) > h->told_number &&
            (!next || number_of(s) < number_of(next))) {
            next = s;
        }
    }
    return next;
}

static FfHeldSpace *next_probe(FfHolder *h)
{
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        if (h->space[i].id && h->space[i].probe) {
            return &h->space[i];
        }
    }
    return NULL;
}

static int tell_space(FfHolder *h, const FfHeldSpace *s)
{
    const FfHeldSpace *root = &h->space[s->root];
    FfHoldMessage msg = {.type = FF_HOLD_SPACE, .id = s->id, .root = root->id};
    int fds[FF_HOLD_FDS] = {s->uffd, s->memfd, root->memfd, s->news, root->told};

    msg.parent = s->parent >= 0 ? h->space[s->parent].id : 0;
    return ff_hold_send(h->link, &msg, fds, FF_HOLD_FDS);
}

/* 1: there is more; 0: that was all. */
static int tell_next(FfHolder *h)
{
    FfHeldSpace *s = next_space(h);
    int rc = 0;

    if (s) {
        rc = tell_space(h, s);
        h->told_number = rc < 0 ? h->told_number : number_of(s);
    } else if (!h->told_ready) {
        rc = ff_hold_send(h->link, &(FfHoldMessage){.type = FF_HOLD_READY}, NULL, 0);
        h->told_ready = rc == 0;
    } else if (h->hurries && !h->told_hurry) {
        rc = ff_hold_send(h->link, &(FfHoldMessage){.type = FF_HOLD_HURRY}, NULL, 0);
        h->told_hurry = rc == 0;
    } else if ((s = next_probe(h))) {
        rc = ff_hold_send(h->link, &(FfHoldMessage){.type = FF_HOLD_PROBE, .root = s->id}, NULL, 0);
        s->probe = rc < 0;
    } else {
        return 0;
    }
    return rc < 0 ? rc : 1;
}

/* What the socket has room for depends on who we are (SO_SNDBUFFORCE), and so does how many fds may
 * be under way (ETOOMANYREFS, of which there is no event). */
void ff_holder_tell_pager(FfHolder *h)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)FF_ON_LINK << 32};
    int rc = 1;

    if (h->link < 0) {
        return; /* told when the next one begins */
    }
    while (rc == 1) {
        rc = tell_next(h);
    }
    if (rc == -EAGAIN) {
        e.events |= EPOLLOUT;
    } else if (rc == -ETOOMANYREFS || rc == -ENOMEM || rc == -ENOBUFS) {
        ff_holder_set_timer(h, AGAIN_MS);
    } /* else it is about to die, and its pidfd tells */
    epoll_ctl(h->epoll, EPOLL_CTL_MOD, h->link, &e);
}

void ff_holder_tell_anew(FfHolder *h)
{
    h->told_number = 0;
    h->told_ready = h->told_hurry = false;
    ff_holder_tell_pager(h);
}

void ff_holder_tell_probe(FfHolder *h, FfHeldSpace *root)
{
    root->probe = true;
    ff_holder_tell_pager(h);
}
