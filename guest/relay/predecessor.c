/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See predecessor.h. Its own engine ends it, or farfault upgrade does; but its relay and engine may
 * have died, or hang, and so may the command. It has connections of devices that are other
 * processes, and files, which the guest waits for. The word is TAKEN, so it can never run the guest
 * again.
 *
 * One that stays has no end that would say that a back-end is free, so its relay is asked. No
 * engine is needed for that, and the end of that relay is an answer: the kernel closes what it has.
 *
 * System calls: poll, pidfd_send_signal, socketpair, recvfrom, sendmsg, close.
 */
#include "guest/relay/predecessor.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/pidfd.h"
#include "base/rights.h"
#include "contract/succession.h"
#include "guest/relay/backends.h"

/* It takes some milliseconds where all goes well, and the more the more memory it has. */
#define PATIENCE_S 10
/* Until its relay is asked once more, if there was no room for the question. */
#define AGAIN_S 1

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

void ff_predecessor_ends(FfRelay *relay)
{
    if (relay->plan->other_fd >= 0 && !relay->plan->other_stays && !relay->other_ends) {
        relay->other_ends = true;
        g_timeout_add_seconds(PATIENCE_S, lives_on, relay);
    }
}

/* It hangs, and the kernel closes nothing. */
static gboolean not_left(gpointer opaque)
{
    FfRelay *relay = opaque;

    relay->other_timer = 0;
    ff_relay_log(relay,
                 "the relay of process %d, which had this guest before and stays, has not answered "
                 "for %d s: vhost-user devices stand until it does, or ends (kill -CONT, or kill "
                 "-KILL that relay)",
                 (int)ff_pidfd_pid(relay->plan->other_fd), PATIENCE_S);
    return G_SOURCE_REMOVE;
}

static gboolean has_left(gint fd, GIOCondition condition, gpointer opaque)
{
    FfRelay *relay = opaque;
    char word;
    ssize_t n = recv(fd, &word, 1, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    g_clear_handle_id(&relay->other_timer, g_source_remove);
    if (n > 0) {
        ff_relay_log(relay, "the relay of the QEMU that had this guest before keeps its vhost-user "
                            "back-ends: their devices stand until it ends");
    } else {
        ff_backends_left(relay);
    }
    close(fd);
    return G_SOURCE_REMOVE;
}

static gboolean ask_again(gpointer opaque)
{
    FfRelay *relay = opaque;

    relay->other_leaves = false;
    ff_predecessor_leaves(relay);
    return G_SOURCE_REMOVE;
}

/* Returns the socket at which it answers, or -errno. */
static int ask_to_leave(const FfRelay *relay)
{
    const char word = FF_SUCCESSION_LEAVE;
    int pair[2];

    if (FF_FAULT_CALL("leave-pair", socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) <
        0) {
        return -errno;
    }
    ssize_t n = ff_rights_send(relay->plan->other_door, &word, 1, &pair[1], 1);
    close(pair[1]);
    if (n != 1) {
        close(pair[0]);
        return n < 0 ? (int)n : -EIO;
    }
    return pair[0];
}

void ff_predecessor_leaves(FfRelay *relay)
{
    if (!relay->plan->other_stays || relay->plan->other_door < 0 || relay->other_leaves) {
        return;
    }
    relay->other_leaves = true;
    int fd = ask_to_leave(relay);
    if (fd >= 0) {
        g_unix_fd_add(fd, G_IO_IN | G_IO_HUP, has_left, relay);
        relay->other_timer = g_timeout_add_seconds(PATIENCE_S, not_left, relay);
    } else if (fd == -EPIPE || fd == -ECONNRESET) {
        ff_backends_left(relay); /* it has ended */
    } else {
        g_timeout_add_seconds(AGAIN_S, ask_again, relay);
    }
}
