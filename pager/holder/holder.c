/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The holder's loop; see internal.h. One thread, which waits for nobody but in epoll_wait().
 *
 * System calls: epoll_create1, epoll_ctl, epoll_wait, signalfd, timerfd_create,
 * sigprocmask, open, read.
 */
#include "pager/holder/holder.h"

#include "pager/holder/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/files.h"
#include "base/priority.h"

#define EVENTS 64

static void on_timer(FfHolder *h)
{
    ff_untell(h->timer);
    h->timer_us = 0;
    if (h->deaf) {
        h->deaf = !ff_holder_watch(h, h->cfg->listen_fd, FF_ON_LISTEN, 0, EPOLLIN);
    }
    if (!h->pid) {
        ff_holder_start_pager(h);
    }
    ff_holder_tell_guard(h);
    ff_holder_try_again(h);
    ff_holder_look(h);
}

static void on_signal(FfHolder *h)
{
    struct signalfd_siginfo info;

    if (read(h->signals, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    if (h->given_up) { /* there is no other copy of the clients any more */
        ff_holder_hurry(h);
    } else {
        h->ending = true;
    }
}

static void dispatch_event(FfHolder *h, uint64_t what, uint32_t events)
{
    unsigned i = (uint32_t)what;

    switch ((FfHolderOn)(what >> 32)) {
    case FF_ON_LISTEN:
        ff_holder_accept(h);
        break;
    case FF_ON_SIGNAL:
        on_signal(h);
        break;
    case FF_ON_LINK:
        ff_holder_on_link(h);
        break;
    case FF_ON_PAGER:
        ff_holder_on_pager_end(h);
        ff_holder_answer(h); /* it may have died before it told */
        break;
    case FF_ON_TIMER:
        on_timer(h);
        break;
    case FF_ON_PENDING:
        ff_holder_on_pending(h, i);
        break;
    case FF_ON_UFFD:
        ff_holder_on_uffd(h, i);
        break;
    case FF_ON_TOLD:
        ff_holder_on_told(h, i);
        ff_holder_answer(h);
        break;
    case FF_ON_ASK:
        ff_holder_on_ask(h, events);
        break;
    case FF_ON_TALK:
        ff_holder_on_talk(h);
        break;
    case FF_ON_FETCHER:
        ff_holder_on_fetcher(h);
        break;
    case FF_ON_GUARD:
        ff_holder_on_guard(h);
        break;
    case FF_ON_CLIENT:
    case FF_ON_SOCK:
        ff_holder_on_end(h, i, (FfHolderOn)(what >> 32));
        break;
    }
}

static void run_holder(FfHolder *h)
{
    struct epoll_event events[EVENTS];

    while (!h->ending) {
        int n = epoll_wait(h->epoll, events, EVENTS, -1);
        for (int i = 0; i < n && !h->ending; i++) {
            dispatch_event(h, events[i].data.u64, events[i].events);
        }
    }
}

static bool set_up(FfHolder *h, GError **error)
{
    sigset_t set;

    ff_files_raise(); /* four for each space */
    h->offspring = h->cfg->fetcher ? ff_descendants_log_new() : NULL;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGCHLD, SIG_IGN); /* the pager's end is told by its pidfd */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN); /* a user who has logged out has not ended the clients */
    h->epoll = epoll_create1(EPOLL_CLOEXEC);
    h->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    h->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    h->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (h->epoll < 0 || h->signals < 0 || h->timer < 0 || h->null_fd < 0 ||
        !ff_holder_watch(h, h->signals, FF_ON_SIGNAL, 0, EPOLLIN) ||
        !ff_holder_watch(h, h->timer, FF_ON_TIMER, 0, EPOLLIN) || !ff_holder_tell_guard(h) ||
        !h->cfg->arrival->begin(h) || (h->cfg->fetcher && !ff_holder_fetcher_begin(h))) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED, "cannot begin: %s",
                    g_strerror(errno));
        return false;
    }
    return true;
}

static void say_left(const FfHolder *h)
{
    unsigned n = 0;

    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        n += h->space[i].id && h->space[i].root == (int)i;
    }
    if (n && h->cfg->arrival->say_left) {
        h->cfg->arrival->say_left(n);
    }
}

int ff_holder_run(const FfHolderConfig *cfg, GError **error)
{
    g_autofree FfHolder *h = g_new0(FfHolder, 1);

    FF_FAULT_SIDE("holder");
    FF_FAULT_AT("holder-begins");
    h->cfg = cfg;
    h->spare = -1;
    h->link = h->pidfd = h->guard = -1;
    for (unsigned i = 0; i < FF_HOLDER_PENDING; i++) {
        h->pending[i].sock = -1;
    }
    if (!set_up(h, error)) {
        return 1;
    }
    ff_priority_urgent(); /* each fault passes here */
    ff_holder_start_pager(h);
    run_holder(h);
    if (h->cfg->arrival->accept_last) {
        h->cfg->arrival->accept_last(h);
    }
    say_left(h);
    if (cfg->fetcher && !h->given_up) {
        ff_say("its page server lets its processes run again when those here are gone");
        h->exit_status = 1;
    }
    ff_holder_end_pager(h);
    ff_holder_end_guarded(h);
    g_clear_pointer(&h->offspring, ff_descendants_log_free);
    return h->exit_status;
}
