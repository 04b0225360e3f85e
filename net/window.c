/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The window of a bulk socket; see window.h.
 *
 * The round trip less the shortest of late is the time that a packet waits in queues.
 * While that is more than two QUEUE_BYTES take the send buffer shrinks, below one it grows, until
 * it is given back to the kernel's own tuning. A receiver that is slow, not the link, makes no
 * queue there: TCP acknowledges what lies in the receive buffer. The window never goes below what a
 * connection of this rate and this length has in flight, so it does not hold the rate down where
 * the way is long.
 * The rate is the best one seen, slowly forgotten (half of it in 0.2 s).
 *
 * A queue can be made by others, a round trip be long for other reasons: then a short window does
 * not make it shorter, and holds the rate down. So now and then a window that has stayed bounded is
 * doubled for a moment. If the rate grows with it the larger one is the least for a while, and is
 * doubled again; else the link is the limit, and it was in vain.
 *
 * On a short way a socket begins with a short window, which doubles until there is a queue: the
 * first pages that a guest asks for at a destination do not stand behind all that a socket takes.
 *
 * System calls: getsockopt(TCP_INFO), setsockopt(SO_SNDBUF, SO_BUF_LOCK).
 */
#include "net/window.h"

#include <glib.h>
#include <limits.h>
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
#define QUEUE_BYTES (26u << 10)
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
/* Who carries more over all bulk sockets does not wait for a link, but for a processor, where one
 * thread sends. */
#define FAST_RATE 400000000
/* A sender that waits for the socket for one part of so many of its time waits for the link, until
 * it does so for less than one of as many as the second one. */
#define WAITS_SHARE 4
#define BUSY_SHARE 12
/* What comes later than so many measurements was not sent all the time. */
#define PAUSE 4
/* The rate is looked at for so long before the window is doubled, and then once more. */
#define TRIAL_US 65000
/* It must grow by a third, or the trial was in vain. */
#define GAIN(rate) ((rate) + (rate) / 3)
/* What it has followed for so long can be tried; and how long a trial is believed. */
#define SETTLE_US 200000
#define GAINED_US 10000000
#define IN_VAIN_US 5000000
/* A piece is what the link takes in so long; a run of 32 KiB with its frame is two of the least. */
#define PIECE_US 130
#define PIECE_MIN ((16u << 10) + 64)
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
    uint64_t flight = t->rate * t->min_rtt_us / 1000000;
    uint64_t least = MIN(WINDOW_MAX, t->rate * QUEUE_LEAST_US / 1000000);
    uint64_t floor = MAX(WINDOW_MIN, MAX(flight, least));
    uint64_t next = bytes ? bytes : WINDOW_MAX;

    if (is_long(t)) {
        next = MAX(next - next / 5, floor);
    } else if (queue_of(t) < short_queue(t)) {
        next = bytes ? MAX(next + next / 8, floor) : UINT64_MAX;
    } else {
        next = bytes ? MAX(next, floor) : 0;
    }
    return next > WINDOW_MAX ? 0 : next;
}

unsigned ff_window_piece(const FfWindow *w)
{
    return w->bytes ? (unsigned)CLAMP(w->rate * PIECE_US / 1000000, PIECE_MIN, PIECE_MAX) : 0;
}

bool ff_window_link_bound(const FfWindow *w)
{
    return (w->bytes || w->least || w->phase == FF_WINDOW_DOUBLED) && w->waits;
}

static int set(int fd, unsigned bytes)
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
    return bytes || set(fd, 0) == 0 ? set(fd, bytes) : set(fd, WINDOW_MAX);
}

