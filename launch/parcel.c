/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A parcel is one end of a socket pair whose other end is closed: its queue can be looked at
 * (MSG_PEEK hands out copies of the fds), and nobody can add to it.
 *
 * Any thread. System calls: socketpair, sendmsg, recvmsg, prlimit64.
 */
#include "launch/parcel.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/rights.h"

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

int ff_parcel_new(const int *fds, unsigned n)
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

int ff_parcel_look(int parcel, int *fds)
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
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(c), n * sizeof(int));
    }
    if (msg.msg_flags & MSG_CTRUNC) {
        while (n > 0) {
            close(fds[--n]);
        }
        return -EMFILE;
    }
    return n;
}
