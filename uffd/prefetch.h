/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What will be asked for next? Streams found in the sequence of requests: forward, backward, with
 * a stride, several at once. Pure policy: knows nothing of channels or bitmaps. One thread per
 * object (the source's urgent thread); allocates nothing.
 */
#ifndef FF_UFFD_PREFETCH_H
#define FF_UFFD_PREFETCH_H

#include <stdbool.h>
#include <stdint.h>

#define FF_PREFETCH_STREAMS 32
/* Pages that are sent ahead of a stream that has just been found, and at most. */
#define FF_PREFETCH_FIRST 4
#define FF_PREFETCH_MAX 32
/* A stream may leave out this many pages and come back as far: several vCPUs on one array, or
 * steps whose order is not strict. */
#define FF_PREFETCH_SLACK 8
/* A step of more pages than this is another place, not a stride. */
#define FF_PREFETCH_MAX_STRIDE 512

typedef struct {
    int64_t last;  /* the page asked for last */
    int64_t front; /* the last page that was told to be sent ahead, or LAST */
    int64_t step;  /* from one request to the next; 0: only one request was seen */
    unsigned block;
    unsigned window; /* pages to be sent ahead; 0: the step has not been confirmed */
    uint64_t used;   /* when; 0: free */
} FfPrefetchStream;

typedef struct {
    FfPrefetchStream stream[FF_PREFETCH_STREAMS];
    uint64_t clock;
} FfPrefetch;

/* Pages first, first + step, ...: N of them, perhaps beyond the block's ends. */
typedef struct {
    int64_t first, step;
    unsigned block, n;
} FfAhead;

/* PAGE of BLOCK was asked for. TRUE: it belongs to a stream, and AHEAD is what is likely to be
 * asked for next (AHEAD->n may be 0: it was told before). */
bool ff_prefetch_request(FfPrefetch *p, unsigned block, uint64_t page, FfAhead *ahead);

#endif
