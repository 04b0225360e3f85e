/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A set of a block's pages: one bit each, in the words of mapped-ram. What is never set costs no
 * memory, as the kernel gives zeroed pages at the first touch. No threads.
 */
#ifndef FF_CONTENT_IMAGE_PAGESET_H
#define FF_CONTENT_IMAGE_PAGESET_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* One word for 64 pages; free(). NULL: no memory. */
static inline uint64_t *ff_pageset_new(uint64_t n_pages)
{
    return (uint64_t *)calloc((n_pages + 63) / 64, sizeof(uint64_t));
}

static inline bool ff_pageset_has(const uint64_t *set, uint64_t page)
{
    return GUINT64_FROM_LE(set[page / 64]) >> (page % 64) & 1;
}

static inline void ff_pageset_add(uint64_t *set, uint64_t page)
{
    set[page / 64] |= GUINT64_TO_LE(1ull << (page % 64));
}

static inline void ff_pageset_remove(uint64_t *set, uint64_t page)
{
    set[page / 64] &= ~GUINT64_TO_LE(1ull << (page % 64));
}

#endif
