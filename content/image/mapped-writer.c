/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes mapped-ram; see mapped-writer.h. A page that comes again overwrites what was there.
 * Memory: the bitmaps (a 32768th of the guest's), and one buffer for pages in a row.
 *
 * System calls: none.
 */
#include "content/image/mapped-writer.h"

#include <gio/gio.h>
#include <string.h>

#include "content/image/completeness.h"
#include "content/image/encode.h"
#include "content/image/mapped.h"
#include "content/image/pageset.h"

/* QEMU's, so that direct I/O works on any device. */
#define ALIGNMENT (1ull << 20)
#define HEADER 28
#define GATHER (256u << 10)

typedef struct {
    uint64_t header, bitmap, pages; /* places in the file */
    uint64_t *present;
} Place;

struct FfMappedWriter {
    const FfSaved *s;
    FfOutput *o;
    uint64_t base;
    Place *places;
    uint64_t end; /* of the last block */
    GByteArray *head;
    /* Pages in a row that wait to be written. */
    guint block;
    uint64_t first, n;
    uint8_t *gathered;
};

/* ---- places ---------------------------------------------------------------------------------- */

static bool lay_out(FfMappedWriter *w, GError **error)
{
    uint64_t at = w->base;

    ff_encode_head(w->head, w->s, "mapped-ram");
    at += w->head->len;
    for (guint i = 0; i < w->s->blocks->len; i++) {
        const FfSavedBlock *b = ff_saved_block(w->s, i);
        Place *p = &w->places[i];

        p->header = at;
        p->bitmap = at + 1 + strlen(b->name) + 8 + HEADER;
        p->pages =
            (p->bitmap + ff_mapped_bitmap_size(b->size) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        p->present = ff_pageset_new(b->size / FF_SAVED_PAGE);
        at = p->pages + b->size;
        if (!p->present) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                        "%s: no memory for a bitmap of block '%s'", ff_input_path(w->s->in),
                        b->name);
            return false;
        }
    }
    w->end = at;
    return true;
}

FfMappedWriter *ff_mapped_writer_new(const FfSaved *s, FfOutput *o, uint64_t base, GError **error)
{
    g_autoptr(FfMappedWriter) w = g_new0(FfMappedWriter, 1);

    w->s = s;
    w->o = o;
    w->base = base;
    w->places = g_new0(Place, s->blocks->len);
    w->head = g_byte_array_new();
    w->gathered = g_malloc(GATHER);
    return lay_out(w, error) ? g_steal_pointer(&w) : NULL;
}

void ff_mapped_writer_free(FfMappedWriter *w)
{
    if (!w) {
        return;
    }
    for (guint i = 0; i < w->s->blocks->len; i++) {
        free(w->places[i].present);
    }
    g_byte_array_unref(w->head);
    g_free(w->places);
    g_free(w->gathered);
    g_free(w);
}

uint64_t ff_mapped_writer_place(const FfMappedWriter *w, guint block)
{
    return w->places[block].pages;
}

void ff_mapped_writer_mark(FfMappedWriter *w, guint block, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++) {
        ff_pageset_add(w->places[block].present, i);
    }
}

/* ---- pages ----------------------------------------------------------------------------------- */

static bool flush_run(FfMappedWriter *w, GError **error)
{
    uint64_t n = w->n;

    w->n = 0;
    return !n || ff_output_write(w->o, w->places[w->block].pages + w->first * FF_SAVED_PAGE,
                                 w->gathered, n * FF_SAVED_PAGE, error);
}

static bool put_zero(void *opaque, guint block, uint64_t page, GError **error)
{
    FfMappedWriter *w = opaque;
    Place *p = &w->places[block];

    if (!ff_pageset_has(p->present, page)) {
        return true;
    }
    ff_pageset_remove(p->present, page);
    return flush_run(w, error) &&
           ff_output_zero(w->o, p->pages + page * FF_SAVED_PAGE, FF_SAVED_PAGE, error);
}

static bool put_data(void *opaque, guint block, uint64_t page, const uint8_t *bytes, GError **error)
{
    static const uint8_t zeros[FF_SAVED_PAGE];
    FfMappedWriter *w = opaque;

    if (!memcmp(bytes, zeros, sizeof(zeros))) {
        return put_zero(opaque, block, page, error);
    }
    if ((w->n && (w->block != block || w->first + w->n != page)) ||
        w->n * FF_SAVED_PAGE == GATHER) {
        if (!flush_run(w, error)) {
            return false;
        }
    }
    if (!w->n) {
        w->block = block;
        w->first = page;
    }
    memcpy(w->gathered + w->n++ * FF_SAVED_PAGE, bytes, FF_SAVED_PAGE);
    ff_pageset_add(w->places[block].present, page);
    return true;
}

const FfPageSink ff_mapped_writer_sink = {put_data, put_zero};

/* ---- the rest -------------------------------------------------------------------------------- */

static bool put_block(FfMappedWriter *w, guint i, GError **error)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    const FfSavedBlock *block = ff_saved_block(w->s, i);
    const Place *p = &w->places[i];

    ff_encode_block(b, block);
    ff_encode_mapped(b, p->bitmap, p->pages);
    return ff_output_write(w->o, p->header, b->data, b->len, error) &&
           ff_output_write(w->o, p->bitmap, p->present, ff_mapped_bitmap_size(block->size), error);
}

bool ff_mapped_writer_end(FfMappedWriter *w, GError **error)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    if (!flush_run(w, error)) {
        return false;
    }
    for (guint i = 0; i < w->s->blocks->len; i++) {
        if (!put_block(w, i, error)) {
            return false;
        }
    }
    ff_encode_eos(b, w->s);
    ff_encode_end(b, w->s);
    return ff_output_write(w->o, w->base, w->head->data, w->head->len, error) &&
           ff_output_seek(w->o, w->end, error) && ff_output_append(w->o, b->data, b->len, error) &&
           ff_tail_copy(w->s, w->o, error) && ff_output_flush(w->o, error);
}
