/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients until their first message is whole: who they are (SO_PEERCRED), its bytes, and the
 * userfaultfd that came with one of its parts. Of the message this looks only for its end: the
 * bracket that closes the first one. See holder-internal.h.
 *
 * So many may be in here; the next one waits, or takes the place of one that has not said all for
 * PATIENCE_MS.
 *
 * System calls: accept4, shutdown, getsockopt, recvmsg, pidfd_open, close.
 */
#include "holder/holder-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fault/fault.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif
#define FDS_MAX 16
#define DEAF_MS 250
#define PATIENCE_MS 2000

static void forget(FfHolder *h, FfPending *p)
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
static FfPending *room(FfHolder *h)
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
        forget(h, oldest);
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

void ff_holder_accept(FfHolder *h)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    FfPending *p = room(h);

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
    p->bytes = g_malloc(FF_RECORD_HELLO_MAX);
    if (!ff_holder_watch(h, sock, FF_ON_PENDING, p - h->pending, EPOLLIN)) {
        forget(h, p);
    }
}

/* ---- the first message ----------------------------------------------------------------------- */

/* The first fd is kept, whatever it is; others are closed. */
static void keep_fd(FfPending *p, struct msghdr *mh)
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

static void scan(FfPending *p, uint32_t from)
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
        }
    }
}

static bool is_known(const FfPending *p)
{
    return !p->len || p->bytes[0] == '[';
}

/* FALSE: the end of it. */
static bool receive(FfPending *p)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    char more;
    /* After the last bracket nothing but the userfaultfd may come, with a byte of any kind. */
    struct iovec iov = {p->whole ? &more : p->bytes + p->len,
                        p->whole ? 1 : FF_RECORD_HELLO_MAX - p->len};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    ssize_t n = iov.iov_len ? recvmsg(p->sock, &mh, MSG_CMSG_CLOEXEC) : 0;

    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    keep_fd(p, &mh);
    if (n > 0 && !p->whole) {
        p->len += n;
        scan(p, p->len - n);
    }
    return n > 0 && is_known(p);
}

#define NO_UFFD "it has passed no userfaultfd, or there was no file free for it (ulimit -n)"

static const char *what_is_wrong(const FfPending *p)
{
    return !is_known(p)                    ? "it speaks none of the dialects that are known"
           : p->len == FF_RECORD_HELLO_MAX ? "its first message is too long"
           : p->whole                      ? NO_UFFD
                                           : "it left in the middle of its first message";
}

/* ---- CRIU ------------------------------------------------------------------------------------ */

#define FINISHED 0x52535446 /* "RSTF" */

/* Of the process that has sent something; -1: not known (of another pid namespace, or no fd is
 * free). */
static int pidfd_of_sender(const struct ucred *who)
{
    return who->pid ? FF_FAULT_CALL("client-pidfd", (int)syscall(SYS_pidfd_open, who->pid, 0)) : -1;
}

/* A process of which there is no more than what it has passed. */
static void add_process(FfHolder *h, FfPending *p, const struct ucred *who)
{
    FfPending one = {.sock = fcntl(p->sock, F_DUPFD_CLOEXEC, 0),
                     .uffd = p->uffd,
                     .pid = who->pid,
                     .uid = who->uid,
                     .pidfd = pidfd_of_sender(who),
                     .bytes = p->bytes,
                     .len = sizeof(FfHoldPid)};

    p->connection = p->connection ? p->connection : ++h->last_connection;
    one.connection = p->connection;
    p->uffd = -1;
    p->len = 0;
    p->since_us = G_MAXINT64; /* its place is its own until the end */
    bool again = ff_holder_has_restored_others(h, one.connection);
    if (again) {
        ff_say("process %d is refused: what is fetched was restored already, and a second copy of "
               "it may not run",
               one.pid);
    }
    bool unknown = h->cfg->fetcher && one.pidfd < 0; /* it could not be killed later */
    if (unknown) {
        ff_say("process %d is refused: it has no pidfd here (files: ulimit -n; another pid "
               "namespace)",
               one.pid);
    }
    if ((again || unknown || one.sock < 0 || !ff_holder_add_client(h, &one)) && one.uffd >= 0) {
        /* Nobody but us has its userfaultfd: without it, it would read zeros. */
        ff_holder_kill(h, one.connection, one.uffd, one.pidfd);
        one.uffd = one.pidfd = -1;
    }
    one.bytes = NULL;
    forget(h, &one);
}

