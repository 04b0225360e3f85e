/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CRIU's processes: on one connection each sends its pid and then its userfaultfd, of which it
 * keeps no copy. So whom we do not take is killed, and what is under way at the end is taken in
 * before. See internal.h, and pager/dialects/criu.c for what becomes of them.
 *
 * System calls: shutdown, recv, recvmsg, fcntl, pidfd_open.
 */
#include "pager/holder/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"

#define FDS_MAX 16
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
                     .dialect = h->cfg->dialect,
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
    ff_holder_forget(h, &one);
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
    ff_holder_keep_fd(p, &mh);
    if (n == 0) {
        return "";
    }
    if (has_pid) {
        struct ucred who = sender_of(&mh);
        if (p->uffd < 0) {
            return FF_HOLDER_NO_UFFD;
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
        ff_holder_forget(h, p);
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
static void accept_last(FfHolder *h)
{
    shutdown(h->cfg->listen_fd, SHUT_RD);
    do {
        for (unsigned i = 0; i < FF_HOLDER_PENDING; i++) {
            if (h->pending[i].sock >= 0) {
                hear_last(h, i);
                ff_holder_forget(h, &h->pending[i]);
            }
        }
        ff_holder_accept(h);
    } while (is_some_pending(h));
}

static void say_left(unsigned n)
{
    ff_say("%u process%s killed, as not all pages have come", n, n == 1 ? " is" : "es are");
}

const FfArrival ff_arrival_criu = {.begin = ff_holder_listen,
                                   .on_pending = on_criu,
                                   .accept_last = accept_last,
                                   .say_left = say_left,
                                   .guarded = FF_GUARDED_ALL,
                                   .registers_later = true,
                                   .ends_unseen = true};
