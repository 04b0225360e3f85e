/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See other.h. Its own engine ends it, or farfault upgrade does; but its relay and engine may have
 * died, or hang, and so may the command. It has connections of devices that are other processes,
 * and files, which the guest waits for. The word is TAKEN, so it can never run the guest again.
 *
 * System calls: poll, pidfd_send_signal.
 */
#include "relay/other.h"

#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>

/* It takes some milliseconds where all goes well, and the more the more memory it has. */
#define PATIENCE_S 10

static gboolean lives_on(gpointer opaque)
{
    FfRelay *relay = opaque;
    int fd = relay->plan->other_fd;
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    if (poll(&pfd, 1, 0) == 0) {
        ff_relay_log(relay, "the QEMU that had this guest before has not ended: it is killed");
        (void)pidfd_send_signal(fd, SIGKILL, NULL, 0);
    }
    return G_SOURCE_REMOVE;
}

void ff_other_ends(FfRelay *relay)
{
    if (relay->plan->other_fd >= 0 && !relay->plan->other_stays && !relay->other_ends) {
        relay->other_ends = true;
        g_timeout_add_seconds(PATIENCE_S, lives_on, relay);
    }
}
