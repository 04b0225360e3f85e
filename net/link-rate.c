/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all sockets of a connection carry; see link-rate.h. */
#include "net/link-rate.h"

#include <glib.h>

/* Who carries more over all bulk sockets does not wait for a link, but for a processor, where one
 * thread sends. */
#define FAST_RATE 400000000
#define SLOW_RATE (FAST_RATE / 4 * 3) /* of who was fast */

/* What comes later than so many measurements is behind a pause, unless its sender has waited. */
#define PAUSE 4

bool ff_link_rate_is_steady(int64_t dt_us, uint64_t waited_us)
{
    return dt_us < PAUSE * FF_RATE_MEASURE_US || 2 * waited_us > (uint64_t)dt_us;
}

bool ff_link_rate_is_slow(FfLinkRate *r, uint64_t bytes, uint64_t waited_us, int64_t now)
{
    int64_t dt = now - r->measured_us;
    bool are_new = bytes < r->bytes || waited_us < r->waited_us;

    if (dt >= FF_RATE_MEASURE_US || are_new) {
        bool known = r->measured_us && !are_new;

        r->last = known ? (bytes - r->bytes) * 1000000 / dt : 0;
        bool steady = ff_link_rate_is_steady(dt, waited_us - r->waited_us);
        r->from_us = known && steady ? r->measured_us : 0;
        r->rate = MAX(r->last, r->rate - r->rate / 16);
        r->measured_us = now;
        r->bytes = bytes;
        r->waited_us = waited_us;
    }
    r->fast = r->rate >= (r->fast ? SLOW_RATE : FAST_RATE);
    return !r->fast;
}
