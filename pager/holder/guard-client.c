/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guard must know, and whether it does; see guard.h and internal.h. A guard that
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
 * System calls: pidfd_send_signal, epoll_ctl, poll, recv, close, ioctl (uffd/uffd.c).
 */
#include "pager/holder/internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/pidfd.h"
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
    /* It has no memory any more, but the process is there: another program, which may not run
     * beside the copies that its pages came from. Until these are given up. */
    bool kept;
    bool runs; /* FfHeldSpace.runs; so are the next two */
    pid_t pid;
    uint64_t connection;
} Owed;

/* A client that has passed its userfaultfd as Firecracker does has a copy, and stands still without
 * us; a child that it forks has none. */
static bool needs_guard(const FfHolder *h, const FfHeldSpace *s)
{
    FfGuarded whom = h->cfg->arrival->guarded;

    return whom == FF_GUARDED_ALL || (whom == FF_GUARDED_CHILDREN && s->parent >= 0);
}

/* -1: nothing. */
static int kept_open(const FfHolder *h)
{
    const FfArrival *arrival = h->cfg->arrival;

    return arrival->kept_open ? arrival->kept_open(h) : -1;
}

static void owe_message(FfHolder *h, Owed owed)
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
    return o->uffd >= 0 &&
           (o->pidfd >= 0 ? ff_pidfd_has_ended(o->pidfd) : ff_uffd_is_gone(o->uffd));
}

/* Those of a process that has ended. It has no event here, and costs nobody anything until then. */
static void prune_ended(FfHolder *h)
{
    for (guint i = h->owed ? h->owed->len : 0; i-- > 0;) {
        const Owed *o = &g_array_index(h->owed, Owed, i);
        if (has_ended(o)) {
            if (o->kept && !o->runs) {
                ff_holder_lost(h, o->connection);
            }
            forget_owed(h, i);
        }
    }
}

