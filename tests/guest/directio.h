/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory of the test guest that only its disk writes to: filled by reads past the page cache, as
 * fast as they go, and verified.
 */
#ifndef FF_TESTS_GUEST_DIRECTIO_H
#define FF_TESTS_GUEST_DIRECTIO_H

#include <stdint.h>

/*
 * Writes what will be read onto /dev/vda, after the part that iowork.h uses, then starts the
 * readers: MIB of memory. Returns NULL, or what is wrong (static).
 */
const char *direct_start(unsigned mib);

/* Has the readers check all of that memory; returns when they have. */
void direct_verify(void);

/* Ends the readers; returns when nothing is under way any more. */
void direct_stop(void);

typedef struct {
    uint64_t reads; /* of 64 KiB */
    uint64_t bad;   /* wrong pages, failed reads */
} DirectCounts;
DirectCounts direct_counts(void);

#endif
