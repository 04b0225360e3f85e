/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See forktold.h. */
#include "tests/lib/forktold.h"

#include <glib.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    struct nlmsghdr nl;
    char message[sizeof(struct cn_msg)];
    uint32_t op;
} Ask;

static bool ask(int sock, uint32_t op)
{
    const struct cn_msg cn = {.id = {CN_IDX_PROC, CN_VAL_PROC}, .len = sizeof(op)};
    Ask a = {.nl = {.nlmsg_len = sizeof(a), .nlmsg_type = NLMSG_DONE}, .op = op};

    memcpy(a.message, &cn, sizeof(cn));
    return send(sock, &a, sizeof(a), 0) == sizeof(a);
}

/* The first event after it was asked for is the answer; one more is of a fork or an end. */
static bool hears(int sock)
{
    struct pollfd pfd = {.fd = sock, .events = POLLIN};
    char bytes[1024];

    return poll(&pfd, 1, 1000) == 1 && recv(sock, bytes, sizeof(bytes), 0) > 0;
}

bool forks_are_told(void)
{
    const struct sockaddr_nl group = {.nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC};
    int sock = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR);
    bool told = false;

    if (sock >= 0 && bind(sock, (const struct sockaddr *)&group, sizeof(group)) == 0 &&
        ask(sock, PROC_CN_MCAST_LISTEN)) {
        if (fork() == 0) {
            _exit(0);
        }
        told = hears(sock) && hears(sock);
        ask(sock, PROC_CN_MCAST_IGNORE);
    }
    if (sock >= 0) {
        close(sock);
    }
    return told;
}
