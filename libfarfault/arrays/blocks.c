/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The blocks of an array: their states, the list of what is in memory, where they are mapped.
 * Locked, any thread. See internal.h.
 */
#include "libfarfault/arrays/internal.h"

#define PAGE FF_ARRAY_PAGE

void ff_array_set_state(FfArray *a, uint64_t block, FfBlockState state)
{
    a->blocks[block].state = (uint8_t)state;
    if (state != FF_BLOCK_LOADING && state != FF_BLOCK_LEAVING) {
        pthread_cond_broadcast(&a->changed);
        ff_holds_given(a->holds, block);
    }
}

void ff_array_unlist(FfArray *a, uint64_t block)
{
    FfBlockEntry *b = &a->blocks[block];

    if (b->newer) {
        a->blocks[b->newer - 1].older = b->older;
    } else if (a->newest == block + 1) {
        a->newest = b->older;
    }
    if (b->older) {
        a->blocks[b->older - 1].newer = b->newer;
    } else if (a->oldest == block + 1) {
        a->oldest = b->newer;
    }
    b->newer = b->older = 0;
}

void ff_array_use(FfArray *a, uint64_t block)
{
    uint32_t me = (uint32_t)block + 1;

    ff_array_unlist(a, block);
    a->blocks[block].older = a->newest;
    if (a->newest) {
        a->blocks[a->newest - 1].newer = me;
    }
    a->newest = me;
    a->oldest = a->oldest ? a->oldest : me;
}

uint64_t ff_array_pages(const FfArray *a)
{
    return a->block_size / PAGE;
}

uint64_t ff_array_first_page(const FfArray *a, uint64_t block)
{
    return block * ff_array_pages(a);
}

uint64_t ff_array_end_page(const FfArray *a)
{
    return (a->len + PAGE - 1) / PAGE;
}

void ff_array_note_changed(FfArray *a, uint64_t first, uint64_t n)
{
    ff_bitmap_set_run(&a->dirty, first, n);
    ff_bitmap_clear_run(&a->stored, first, n);
}

uint64_t ff_array_dirty(const FfArray *a, uint64_t block)
{
    return ff_bitmap_count_run(&a->dirty, ff_array_first_page(a, block), ff_array_pages(a));
}

uint64_t ff_array_where(const FfArray *a, const FfArrayMap *m, uint64_t block, uint64_t *len)
{
    uint64_t from = MAX(block * a->block_size, m->offset);
    uint64_t to = MIN((block + 1) * a->block_size, m->offset + m->len);

    *len = from < to ? to - from : 0;
    return *len ? m->addr + (from - m->offset) : 0;
}