/* It has died. The next one knows nothing, and has nothing to drop. */
static void forget_guard(FfHolder *h)
{
    ff_say("the guard has died: the next one continues");
    ff_holder_close(h, &h->guard);
    h->kept_guarded = h->fetcher_guarded = false;
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
static int start_guard(FfHolder *h)
{
    int link = ff_guard_start(h->offspring);

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
    int rc = tell_owed(h), kept = kept_open(h);

    if (rc == 0 && kept >= 0 && !h->kept_guarded) {
        rc = ff_guard_tell(h->guard, FF_GUARD_SOCK, 0, kept, -1);
        h->kept_guarded = rc == 0;
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
    prune_ended(h);
    int rc = h->guard < 0 ? 0 : tell_all(h);

    if (has_died(rc)) {
        forget_guard(h);
    }
    if (h->guard < 0) {
        rc = start_guard(h);
        rc = rc < 0 ? rc : tell_new(h);
    }
    bool is_behind = rc == -EAGAIN && h->guard >= 0 && !h->unguarded; /* it may read at once */
    if (rc < 0 && !h->said_unguarded && !is_behind) {
        ff_say("the guard cannot be %s: %s; it is tried again, and who forks waits until then. If "
               "the holder is killed as well, processes that keep no userfaultfd read zeros",
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

/* Their ends are events of the result; FALSE: all have ended, or are known not to need anybody. */
static bool add_ends(const FfHolder *h, GArray *ends)
{
    bool left = false;
    struct pollfd pfd = {.fd = kept_open(h), .events = POLLRDHUP};

    if (pfd.fd >= 0 && poll(&pfd, 1, 0) == 0) {
        g_array_append_val(ends, pfd);
        left = true;
    }
    pfd.events = POLLIN;
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        const FfHeldSpace *s = &h->space[i];
        if (s->id && s->uffd >= 0 && needs_guard(h, s) &&
            !has_ended(&(Owed){.uffd = s->uffd, .pidfd = s->pidfd})) {
            pfd.fd = s->pidfd;
            g_array_append_val(ends, pfd);
            left = true;
        }
    }
    for (guint i = 0; h->owed && i < h->owed->len; i++) {
        const Owed *o = &g_array_index(h->owed, Owed, i);
        if (o->uffd >= 0 && !has_ended(o)) {
            pfd.fd = o->pidfd;
            g_array_append_val(ends, pfd);
            left = true;
        }
    }
    return left;
}

/* The guard that lives would kill what it does not know to be let go. */
static bool owes_drops(const FfHolder *h)
{
    for (guint i = 0; h->guard >= 0 && h->owed && i < h->owed->len; i++) {
        if (g_array_index(h->owed, Owed, i).uffd < 0) {
            return true;
        }
    }
    return false;
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

/* Until the guard knows all, or all that need it have ended. */
static void tell_last(FfHolder *h)
{
    g_autoptr(GArray) ends = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
    struct pollfd timer = {.fd = h->timer, .events = POLLIN};

    if (ff_holder_tell_guard(h)) {
        return;
    }
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        if (h->space[i].id && needs_guard(h, &h->space[i])) {
            send_kill(h->space[i].pidfd);
        }
    }
    for (guint i = 0; h->owed && i < h->owed->len; i++) {
        send_kill(g_array_index(h->owed, Owed, i).pidfd);
    }
    /* That has set the timer. */
    while (!ff_holder_tell_guard(h) && (add_ends(h, ends) || owes_drops(h))) {
        g_array_append_val(ends, timer);
        poll((struct pollfd *)(void *)ends->data, ends->len, -1);
        ff_untell(h->timer);
        h->timer_us = 0;
        ff_holder_on_guard(h);
        g_array_set_size(ends, 0);
    }
}

/* FALSE: it has died before. */
static bool is_done(FfHolder *h)
{
    struct pollfd pfd = {.fd = h->guard, .events = POLLOUT};
    char byte;
    int rc;

    while ((rc = ff_guard_tell(h->guard, FF_GUARD_END, 0, -1, -1)) == -EAGAIN) {
        poll(&pfd, 1, -1);
    }
    return rc == 0 && recv(h->guard, &byte, 1, 0) == 1;
}

/* Where other copies of the processes run again when the last of us has ended, that is not left to
 * a guard that may be dying just now. */
void ff_holder_end_guarded(FfHolder *h)
{
    ff_holder_on_guard(h); /* its end may be an event that nobody has looked at */
    tell_last(h);
    while (h->cfg->fetcher && !h->given_up && h->guard >= 0 && !is_done(h)) {
        forget_guard(h);
        tell_last(h);
    }
}

/* ---- what a space has to do with it ---------------------------------------------------------- */

void ff_holder_hold(FfHolder *h, const FfHeldSpace *s)
{
    if (needs_guard(h, s)) {
        ff_holder_tell_guard(h);
    }
}

/* It may be a space still, of which the guard would be told now: so what it could not be told is
 * said by the timer. */
static void drop_id(FfHolder *h, uint64_t id)
{
    int rc = ff_guard_tell(h->guard, FF_GUARD_DROP, id, -1, -1);

    if (rc < 0 && !has_died(rc)) { /* whose death is an event */
        owe_message(h, (Owed){.id = id, .uffd = -1, .pidfd = -1});
        ff_holder_set_timer(h, AGAIN_MS);
    }
}

/* What S has is not watched any more, and the result's. */
static Owed take_space(FfHolder *h, FfHeldSpace *s)
{
    Owed owed = {.id = s->id, .uffd = s->uffd, .pidfd = s->pidfd, .said = s->guarded};

    epoll_ctl(h->epoll, EPOLL_CTL_DEL, s->uffd, NULL);
    if (s->pidfd >= 0) {
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, s->pidfd, NULL);
    }
    s->uffd = s->pidfd = -1;
    s->guarded = false;
    return owed;
}

void ff_holder_let_go(FfHolder *h, FfHeldSpace *s)
{
    bool guarded = s->guarded;

    if (h->cfg->fetcher && !h->given_up && s->pidfd >= 0 && !ff_pidfd_has_ended(s->pidfd)) {
        Owed owed = take_space(h, s);
        owed.kept = true;
        owed.runs = s->runs;
        owed.pid = s->rec->pid;
        owed.connection = s->connection;
        owe_message(h, owed);
        ff_holder_tell_guard(h);
        return;
    }
    s->guarded = false;
    if (guarded) {
        drop_id(h, s->id);
    }
}

void ff_holder_let_server_go(FfHolder *h)
{
    bool guarded = h->fetcher_guarded;

    h->fetcher_guarded = false;
    g_clear_pointer(&h->offspring, ff_descendants_log_free);
    close(h->cfg->fetcher->server);
    if (guarded) {
        drop_id(h, SERVER_ID);
    }
}

void ff_holder_let_kept_go(FfHolder *h)
{
    for (guint i = h->owed ? h->owed->len : 0; i-- > 0;) {
        Owed *o = &g_array_index(h->owed, Owed, i);
        if (o->kept && o->said) {
            close(o->uffd);
            close(o->pidfd);
            *o = (Owed){.id = o->id, .uffd = -1, .pidfd = -1};
        } else if (o->kept) {
            forget_owed(h, i);
        }
    }
    ff_holder_tell_guard(h);
}

bool ff_holder_kept_run(FfHolder *h, uint64_t connection)
{
    bool all = true;

    prune_ended(h);
    for (guint i = 0; h->owed && i < h->owed->len; i++) {
        Owed *o = &g_array_index(h->owed, Owed, i);
        if (o->kept && o->connection == connection) {
            o->runs = o->runs || ff_holder_is_let_run(o->pid, o->pidfd);
            all = all && o->runs;
        }
    }
    return all;
}

void ff_holder_kill_process(FfHeldSpace *s)
{
    send_kill(s->pidfd);
}

/* Takes OWED's fds. */
static void kill_owed(FfHolder *h, Owed owed)
{
    send_kill(owed.pidfd);
    owe_message(h, owed);
    ff_holder_tell_guard(h);
}

void ff_holder_kill(FfHolder *h, uint64_t connection, int uffd, int pidfd)
{
    ff_holder_refused(h, connection, "a process was refused");
    kill_owed(h, (Owed){.uffd = uffd, .pidfd = pidfd});
}

void ff_holder_kill_space(FfHolder *h, FfHeldSpace *s)
{
    if (!needs_guard(h, s)) {
        return;
    }
    ff_holder_refused(h, h->space[s->root].connection, "a process was refused");
    kill_owed(h, take_space(h, s));
}
