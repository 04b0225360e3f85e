/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See behind-placeholder.h. One thread; no locks. System calls: pidfd_send_signal, poll, sendmsg.
 */
#include "guest/relay/behind-placeholder.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>

#include "base/rights.h"
#include "contract/succession.h"

static bool has_front(const FfRelay *relay)
{
    return relay->plan->front_fd >= 0;
}

/* The guest has gone on to the next QEMU, or may have. */
static bool has_left(const FfRelay *relay)
{
    return ff_state_is_marked(relay->state, FF_MARK_MOVED);
}

/* Its agent does the same: who comes second finds it dead. */
static gboolean front_ended(gint fd, GIOCondition condition, gpointer opaque)
{
    FfRelay *relay = opaque;

    ff_relay_log(relay, "the process that others know this guest by has ended: QEMU is killed");
    if (relay->guest.pidfd >= 0) {
        (void)pidfd_send_signal(relay->guest.pidfd, SIGKILL, NULL, 0);
    }
    return G_SOURCE_REMOVE;
}

void ff_behind_start(FfRelay *relay)
{
    if (has_front(relay)) {
        g_unix_fd_add(relay->plan->front_fd, G_IO_IN, front_ended, relay);
    }
}

/* The front has a relay still. */
static bool has_relay(const FfRelay *relay)
{
    struct pollfd pfd = {relay->plan->front_door, 0, 0};

    return pfd.fd >= 0 && poll(&pfd, 1, 0) >= 0 && !(pfd.revents & (POLLHUP | POLLERR));
}

static void send_word(FfRelay *relay, char word, int fd)
{
    if (has_relay(relay)) {
        ssize_t n = ff_rights_send(relay->plan->front_door, &word, 1, &fd, fd >= 0);

        if (n < 0) {
            ff_relay_log(relay,
                         "the relay of the process that others know this guest by cannot be "
                         "told: %s",
                         g_strerror((int)-n));
        }
    }
}

void ff_behind_next(FfRelay *relay, int heir)
{
    if (has_front(relay) && heir >= 0) {
        send_word(relay, FF_SUCCESSION_NEXT, heir);
    }
}

void ff_behind_taken(FfRelay *relay)
{
    if (!has_front(relay) || has_left(relay) || relay->behind_told) {
        return;
    }
    relay->behind_told = true;
    send_word(relay, FF_SUCCESSION_HEIR, relay->guest.pidfd);
}

void ff_behind_orderly(FfRelay *relay)
{
    relay->behind_orderly = has_front(relay);
    if (has_front(relay) && !has_left(relay)) {
        send_word(relay, FF_SUCCESSION_ORDERLY, -1);
    }
}

/* Else it is that relay's. */
void ff_behind_end(FfRelay *relay)
{
    if (has_front(relay) && !has_left(relay) && relay->behind_told && !has_relay(relay)) {
        (void)pidfd_send_signal(relay->plan->front_fd, relay->behind_orderly ? SIGTERM : SIGKILL,
                                NULL, 0);
    }
}