void ff_window_measure(FfWindow *w, uint64_t acked, uint64_t waited_us, int64_t now)
{
    int64_t dt = now - w->measured_us;

    if (dt < MEASURE_US) {
        return;
    }
    uint64_t waited = waited_us - w->waited_us;
    /* After a pause nothing is known of the time before it. */
    if (w->measured_us && (dt < PAUSE * MEASURE_US || 2 * waited > (uint64_t)dt)) {
        uint64_t rate = (acked - w->acked) * 1000000 / dt;

        w->rate = MAX(rate, w->rate - w->rate / 16);
        w->best = MAX(w->best, rate);
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
        next = next > WINDOW_MAX ? 0 : next;
    }
    w->opening = w->opening && (next > w->bytes || (!w->rate && next == w->bytes));
    return next;
}

static unsigned twice(unsigned bytes)
{
    return 2 * bytes > WINDOW_MAX ? 0 : 2 * bytes;
}

/* The rate has been looked at for long enough: what follows. */
static unsigned end_of_phase(FfWindow *w, int64_t now)
{
    uint64_t best = w->best;

    w->best = 0;
    w->until_us = now + TRIAL_US;
    if (w->phase == FF_WINDOW_BEFORE) {
        w->phase = FF_WINDOW_DOUBLED;
        w->rate_before = best;
        w->bytes_before = w->bytes;
        return twice(w->bytes);
    }
    if (w->rate_before && best >= GAIN(w->rate_before)) {
        w->least = w->bytes ? w->bytes : UINT_MAX;
        w->believed_us = now + GAINED_US;
        w->phase = w->bytes ? FF_WINDOW_BEFORE : FF_WINDOW_FOLLOWS;
        return w->bytes;
    }
    w->phase = FF_WINDOW_FOLLOWS;
    w->believed_us = now + (w->least ? GAINED_US : IN_VAIN_US);
    return w->bytes_before;
}

/* It would be NEXT. */
static unsigned try_more(FfWindow *w, unsigned next, int64_t now)
{
    if (w->phase != FF_WINDOW_FOLLOWS) {
        return now < w->until_us ? w->bytes : end_of_phase(w, now);
    }
    if (now >= w->believed_us && w->least) {
        w->least = 0;
        w->believed_us = now + SETTLE_US;
    } else if (now >= w->believed_us && w->alone && w->bytes && next) {
        w->phase = FF_WINDOW_BEFORE;
        w->best = 0;
        w->until_us = now + TRIAL_US;
        return w->bytes;
    }
    return w->least > WINDOW_MAX ? 0 : next ? MAX(next, w->least) : 0;
}

unsigned ff_window_look(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    return try_more(w, open_up(w, ff_window_next(w->bytes, t)), now);
}

/* A long way, or a kernel that could not take a bound away again (before Linux 5.15): none then. */
static bool begins_short(int fd, const FfRoundTrip *t)
{
    return t->min_rtt_us < FIRST_RTT_US && set(fd, 0) == 0;
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
    FfRoundTrip t = {info.tcpi_rtt, info.tcpi_min_rtt, w->rate};
    unsigned next = w->bytes;
    if (!w->begun) {
        w->begun = true;
        w->opening = begins_short(fd, &t);
        w->believed_us = now + SETTLE_US;
        next = w->opening ? WINDOW_FIRST : 0;
    } else if (w->rate || w->opening) {
        next = ff_window_look(w, &t, now);
    }
    if (next != w->bytes && set_or_most(fd, next) == 0) {
        w->bytes = next;
    }
}

/* ---- all bulk sockets of a connection -------------------------------------------------------- */

bool ff_link_rate_is_slow(FfLinkRate *r, uint64_t bytes, int64_t now)
{
    int64_t dt = now - r->measured_us;

    if (dt >= MEASURE_US || bytes < r->bytes) {
        /* Fewer: they are new ones. */
        bool known = r->measured_us && bytes >= r->bytes;
        uint64_t rate = known ? (bytes - r->bytes) * 1000000 / dt : 0;

        r->rate = MAX(rate, r->rate - r->rate / 16);
        r->measured_us = now;
        r->bytes = bytes;
    }
    return r->rate < FAST_RATE;
}
