/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What all parts of the holder use: the log, its epoll and timer, and messages to the pager. See
 * holder-internal.h. System calls: epoll_ctl, timerfd_settime, sendmsg, pidfd_send_signal.
 */
#include "holder/holder-internal.h"

#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

void ff_holder_log(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    fprintf(stderr, "farfault pager: %s\n", text);
}

bool ff_holder_watch(FfHolder *h, int fd, FfHolderOn on, unsigned index, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u64 = (uint64_t)on << 32 | index};

    return epoll_ctl(h->epoll, EPOLL_CTL_ADD, fd, &e) == 0;
}

void ff_holder_set_timer(FfHolder *h, unsigned ms)
{
    struct itimerspec when = {.it_value = {ms / 1000, ms % 1000 * 1000000L + 1}};

    if (!h->timer_armed) {
        timerfd_settime(h->timer, 0, &when, NULL);
        h->timer_armed = true;
    }
}

void ff_holder_tell(FfHolder *h, const FfHoldMessage *msg, const int *fds, unsigned n)
{
    if (h->link < 0) {
        return; /* told when the next one begins */
    }
    int rc = ff_hold_send(h->link, msg, fds, n);
    if (rc < 0) {
        /* It does not read, or is about to die: the next one is told everything. */
        ff_holder_log("the pager takes no message (%s): it is started again", g_strerror(-rc));
        syscall(SYS_pidfd_send_signal, h->pidfd, SIGKILL, NULL, 0);
    }
}

void ff_holder_tell_space(FfHolder *h, const FfHeldSpace *s)
{
    const FfHeldSpace *root = &h->space[s->root];
    FfHoldMessage msg = {.type = FF_HOLD_SPACE, .id = s->id, .root = root->id};
    int fds[FF_HOLD_FDS] = {s->uffd, s->memfd, root->memfd, s->news, root->told};

    msg.parent = s->parent >= 0 ? h->space[s->parent].id : 0;
    ff_holder_tell(h, &msg, fds, FF_HOLD_FDS);
}

void ff_holder_tell_probe(FfHolder *h, const FfHeldSpace *root)
{
    ff_holder_tell(h, &(FfHoldMessage){.type = FF_HOLD_PROBE, .root = root->id}, NULL, 0);
    if (root->pidfd >= 0) {
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, root->pidfd, NULL);
    }
}
