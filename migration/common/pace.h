/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rate limit of what is sent on one side: a thread that sends waits for its turn, sends, and
 * says how much it was. A limit that changes counts at once.
 *
 * Threads: any number of senders; the control's lock.
 */
#ifndef FF_MIGRATION_COMMON_PACE_H
#define FF_MIGRATION_COMMON_PACE_H

#include "migration/common/control.h"

typedef struct {
    FfControl *control;
    const uint64_t *limit; /* control's lock; bytes per second, 0: none */
    int64_t next_us;       /* control's lock; nothing is sent before (monotonic time) */
    bool over;             /* control's lock; nobody waits any more */
} FfPace;

/* Waits until the limit allows more, one of the events ENDS comes, or ff_pace_end(). FALSE: one of
 * ENDS. */
bool ff_pace_wait(FfPace *p, unsigned ends);
/* BYTES were sent. */
void ff_pace_charge(FfPace *p, uint64_t bytes);
void ff_pace_end_locked(FfPace *p);

#endif
