/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ethernet frames of the test guest, which a peer sends back to it: no protocol's checksum hides
 * what was moved wrongly. They lie in memory that only the network's back-end has written to until
 * many more have come, and are verified then.
 */
#ifndef FF_TESTS_GUEST_FRAMES_H
#define FF_TESTS_GUEST_FRAMES_H

#include <stdint.h>

/*
 * Begins to send through eth0, whose peer swaps the addresses and sends each frame back. DEPTH of
 * them lie here, or are on their way, at a time. WAYS (1 or 2): so many pairs of queues are used,
 * each by a processor of its own; what comes back by the other one is bad. Returns NULL, or what is
 * wrong (static).
 */
const char *frames_start(unsigned depth, unsigned ways);

/* Ends it; returns when nothing is sent any more. */
void frames_stop(void);

typedef struct {
    uint64_t good;
    uint64_t lost; /* were not sent back */
    uint64_t bad;  /* other than they were sent, twice, or not in their order */
} FramesCounts;
FramesCounts frames_counts(void);
/* What the first bad one was: "WHAT:NUMBER:LAST", the last good one's number; "none". */
const char *frames_first_bad(void);

#endif
