/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What TCP knows of a connection, and of the queue on its way: the round trip less the shortest of
 * late is the time that a packet waits. Pure.
 */
#ifndef FF_NET_ROUND_TRIP_H
#define FF_NET_ROUND_TRIP_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

typedef struct {
    uint32_t rtt_us, min_rtt_us;
    uint64_t rate;      /* that it can deliver, bytes per second */
    uint64_t in_flight; /* bytes that are not acknowledged; 0: not known */
} FfRoundTrip;

/* Short, and enough for a sender that comes a little late. */
#define FF_QUEUE_BYTES (26u << 10)
#define FF_QUEUE_MIN_US 80
#define FF_QUEUE_MAX_US 550

static inline uint32_t ff_round_trip_queue(const FfRoundTrip *t)
{
    return t->rtt_us > t->min_rtt_us ? t->rtt_us - t->min_rtt_us : 0;
}

/* Below it a queue is short, above twice of it long. */
static inline uint32_t ff_round_trip_short_queue(const FfRoundTrip *t)
{
    uint64_t us = t->rate ? FF_QUEUE_BYTES * 1000000ull / t->rate : 0;

    return (uint32_t)CLAMP(us, FF_QUEUE_MIN_US, FF_QUEUE_MAX_US);
}

static inline bool ff_round_trip_is_long(const FfRoundTrip *t)
{
    return ff_round_trip_queue(t) > 2 * ff_round_trip_short_queue(t);
}

#endif
