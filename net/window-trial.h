/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Trials of a bulk socket's window. Whether a short one holds the rate down only a trial tells: a
 * queue can be made by others, and a round trip be long for other reasons.
 *
 * A window that has stayed bounded is doubled for a moment now and then. If what all sockets carry
 * grows with it, the larger one is the least from now on, and is doubled again; else the link is
 * the limit, and it was in vain. That is known as soon as it is filled: what is on its way has
 * grown with it. Some fill it slowly: a congestion control that takes what it carries for all that
 * the link has. Behind a long queue they are given time. A least is not for ever: after a while it
 * is halved for a moment, and again, until less is carried than before the first of these steps;
 * the last one that was enough is the least then. Where several bulk sockets are in use one of them
 * leads, and all take part. What counts is what all sockets carry, the urgent one too, as one of
 * them would gain what others lose.
 */
#ifndef FF_NET_WINDOW_TRIAL_H
#define FF_NET_WINDOW_TRIAL_H

#include "net/link-rate.h"
#include "net/round-trip.h"
#include "net/window-state.h"

/* Bytes for setsockopt(), which doubles them for its own accounting. More than MAX is nothing that
 * net.core.wmem_max allows everywhere. */
#define FF_WINDOW_MIN (16u << 10)
#define FF_WINDOW_MAX (200u << 10)

/* The link is the limit as far as this socket knows: it is bounded, and its sender waits. */
bool ff_window_link_bound(const FfWindow *w);
/* W is looked at for the first time, at NOW (monotonic, us). */
void ff_window_begin_trials(FfWindow *w, int64_t now);
/* W leads: R is of all sockets of its link, SLOW as ff_link_rate_is_slow() says, OTHERS: there are
 * other bulk sockets. A trial in which they come or go says nothing. Returns whether the link is
 * the limit, so that W is best used alone; as before while a trial is under way, which changes
 * that. */
bool ff_window_lead(FfWindow *w, const FfLinkRate *r, bool slow, bool others, int64_t now);
/* What comes now is of another kind than what was before: no trial for a second, and what the last
 * one has found counts no more. */
void ff_window_settle(FfWindow *w, int64_t now);
/* What W, which leads, has the others do: a word for .trial of theirs. */
unsigned ff_window_trial(const FfWindow *w);
/* The window of W, which leads, at NOW, where without trials it would be NEXT (bytes). */
unsigned ff_window_try(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now);
/* The same of one that does not lead, and follows .trial. */
unsigned ff_window_follow_trial(FfWindow *w, const FfRoundTrip *t, unsigned next, int64_t now);

#endif
