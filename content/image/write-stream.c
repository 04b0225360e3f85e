/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes an ordinary stream from mapped-ram; see write.h. Each page once, in order.
 *
 * System calls: none.
 */
#include "content/image/write.h"

#include <gio/gio.h>

#include "content/image/completeness.h"
#include "content/image/mapped.h"
#include "content/image/stream-writer.h"

#define PIECE (256u << 10)

typedef struct {
    FfSaved *s;
    FfStreamWriter w;
    guint block;
    uint64_t next; /* page */
    uint8_t *piece;
} Copy;

static bool put_zeros(Copy *c, uint64_t end, GError **error)
{
    for (; c->next < end; c->next++) {
        if (!ff_stream_writer_put(&c->w, c->block, c->next, NULL, error)) {
            return false;
        }
    }
    return true;
}

/* FfMappedRun */
static bool put_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    Copy *c = opaque;
    uint64_t pages = ff_saved_block(c->s, c->block)->pages;

    if (!put_zeros(c, first, error)) {
        return false;
    }
    while (n > 0) {
        uint64_t some = MIN(n, PIECE / FF_SAVED_PAGE);

        if (!ff_input_read(c->s->in, pages + c->next * FF_SAVED_PAGE, c->piece,
                           some * FF_SAVED_PAGE, error)) {
            return false;
        }
        for (uint64_t i = 0; i < some; i++, c->next++) {
            if (!ff_stream_writer_sink.data(&c->w, c->block, c->next, c->piece + i * FF_SAVED_PAGE,
                                            error)) {
                return false;
            }
        }
        n -= some;
    }
    return true;
}

static bool put_block(Copy *c, guint block, GError **error)
{
    const FfSavedBlock *b = ff_saved_block(c->s, block);

    c->block = block;
    c->next = 0;
    return ff_mapped_runs(c->s, b, put_run, c, error) &&
           put_zeros(c, b->size / FF_SAVED_PAGE, error);
}

static bool put_all(FfSaved *s, FfOutput *o, GError **error)
{
    g_autofree uint8_t *piece = g_malloc(PIECE);
    Copy c = {.s = s, .piece = piece};

    if (!ff_stream_writer_begin(&c.w, s, o, error)) {
        return false;
    }
    for (guint i = 0; i < s->blocks->len; i++) {
        if (!put_block(&c, i, error)) {
            return false;
        }
    }
    return ff_stream_writer_end(&c.w, error);
}

bool ff_write_devices(FfSaved *s, const uint64_t *addresses, const bool *left_out, FfOutput *o,
                      GError **error)
{
    g_autofree uint8_t *piece = g_malloc(PIECE);
    Copy c = {.s = s, .piece = piece};

    if (!ff_stream_writer_begin_devices(&c.w, s, addresses, o, error)) {
        return false;
    }
    for (guint i = 0; i < s->blocks->len; i++) {
        if (!left_out[i] && !put_block(&c, i, error)) {
            return false;
        }
    }
    return ff_stream_writer_end(&c.w, error);
}

bool ff_write_stream(FfSaved *s, FfOutput *o, uint64_t base, GError **error)
{
    /* mapped-ram has no pages among its records. */
    static const FfPageSink nobody = {0};

    if (!ff_records_walk(s, &nobody, NULL, error) || !ff_tail_check(s, error)) {
        return false;
    }
    if (s->early) {
        g_set_error(
            error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
            "%s: a device section (virtio-mem?) stands in front of the end of the memory: where "
            "the pages of an ordinary stream go cannot be known",
            ff_input_path(s->in));
        return false;
    }
    return ff_output_seek(o, base, error) && put_all(s, o, error);
}
