/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guard must know, and whether it does; see guard.h and holder-internal.h. A guard that
 * has died is followed by the next one, which is told of everything. What cannot be said now (no
 * memory, too many fds under way), or to nobody, as none can be started, is said again by the timer
 * until it is known. Of a fork nothing is read while there is no guard: the child waits in it.
 *
 * It may have the only other copy of a userfaultfd. So the holder keeps its own until the process
 * has ended, also of what is no space any more.
 *
 * The link is closed only when the guard has died: one that lives takes that for the holder's end,
 * and kills its processes.
 *
 * System calls: pidfd_send_signal, epoll_ctl, poll, close, ioctl (uffd/uffd.c).
 */
#include "holder/holder-internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uffd/uffd.h"

/* Of the fetcher's connection; spaces have lower numbers. */
#define SERVER_ID UINT64_MAX
#define AGAIN_MS 100
#define NEW_MS 1000

/* Of what is no space any more: to hold UFFD until the process has ended; or, with -1, to drop ID.
 * The first is kept when it was said, as the next guard must be told as well. */
typedef struct {
    uint64_t id;
    int uffd, pidfd;
    bool said; /* the guard that runs knows */
} Owed;

/* A client that has passed its userfaultfd as Firecracker does has a copy, and stands still without
 * us; a child that it forks has none. */
static bool needs_guard(const FfHolder *h, const FfHeldSpace *s)
{
    return !h->cfg->asks && (h->cfg->criu || s->parent >= 0);
}

static void owe(FfHolder *h, Owed owed)
{
    if (!h->owed) {
        h->owed = g_array_new(FALSE, FALSE, sizeof(Owed));
    }
    g_array_append_val(h->owed, owed);
}

static void forget_owed(FfHolder *h, guint i)
{
    const Owed *o = &g_array_index(h->owed, Owed, i);

    if (o->uffd >= 0) {
        close(o->uffd);
    }
    if (o->pidfd >= 0) {
        close(o->pidfd);
    }
    g_array_remove_index(h->owed, i);
}

static bool has_ended(const Owed *o)
{
    struct pollfd pfd = {.fd = o->pidfd, .events = POLLIN};

    return o->uffd >= 0 && (o->pidfd >= 0 ? poll(&pfd, 1, 0) == 1 : ff_uffd_is_gone(o->uffd));
}

/* Those of a process that has ended. It has no event here, and costs nobody anything until then. */
static void prune(FfHolder *h)
{
    for (guint i = h->owed ? h->owed->len : 0; i-- > 0;) {
        if (has_ended(&g_array_index(h->owed, Owed, i))) {
            forget_owed(h, i);
        }
    }
}

/* It has died. The next one knows nothing, and has nothing to drop. */
static void forget_guard(FfHolder *h)
{
    ff_say("the guard has died: the next one continues");
    ff_holder_close(h, &h->guard);
    h->asks.guarded = h->fetcher_guarded = false;
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        h->space[i].guarded = false;
    }
    for (guint i = h->owed ? h->owed->len : 0; i-- > 0;) {
        Owed *o = &g_array_index(h->owed, Owed, i);
        o->said = false;
        if (o->uffd < 0) {
            forget_owed(h, i);
        }
    }
}

/* The holder has one thread, so it can be forked. */
static int start(FfHolder *h)
{
    int link = ff_guard_start();

    if (link < 0) {
        return link;
    }
    if (!ff_holder_watch(h, link, FF_ON_GUARD, 0, EPOLLRDHUP)) {
        int err = errno;
        close(link); /* it holds nothing yet, and ends */
        return -err;
    }
    h->guard = link;
    return 0;
}

static int tell_owed(FfHolder *h)
{
    int rc = 0;

    for (guint i = 0; rc == 0 && h->owed && i < h->owed->len;) {
        Owed *o = &g_array_index(h->owed, Owed, i);
        bool drop = o->uffd < 0;
        if (!o->said) {
            rc = ff_guard_tell(h->guard, drop ? FF_GUARD_DROP : FF_GUARD_HOLD, o->id, o->uffd,
                               o->pidfd);
            o->said = rc == 0;
        }
        if (drop && o->said) {
            forget_owed(h, i);
        } else {
            i++;
        }
    }
    return rc;
}

/* It may be in the middle of a read of its memory, and is not gone at once. */
static void send_kill(int pidfd)
{
    if (pidfd >= 0) {
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    }
}

