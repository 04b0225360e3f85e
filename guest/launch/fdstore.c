/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A parcel is one end of a socket pair whose other end is closed: its queue can be looked at
 * (MSG_PEEK hands out copies of the fds), and nobody can add to it.
 *
 * Any thread. System calls: socketpair, sendmsg, recvmsg, prlimit64.
 */
#include "guest/launch/fdstore.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/rights.h"

#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04 /* Linux 6.5 */
#endif

/* Puts FDS into SOCKET while half of the limit is left. Returns 0 or -errno. */
static int send_modestly(int socket, const int *fds, unsigned n)
{
    struct rlimit before, half;

    if (getrlimit(RLIMIT_NOFILE, &before) < 0) {
        return -errno;
    }
    half = before;
    half.rlim_cur /= 2; /* the kernel compares with the sender's own limit */
    if (setrlimit(RLIMIT_NOFILE, &half) < 0) {
        return -errno;
    }
    ssize_t sent = ff_rights_send(socket, "", 1, fds, n);

    setrlimit(RLIMIT_NOFILE, &before);
    return sent < 0 ? (int)sent : 0;
}

int ff_fdstore_new(const int *fds, unsigned n)
{
    int pair[2], ret;

    if (n > FF_PARCEL_MAX) {
        return -EMSGSIZE;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -errno;
    }
    ret = send_modestly(pair[0], fds, n);
    close(pair[0]);
    if (ret < 0) {
        close(pair[1]);
        return ret;
    }
    return pair[1];
}

/* Takes the fds of C to the N of FDS; returns their number. *ODD: that is nothing of a parcel's. */
static int take_fds(struct cmsghdr *c, int *fds, int n, bool *odd)
{
    size_t len = c->cmsg_len - CMSG_LEN(0);
    bool rights = c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS;
    int pidfd;

    if (rights && n + len / sizeof(int) <= FF_PARCEL_MAX) {
        memcpy(fds + n, CMSG_DATA(c), len);
        return n + (int)(len / sizeof(int));
    }
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_PIDFD && len == sizeof(pidfd)) {
        memcpy(&pidfd, CMSG_DATA(c), sizeof(pidfd));
        if (pidfd >= 0) {
            close(pidfd);
        }
    }
    *odd = true;
    return n;
}

/* The socket may be one that somebody has made to look like a parcel, and to have the kernel hand
 * out more than that (SO_PASSCRED, SO_PASSPIDFD): then none of it stays open. */
int ff_fdstore_look(int parcel, int *fds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * FF_PARCEL_MAX)];
    } control;
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    int n = 0;

    if (recvmsg(parcel, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0) {
        return -errno;
    }
    bool odd = false, lost = msg.msg_flags & MSG_CTRUNC;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        n = take_fds(c, fds, n, &odd);
    }
    if (odd || lost) {
        while (n > 0) {
            close(fds[--n]);
        }
        return odd ? -EBADMSG : -EMFILE;
    }
    return n;
}
