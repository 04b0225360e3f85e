/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients until their first message is whole: who they are (SO_PEERCRED), its bytes, and the
 * userfaultfd that came with one of its parts. Of the message this looks only for its end: the
 * bracket that closes the first one. Which dialect it is, and whether it is a question, others say
 * (FfHolderConfig). See internal.h.
 *
 * So many may be in here; the next one waits, or takes the place of one that has not said all for
 * PATIENCE_MS.
 *
 * System calls: accept4, getsockopt, recvmsg, send, pidfd_open, close.
 */
#include "pager/holder/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif
#define FDS_MAX 16
#define DEAF_MS 250
#define PATIENCE_MS 2000
#define ANSWER_MAX 256

void ff_holder_forget(FfHolder *h, FfPending *p)
{
    ff_holder_close(h, &p->sock);
    ff_holder_close(h, &p->uffd);
    ff_holder_close(h, &p->pidfd);
    g_free(p->bytes);
    *p = (FfPending){.sock = -1};
}

static bool is_allowed(const FfHolderConfig *cfg, uid_t uid)
{
    for (unsigned i = 0; i < cfg->n_uids; i++) {
        if (cfg->uids[i] == uid) {
            return true;
        }
    }
    return uid == 0 || uid == geteuid();
}

/* Of the process that has connected; by its number, which may be another's by now, before Linux
 * 6.5. */
static int pidfd_of(int sock, pid_t pid)
{
    int pidfd;
    socklen_t len = sizeof(pidfd);

    if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) == 0) {
        return pidfd;
    }
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* The place of one that has not come to an end of it for long; NULL: nobody has. */
static FfPending *free_place(FfHolder *h)
{
    FfPending *oldest = &h->pending[0];

    for (unsigned i = 0; i < FF_HOLDER_PENDING; i++) {
        if (h->pending[i].sock < 0) {
            return &h->pending[i];
        }
        if (h->pending[i].since_us < oldest->since_us) {
            oldest = &h->pending[i];
        }
    }
    if (g_get_monotonic_time() - oldest->since_us < PATIENCE_MS * 1000) {
        return NULL;
    }
    /* Not if it has said all meanwhile. */
    ff_holder_on_pending(h, oldest - h->pending);
    if (oldest->sock >= 0) {
        ff_say("process %d has not said who it is, and makes room for others", oldest->pid);
        ff_holder_forget(h, oldest);
    }
    return oldest;
}

/* A process that connects waits until the listening socket is watched again. */
static void be_deaf(FfHolder *h)
{
    epoll_ctl(h->epoll, EPOLL_CTL_DEL, h->cfg->listen_fd, NULL);
    h->deaf = true;
    ff_holder_set_timer(h, DEAF_MS); /* what becomes free has no event */
}

bool ff_holder_listen(FfHolder *h)
{
    return ff_holder_watch(h, h->cfg->listen_fd, FF_ON_LISTEN, 0, EPOLLIN);
}

void ff_holder_accept(FfHolder *h)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    FfPending *p = free_place(h);

    if (!p) {
        be_deaf(h);
        return;
    }
    int sock = accept4(h->cfg->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (sock < 0) {
        if (errno == EMFILE || errno == ENFILE) {
            ff_say("a client cannot be accepted: %s (ulimit -n)", g_strerror(errno));
            be_deaf(h);
        }
        return;
    }
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
        !is_allowed(h->cfg, cred.uid)) {
        ff_say("process %d of user %u is refused: --allow names who may connect", cred.pid,
               cred.uid);
        close(sock);
        return;
    }
    *p = (FfPending){.sock = sock, .uffd = -1, .pid = cred.pid, .uid = cred.uid};
    p->since_us = g_get_monotonic_time();
    p->pidfd = pidfd_of(sock, cred.pid);
    FF_FAULT_AT("accepted");
    p->bytes = g_malloc(FF_SPACE_RECORD_HELLO_MAX);
    if (!ff_holder_watch(h, sock, FF_ON_PENDING, p - h->pending, EPOLLIN)) {
        ff_holder_forget(h, p);
    }
}

