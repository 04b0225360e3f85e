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
 * doubled again; else the link is the limit, and it was in vain. Where several bulk sockets are in
 * use one of them leads, and all are doubled at once. What counts is what all sockets carry, the
 * urgent one too, as one of them would gain what others lose.
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
#define SLOW_RATE (FAST_RATE / 4 * 3) /* of who was fast */
/* A sender that waits for the socket for one part of so many of its time waits for the link, until
 * it does so for less than one of as many as the second one. */
#define WAITS_SHARE 4
#define BUSY_SHARE 12
/* What comes later than so many measurements was not sent all the time. */
#define PAUSE 4
/* The rate is looked at for so long before the window is doubled, and then once more; and for so
 * many round trips, as what is sent shows in it after one. */
#define TRIAL_US 65000
#define TRIAL_RTTS 3
/* It must grow by a third, or the trial was in vain. */
#define GAIN(rate) ((rate) + (rate) / 3)
/* What it has followed for so long can be tried; and how long a trial is believed. */
#define SETTLE_US 200000
/* The same at the beginning, and where others have come or gone. */
#define SETTLE_BEGIN_US 1000000
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

/* Bits of a word: the phase, whether the last trial has gained something, whether there is a least,
 * whether that is no bound at all; and a number that grows. */
#define TRIAL_PHASE 3u
#define TRIAL_GAINED 4u
#define TRIAL_LEAST 8u
#define TRIAL_FREE 16u
#define TRIAL_NEXT 32u

unsigned ff_window_trial(const FfWindow *w)
{
    return w->trial;
}

static void tell_others(FfWindow *w, bool gained)
{
    w->trial = (w->trial & ~(TRIAL_NEXT - 1)) + TRIAL_NEXT + (gained ? TRIAL_GAINED : 0) +
               (w->least ? TRIAL_LEAST : 0) + (w->least > WINDOW_MAX ? TRIAL_FREE : 0) +
               (unsigned)w->phase;
}

static void others_changed(FfWindow *w, int64_t now)
{
    w->aborted = w->phase != FF_WINDOW_FOLLOWS;
    w->settles_us = now + SETTLE_BEGIN_US;
}

void ff_window_settle(FfWindow *w, int64_t now)
{
    others_changed(w, now);
    if (w->least) {
        w->least = 0;
        tell_others(w, false);
    }
}

