/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See limit.h. No system calls of its own. */
#include "content/capture/limit.h"

#include <glib.h>

/* What is made up for at most, microseconds. */
#define LATE_US 100000

static void set_rate(FfLimit *l, uint64_t rate)
{
    if (rate != l->rate) {
        *l = (FfLimit){.rate = rate};
    }
}

int64_t ff_limit_delay(FfLimit *l, uint64_t rate)
{
    set_rate(l, rate);
    int64_t left = l->due - g_get_monotonic_time();

    return l->due ? MAX(left, 0) : 0;
}

void ff_limit_charge(FfLimit *l, uint64_t rate, uint64_t bytes)
{
    set_rate(l, rate);
    if (rate) {
        int64_t earliest = g_get_monotonic_time() - LATE_US;

        l->due = MAX(l->due, earliest) + (int64_t)(bytes * G_USEC_PER_SEC / rate);
    }
}
