/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading the bitmaps of mapped-ram in pieces; see mapped.h.
 *
 * System calls: none.
 */
#include "content/image/mapped.h"

#include <gio/gio.h>
#include <string.h>

#define PIECE (64u << 10) /* of a bitmap: 2 GiB of memory */

typedef struct {
    uint64_t first, n; /* the run so far */
    FfMappedRun run;
    void *opaque;
} Runs;

static bool flush_run(Runs *r, GError **error)
{
    uint64_t n = r->n;

    r->n = 0;
    return !n || r->run(r->opaque, r->first, n, error);
}

static bool add_run(Runs *r, uint64_t first, uint64_t n, GError **error)
{
    if (r->n && r->first + r->n == first) {
        r->n += n;
        return true;
    }
    if (!flush_run(r, error)) {
        return false;
    }
    r->first = first;
    r->n = n;
    return true;
}

static bool add_word(Runs *r, uint64_t first, uint64_t word, GError **error)
{
    while (word) {
        unsigned low = __builtin_ctzll(word);
        uint64_t rest = word >> low;
        unsigned n = ~rest ? __builtin_ctzll(~rest) : 64;

        if (!add_run(r, first + low, n, error)) {
            return false;
        }
        word = low + n >= 64 ? 0 : word >> (low + n) << (low + n);
    }
    return true;
}

bool ff_mapped_runs(const FfSaved *s, const FfSavedBlock *b, FfMappedRun run, void *opaque,
                    GError **error)
{
    uint64_t n_pages = b->size / FF_SAVED_PAGE, size = ff_mapped_bitmap_size(b->size);
    g_autofree uint64_t *piece = g_malloc(PIECE);
    Runs r = {.run = run, .opaque = opaque};

    if (ff_saved_block_is_outside(s, b)) {
        return true;
    }
    for (uint64_t at = 0; at < size;) {
        uint64_t data = ff_input_next_data(s->in, b->bitmap + at);
        uint64_t hole = MIN(data - (b->bitmap + at), size - at) / 8 * 8;

        if (hole) { /* a hole: no bit is set */
            at += hole;
            continue;
        }
        uint64_t some = MIN(size - at, PIECE);
        if (!ff_input_read(s->in, b->bitmap + at, piece, some, error)) {
            return false;
        }
        for (uint64_t i = 0; i < some / 8; i++) {
            uint64_t first = (at / 8 + i) * 64, word = GUINT64_FROM_LE(piece[i]);

            if (first + 64 > n_pages && word >> (n_pages - first)) {
                g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                            "%s: damaged: block '%s' has bits for pages after its end",
                            ff_input_path(s->in), b->name);
                return false;
            }
            if (!add_word(&r, first, word, error)) {
                return false;
            }
        }
        at += some;
    }
    return flush_run(&r, error);
}
