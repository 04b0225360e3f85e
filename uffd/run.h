/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A run of pages of a block. A block is memory whose pages are numbered from 0. */
#ifndef FF_UFFD_RUN_H
#define FF_UFFD_RUN_H

#include <stdint.h>

typedef struct {
    unsigned block;
    uint64_t first, n; /* pages */
} FfRun;

/* PAGE of BLOCK, or another number below 2^48 of it, in one word that is never 0. */
static inline uint64_t ff_run_key(unsigned block, uint64_t page)
{
    return (uint64_t)block << 48 | (page + 1);
}

static inline unsigned ff_run_key_block(uint64_t key)
{
    return (unsigned)(key >> 48);
}

static inline uint64_t ff_run_key_page(uint64_t key)
{
    return (key & ((1ull << 48) - 1)) - 1;
}

#endif
