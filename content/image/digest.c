/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See digest.h. Summed up: of each block its place, its size and its bitmap, in the order of the
 * table; then all from the beginning of device state to the end.
 *
 * System calls: none.
 */
#include "content/image/digest.h"

#include "content/image/mapped.h"
#include "content/image/xxh64.h"

#define PIECE (256u << 10)

static bool add_bytes(const FfSaved *s, uint64_t from, uint64_t n, uint64_t *sum, GError **error)
{
    g_autofree uint8_t *piece = g_malloc(PIECE);

    while (n) {
        size_t some = MIN(n, PIECE);

        if (!ff_input_read(s->in, from, piece, some, error)) {
            return false;
        }
        *sum = ff_xxh64(piece, some, *sum);
        from += some;
        n -= some;
    }
    return true;
}

bool ff_saved_digest(const FfSaved *s, uint64_t *digest, GError **error)
{
    uint64_t sum = 0;

    for (guint i = 0; i < s->blocks->len; i++) {
        const FfSavedBlock *b = ff_saved_block(s, i);
        const uint64_t head[] = {b->size, b->pages};

        sum = ff_xxh64(head, sizeof(head), sum);
        if (!ff_saved_block_is_outside(s, b) &&
            !add_bytes(s, b->bitmap, ff_mapped_bitmap_size(b->size), &sum, error)) {
            return false;
        }
    }
    if (!add_bytes(s, s->tail, s->end - s->tail, &sum, error)) {
        return false;
    }
    *digest = sum ? sum : 1;
    return true;
}