bool ff_window_lead(FfWindow *w, const FfLinkRate *r, bool slow, bool others, int64_t now)
{
    if (w->phase == FF_WINDOW_FOLLOWS) {
        w->bound = slow && ff_window_link_bound(w);
    }
    bool alone = w->bound || !others;

    if (w->leads && alone != w->alone) {
        others_changed(w, now);
    }
    w->leads = true;
    w->alone = alone;
    /* What was measured since before the phase is of the one before as well. */
    if (r->from_us && r->from_us >= w->counts_us) {
        w->best = MAX(w->best, r->last);
    }
    return w->bound;
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

static int64_t phase_us(const FfRoundTrip *t)
{
    return MAX(TRIAL_US, (int64_t)TRIAL_RTTS * t->rtt_us + 2 * MEASURE_US);
}

static void begin_phase(FfWindow *w, FfWindowPhase phase, const FfRoundTrip *t, int64_t now)
{
    w->phase = phase;
    w->best = 0;
    w->until_us = now + phase_us(t);
    /* What fills a larger window at first is no rate. */
    w->counts_us = phase == FF_WINDOW_DOUBLED ? now + t->rtt_us : now;
}

static unsigned end_trial(FfWindow *w, unsigned bytes, int64_t believed_us)
{
    w->phase = FF_WINDOW_FOLLOWS;
    w->aborted = false;
    w->believed_us = MAX(w->believed_us, believed_us);
    tell_others(w, false);
    return bytes;
}

static unsigned larger_is_better(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    w->least = w->bytes ? w->bytes : UINT_MAX;
    w->believed_us = now + GAINED_US;
    begin_phase(w, w->bytes ? FF_WINDOW_BEFORE : FF_WINDOW_FOLLOWS, t, now);
    tell_others(w, true);
    return w->bytes;
}

/* A trial is under way. */
static unsigned go_on(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    bool doubled = w->phase == FF_WINDOW_DOUBLED;
    uint64_t best = w->best;

    /* Who does not wait for the socket has a rate of its own. */
    if (w->aborted || (!doubled && !w->waits)) {
        return end_trial(w, doubled ? w->bytes_before : w->bytes, now + SETTLE_US);
    }
    if (now < w->until_us) {
        return w->bytes;
    }
    if (!doubled) {
        begin_phase(w, FF_WINDOW_DOUBLED, t, now);
        w->rate_before = best;
        w->bytes_before = w->bytes;
        tell_others(w, false);
        return twice(w->bytes);
    }
    if (w->rate_before && best >= GAIN(w->rate_before)) {
        return larger_is_better(w, t, now);
    }
    return end_trial(w, w->bytes_before, now + (w->least ? GAINED_US : IN_VAIN_US));
}

static unsigned at_least(const FfWindow *w, unsigned next)
{
    return w->least > WINDOW_MAX ? 0 : next ? MAX(next, w->least) : 0;
}

static bool may_try(const FfWindow *w, int64_t now)
{
    return w->waits && now >= w->believed_us &&
           (now >= w->settles_us || now >= w->believed_us + IN_VAIN_US);
}

/* It would be NEXT. */
static unsigned try_more(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now)
{
    if (w->phase != FF_WINDOW_FOLLOWS) {
        return go_on(w, t, now);
    }
    if (now >= w->believed_us && w->least) {
        w->least = 0;
        w->believed_us = now + SETTLE_US;
        tell_others(w, false);
    } else if (may_try(w, now) && w->bytes && next) {
        begin_phase(w, FF_WINDOW_BEFORE, t, now);
        tell_others(w, false);
        return w->bytes;
    }
    return at_least(w, next);
}

/* What the one that leads has come to, w->trial, is new. */
static unsigned take_trial(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now)
{
    bool was_doubled = w->phase == FF_WINDOW_DOUBLED && w->bytes_before;
    bool was_bounded = w->bytes || was_doubled;
    unsigned bytes = next;

    w->seen = w->trial;
    w->phase = (FfWindowPhase)(w->trial & TRIAL_PHASE);
    if (was_doubled && w->trial & TRIAL_GAINED) {
        w->least = w->bytes ? w->bytes : UINT_MAX;
        bytes = w->bytes;
    } else if (was_doubled) {
        bytes = w->bytes_before;
    }
    if (!(w->trial & TRIAL_LEAST)) {
        w->least = 0;
    } else if (w->trial & TRIAL_FREE && w->bytes) {
        w->least = UINT_MAX; /* also of one that came later */
    }
    /* One without a bound takes no part. */
    w->bytes_before = was_bounded ? bytes : 0;
    w->until_us = now + 2 * phase_us(t);
    return w->phase == FF_WINDOW_DOUBLED && w->bytes_before ? twice(bytes) : at_least(w, bytes);
}

/* One that does not lead. It would be NEXT. */
static unsigned follow_trial(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now)
{
    if (w->trial != w->seen) {
        return take_trial(w, t, next, now);
    }
    if (w->phase == FF_WINDOW_DOUBLED && w->bytes_before && now >= w->until_us) {
        /* The one that leads stands. */
        w->phase = FF_WINDOW_FOLLOWS;
        return w->bytes_before;
    }
    return w->phase == FF_WINDOW_DOUBLED && w->bytes_before ? w->bytes : at_least(w, next);
}

unsigned ff_window_look(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    unsigned next = open_up(w, ff_window_next(w->bytes, t));

    return w->leads ? try_more(w, t, next, now) : follow_trial(w, t, next, now);
}

/* FALSE: there is no bound, and never will be: on a long way no bound is large enough where it
 * could not be taken away again (before Linux 5.15). */
static bool begin(FfWindow *w, int fd, const FfRoundTrip *t, int64_t now)
{
    bool is_short = t->min_rtt_us < FIRST_RTT_US, fixed = set(fd, 0) < 0;

    w->begun = true;
    w->believed_us = now + SETTLE_US;
    w->settles_us = now + SETTLE_BEGIN_US;
    w->opening = is_short && !fixed;
    return is_short || !fixed;
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
        w->next_us = begin(w, fd, &t, now) ? w->next_us : INT64_MAX;
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

        r->last = known ? (bytes - r->bytes) * 1000000 / dt : 0;
        r->from_us = known && dt < PAUSE * MEASURE_US ? r->measured_us : 0;
        r->rate = MAX(r->last, r->rate - r->rate / 16);
        r->measured_us = now;
        r->bytes = bytes;
    }
    r->fast = r->rate >= (r->fast ? SLOW_RATE : FAST_RATE);
    return !r->fast;
}
