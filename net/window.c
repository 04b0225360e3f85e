/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The window of a bulk socket; see window.h.
 *
 * The round trip less the shortest that was ever seen is the time that a packet waits in queues.
 * Above QUEUE_HIGH the send buffer shrinks, below QUEUE_LOW it grows, until it is given back to the
 * kernel's own tuning. A receiver that is slow, not the link, makes no queue there: TCP
 * acknowledges what lies in the receive buffer. The window never goes below twice what a connection
 * of this rate and this length has in flight, so it does not hold the rate down where the way is
 * long.
 * The rate is the best one seen, slowly forgotten (half of it in 0.2 s).
 *
 * System calls: getsockopt(TCP_INFO), setsockopt(SO_SNDBUF, SO_BUF_LOCK).
 */
#include "net/window.h"

#include <glib.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72 /* Linux 5.15 */
#endif

#define INTERVAL_US 4000
#define MEASURE_US 20000
#define QUEUE_HIGH_US 950
#define QUEUE_LOW_US 550
/* So much of the best rate that was seen stays allowed: a receiver that lacks processor makes the
 * round trip long, too, and a window made too short by that would hold the rate down. */
#define QUEUE_LEAST_US 300
/* Bytes for setsockopt(), which doubles them for its own accounting. More than MAX is nothing that
 * net.core.wmem_max allows everywhere. */
#define WINDOW_MIN (64u << 10)
#define WINDOW_MAX (200u << 10)

unsigned ff_window_next(unsigned bytes, const FfRoundTrip *t)
{
    uint32_t queue = t->rtt_us > t->min_rtt_us ? t->rtt_us - t->min_rtt_us : 0;
    uint64_t flight = 2 * t->rate * t->min_rtt_us / 1000000;
    uint64_t least = MIN(WINDOW_MAX, t->rate * QUEUE_LEAST_US / 1000000);
    uint64_t floor = MAX(WINDOW_MIN, MAX(flight, least));
    uint64_t next = bytes ? bytes : WINDOW_MAX;

    if (queue > QUEUE_HIGH_US) {
        next = MAX(next - next / 5, floor);
    } else if (queue < QUEUE_LOW_US) {
        next = bytes ? MAX(next + next / 8, floor) : UINT64_MAX;
    } else {
        next = bytes;
    }
    return next > WINDOW_MAX ? 0 : next;
}

static int set(int fd, unsigned bytes)
{
    int value = bytes, unlocked = 0;

    if (bytes) {
        return setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, sizeof(value));
    }
    return setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked, sizeof(unlocked));
}

/* Over a while, since a shaper lets single bursts through much faster. */
static void measure(FfWindow *w, uint64_t acked, int64_t now)
{
    int64_t dt = now - w->measured_us;

    if (dt >= MEASURE_US) {
        uint64_t rate = w->measured_us ? (acked - w->acked) * 1000000 / dt : 0;
        w->rate = MAX(rate, w->rate - w->rate / 16);
        w->measured_us = now;
        w->acked = acked;
    }
}

void ff_window_follow(FfWindow *w, int fd)
{
    int64_t now = g_get_monotonic_time();
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    if (now < w->next_us) {
        return;
    }
    w->next_us = now + INTERVAL_US;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
        len < offsetof(struct tcp_info, tcpi_min_rtt) + sizeof(info.tcpi_min_rtt) ||
        !info.tcpi_rtt) {
        w->next_us = INT64_MAX; /* not TCP, or a kernel that does not tell */
        return;
    }
    measure(w, info.tcpi_bytes_acked, now);
    FfRoundTrip t = {info.tcpi_rtt, info.tcpi_min_rtt, w->rate};
    unsigned next = ff_window_next(w->bytes, &t);
    if (next != w->bytes && set(fd, next) == 0) {
        w->bytes = next;
    }
}
