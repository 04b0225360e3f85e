/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When an engine that ended is started again (restart.h). A guest whose memory is at two places
 * needs an engine, so there is no last time: what grows is the pause. It is counted from the start,
 * not from the death, so an engine that works for a while before it dies has waited meanwhile.
 *
 * Pure functions; any thread.
 */
#include "guest/relay/restart.h"

/* From here on the pause does not grow: 2^6 s is more than it may be. */
#define FAILURES_MAX (FF_RESTART_AT_ONCE + 7)

static gint64 pause_us(unsigned failures)
{
    if (failures <= FF_RESTART_AT_ONCE) {
        return 0;
    }
    return MIN(1u << (failures - FF_RESTART_AT_ONCE - 1), FF_RESTART_MAX_S) * G_USEC_PER_SEC;
}

void ff_restart_started(FfRestart *r, gint64 now)
{
    r->started = now;
}

gint64 ff_restart_failed(FfRestart *r, gint64 now, bool died)
{
    if (now - r->started >= FF_RESTART_MAX_S * G_USEC_PER_SEC) {
        r->failures = 0;
    }
    r->failures = MIN(r->failures + 1, FAILURES_MAX);
    if (!died) {
        r->failures = MAX(r->failures, FF_RESTART_AT_ONCE + 1);
    }
    return MAX(now, r->started + pause_us(r->failures));
}

void ff_restart_ended_well(FfRestart *r)
{
    r->failures = 0;
}

gint64 ff_restart_hurry(const FfRestart *r, gint64 now, bool acts)
{
    return acts || r->failures <= FF_RESTART_AT_ONCE ? now : MAX(now, r->started + G_USEC_PER_SEC);
}
