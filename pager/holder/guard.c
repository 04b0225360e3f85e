/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guard; see guard.h. One thread, and no state but a table: as little as possible can end it.
 * What the holder has sent is held by the socket already, so nobody waits until it was read.
 *
 * System calls: socketpair, fork, prctl, close_range, sigprocmask, recvmsg, sendmsg, send,
 * poll, pidfd_send_signal, ioctl (uffd/uffd.c), close, _exit; those of pager/holder/descendants.c.
 */
#include "pager/holder/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "pager/holder/log.h"
#include "uffd/uffd.h"

/* Of processes whose end, or birth, has no event: a client's children. */
#define LOOK_AGAIN_MS 1000
/* The link; what is below goes to stderr. */
#define FIRST 3

typedef struct {
    uint64_t id;
    uint32_t type;
    uint32_t reserved;
} Message;

typedef struct {
    uint64_t id;
    int fd, pidfd; /* userfaultfd, or socket; -1: not known */
    FfGuardType type;
} Held;

typedef struct {
    GArray *all; /* Held */
    /* Of those with a pidfd, as long as there is something to be closed last; else NULL. What a
     * process has started is not to run beside the copies either. */
    FfDescendants *offspring;
    FfDescendantsLog *log;
    int64_t looked_us; /* for it */
} Guard;

static const Held *nth_held(const Guard *g, guint i)
{
    return &g_array_index(g->all, Held, i);
}

static void forget_held(Guard *g, guint i)
{
    const Held *h = nth_held(g, i);

    close(h->fd);
    if (h->pidfd >= 0) {
        close(h->pidfd);
    }
    if (h->type == FF_GUARD_LAST) {
        g_clear_pointer(&g->offspring, ff_descendants_free);
        g_clear_pointer(&g->log, ff_descendants_log_free);
    }
    g_array_remove_index_fast(g->all, i);
}

static void watch_offspring(Guard *g, const Held *h)
{
    if (g->offspring && h->type == FF_GUARD_HOLD && h->pidfd >= 0) {
        ff_descendants_add(g->offspring, h->pidfd);
    }
}

static void take_held(Guard *g, Held h)
{
    g_array_append_val(g->all, h);
    if (h.type != FF_GUARD_LAST) {
        watch_offspring(g, &h);
        return;
    }
    g->offspring = g->log ? ff_descendants_new(g->log) : NULL;
    for (guint i = 0; i < g->all->len; i++) {
        watch_offspring(g, nth_held(g, i));
    }
}

static void kill_one(const Held *h)
{
    if (h->pidfd >= 0) {
        syscall(SYS_pidfd_send_signal, h->pidfd, SIGKILL, NULL, 0);
    }
}

static void obey_message(Guard *g, const Message *msg, const int *fds, unsigned n)
{
    if (msg->type < FF_GUARD_DROP && n) {
        take_held(g, (Held){msg->id, fds[0], n > 1 ? fds[1] : -1, (FfGuardType)msg->type});
        return;
    }
    for (guint i = 0; i < g->all->len; i++) {
        if (nth_held(g, i)->id == msg->id && msg->type == FF_GUARD_DROP) {
            forget_held(g, i);
            return;
        }
    }
}

/* No more files may be open: what it was told it does not hold. A holder that lives has copies of
 * all, and starts another guard. */
static void leave_to_next(int link)
{
    struct pollfd pfd = {.fd = link, .events = POLLRDHUP};

    if (poll(&pfd, 1, 0) == 0) {
        _exit(1);
    }
}

/* FALSE: the holder has ended. */
static bool read_messages(int link, Guard *g)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    Message msg;
    struct iovec iov = {&msg, sizeof(msg)};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    int fds[2];
    unsigned n = 0;
    ssize_t len = recvmsg(link, &mh, MSG_CMSG_CLOEXEC);

    if (len <= 0) {
        return len < 0 && errno == EINTR;
    }
    if (mh.msg_flags & MSG_CTRUNC) {
        leave_to_next(link);
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), n * sizeof(int));
        }
    }
    obey_message(g, &msg, fds, n);
    return msg.type != FF_GUARD_END;
}

/* What tells of the end of H. */
static struct pollfd end_of(const Held *h)
{
    switch (h->type) {
    case FF_GUARD_SOCK:
        return (struct pollfd){.fd = h->fd, .events = POLLRDHUP};
    case FF_GUARD_HOLD:
        return (struct pollfd){.fd = h->pidfd, .events = POLLIN};
    default:
        return (struct pollfd){.fd = -1};
    }
}

static bool has_ended(const Held *h, const struct pollfd *pfd)
{
    return pfd->fd >= 0 ? pfd->revents != 0 : h->type == FF_GUARD_HOLD && ff_uffd_is_gone(h->fd);
}

