/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See rate.h. */
#include "cli/common/rate.h"

#define SMOOTHING 0.3 /* weight of the newest look */

static void smooth_value(double *value, double newest)
{
    *value = *value ? *value + SMOOTHING * (newest - *value) : newest;
}

void ff_rate_look(FfRate *p, gint64 now, gint64 transferred, gint64 remaining, gint64 faults)
{
    double seconds = (now - p->when) / (double)G_TIME_SPAN_SECOND;

    if (p->when && seconds > 0.01) {
        smooth_value(&p->rate, MAX(transferred - p->transferred, 0) / seconds);
        smooth_value(&p->fall, (p->remaining - remaining) / seconds);
        p->fault_rate = MAX(faults - p->faults, 0) / seconds;
    } else if (p->when) {
        return;
    }
    p->when = now;
    p->transferred = transferred;
    p->remaining = remaining;
    p->faults = faults;
}

gint64 ff_rate_left(const FfRate *p)
{
    return p->fall > 0 ? (gint64)(1000 * (p->remaining / p->fall)) : -1;
}
