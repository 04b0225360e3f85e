/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See link.h. No state. System calls: sendmsg, recvmsg, poll.
 */
#include "migration/upgrade/link.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "migration/common/control.h"

#define HEAD offsetof(FfUpgradeMessage, bytes)

static int wait_for(int fd, short events, int limit_ms)
{
    struct pollfd p = {.fd = fd, .events = events};
    int n;

    while ((n = poll(&p, 1, limit_ms)) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return n ? 0 : -ETIMEDOUT;
}

int ff_upgrade_send(int fd, int limit_ms, FfUpgradeType type, const void *data, size_t len,
                    const int *fds, unsigned n_fds)
{
    g_autofree FfUpgradeMessage *m = g_malloc(HEAD + len);
    ssize_t n;

    m->type = type;
    m->length = (uint32_t)len;
    if (len) {
        memcpy((uint8_t *)m + HEAD, data, len);
    }
    while ((n = ff_rights_send(fd, m, HEAD + len, fds, n_fds)) == -EAGAIN) {
        int rc = wait_for(fd, POLLOUT, limit_ms);
        if (rc < 0) {
            return rc;
        }
    }
    return n < 0 ? (int)n : 0;
}

static void close_all(FfRights *rights)
{
    while (rights->n) {
        close(rights->fd[--rights->n]);
    }
}

int ff_upgrade_receive(int fd, int limit_ms, FfUpgradeMessage *m, FfRights *rights)
{
    ssize_t n;

    memset(m, 0, HEAD);
    while ((n = ff_rights_receive(fd, m, sizeof(*m), rights)) == -EAGAIN) {
        int rc = wait_for(fd, POLLIN, limit_ms);
        if (rc < 0) {
            return rc;
        }
    }
    if (n <= 0) {
        return n ? (int)n : -EPIPE;
    }
    if ((size_t)n < HEAD || (size_t)n != HEAD + m->length || rights->lost) {
        close_all(rights);
        return -EPROTO;
    }
    return 0;
}

bool ff_upgrade_peer_error(const FfUpgradeMessage *m, int rc, const char *peer, GError **error)
{
    if (rc == 0 && m->type == FF_UPGRADE_FAILED && m->length) {
        g_autofree char *why = g_strndup((const char *)m->bytes, m->length);

        g_set_error(error, FF_M_ERROR, 0, "%s: %s", peer, why);
    } else if (rc == -EPIPE || rc == -ECONNRESET) {
        g_set_error(error, FF_M_ERROR, 0, "%s has ended, see what it says on its stderr", peer);
    } else if (rc == -ETIMEDOUT) {
        g_set_error(error, FF_M_ERROR, 0,
                    "%s says nothing for too long: see whether its processes are stopped, or "
                    "raise x-farfault-peer-timeout",
                    peer);
    } else {
        g_set_error(error, FF_M_ERROR, 0, "%s: %s", peer,
                    rc ? g_strerror(-rc) : "it says what is not expected now");
    }
    return false;
}

bool ff_upgrade_await(int fd, int limit_ms, FfUpgradeType type, const char *peer,
                      FfUpgradeMessage *m, int *fds, unsigned n_fds, GError **error)
{
    FfRights rights = {.n = 0};
    int rc = ff_upgrade_receive(fd, limit_ms, m, &rights);

    if (rc == 0 && m->type == type && rights.n == n_fds) {
        if (n_fds) { /* FDS can be NULL */
            memcpy(fds, rights.fd, n_fds * sizeof(int));
        }
        return true;
    }
    close_all(&rights);
    return ff_upgrade_peer_error(m, rc, peer, error);
}