/* In vain where each fork is told of and was heard. */
static void look_for_offspring(Guard *g)
{
    int64_t now = g_get_monotonic_time();

    if (now - g->looked_us >= LOOK_AGAIN_MS * 1000) {
        ff_descendants_look(g->offspring);
        g->looked_us = now;
    }
}

/* Those that have ended are let go. Waits for the link, if it is one, for one of them, or for a
 * fork. */
static void wait_some(int link, Guard *g)
{
    guint n = g->all->len;
    g_autofree struct pollfd *pfd = g_new0(struct pollfd, n + 2);
    bool look = g->offspring != NULL;

    pfd[n] = (struct pollfd){.fd = link, .events = POLLIN};
    pfd[n + 1] =
        (struct pollfd){.fd = g->offspring ? ff_descendants_log_fd(g->log) : -1, .events = POLLIN};
    for (guint i = 0; i < n; i++) {
        pfd[i] = end_of(nth_held(g, i));
        look = look || (nth_held(g, i)->type == FF_GUARD_HOLD && pfd[i].fd < 0);
    }
    poll(pfd, n + 2, look ? LOOK_AGAIN_MS : -1);
    if (g->offspring) {
        ff_descendants_hear(g->offspring);
        look_for_offspring(g);
    }
    for (guint i = n; i-- > 0;) {
        if (has_ended(nth_held(g, i), &pfd[i])) {
            forget_held(g, i);
        }
    }
}

/* But for what is closed last. */
static bool holds_some(const Guard *g)
{
    for (guint i = 0; i < g->all->len; i++) {
        if (nth_held(g, i)->type != FF_GUARD_LAST) {
            return true;
        }
    }
    return false;
}

static void run_guard(int link, FfDescendantsLog *log)
{
    Guard g = {.all = g_array_new(FALSE, FALSE, sizeof(Held)), .log = log};
    bool has_holder = true;

    while (has_holder) {
        struct pollfd pfd = {.fd = link, .events = POLLIN};
        wait_some(link, &g);
        while (has_holder && poll(&pfd, 1, 0) == 1) {
            has_holder = read_messages(link, &g);
        }
    }
    for (guint i = 0; i < g.all->len; i++) {
        kill_one(nth_held(&g, i));
    }
    if (g.offspring) {
        ff_descendants_kill(g.offspring);
        g_clear_pointer(&g.offspring, ff_descendants_free);
    }
    while (holds_some(&g)) {
        wait_some(-1, &g);
    }
    send(link, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT); /* to a holder that waits */
}

/* All but LINK, which becomes FIRST, and LOG's, which becomes the next one. */
static void close_others(int link, FfDescendantsLog *log)
{
    int events = log ? ff_descendants_log_fd(log) : -1;
    int high = events >= 0 ? fcntl(events, F_DUPFD_CLOEXEC, FIRST + 2) : -1;

    dup2(link, FIRST);
    dup2(STDERR_FILENO, 0);
    dup2(STDERR_FILENO, 1);
    if (high >= 0) {
        dup2(high, FIRST + 1);
    }
    if (log) {
        ff_descendants_log_move(log, high >= 0 ? FIRST + 1 : -1);
    }
    syscall(SYS_close_range, FIRST + 1u + (high >= 0), ~0u, 0u);
}

int ff_guard_start(FfDescendantsLog *offspring)
{
    int link[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) < 0) {
        return -errno;
    }
    pid_t pid = FF_FAULT_CALL("guard-fork", fork());
    if (pid == 0) {
        sigset_t all;
        sigfillset(&all); /* it ends when the holder has */
        sigprocmask(SIG_SETMASK, &all, NULL);
        prctl(PR_SET_NAME, "guard");
        close_others(link[1], offspring);
        ff_say_forked();
        run_guard(FIRST, offspring);
        _exit(0);
    }
    int err = errno;
    close(link[1]);
    if (pid < 0) {
        close(link[0]);
        return -err;
    }
    return link[0];
}

int ff_guard_tell(int link, FfGuardType type, uint64_t id, int fd, int pidfd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    Message msg = {.id = id, .type = type};
    int fds[2] = {fd, pidfd};
    unsigned n = pidfd >= 0 ? 2 : 1;
    struct iovec iov = {&msg, sizeof(msg)};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t rc;

    if (type < FF_GUARD_DROP) {
        mh.msg_control = &control;
        mh.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    do {
        rc = FF_FAULT_CALL("guard-tell", sendmsg(link, &mh, MSG_NOSIGNAL | MSG_DONTWAIT));
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}