/* All that it does not know. */
static int tell_all(FfHolder *h)
{
    int rc = tell_owed(h);

    if (rc == 0 && h->cfg->asks && !h->asks.guarded) {
        rc = ff_guard_tell(h->guard, FF_GUARD_SOCK, 0, h->cfg->asks->fault_fd, -1);
        h->asks.guarded = rc == 0;
    }
    if (rc == 0 && h->cfg->fetcher && !h->given_up && !h->fetcher_guarded) {
        rc = ff_guard_tell(h->guard, FF_GUARD_LAST, SERVER_ID, h->cfg->fetcher->server, -1);
        h->fetcher_guarded = rc == 0;
    }
    for (unsigned i = 0; rc == 0 && i < FF_HOLDER_SPACES; i++) {
        FfHeldSpace *s = &h->space[i];
        if (s->id && s->uffd >= 0 && !s->guarded && needs_guard(h, s)) {
            rc = ff_guard_tell(h->guard, FF_GUARD_HOLD, s->id, s->uffd, s->pidfd);
            s->guarded = rc == 0;
        }
    }
    return rc;
}

/* One that has just begun, and reads: there may be more than fits into its socket. */
static int tell_new(FfHolder *h)
{
    int64_t end = g_get_monotonic_time() + NEW_MS * 1000;
    int rc = tell_all(h), left = NEW_MS;

    while (rc == -EAGAIN && left > 0) {
        struct pollfd pfd = {.fd = h->guard, .events = POLLOUT};

        poll(&pfd, 1, left);
        rc = tell_all(h);
        left = (int)((end - g_get_monotonic_time()) / 1000);
    }
    return rc;
}

static bool has_died(int rc)
{
    return rc == -EPIPE || rc == -ECONNRESET || rc == -ENOTCONN;
}

bool ff_holder_tell_guard(FfHolder *h)
{
    prune(h);
    int rc = h->guard < 0 ? 0 : tell_all(h);

    if (has_died(rc)) {
        forget_guard(h);
    }
    if (h->guard < 0) {
        rc = start(h);
        rc = rc < 0 ? rc : tell_new(h);
    }
    bool is_behind = rc == -EAGAIN && h->guard >= 0 && !h->unguarded; /* it may read at once */
    if (rc < 0 && !h->said_unguarded && !is_behind) {
        ff_say("the guard cannot be %s: %s; it is tried again, and who forks waits until then. If "
               "the holder ends as well, processes that keep no userfaultfd read zeros",
               h->guard < 0 ? "started" : "told", g_strerror(-rc));
        h->said_unguarded = true;
    } else if (rc == 0 && h->said_unguarded) {
        ff_say("the guard knows all again");
        h->said_unguarded = false;
    }
    h->unguarded = rc < 0;
    if (rc < 0) {
        ff_holder_set_timer(h, AGAIN_MS);
        errno = -rc;
    }
    return rc == 0;
}

/* That may have been found out already, and the one that is there be the next one. */
void ff_holder_on_guard(FfHolder *h)
{
    struct pollfd pfd = {.fd = h->guard, .events = POLLRDHUP};

    if (h->guard >= 0 && poll(&pfd, 1, 0) == 1) {
        forget_guard(h);
        ff_holder_tell_guard(h);
    }
}

/* ---- what a space has to do with it ---------------------------------------------------------- */

void ff_holder_hold(FfHolder *h, const FfHeldSpace *s)
{
    if (needs_guard(h, s)) {
        ff_holder_tell_guard(h);
    }
}

static void drop_id(FfHolder *h, uint64_t id)
{
    int rc = ff_guard_tell(h->guard, FF_GUARD_DROP, id, -1, -1);

    if (rc < 0 && !has_died(rc)) { /* whose death is an event */
        owe(h, (Owed){id, -1, -1, false});
        ff_holder_tell_guard(h);
    }
}

void ff_holder_let_go(FfHolder *h, FfHeldSpace *s)
{
    bool guarded = s->guarded;

    s->guarded = false;
    if (guarded) {
        drop_id(h, s->id);
    }
}

void ff_holder_let_server_go(FfHolder *h)
{
    bool guarded = h->fetcher_guarded;

    h->fetcher_guarded = false;
    close(h->cfg->fetcher->server);
    if (guarded) {
        drop_id(h, SERVER_ID);
    }
}

/* Takes OWED's fds. */
static void kill_owed(FfHolder *h, Owed owed)
{
    send_kill(owed.pidfd);
    owe(h, owed);
    ff_holder_tell_guard(h);
}

void ff_holder_kill(FfHolder *h, int uffd, int pidfd)
{
    kill_owed(h, (Owed){0, uffd, pidfd, false});
}

void ff_holder_kill_space(FfHolder *h, FfHeldSpace *s)
{
    if (!needs_guard(h, s)) {
        return;
    }
    epoll_ctl(h->epoll, EPOLL_CTL_DEL, s->uffd, NULL);
    if (s->pidfd >= 0) {
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, s->pidfd, NULL);
    }
    Owed owed = {s->id, s->uffd, s->pidfd, s->guarded};
    s->uffd = s->pidfd = -1;
    s->guarded = false;
    kill_owed(h, owed);
}
