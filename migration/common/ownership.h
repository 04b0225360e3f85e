/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Phase and right to run in the state memfd: what an engine that comes after a crash of this one
 * decides by. Nobody else stores them while an engine is attached.
 *
 * Each step is a row of ownership-steps.h, and a function here. A step that no row allows ends the
 * process before anything is stored: the next engine then finds what was true until now, and a
 * guest that was given away is never taken for one that is ours.
 *
 * All functions: the coordinator. The observer of each store is the next engine, or the relay.
 */
#ifndef FF_MIGRATION_COMMON_OWNERSHIP_H
#define FF_MIGRATION_COMMON_OWNERSHIP_H

#include <stdbool.h>

#include "contract/state.h"

/* A new migration of S->role begins. A source forgets the run state of an older one. */
void ff_ownership_setup(FfStateHeader *s);
/* S: the guest is about to be stopped. */
void ff_ownership_stopped(FfStateHeader *s);
/* S: it runs here again, and what is under way needs it no more: a live snapshot. */
void ff_ownership_resumed(FfStateHeader *s);
/* S: the commit point. After it the guest is the peer's, whatever happens. */
void ff_ownership_give(FfStateHeader *s);
/* S: the peer has ended without ever having had the guest. */
void ff_ownership_take_back(FfStateHeader *s);
/* S: the user says that the guest, which was given away for good, is nowhere else any more. The
 * driver's thread, with no migration under way. */
void ff_ownership_reclaim(FfStateHeader *s);
/* D: device state is about to be loaded. */
void ff_ownership_loading(FfStateHeader *s);
/* D: it is loaded. */
void ff_ownership_loaded(FfStateHeader *s);
/* D: the commit point: the guest may run here. RUN_STATE, as the source has said it, is what it
 * gets, by this engine or the next one. */
void ff_ownership_grant(FfStateHeader *s, const char *run_state);
/* Every page is at the destination. */
void ff_ownership_done(FfStateHeader *s);
/* D: this QEMU never runs the guest. */
void ff_ownership_dead(FfStateHeader *s);
/* Nothing is under way any more. */
void ff_ownership_idle(FfStateHeader *s);

/* What is stored. Any thread. */
static inline FfPhase ff_ownership_phase(const FfStateHeader *s)
{
    return (FfPhase)__atomic_load_n(&s->phase, __ATOMIC_ACQUIRE);
}

static inline FfRunRight ff_ownership_right(const FfStateHeader *s)
{
    return (FfRunRight)__atomic_load_n(&s->run_right, __ATOMIC_ACQUIRE);
}

/* The table, for docs/architecture.md; g_free. Any thread. */
char *ff_ownership_markdown(void);

#endif
