/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes an ordinary stream from mapped-ram; see write.h. Each page once, in order, zero pages as
 * well: QEMU leaves what the stream does not name as it is.
 *
 * System calls: none.
 */
#include "snapshot/write.h"

#include <gio/gio.h>
#include <string.h>

#include "snapshot/encode.h"
#include "snapshot/mapped.h"
#include "snapshot/records.h"
#include "snapshot/tail.h"

#define PIECE (256u << 10)

typedef struct {
    FfSaved *s;
    FfOutput *o;
    const FfSavedBlock *block;
    bool named;    /* a record of this block was written */
    uint64_t next; /* page */
    uint8_t *piece;
} Writer;

static bool put_bytes(Writer *w, GByteArray *b, GError **error)
{
    bool ok = ff_output_append(w->o, b->data, b->len, error);

    g_byte_array_set_size(b, 0);
    return ok;
}

/* BYTES: NULL, a zero page. */
static bool put_page(Writer *w, uint64_t page, const uint8_t *bytes, GError **error)
{
    uint64_t word = GUINT64_TO_BE(page * FF_SAVED_PAGE | (bytes ? FF_RECORD_PAGE : FF_RECORD_ZERO) |
                                  (w->named ? FF_RECORD_CONTINUE : 0));
    uint8_t length = strlen(w->block->name);

    if (!ff_output_append(w->o, &word, sizeof(word), error)) {
        return false;
    }
    if (!w->named && (!ff_output_append(w->o, &length, 1, error) ||
                      !ff_output_append(w->o, w->block->name, length, error))) {
        return false;
    }
    w->named = true;
    return ff_output_append(w->o, bytes ? bytes : (const uint8_t *)"", bytes ? FF_SAVED_PAGE : 1,
                            error);
}

static bool put_zeros(Writer *w, uint64_t end, GError **error)
{
    for (; w->next < end; w->next++) {
        if (!put_page(w, w->next, NULL, error)) {
            return false;
        }
    }
    return true;
}

/* FfMappedRun */
static bool put_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    static const uint8_t zeros[FF_SAVED_PAGE];
    Writer *w = opaque;

    if (!put_zeros(w, first, error)) {
        return false;
    }
    while (n > 0) {
        uint64_t some = MIN(n, PIECE / FF_SAVED_PAGE);

        if (!ff_input_read(w->s->in, w->block->pages + w->next * FF_SAVED_PAGE, w->piece,
                           some * FF_SAVED_PAGE, error)) {
            return false;
        }
        for (uint64_t i = 0; i < some; i++, w->next++) {
            const uint8_t *bytes = w->piece + i * FF_SAVED_PAGE;

            if (!put_page(w, w->next, memcmp(bytes, zeros, sizeof(zeros)) ? bytes : NULL, error)) {
                return false;
            }
        }
        n -= some;
    }
    return true;
}

static bool put_block(Writer *w, const FfSavedBlock *b, GError **error)
{
    w->block = b;
    w->named = false;
    w->next = 0;
    return ff_mapped_runs(w->s, b, put_run, w, error) &&
           put_zeros(w, b->size / FF_SAVED_PAGE, error);
}

static bool put_all(Writer *w, GError **error)
{
    FfSaved *s = w->s;
    g_autoptr(GByteArray) b = g_byte_array_new();

    ff_encode_head(b, s, NULL);
    for (guint i = 0; i < s->blocks->len; i++) {
        ff_encode_block(b, ff_saved_block(s, i));
    }
    ff_encode_eos(b, s);
    ff_encode_number(b, FF_SECTION_PART, 1);
    ff_encode_number(b, s->section, 4);
    if (!put_bytes(w, b, error)) {
        return false;
    }
    for (guint i = 0; i < s->blocks->len; i++) {
        if (!put_block(w, ff_saved_block(s, i), error)) {
            return false;
        }
    }
    ff_encode_eos(b, s);
    ff_encode_end(b, s);
    return put_bytes(w, b, error) && ff_write_copy(s, w->o, s->tail, s->end, error) &&
           ff_output_flush(w->o, error);
}

bool ff_write_stream(FfSaved *s, FfOutput *o, uint64_t base, GError **error)
{
    /* mapped-ram has no pages among its records. */
    static const FfPageSink nobody = {0};
    g_autofree uint8_t *piece = g_malloc(PIECE);
    Writer w = {.s = s, .o = o, .piece = piece};

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
    return ff_output_seek(o, base, error) && put_all(&w, error);
}

bool ff_write_copy(FfSaved *s, FfOutput *o, uint64_t at, uint64_t end, GError **error)
{
    g_autofree uint8_t *piece = g_malloc(PIECE);

    while (at < end) {
        size_t n = MIN(end - at, PIECE);

        if (!ff_input_read(s->in, at, piece, n, error) || !ff_output_append(o, piece, n, error)) {
            return false;
        }
        at += n;
    }
    return true;
}