static struct ucred sender_of(struct msghdr *mh)
{
    struct ucred who = {0};

    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
            memcpy(&who, CMSG_DATA(c), sizeof(who));
        }
    }
    return who;
}

/* NULL: continue; else why not, "" at the end. Its pid, then a byte with the userfaultfd; again and
 * again, each pair from the process itself. A dead process (zombie) has a negative pid alone. */
static const char *receive_process(FfHolder *h, FfPending *p)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    } control;
    char byte;
    bool has_pid = p->len == sizeof(FfHoldPid);
    struct iovec iov = {has_pid ? &byte : p->bytes + p->len,
                        has_pid ? 1 : sizeof(FfHoldPid) - p->len};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    FfHoldPid hello;
    ssize_t n = recvmsg(p->sock, &mh, MSG_CMSG_CLOEXEC);

    if (n < 0) {
        return errno == EAGAIN || errno == EINTR ? NULL : g_strerror(errno);
    }
    keep_fd(p, &mh);
    if (n == 0) {
        return "";
    }
    if (has_pid) {
        struct ucred who = sender_of(&mh);
        if (p->uffd < 0) {
            return NO_UFFD;
        }
        add_process(h, p, &who);
        return NULL;
    }
    p->len += n;
    if (p->len == sizeof(hello)) {
        memcpy(&hello, p->bytes, sizeof(hello));
        if (hello.pid == FINISHED && p->lost) {
            ff_holder_refused(h, p->connection, "a process has ended before it was restored");
        }
        if (hello.pid == FINISHED && ff_holder_restored(h, p->connection)) {
            ff_holder_registered(h, p->connection);
        }
        p->len = hello.pid == FINISHED || hello.pid <= 0 ? 0 : p->len;
    }
    return NULL;
}

static void on_criu(FfHolder *h, FfPending *p)
{
    const char *why = receive_process(h, p);

    if (why) {
        if (why[0]) {
            ff_say("criu restore (process %d) is not heard any more: %s", p->pid, why);
        }
        forget(h, p);
    }
}

void ff_holder_on_pending(FfHolder *h, unsigned i)
{
    FfPending *p = &h->pending[i];

    if (p->sock < 0) {
        return;
    }
    if (h->cfg->criu) {
        on_criu(h, p);
        return;
    }
    if (!receive(p)) {
        if (p->len || p->uffd >= 0) { /* else it has only looked whether somebody is here */
            ff_say("process %d is refused: %s", p->pid, what_is_wrong(p));
        }
        forget(h, p);
    } else if (p->whole && p->uffd >= 0) {
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, p->sock, NULL);
        ff_holder_add_client(h, p);
        forget(h, p);
    }
}

static bool is_some_pending(const FfHolder *h)
{
    for (unsigned i = 0; i < FF_HOLDER_PENDING; i++) {
        if (h->pending[i].sock >= 0) {
            return true;
        }
    }
    return false;
}

/* All that pending client I has sent. */
static void hear_last(FfHolder *h, unsigned i)
{
    char byte;

    shutdown(h->pending[i].sock, SHUT_RD);
    do {
        ff_holder_on_pending(h, i);
    } while (h->pending[i].sock >= 0 &&
             recv(h->pending[i].sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0);
}

/* A userfaultfd that is on its way is lost with the socket, and its process reads zeros. A socket
 * that was shut down takes nothing more, and gives what it has. */
void ff_holder_accept_last(FfHolder *h)
{
    if (!h->cfg->criu) {
        return;
    }
    shutdown(h->cfg->listen_fd, SHUT_RD);
    do {
        for (unsigned i = 0; i < FF_HOLDER_PENDING; i++) {
            if (h->pending[i].sock >= 0) {
                hear_last(h, i);
                forget(h, &h->pending[i]);
            }
        }
        ff_holder_accept(h);
    } while (is_some_pending(h));
}
