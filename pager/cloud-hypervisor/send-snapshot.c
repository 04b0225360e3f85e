/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cloud Hypervisor's peer; see send-snapshot.h. A guest whose memory is asked for by nobody would
 * run on zeros: Cloud Hypervisor takes the empty memfds for its memory unless it was told to
 * receive by memory_mode=postcopy, which is not to be seen from here. So it is not told to run
 * before it has asked for a page, and has got it.
 *
 * System calls: socket, connect, getsockopt, sendmsg, recv, poll, close.
 */
#include "pager/cloud-hypervisor/send-snapshot.h"

#include <errno.h>
#include <gio/gio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "pager/holder/log.h"
#include "pager/holder/vmm-wire.h"

#define SAY_AFTER_MS 5000

static bool fail_replay(const FfSendSnapshot *r, GError **error, const char *what, const char *why)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s: %s", r->path, what, why);
    return false;
}

/* The pid is that of the process that began to listen. */
static int connect_to(FfSendSnapshot *r, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (strlen(r->path) >= sizeof(addr.sun_path)) {
        fail_replay(r, error, "the name is too long for a socket", "107 bytes at most");
        return -1;
    }
    strcpy(addr.sun_path, r->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        fail_replay(r, error, "nobody listens there (ch-remote receive-migration)",
                    g_strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0) {
        r->pid = cred.pid;
        r->uid = cred.uid;
    }
    return fd;
}

/* PASS: a fd that goes with the first byte; -1: none. */
static bool send_all(int sock, const void *data, size_t len, int pass)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};

    for (size_t done = 0; done < len;) {
        struct iovec iov = {(char *)data + done, len - done};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
        if (pass >= 0 && done == 0) {
            mh.msg_control = &control;
            mh.msg_controllen = sizeof(control);
            struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(c), &pass, sizeof(pass));
        }
        ssize_t n = sendmsg(sock, &mh, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        done += n > 0 ? n : 0;
    }
    return true;
}

/* 1; 0: it has refused; -errno. */
static int receive_response(int sock)
{
    FfVmmResponse response;
    ssize_t n;

    do {
        n = recv(sock, &response, sizeof(response), MSG_WAITALL);
    } while (n < 0 && errno == EINTR);
    if (n != sizeof(response)) {
        return n < 0 ? -errno : -ECONNRESET;
    }
    return GUINT16_FROM_LE(response.status) == FF_VMM_OK && response.length == 0;
}

/* One request with its payload, and the answer. As receive_response(). */
static int exchange_request(const FfSendSnapshot *r, FfVmmCommand command, const void *data,
                            size_t len, int pass)
{
    FfVmmRequest request = {.command = GUINT16_TO_LE(command), .length = GUINT64_TO_LE(len)};

    if (!send_all(r->control, &request, sizeof(request), -1) ||
        !send_all(r->control, data, len, pass)) {
        int rc = -errno;
        /* What it has said before it has closed the connection. */
        return receive_response(r->control) == 0 ? 0 : rc;
    }
    return receive_response(r->control);
}

static bool send_step(const FfSendSnapshot *r, FfVmmCommand command, const char *name,
                      const void *data, size_t len, int pass, GError **error)
{
    int rc = exchange_request(r, command, data, len, pass);

    if (rc == 0) {
        g_autofree char *what = g_strdup_printf("Cloud Hypervisor has refused %s", name);
        return fail_replay(r, error, what, "what it has said itself tells why");
    }
    if (rc < 0) {
        g_autofree char *what = g_strdup_printf("Cloud Hypervisor has not answered %s", name);
        return fail_replay(r, error, what, g_strerror(-rc));
    }
    return true;
}

bool ff_send_snapshot_begin(FfSendSnapshot *r, const char *path, const FfOffload *o, GError **error)
{
    const uint16_t role = GUINT16_TO_LE(FF_VMM_ROLE_FAULT);

    *r = (FfSendSnapshot){.path = path, .control = -1, .fault = -1};
    r->control = connect_to(r, error);
    if (r->control < 0 || !send_step(r, FF_VMM_START, "Start", NULL, 0, -1, error)) {
        return false;
    }
    for (unsigned i = 0; i < o->n_slots && !o->slot[i].own; i++) {
        const uint32_t slot = GUINT32_TO_LE(o->slot[i].slot);
        if (!send_step(r, FF_VMM_MEMORY_FD, "MemoryFd", &slot, sizeof(slot), o->memory[i], error)) {
            return false;
        }
    }
    if (!send_step(r, FF_VMM_CONFIG, "Config", o->config, o->config_len, -1, error)) {
        return false;
    }
    r->fault = connect_to(r, error);
    if (r->fault < 0) {
        return false;
    }
    return send_all(r->fault, &role, sizeof(role), -1) ||
           fail_replay(r, error, "the connection for pages", g_strerror(errno));
}

/* FALSE: it never asks. */
static bool wait_first(int talk)
{
    struct pollfd pfd = {.fd = talk, .events = POLLIN};
    char byte;
    ssize_t n;

    if (poll(&pfd, 1, SAY_AFTER_MS) == 0) {
        ff_say("Cloud Hypervisor has asked for no page and got it yet, so the guest does not run: "
               "receive-migration needs memory_mode=postcopy");
    }
    do {
        n = recv(talk, &byte, 1, 0);
    } while (n < 0 && errno == EINTR);
    return n == 1;
}

bool ff_send_snapshot_finish(const FfSendSnapshot *r, const FfOffload *o, int talk, bool run,
                             GError **error)
{
    if (!send_step(r, FF_VMM_STATE, "State", o->state, o->state_len, -1, error)) {
        return false;
    }
    if (!wait_first(talk)) {
        exchange_request(r, FF_VMM_ABANDON, NULL, 0, -1);
        return fail_replay(r, error,
                           "Cloud Hypervisor does not ask for pages, so the guest does not run",
                           "receive-migration needs memory_mode=postcopy");
    }
    int rc = exchange_request(r, run ? FF_VMM_COMPLETE : FF_VMM_COMPLETE_PAUSED, NULL, 0, -1);
    if (rc < 0) {
        return fail_replay(
            r, error,
            "Cloud Hypervisor has not answered the last step: the guest may run; look "
            "(ch-remote info) before it is restored again",
            g_strerror(-rc));
    }
    return rc == 1 || fail_replay(r, error, "Cloud Hypervisor has refused the last step",
                                  "what it has said itself tells why");
}

void ff_send_snapshot_clear(FfSendSnapshot *r)
{
    if (r->path && r->control >= 0) {
        close(r->control);
    }
    if (r->path && r->fault >= 0) {
        close(r->fault);
    }
}
