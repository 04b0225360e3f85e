/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A limit in bytes per second, of one thread that pays for a piece before the next one. */
#ifndef FF_PAGER_SERVER_LIMIT_H
#define FF_PAGER_SERVER_LIMIT_H

#include <glib.h>
#include <stdint.h>

/* When the piece after one of BYTES may begin (monotonic, us), which could begin at NEXT_US. RATE
 * in bytes per second; 0: no limit. */
static inline int64_t ff_limit_next(int64_t next_us, uint64_t rate, uint64_t bytes)
{
    if (!rate) {
        return next_us;
    }
    double us = (double)bytes * G_USEC_PER_SEC / (double)rate;
    int64_t now = g_get_monotonic_time();

    return MAX(next_us, now) + (int64_t)us;
}

#endif
