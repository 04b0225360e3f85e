/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's end of contract/backends.h.
 *
 * Threads: the coordinator's. System calls: sendmsg, poll, recv.
 */
#include "contract/backends.h"

#include <errno.h>
#include <gio/gio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/deadline.h"
#include "base/rights.h"

/* A back-end may be busy; the relay itself answers at once. */
#define ANSWER_MS 20000

static bool fail_as(GError **error, GIOErrorEnum code, const char *why)
{
    g_set_error(error, G_IO_ERROR, code, "devices in other processes: %s", why);
    return false;
}

static bool fail_request(GError **error, const char *why)
{
    return fail_as(error, G_IO_ERROR_FAILED, why);
}

bool ff_backends_ask(int socket, FfBackendsOp op, uint32_t flag, int fd, FfBackendsAnswer *answer,
                     GError **error)
{
    FfBackendsRequest request = {.op = op, .flag = flag};
    struct pollfd pfd = {.fd = socket, .events = POLLIN};
    ssize_t n = ff_rights_send(socket, &request, sizeof(request), &fd, fd >= 0);
    gint64 until = g_get_monotonic_time() + ANSWER_MS * 1000;

    if (n != sizeof(request)) {
        return fail_request(error, n < 0 ? g_strerror((int)-n) : "the relay was not told all");
    }
    do {
        int rc = poll(&pfd, 1, (int)ff_deadline_left_ms(until));

        if (rc == 0) {
            return fail_request(error, "one of them does not answer");
        }
        n = rc < 0 ? rc : recv(socket, answer, sizeof(*answer), MSG_DONTWAIT);
        /* An answer that came too late for the one that asked is none to this. */
    } while ((n < 0 && (errno == EINTR || errno == EAGAIN)) ||
             (n == sizeof(*answer) && answer->op != (uint32_t)op));
    if (n != sizeof(*answer)) {
        return fail_request(error, n < 0 ? g_strerror(errno) : "the relay is of another version");
    }
    answer->ids[sizeof(answer->ids) - 1] = answer->why[sizeof(answer->why) - 1] = 0;
    answer->n_regions = MIN(answer->n_regions, (uint32_t)FF_BACKENDS_REGIONS);
    return !answer->why[0] ||
           fail_as(error, answer->busy ? G_IO_ERROR_BUSY : G_IO_ERROR_FAILED, answer->why);
}
