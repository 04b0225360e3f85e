/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The window of a bulk socket; see window.h.
 *
 * The round trip less the shortest of late is the time that a packet waits in queues.
 * While that is more than two FF_QUEUE_BYTES take the send buffer shrinks, below one it grows,
 * until it is given back to the kernel's own tuning. A receiver that is slow, not the link, makes
 * no queue there: TCP acknowledges what lies in the receive buffer. The window never goes below
 * what a connection of this rate and this length has in flight, so it does not hold the rate down
 * where the way is long. The rate is the best one seen, slowly forgotten (half of it in 0.2 s).
 * Whether the window holds it down is tried now and then (window-trial.h).
 *
 * On a short way a socket begins with a short window, which doubles until there is a queue: the
 * first pages that a guest asks for at a destination do not stand behind all that a socket takes.
 *
 * System calls: getsockopt(TCP_INFO), ioctl(SIOCOUTQ), setsockopt(SO_SNDBUF, SO_BUF_LOCK).
 */
#include "net/window.h"

#include <glib.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "net/window-trial.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72 /* Linux 5.15 */
#endif

#define INTERVAL_US 4000
/* So much of the best rate that was seen stays allowed: a receiver that lacks processor makes the
 * round trip long, too, and a window made too short by that would hold the rate down. */
#define QUEUE_LEAST_US 100
/* What it begins with, on a way that is not longer. */
#define WINDOW_FIRST (32u << 10)
#define FIRST_RTT_US 1000

/* A sender that waits for the socket for one part of so many of its time waits for the link, until
 * it does so for less than one of as many as the second one. */
#define WAITS_SHARE 4
#define BUSY_SHARE 12
/* A piece is what the link takes in so long; a run of 32 KiB with its frame is two of the least. */
#define PIECE_US 130
#define PIECE_MIN ((16u << 10) + 64)
#define PIECE_MAX (64u << 10)

unsigned ff_window_next(unsigned bytes, const FfRoundTrip *t)
{
    uint64_t flight = t->rate * t->min_rtt_us / 1000000;
    uint64_t least = MIN(FF_WINDOW_MAX, t->rate * QUEUE_LEAST_US / 1000000);
    uint64_t floor = MAX(FF_WINDOW_MIN, MAX(flight, least));
    uint64_t next = bytes ? bytes : FF_WINDOW_MAX;

    if (ff_round_trip_is_long(t)) {
        next = MAX(next - next / 5, floor);
    } else if (ff_round_trip_queue(t) < ff_round_trip_short_queue(t)) {
        next = bytes ? MAX(next + next / 8, floor) : UINT64_MAX;
    } else {
        next = bytes ? MAX(next, floor) : 0;
    }
    return next > FF_WINDOW_MAX ? 0 : next;
}

/* While more than follows from the round trip is tried, or used, the kernel joins what is written
 * as it likes. Of a queue of this machine's own it gives a socket a share by the size of its
 * packets, two of them at least (TSQ), so that small ones would leave the link to somebody else's.
 */
unsigned ff_window_piece(const FfWindow *w)
{
    bool more = w->phase == FF_WINDOW_DOUBLED || w->least;

    return w->bytes && !more ? (unsigned)CLAMP(w->rate * PIECE_US / 1000000, PIECE_MIN, PIECE_MAX)
                             : 0;
}

static int set_window(int fd, unsigned bytes)
{
    int value = (int)bytes, unlocked = 0;

    if (bytes) {
        return setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, sizeof(value));
    }
    return setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked, sizeof(unlocked));
}

/* Before Linux 5.15 a bound cannot be taken away: the largest takes its place. */
static int set_or_most(int fd, unsigned bytes)
{
    return bytes || set_window(fd, 0) == 0 ? set_window(fd, bytes) : set_window(fd, FF_WINDOW_MAX);
}

void ff_window_measure(FfWindow *w, uint64_t acked, uint64_t waited_us, int64_t now)
{
    int64_t dt = now - w->measured_us;

    if (dt < FF_RATE_MEASURE_US) {
        return;
    }
    uint64_t waited = waited_us - w->waited_us;
    /* After a pause nothing is known of the time before it. */
    if (w->measured_us && ff_link_rate_is_steady(dt, waited)) {
        uint64_t rate = (acked - w->acked) * 1000000 / dt;

        w->rate = MAX(rate, w->rate - w->rate / 16);
        w->waits = waited * (w->waits ? BUSY_SHARE : WAITS_SHARE) >= (uint64_t)dt;
    }
    w->measured_us = now;
    w->acked = acked;
    w->waited_us = waited_us;
}

/* Doubled until there is a queue, or more is allowed than a bound would be. */
static unsigned open_up(FfWindow *w, unsigned next)
{
    if (w->opening && next > w->bytes) {
        next = MAX(next, 2 * w->bytes);
        next = next > FF_WINDOW_MAX ? 0 : next;
    }
    w->opening = w->opening && (next > w->bytes || (!w->rate && next == w->bytes));
    return next;
}

unsigned ff_window_look(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    unsigned next = open_up(w, ff_window_next(w->bytes, t));

    return w->leads ? ff_window_try(w, t, next, now) : ff_window_follow_trial(w, t, next, now);
}

/* FALSE: there is no bound, and never will be: on a long way no bound is large enough where it
 * could not be taken away again (before Linux 5.15). */
static bool begin_window(FfWindow *w, int fd, const FfRoundTrip *t, int64_t now)
{
    bool is_short = t->min_rtt_us < FIRST_RTT_US, fixed = set_window(fd, 0) < 0;

    w->begun = true;
    ff_window_begin_trials(w, now);
    w->opening = is_short && !fixed;
    return is_short || !fixed;
}

/* Not reckoned from packets, which are not full where what is written is not joined. */
static uint64_t in_flight(int fd, const struct tcp_info *info)
{
    int queued = 0;

    return ioctl(fd, SIOCOUTQ, &queued) == 0 && queued > (int)info->tcpi_notsent_bytes
               ? (uint64_t)queued - info->tcpi_notsent_bytes
               : 0;
}

void ff_window_follow(FfWindow *w, int fd, uint64_t waited_us)
{
    int64_t now = g_get_monotonic_time();
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    if (now < w->next_us) {
        return;
    }
    w->next_us = now + INTERVAL_US;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
        len < offsetof(struct tcp_info, tcpi_min_rtt) + sizeof(info.tcpi_min_rtt)) {
        w->next_us = INT64_MAX; /* not TCP, or a kernel that does not tell */
        return;
    }
    if (!info.tcpi_rtt) {
        return; /* not yet */
    }
    ff_window_measure(w, info.tcpi_bytes_acked, waited_us, now);
    FfRoundTrip t = {info.tcpi_rtt, info.tcpi_min_rtt, w->rate, in_flight(fd, &info)};
    unsigned next = w->bytes;
    if (!w->begun) {
        w->next_us = begin_window(w, fd, &t, now) ? w->next_us : INT64_MAX;
        next = w->opening ? WINDOW_FIRST : 0;
    } else if (w->rate || w->opening) {
        next = ff_window_look(w, &t, now);
    }
    if (next != w->bytes && set_or_most(fd, next) == 0) {
        w->bytes = next;
    }
}
