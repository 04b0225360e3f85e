/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes mapped-ram; see write.h.
 *
 * Where a block's header, bitmap and pages are depends on names and sizes alone, so from an
 * ordinary stream pages are written to their places as they come; one that comes again overwrites
 * what was there. Memory: the bitmaps (a 32768th of the guest's), and one buffer for pages in a
 * row.
 *
 * System calls: none.
 */
#include "snapshot/write.h"

#include <gio/gio.h>
#include <string.h>

#include "snapshot/encode.h"
#include "snapshot/mapped.h"
#include "snapshot/pageset.h"
#include "snapshot/records.h"
#include "snapshot/tail.h"

/* QEMU's, so that direct I/O works on any device. */
#define ALIGNMENT (1ull << 20)
#define HEADER 28
#define GATHER (256u << 10)

typedef struct {
    uint64_t header, bitmap, pages; /* places in the file */
    uint64_t *present;
} Place;

typedef struct {
    FfSaved *s;
    FfOutput *o;
    uint64_t base;
    Place *places;
    uint64_t end; /* of the last block */
    GByteArray *head;
    /* Pages in a row that wait to be written. */
    guint block;
    uint64_t first, n;
    uint8_t *gathered;
} Writer;

/* ---- places -----------------------------------------------------------------------------------
 */

static bool lay_out(Writer *w, GError **error)
{
    uint64_t at = w->base;

    w->head = g_byte_array_new();
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

/* ---- pages ------------------------------------------------------------------------------------
 */

static bool flush(Writer *w, GError **error)
{
    uint64_t n = w->n;

    w->n = 0;
    return !n || ff_output_write(w->o, w->places[w->block].pages + w->first * FF_SAVED_PAGE,
                                 w->gathered, n * FF_SAVED_PAGE, error);
}

static bool put_zero(void *opaque, guint block, uint64_t page, GError **error)
{
    Writer *w = opaque;
    Place *p = &w->places[block];

    if (!ff_pageset_has(p->present, page)) {
        return true;
    }
    ff_pageset_remove(p->present, page);
    return flush(w, error) &&
           ff_output_zero(w->o, p->pages + page * FF_SAVED_PAGE, FF_SAVED_PAGE, error);
}

static bool put_data(void *opaque, guint block, uint64_t page, const uint8_t *bytes, GError **error)
{
    static const uint8_t zeros[FF_SAVED_PAGE];
    Writer *w = opaque;

    if (!memcmp(bytes, zeros, sizeof(zeros))) {
        return put_zero(opaque, block, page, error);
    }
    if ((w->n && (w->block != block || w->first + w->n != page)) ||
        w->n * FF_SAVED_PAGE == GATHER) {
        if (!flush(w, error)) {
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

typedef struct {
    Writer *w;
    guint block;
    uint8_t *piece; /* [GATHER] */
} Copy;

/* FfMappedRun */
static bool copy_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    Copy *c = opaque;
    FfSaved *s = c->w->s;

    while (n > 0) {
        uint64_t some = MIN(n, GATHER / FF_SAVED_PAGE);

        if (!ff_input_read(s->in, ff_saved_block(s, c->block)->pages + first * FF_SAVED_PAGE,
                           c->piece, some * FF_SAVED_PAGE, error)) {
            return false;
        }
        for (uint64_t i = 0; i < some; i++) {
            if (!put_data(c->w, c->block, first + i, c->piece + i * FF_SAVED_PAGE, error)) {
                return false;
            }
        }
        first += some;
        n -= some;
    }
    return true;
}

static bool put_pages(Writer *w, GError **error)
{
    static const FfPageSink sink = {put_data, put_zero};
    g_autofree uint8_t *piece = g_malloc(GATHER);
    Copy c = {.w = w, .piece = piece};

    if (!ff_records_walk(w->s, &sink, w, error) || !ff_tail_check(w->s, error)) {
        return false;
    }
    for (; c.block < w->s->blocks->len && w->s->form == FF_SAVED_MAPPED; c.block++) {
        if (!ff_mapped_runs(w->s, ff_saved_block(w->s, c.block), copy_run, &c, error)) {
            return false;
        }
    }
    return flush(w, error);
}

/* ---- the rest ---------------------------------------------------------------------------------
 */

static bool put_block(Writer *w, guint i, GError **error)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    const FfSavedBlock *block = ff_saved_block(w->s, i);
    const Place *p = &w->places[i];

    ff_encode_block(b, block);
    ff_encode_mapped(b, p->bitmap, p->pages);
    return ff_output_write(w->o, p->header, b->data, b->len, error) &&
           ff_output_write(w->o, p->bitmap, p->present, ff_mapped_bitmap_size(block->size), error);
}

static bool put_rest(Writer *w, GError **error)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    for (guint i = 0; i < w->s->blocks->len; i++) {
        if (!put_block(w, i, error)) {
            return false;
        }
    }
    ff_encode_eos(b, w->s);
    ff_encode_end(b, w->s);
    return ff_output_write(w->o, w->base, w->head->data, w->head->len, error) &&
           ff_output_seek(w->o, w->end, error) && ff_output_append(w->o, b->data, b->len, error) &&
           ff_write_copy(w->s, w->o, w->s->tail, w->s->end, error) && ff_output_flush(w->o, error);
}

bool ff_write_mapped(FfSaved *s, FfOutput *o, uint64_t base, GError **error)
{
    g_autofree uint8_t *gathered = g_malloc(GATHER);
    g_autofree Place *places = g_new0(Place, s->blocks->len);
    Writer w = {.s = s, .o = o, .base = base, .places = places, .gathered = gathered};
    bool ok = lay_out(&w, error) && put_pages(&w, error) && put_rest(&w, error);

    for (guint i = 0; i < s->blocks->len; i++) {
        free(places[i].present);
    }
    g_byte_array_unref(w.head);
    return ok;
}
