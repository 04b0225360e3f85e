/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The window of a bulk socket; see window.h.
 *
 * The round trip less the shortest that was ever seen is the time that a packet waits in queues.
 * While that is more than two QUEUE_BYTES take the send buffer shrinks, below one it grows, until
 * it is given back to the kernel's own tuning. A receiver that is slow, not the link, makes no
 * queue there: TCP acknowledges what lies in the receive buffer. The window never goes below twice
 * what a connection of this rate and this length has in flight, so it does not hold the rate down
 * where the way is long. The rate is the best one seen, slowly forgotten (half of it in 0.2 s). A
 * queue can be made by others: a window that only shrinks would leave the link to them. So one that
 * is at its shortest for a while with a long queue is given up, on trial: if the rate grows by half
 * it was others, and there is no bound for some seconds; else the link is slow, and it comes back.
 * On a short way a socket begins with a short window, which doubles until there is a queue: the
 * first pages that a guest asks for at a destination do not stand behind all that a socket takes.
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
/* Short, and enough for a sender that comes a little late. */
#define QUEUE_BYTES (28u << 10)
#define QUEUE_MIN_US 80
#define QUEUE_MAX_US 550
/* So much of the best rate that was seen stays allowed: a receiver that lacks processor makes the
 * round trip long, too, and a window made too short by that would hold the rate down. */
#define QUEUE_LEAST_US 100
/* Bytes for setsockopt(), which doubles them for its own accounting. More than MAX is nothing that
 * net.core.wmem_max allows everywhere. */
#define WINDOW_MIN (16u << 10)
/* What it begins with, on a way that is not longer. */
#define WINDOW_FIRST (32u << 10)
#define FIRST_RTT_US 1000
#define WINDOW_MAX (200u << 10)
/* A link that carries more is not what bulk waits for: it is the processor, where one thread sends.
 */
#define SLOW_RATE 400000000
/* At its shortest with a long queue for so many looks, it is given up for so long ... */
#define CROWDED_LOOKS 25
#define TRIAL_US 300000
/* ... and what was found out is believed for so long. */
#define BELIEVED_US 10000000
/* A piece is what the link takes in so long. */
#define PIECE_US 130
#define PIECE_MIN (16u << 10)
#define PIECE_MAX (64u << 10)

static uint32_t queue_of(const FfRoundTrip *t)
{
    return t->rtt_us > t->min_rtt_us ? t->rtt_us - t->min_rtt_us : 0;
}

/* Below it a queue is short, above twice of it long. */
static uint32_t short_queue(const FfRoundTrip *t)
{
    uint64_t us = t->rate ? QUEUE_BYTES * 1000000ull / t->rate : 0;

    return (uint32_t)CLAMP(us, QUEUE_MIN_US, QUEUE_MAX_US);
}

static bool is_long(const FfRoundTrip *t)
{
    return queue_of(t) > 2 * short_queue(t);
}

unsigned ff_window_next(unsigned bytes, const FfRoundTrip *t)
{
    uint64_t flight = 2 * t->rate * t->min_rtt_us / 1000000;
    uint64_t least = MIN(WINDOW_MAX, t->rate * QUEUE_LEAST_US / 1000000);
    uint64_t floor = MAX(WINDOW_MIN, MAX(flight, least));
    uint64_t next = bytes ? bytes : WINDOW_MAX;

    if (is_long(t)) {
        next = MAX(next - next / 5, floor);
    } else if (queue_of(t) < short_queue(t)) {
        next = bytes ? MAX(next + next / 8, floor) : UINT64_MAX;
    } else {
        next = bytes;
    }
    return next > WINDOW_MAX ? 0 : next;
}

unsigned ff_window_piece(const FfWindow *w)
{
    return w->bytes ? (unsigned)CLAMP(w->rate * PIECE_US / 1000000, PIECE_MIN, PIECE_MAX) : 0;
}

bool ff_window_link_bound(const FfWindow *w)
{
    return w->bytes && w->rate < SLOW_RATE;
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

/* Doubled until there is a queue, or more is allowed than a bound would be. */
static unsigned open_up(FfWindow *w, unsigned next)
{
    if (w->opening && next > w->bytes) {
        next = MAX(next, 2 * w->bytes);
        next = next > WINDOW_MAX ? 0 : next;
    }
    w->opening = w->opening && next > w->bytes;
    return next;
}

/* Without a bound until .trial_us. */
static unsigned on_trial(FfWindow *w, int64_t now)
{
    if (now < w->trial_us) {
        return 0;
    }
    bool tried = w->on_trial, others = tried && w->rate > w->rate_before + w->rate_before / 2;

    w->on_trial = false;
    w->trial_us = others ? now + BELIEVED_US : 0;
    if (!tried || others) {
        return 0; /* whether they are there still is looked at when that time is over */
    }
    w->believed_us = now + BELIEVED_US;
    return WINDOW_MIN;
}

/* It would be NEXT: whether somebody else makes the queue. */
static unsigned look_for_others(FfWindow *w, unsigned next, const FfRoundTrip *t, int64_t now)
{
    bool shortest = w->bytes && next >= w->bytes && is_long(t);

    w->crowded = shortest ? w->crowded + 1 : 0;
    if (w->crowded < CROWDED_LOOKS || now < w->believed_us) {
        return next;
    }
    w->crowded = 0;
    w->on_trial = true;
    w->rate_before = t->rate;
    w->trial_us = now + TRIAL_US;
    return 0;
}

unsigned ff_window_look(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    if (w->trial_us) {
        return on_trial(w, now);
    }
    return look_for_others(w, open_up(w, ff_window_next(w->bytes, t)), t, now);
}

void ff_window_follow(FfWindow *w, int fd)
{
    int64_t now = g_get_monotonic_time();
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    if (now < w->next_us) {
        return;
    }
    bool first = !w->next_us;
    w->next_us = now + INTERVAL_US;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
        len < offsetof(struct tcp_info, tcpi_min_rtt) + sizeof(info.tcpi_min_rtt) ||
        !info.tcpi_rtt) {
        w->next_us = INT64_MAX; /* not TCP, or a kernel that does not tell */
        return;
    }
    measure(w, info.tcpi_bytes_acked, now);
    FfRoundTrip t = {info.tcpi_rtt, info.tcpi_min_rtt, w->rate};
    /* Where a bound could not be taken away again (before Linux 5.15) there is none to begin with.
     */
    w->opening |= first && t.min_rtt_us < FIRST_RTT_US && set(fd, 0) == 0;
    unsigned next = first ? (w->opening ? WINDOW_FIRST : 0) : ff_window_look(w, &t, now);
    if (next != w->bytes && set(fd, next) == 0) {
        w->bytes = next;
    }
}
