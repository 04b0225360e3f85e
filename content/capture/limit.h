/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When the next piece of a snapshot may be written that nobody waits for. The limit may become
 * another one at any time: it holds from then on, and what was written under the one before is
 * forgotten. One thread; no locks.
 */
#ifndef FF_CONTENT_CAPTURE_LIMIT_H
#define FF_CONTENT_CAPTURE_LIMIT_H

#include <stdint.h>

/* As zeros: nothing was written yet. */
typedef struct {
    uint64_t rate; /* as it was said last */
    int64_t due;   /* monotonic us; 0: at once */
} FfLimit;

/* Returns how long to wait, microseconds; 0: not at all. RATE: bytes per second, 0: no limit. */
int64_t ff_limit_delay(FfLimit *l, uint64_t rate);

/* BYTES are on their way, or written. What a wait took too long is made up for, if it was not
 * long. */
void ff_limit_charge(FfLimit *l, uint64_t rate, uint64_t bytes);

#endif
