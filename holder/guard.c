/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guard; see guard.h. One thread, and no state but a table: as little as possible can end it.
 * What the holder has sent is held by the socket already, so nobody waits until it was read.
 *
 * System calls: socketpair, fork, prctl, close_range, sigprocmask, recvmsg, sendmsg, poll,
 * pidfd_send_signal, ioctl (uffd/uffd.c), close, _exit.
 */
#include "holder/guard.h"

#include <errno.h>
#include <glib.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fault/fault.h"
#include "uffd/uffd.h"

/* Of processes whose end has no event: a client's children. */
#define LOOK_AGAIN_MS 1000

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

static void forget(GArray *all, guint i)
{
    const Held *h = &g_array_index(all, Held, i);

    close(h->fd);
    if (h->pidfd >= 0) {
        close(h->pidfd);
    }
    g_array_remove_index_fast(all, i);
}

static void kill_one(const Held *h)
{
    if (h->pidfd >= 0) {
        syscall(SYS_pidfd_send_signal, h->pidfd, SIGKILL, NULL, 0);
    }
}

static void obey(GArray *all, const Message *msg, const int *fds, unsigned n)
{
    if (msg->type != FF_GUARD_DROP && n) {
        Held h = {msg->id, fds[0], n > 1 ? fds[1] : -1, (FfGuardType)msg->type};
        g_array_append_val(all, h);
        return;
    }
    for (guint i = 0; i < all->len; i++) {
        const Held *h = &g_array_index(all, Held, i);
        if (h->id == msg->id && msg->type == FF_GUARD_DROP) {
            forget(all, i);
            return;
        }
    }
}

/* FALSE: the holder has ended. */
static bool hear(int link, GArray *all)
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
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), n * sizeof(int));
        }
    }
    obey(all, &msg, fds, n);
    return true;
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

/* Those that have ended are let go. Waits for the link, if it is one, or for one of them. */
static void wait_some(int link, GArray *all)
{
    g_autofree struct pollfd *pfd = g_new0(struct pollfd, all->len + 1);
    bool look = false;

    pfd[all->len] = (struct pollfd){.fd = link, .events = POLLIN};
    for (guint i = 0; i < all->len; i++) {
        const Held *h = &g_array_index(all, Held, i);
        pfd[i] = end_of(h);
        look = look || (h->type == FF_GUARD_HOLD && pfd[i].fd < 0);
    }
    poll(pfd, all->len + 1, look ? LOOK_AGAIN_MS : -1);
    for (guint i = all->len; i-- > 0;) {
        if (has_ended(&g_array_index(all, Held, i), &pfd[i])) {
            forget(all, i);
        }
    }
}

/* But for what is closed last. */
static bool holds_some(const GArray *all)
{
    for (guint i = 0; i < all->len; i++) {
        if (g_array_index(all, Held, i).type != FF_GUARD_LAST) {
            return true;
        }
    }
    return false;
}

static void run(int link)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(Held));
    bool has_holder = true;

    while (has_holder) {
        struct pollfd pfd = {.fd = link, .events = POLLIN};
        wait_some(link, all);
        while (has_holder && poll(&pfd, 1, 0) == 1) {
            has_holder = hear(link, all);
        }
    }
    for (guint i = 0; i < all->len; i++) {
        kill_one(&g_array_index(all, Held, i));
    }
    while (holds_some(all)) {
        wait_some(-1, all);
    }
}

int ff_guard_start(void)
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
        dup2(link[1], 3);
        dup2(STDERR_FILENO, 0);
        dup2(STDERR_FILENO, 1);
        syscall(SYS_close_range, 4u, ~0u, 0u);
        run(3);
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

    if (type != FF_GUARD_DROP) {
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