/* ---- the first message ----------------------------------------------------------------------- */

void ff_holder_keep_fd(FfPending *p, struct msghdr *mh)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (p->uffd < 0) {
                p->uffd = fd;
            } else {
                close(fd);
            }
        }
    }
}

static void scan_message(FfPending *p, uint32_t from)
{
    for (uint32_t i = from; i < p->len && !p->whole; i++) {
        char c = p->bytes[i];
        if (p->in_text) {
            p->in_text = p->escaped || c != '"';
            p->escaped = !p->escaped && c == '\\';
        } else if (c == '"') {
            p->in_text = true;
        } else if (c == '[' || c == '{') {
            p->depth++;
        } else if (c == ']' || c == '}') {
            p->whole = --p->depth <= 0;
            p->end = i + 1;
        }
    }
}

static bool is_known(const FfHolder *h, FfPending *p)
{
    int dialect = p->len ? h->cfg->recognise(p->bytes, p->len) : 0;

    p->dialect = (unsigned)dialect;
    return dialect >= 0;
}

/* Questions come before the message. FALSE: one cannot be answered now, and is not later. */
static bool answer_questions(const FfHolder *h, FfPending *p)
{
    char answer[ANSWER_MAX];
    size_t n;

    while (p->whole && (n = h->cfg->answer(p->dialect, p->bytes, p->end, h->cfg->content, answer,
                                           sizeof(answer)))) {
        if (send(p->sock, answer, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n) {
            return false;
        }
        p->len -= p->end;
        memmove(p->bytes, p->bytes + p->end, p->len);
        p->whole = p->in_text = p->escaped = false;
        p->depth = 0;
        scan_message(p, 0);
    }
    return true;
}

/* FALSE: the end of it. */
static bool receive_bytes(const FfHolder *h, FfPending *p)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    char more;
    /* After the last bracket nothing but the userfaultfd may come, with a byte of any kind. */
    struct iovec iov = {p->whole ? &more : p->bytes + p->len,
                        p->whole ? 1 : FF_SPACE_RECORD_HELLO_MAX - p->len};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    ssize_t n = iov.iov_len ? recvmsg(p->sock, &mh, MSG_CMSG_CLOEXEC) : 0;

    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    ff_holder_keep_fd(p, &mh);
    if (n > 0 && !p->whole) {
        p->len += n;
        scan_message(p, p->len - n);
    }
    return n > 0 && is_known(h, p) && answer_questions(h, p);
}

static const char *what_is_wrong(const FfHolder *h, FfPending *p)
{
    return !is_known(h, p)                       ? "it speaks none of the dialects that are known"
           : p->len == FF_SPACE_RECORD_HELLO_MAX ? "its first message is too long"
           : p->whole                            ? FF_HOLDER_NO_UFFD
                                                 : "it left in the middle of its first message";
}

void ff_holder_on_pending(FfHolder *h, unsigned i)
{
    FfPending *p = &h->pending[i];

    if (p->sock >= 0) {
        h->cfg->arrival->on_pending(h, p);
    }
}

static void on_message(FfHolder *h, FfPending *p)
{
    if (!receive_bytes(h, p)) {
        if (p->len || p->uffd >= 0) { /* else it has only looked whether somebody is here */
            ff_say("process %d is refused: %s", p->pid, what_is_wrong(h, p));
        }
        ff_holder_forget(h, p);
    } else if (p->whole && p->uffd >= 0) {
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, p->sock, NULL);
        ff_holder_add_client(h, p);
        ff_holder_forget(h, p);
    }
}

static void say_left(unsigned n)
{
    ff_say("%u client%s left, and stand%s still where a page is missing", n,
           n == 1 ? " is" : "s are", n == 1 ? "s" : "");
}

const FfArrival ff_arrival_message = {
    .begin = ff_holder_listen, .on_pending = on_message, .say_left = say_left};
