/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine of relay-rig.c: hands its link to the test and lives as long as the test wants. */
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "contract/link.h"

int main(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    int link = FF_LINK_FD, s = socket(AF_UNIX, SOCK_STREAM, 0);
    struct cmsghdr *cmsg;

    g_strlcpy(addr.sun_path, getenv("FF_TEST_ENGINE"), sizeof(addr.sun_path));
    if (connect(s, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        return 1;
    }
    cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(cmsg), &link, sizeof(int));
    if (sendmsg(s, &msg, 0) != 1) {
        return 1;
    }
    close(link);
    return read(s, &byte, 1) != 0;
}
