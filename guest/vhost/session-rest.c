/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A session with which another process goes on: what it knows while nothing is under way. One
 * thread; no locks. No system calls. */
#include <string.h>

#include "guest/vhost/session-internal.h"

/* Nobody owes an answer, nothing waits, is held, or is to be said. */
static bool is_quiet(const FfVhostSession *s)
{
    return !s->owed && !s->ours.length && !s->waiting.length && !s->held.length && !s->stopping &&
           !s->reset && !s->holds && !s->absent;
}

static bool has_log(const FfVhostSession *s)
{
    return s->log >= 0 || s->marks >= 0 || s->logs || s->ends_log;
}

static bool waits_for_pages(const FfVhostSession *s)
{
    return s->faults != FF_VHOST_FAULTS_NONE || s->uffd >= 0 || s->trial >= 0 || s->n_theirs ||
           s->unanswered || s->ends_wait;
}

bool ff_vhost_session_rests(const FfVhostSession *s)
{
    return is_quiet(s) && !has_log(s) && !waits_for_pages(s);
}

FfVhostRest ff_vhost_session_describe(const FfVhostSession *s)
{
    FfVhostRest rest = {.features = s->features,
                        .protocol = s->protocol,
                        .offered = s->offered,
                        .offered_protocol = s->offered_protocol,
                        .has_features = s->has_features,
                        .knows_offer = s->knows_offer,
                        .foreign_log = s->foreign_log,
                        .was_reset = s->was_reset,
                        .unfinished = s->unfinished,
                        .odd = s->odd,
                        .known = s->known,
                        .waited = s->waited,
                        .in_vain = s->in_vain,
                        .came_back_at = s->came_back_at,
                        .rings = s->rings};

    static_assert(sizeof(rest.caught_up) == sizeof(s->caught_up), "the same rings");
    memcpy(rest.caught_up, s->caught_up, sizeof(rest.caught_up));
    return rest;
}

FfVhostSession *ff_vhost_session_resume(FfVhostKind kind, FfVhostRest *rest,
                                        const FfVhostSessionOps *ops, void *opaque)
{
    FfVhostSession *s = ff_vhost_session_new(kind, ops, opaque);

    s->features = rest->features;
    s->protocol = rest->protocol;
    s->offered = rest->offered;
    s->offered_protocol = rest->offered_protocol;
    s->has_features = rest->has_features;
    s->knows_offer = rest->knows_offer;
    s->foreign_log = rest->foreign_log;
    s->was_reset = rest->was_reset;
    s->unfinished = rest->unfinished;
    s->odd = g_intern_string(rest->odd);
    s->known = rest->known;
    s->waited = rest->waited;
    s->in_vain = rest->in_vain;
    s->came_back_at = rest->came_back_at;
    memcpy(s->caught_up, rest->caught_up, sizeof(s->caught_up));
    s->rings = rest->rings;
    rest->rings = (FfVhostRings){0};
    return s;
}
