/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a larger window carries more, or a shorter one as much; see window-trial.h.
 */
#include "net/window-trial.h"

#include <glib.h>
#include <limits.h>

/* The rate is looked at for so long before the window is doubled, and then once more; and for so
 * many round trips, as what is sent shows in it after one. */
#define TRIAL_US 65000
#define TRIAL_RTTS 3
/* It must grow by a fifth, or the trial was in vain. */
#define GAIN(rate) ((rate) + (rate) / 5)
/* What is on its way when the window is filled. */
#define FILLED(bytes) ((bytes) + (bytes) / 3)
/* What is left of the rate behind a halved window, if that is enough. */
#define KEPT(rate) ((rate) - (rate) / 4)
/* Behind a long queue a doubled window is looked at for so long, and so many round trips, unless it
 * is filled before. */
#define GROW_US 500000
#define GROW_RTTS 32
/* A rate is known after so many looks, one a run: a run begins after the first one, and may be
 * measured only after the look that follows it. */
#define RATE_LOOKS 3
/* A queue that is longer while there is no bound is rather somebody else's: the window is halved on
 * trial, and does not simply follow. */
#define OTHERS_QUEUE_US 2000
/* What it has followed for so long can be tried; and how long a trial is believed. */
#define SETTLE_US 200000
/* The same at the beginning, and where others have come or gone. */
#define SETTLE_BEGIN_US 1000000
#define GAINED_US 10000000
#define IN_VAIN_US 5000000

/* Bits of a word: the phase, whether the last trial has gained something, the least window in KiB,
 * of which the largest number is none; and a number that grows. */
#define TRIAL_PHASE 3u
#define TRIAL_GAINED 4u
#define TRIAL_LEAST 8u
#define TRIAL_FREE 255u
#define TRIAL_NEXT (TRIAL_LEAST << 8)

_Static_assert(FF_WINDOW_MAX >> 10 < TRIAL_FREE, "a least window is a byte of KiB");

bool ff_window_link_bound(const FfWindow *w)
{
    return (w->bytes || w->least || w->phase == FF_WINDOW_DOUBLED) && w->waits;
}

void ff_window_begin_trials(FfWindow *w, int64_t now)
{
    w->believed_us = now + SETTLE_US;
    w->settles_us = now + SETTLE_BEGIN_US;
}

unsigned ff_window_trial(const FfWindow *w)
{
    return w->trial;
}

static void tell_others(FfWindow *w, bool gained)
{
    w->trial = (w->trial & ~(TRIAL_NEXT - 1)) + TRIAL_NEXT + (gained ? TRIAL_GAINED : 0) +
               TRIAL_LEAST * (w->least > FF_WINDOW_MAX ? TRIAL_FREE : (w->least + 1023) >> 10) +
               (unsigned)w->phase;
}

static unsigned least_of(unsigned trial)
{
    unsigned kib = trial / TRIAL_LEAST % (TRIAL_FREE + 1);

    return kib == TRIAL_FREE ? UINT_MAX : kib << 10;
}

static void others_changed(FfWindow *w, int64_t now)
{
    w->aborted = w->phase != FF_WINDOW_FOLLOWS;
    w->settles_us = now + SETTLE_BEGIN_US;
}

