/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages between holder and pager; see wire.h. No state; any thread, one at a time for each
 * direction. System calls: sendmsg, recvmsg, close. */
#include "pager/holder/wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(FF_HOLD_FDS * sizeof(int))];
} Control;

int ff_hold_send(int link, const FfHoldMessage *msg, const int *fds, unsigned n_fds)
{
    Control control = {0};
    struct iovec iov = {(void *)msg, sizeof(*msg)};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n_fds) {
        mh.msg_control = &control;
        mh.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    ssize_t n;
    do {
        n = sendmsg(link, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

int ff_hold_receive(int link, FfHoldMessage *msg, int *fds, unsigned *n_fds)
{
    Control control;
    struct iovec iov = {msg, sizeof(*msg)};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    ssize_t n;

    *n_fds = 0;
    do {
        n = recvmsg(link, &mh, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        return n < 0 ? -errno : 0;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            *n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), *n_fds * sizeof(int));
        }
    }
    if (n != sizeof(*msg) || mh.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) {
        for (unsigned i = 0; i < *n_fds; i++) {
            close(fds[i]);
        }
        return -EPROTO;
    }
    msg->text[sizeof(msg->text) - 1] = 0;
    return 1;
}
