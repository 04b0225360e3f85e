/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Durations from 32 us on, in a histogram that is exact enough for percentiles: each power of two
 * of microseconds is divided into 64 buckets, so the middle of a bucket is within 0.8 % of all that
 * is in it. The longest and the sum are kept as they are. Shared by the guest, which counts, and
 * the bench, which reads. Pure; any thread.
 */
#ifndef FF_TESTS_GUEST_DURATIONS_H
#define FF_TESTS_GUEST_DURATIONS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    DURATIONS_FIRST = 5, /* the shortest that counts: 2^5 us */
    DURATIONS_PARTS = 64,
    DURATIONS_OCTAVES = 22, /* the last bucket has all from 2 minutes on */
    DURATIONS_BUCKETS = DURATIONS_OCTAVES * DURATIONS_PARTS
};

typedef struct {
    uint64_t n;
    double sum_us, worst_us;
    uint32_t bucket[DURATIONS_BUCKETS];
} Durations;

static inline bool durations_counts(double us)
{
    return us >= 1u << DURATIONS_FIRST;
}

/* Of one that counts. */
static inline unsigned durations_bucket(double us)
{
    double last = (double)(1ull << (DURATIONS_FIRST + DURATIONS_OCTAVES));
    uint64_t parts = (uint64_t)((us < last ? us : last) * DURATIONS_PARTS);
    unsigned octave = 63 - (unsigned)__builtin_clzll(parts) - 6;
    unsigned bucket =
        (octave - DURATIONS_FIRST) * DURATIONS_PARTS + (parts >> octave) % DURATIONS_PARTS;

    return bucket < DURATIONS_BUCKETS ? bucket : DURATIONS_BUCKETS - 1;
}

/* The middle of a bucket, us. */
static inline double durations_middle(unsigned bucket)
{
    double octave = (double)(1ull << (DURATIONS_FIRST + bucket / DURATIONS_PARTS));

    return octave * (1 + (bucket % DURATIONS_PARTS + 0.5) / DURATIONS_PARTS);
}

/* One that counts. */
static inline void durations_add(Durations *d, double us)
{
    d->n++;
    d->sum_us += us;
    d->worst_us = us > d->worst_us ? us : d->worst_us;
    d->bucket[durations_bucket(us)]++;
}

static inline void durations_merge(Durations *d, const Durations *more)
{
    d->n += more->n;
    d->sum_us += more->sum_us;
    d->worst_us = more->worst_us > d->worst_us ? more->worst_us : d->worst_us;
    for (unsigned b = 0; b < DURATIONS_BUCKETS; b++) {
        d->bucket[b] += more->bucket[b];
    }
}

#endif