void ff_window_settle(FfWindow *w, int64_t now)
{
    others_changed(w, now);
    w->believed_us = now;
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

static unsigned twice_window(unsigned bytes)
{
    return 2 * bytes > FF_WINDOW_MAX ? 0 : 2 * bytes;
}

/* Of none the largest bound. */
static unsigned half_window(unsigned bytes)
{
    return bytes ? MAX(bytes / 2, FF_WINDOW_MIN) : FF_WINDOW_MAX;
}

static int64_t phase_us(const FfRoundTrip *t)
{
    return MAX(TRIAL_US, (int64_t)TRIAL_RTTS * t->rtt_us + 2 * FF_RATE_MEASURE_US);
}

/* A doubled window is filled slowly by a congestion control that does not know of it. */
static int64_t longest_phase_us(const FfRoundTrip *t)
{
    int64_t least = phase_us(t);

    return MAX(least, MAX(GROW_US, (int64_t)GROW_RTTS * t->rtt_us));
}

static void begin_look(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    w->best = w->flight = w->flights = 0;
    w->until_us = now + phase_us(t);
    /* A slow link takes a run, behind which the rate is measured, longer than that. */
    w->waits_until_us = now + longest_phase_us(t);
}

static void begin_phase(FfWindow *w, FfWindowPhase phase, const FfRoundTrip *t, int64_t now)
{
    bool changes = phase == FF_WINDOW_DOUBLED || phase == FF_WINDOW_HALVED;

    w->phase = phase;
    begin_look(w, t, now);
    w->ends_us = phase == FF_WINDOW_DOUBLED && ff_round_trip_is_long(t) ? now + longest_phase_us(t)
                                                                        : w->until_us;
    /* What fills a larger window at first is no rate, and what has filled one must go. */
    w->counts_us = changes ? now + t->rtt_us : now;
}

static unsigned end_trial(FfWindow *w, unsigned bytes, int64_t believed_us)
{
    w->phase = FF_WINDOW_FOLLOWS;
    w->aborted = false;
    w->believed_us = MAX(w->believed_us, believed_us);
    tell_others(w, false);
    return bytes;
}

static uint64_t mean_flight(const FfWindow *w)
{
    return w->flights ? w->flight / w->flights : 0;
}

/* The rate is known before. */
static unsigned change_window(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    w->rate_before = w->best;
    w->flight_before = mean_flight(w);
    w->bytes_before = w->bytes;
    begin_phase(w, w->halves ? FF_WINDOW_HALVED : FF_WINDOW_DOUBLED, t, now);
    tell_others(w, false);
    return w->halves ? half_window(w->bytes) : twice_window(w->bytes);
}

static unsigned larger_is_better(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    w->least = w->bytes ? w->bytes : UINT_MAX;
    w->believed_us = now + GAINED_US;
    begin_phase(w, w->bytes ? FF_WINDOW_BEFORE : FF_WINDOW_FOLLOWS, t, now);
    tell_others(w, true);
    return w->bytes;
}

static unsigned judge_doubled(FfWindow *w, const FfRoundTrip *t, int64_t now)
{
    bool known = w->flight_before && w->flights;

    if (w->best >= GAIN(w->rate_before)) {
        return larger_is_better(w, t, now);
    }
    if (now < w->ends_us && !(known && mean_flight(w) >= FILLED(w->flight_before))) {
        begin_look(w, t, now); /* the window is not what limits it yet */
        return w->bytes;
    }
    return end_trial(w, w->bytes_before, now + (w->least ? GAINED_US : IN_VAIN_US));
}

/* What a trial has found is more than what W would have anyway, NEXT. */
static bool trial_holds(const FfWindow *w, unsigned next)
{
    return next && next < w->least && w->least > FF_WINDOW_MIN;
}

/* It is followed from what W has now. */
static unsigned forget_trial(FfWindow *w, int64_t now)
{
    w->least = 0;
    return end_trial(w, w->bytes, now + SETTLE_US);
}

static unsigned judge_halved(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now)
{
    if (w->best >= KEPT(w->rate_before)) {
        w->least = w->bytes;
        if (!trial_holds(w, next)) {
            return forget_trial(w, now);
        }
        /* What is kept is measured by the first rate, not by one that has lost something. */
        w->bytes_before = w->bytes;
        begin_phase(w, FF_WINDOW_HALVED, t, now);
        tell_others(w, true);
        return half_window(w->bytes);
    }
    if (!w->waits) {
        return end_trial(w, w->bytes_before, now + SETTLE_US); /* it has a rate of its own */
    }
    /* As large as it was, and perhaps larger. */
    w->halves = false;
    w->believed_us = now + GAINED_US;
    begin_phase(w, w->bytes_before ? FF_WINDOW_BEFORE : FF_WINDOW_FOLLOWS, t, now);
    w->counts_us = now + t->rtt_us; /* what fills it again is no rate */
    tell_others(w, false);
    return w->bytes_before;
}

/* A trial is under way. */
static unsigned go_on(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now)
{
    bool before = w->phase == FF_WINDOW_BEFORE;
    unsigned was = before ? w->bytes : w->bytes_before;

    /* Who does not wait for the socket has a rate of its own. */
    if (w->aborted || (before && !w->halves && !w->waits)) {
        return end_trial(w, was, now + SETTLE_US);
    }
    if (now >= w->counts_us) {
        w->flight += t->in_flight;
        w->flights++;
    }
    bool may_come = now < w->waits_until_us || w->flights < RATE_LOOKS;
    if (now < w->until_us || (!w->best && may_come)) {
        return w->bytes;
    }
    if (!w->best) {
        return end_trial(w, was, now + SETTLE_US); /* so a rate before is never 0 */
    }
    if (before) {
        return change_window(w, t, now);
    }
    return w->halves ? judge_halved(w, t, next, now) : judge_doubled(w, t, now);
}

static unsigned at_least(const FfWindow *w, unsigned next)
{
    return w->least > FF_WINDOW_MAX ? 0 : next ? MAX(next, w->least) : 0;
}

static bool may_try(const FfWindow *w, int64_t now)
{
    return now >= w->believed_us && (now >= w->settles_us || now >= w->believed_us + IN_VAIN_US);
}

/* A congestion control that is held to the shortest window takes long to come back to its share. */
static bool is_others_queue(const FfWindow *w, const FfRoundTrip *t, unsigned next)
{
    return !w->bytes && !w->least && next && ff_round_trip_queue(t) > OTHERS_QUEUE_US;
}

/* It would be NEXT. */
unsigned ff_window_try(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now)
{
    if (w->phase != FF_WINDOW_FOLLOWS) {
        return go_on(w, t, next, now);
    }
    bool others = is_others_queue(w, t, next);
    if (others) {
        w->least = UINT_MAX;
    } else if (may_try(w, now) && w->least && !trial_holds(w, next)) {
        return forget_trial(w, now);
    }
    if (others || (may_try(w, now) && (w->least || (w->waits && w->bytes && next)))) {
        w->halves = w->least > 0;
        begin_phase(w, FF_WINDOW_BEFORE, t, now);
        tell_others(w, false);
        return w->bytes;
    }
    return at_least(w, next);
}

/* What the one that leads has come to, w->trial, is new. */
static unsigned take_trial(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now)
{
    bool gained = w->takes_part && w->trial & TRIAL_GAINED;
    unsigned was = w->takes_part && !gained ? w->bytes_before : w->bytes;
    unsigned least = least_of(w->trial);

    if (gained) {
        w->least = w->bytes ? w->bytes : UINT_MAX;
    } else if (!w->least || !least || least != least_of(w->seen)) {
        w->least = least; /* it came later, or has missed something */
    }
    w->seen = w->trial;
    w->phase = (FfWindowPhase)(w->trial & TRIAL_PHASE);
    unsigned bytes = at_least(w, w->takes_part ? was : next);
    /* One without a bound takes no part, but for the trial of one. */
    bool doubled = w->phase == FF_WINDOW_DOUBLED && was && bytes;
    bool halved = w->phase == FF_WINDOW_HALVED && w->least;
    w->takes_part = doubled || halved;
    w->bytes_before = bytes;
    w->until_us = now + 2 * longest_phase_us(t);
    return doubled ? twice_window(bytes) : halved ? half_window(bytes) : bytes;
}

/* One that does not lead. It would be NEXT. */
unsigned ff_window_follow_trial(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now)
{
    if (w->trial != w->seen) {
        return take_trial(w, t, next, now);
    }
    if (w->phase != FF_WINDOW_FOLLOWS && now >= w->until_us) {
        /* The one that leads stands, or its runs take longer than that. */
        next = w->takes_part ? w->bytes_before : next;
        w->takes_part = false;
        w->phase = FF_WINDOW_FOLLOWS;
    }
    return w->takes_part ? w->bytes : at_least(w, next);
}
