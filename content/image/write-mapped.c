/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes mapped-ram from either form; see write.h. From an ordinary stream pages are written to
 * their places as they come.
 *
 * System calls: none.
 */
#include "content/image/write.h"

#include "content/image/completeness.h"
#include "content/image/mapped-writer.h"
#include "content/image/mapped.h"

#define PIECE (256u << 10)

typedef struct {
    FfSaved *s;
    FfMappedWriter *w;
    guint block;
    uint8_t *piece; /* [PIECE] */
} Copy;

/* FfMappedRun */
static bool copy_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    Copy *c = opaque;

    while (n > 0) {
        uint64_t some = MIN(n, PIECE / FF_SAVED_PAGE);

        if (!ff_input_read(c->s->in, ff_saved_block(c->s, c->block)->pages + first * FF_SAVED_PAGE,
                           c->piece, some * FF_SAVED_PAGE, error)) {
            return false;
        }
        for (uint64_t i = 0; i < some; i++) {
            if (!ff_mapped_writer_sink.data(c->w, c->block, first + i, c->piece + i * FF_SAVED_PAGE,
                                            error)) {
                return false;
            }
        }
        first += some;
        n -= some;
    }
    return true;
}

static bool put_pages(FfSaved *s, FfMappedWriter *w, GError **error)
{
    g_autofree uint8_t *piece = g_malloc(PIECE);
    Copy c = {.s = s, .w = w, .piece = piece};

    if (!ff_records_walk(s, &ff_mapped_writer_sink, w, error) || !ff_tail_check(s, error)) {
        return false;
    }
    for (; c.block < s->blocks->len && s->form == FF_SAVED_MAPPED; c.block++) {
        if (!ff_mapped_runs(s, ff_saved_block(s, c.block), copy_run, &c, error)) {
            return false;
        }
    }
    return true;
}

bool ff_write_mapped(FfSaved *s, FfOutput *o, uint64_t base, GError **error)
{
    g_autoptr(FfMappedWriter) w = ff_mapped_writer_new(s, o, base, error);

    return w && put_pages(s, w, error) && ff_mapped_writer_end(w, error);
}
