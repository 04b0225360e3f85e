/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What all sockets of a connection carry together, and whether that is little enough for the link
 * to be the limit. Pure.
 */
#ifndef FF_NET_LINK_RATE_H
#define FF_NET_LINK_RATE_H

#include <stdbool.h>
#include <stdint.h>

/* Rates are measured over so long. */
#define FF_RATE_MEASURE_US 20000

typedef struct {
    uint64_t rate;   /* the best of late, bytes per second */
    uint64_t last;   /* as it was measured ... */
    int64_t from_us; /* ... from then on; 0: not known */
    bool fast;
    int64_t measured_us;
    uint64_t bytes, waited_us; /* then */
} FfLinkRate;

/* What was carried in DT_US is a rate: it was sent all the time. After a pause it is not, and its
 * sender has waited for the socket for less than half of it, WAITED_US. Pure. */
bool ff_link_rate_is_steady(int64_t dt_us, uint64_t waited_us);
/* BYTES are what all of them have carried so far, and for WAITED_US in all the sender of the main
 * one has waited for its socket, at NOW (monotonic, us): whether that is little enough for a link
 * to be the limit. Pure. */
bool ff_link_rate_is_slow(FfLinkRate *rate, uint64_t bytes, uint64_t waited_us, int64_t now);

#endif
