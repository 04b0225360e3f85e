/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What all sockets of a connection carry together, and whether that is little enough for the link
 * to be the limit. Pure.
 */
#ifndef FF_NET_LINK_RATE_H
#define FF_NET_LINK_RATE_H

#include <stdbool.h>
#include <stdint.h>

/* Rates are measured over so long ... */
#define FF_RATE_MEASURE_US 20000
/* ... and what comes later than so many of these was not sent all the time, unless its sender has
 * waited for the socket. */
#define FF_RATE_PAUSE 4

typedef struct {
    uint64_t rate;   /* the best of late, bytes per second */
    uint64_t last;   /* as it was measured ... */
    int64_t from_us; /* ... from then on; 0: not known */
    bool fast;
    int64_t measured_us;
    uint64_t bytes, waited_us; /* then */
} FfLinkRate;

/* BYTES are what all of them have carried so far, and for WAITED_US in all the sender of the main
 * one has waited for its socket, at NOW (monotonic, us): whether that is little enough for a link
 * to be the limit. Pure. */
bool ff_link_rate_is_slow(FfLinkRate *rate, uint64_t bytes, uint64_t waited_us, int64_t now);

#endif
