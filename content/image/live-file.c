/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file from QEMU's state and memory that is handed in; see live-file.h. A block of which the
 * state has no page at all is a shared one: QEMU writes each page of a private block, also a zero
 * one.
 *
 * System calls: none.
 */
#include "content/image/live-file.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <string.h>

#include "content/image/completeness.h"
#include "content/image/mapped-writer.h"
#include "content/image/stream-writer.h"

typedef struct {
    uint64_t records; /* of pages, in the state */
    bool handed_in;
} Block;

struct FfLiveFile {
    FfSaved *s;
    FfSavedForm form;
    FfMappedWriter *mapped;
    FfStreamWriter stream;
    Block *blocks;
};

/* Of block NAME (NULL: of none) PROBLEM is said. */
static bool fail_block(const FfLiveFile *f, GError **error, const char *problem, const char *name)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: %s%s%s%s", ff_input_path(f->s->in),
                name ? "block '" : "", name ? name : "", name ? "' " : "", problem);
    return false;
}

/* ---- the state ------------------------------------------------------------------------------- */

static const FfPageSink *sink_of(FfLiveFile *f, void **opaque)
{
    *opaque = f->mapped ? (void *)f->mapped : &f->stream;
    return f->mapped ? &ff_mapped_writer_sink : &ff_stream_writer_sink;
}

static bool private_data(void *opaque, guint block, uint64_t page, const uint8_t *bytes,
                         GError **error)
{
    FfLiveFile *f = opaque;
    void *writer;
    const FfPageSink *sink = sink_of(f, &writer);

    f->blocks[block].records++;
    return sink->data(writer, block, page, bytes, error);
}

static bool private_zero(void *opaque, guint block, uint64_t page, GError **error)
{
    FfLiveFile *f = opaque;
    void *writer;
    const FfPageSink *sink = sink_of(f, &writer);

    f->blocks[block].records++;
    return sink->zero(writer, block, page, error);
}

/* A stream has its first footer in front of its first page: it is known after the walk too late. */
static bool begins_with_footer(const FfSaved *s)
{
    g_auto(FfCursor) c = {0};

    ff_cursor_init(&c, s->in, s->records);
    return ff_cursor_u64(&c) == FF_RECORD_EOS && ff_cursor_u8(&c) == FF_SECTION_FOOTER;
}

static bool begin_file(FfLiveFile *f, FfOutput *o, uint64_t base, GError **error)
{
    if (f->form == FF_SAVED_MAPPED) {
        f->mapped = ff_mapped_writer_new(f->s, o, base, error);
        return f->mapped != NULL;
    }
    return ff_stream_writer_begin(&f->stream, f->s, o, error);
}

FfLiveFile *ff_live_file_new(FfInput *state, FfSavedForm form, FfOutput *o, uint64_t base,
                             GError **error)
{
    static const FfPageSink sink = {private_data, private_zero};
    g_autoptr(FfLiveFile) f = g_new0(FfLiveFile, 1);
    GError *opened = NULL;

    f->form = form;
    f->s = ff_saved_open(state, 0, &opened);
    if (opened) {
        g_propagate_error(error, opened);
        return NULL;
    }
    f->blocks = g_new0(Block, f->s->blocks->len);
    if (f->s->form != FF_SAVED_STREAM || !ff_saved_has_capability(f->s, "x-ignore-shared")) {
        fail_block(f, error, "no stream that was written with x-ignore-shared", NULL);
        return NULL;
    }
    bool has_footers = f->s->has_footers = begins_with_footer(f->s);
    if (!begin_file(f, o, base, error) || !ff_records_walk(f->s, &sink, f, error) ||
        !ff_tail_check(f->s, error)) {
        return NULL;
    }
    if (f->s->has_footers != has_footers) {
        fail_block(f, error, "the end of its first section is not like the others", NULL);
        return NULL;
    }
    return g_steal_pointer(&f);
}

void ff_live_file_free(FfLiveFile *f)
{
    if (!f) {
        return;
    }
    ff_mapped_writer_free(f->mapped);
    ff_saved_free(f->s);
    g_free(f->blocks);
    g_free(f);
}

/* ---- shared memory --------------------------------------------------------------------------- */

int ff_live_file_block(FfLiveFile *f, const char *name, uint64_t size, GError **error)
{
    int i = ff_saved_find(f->s, name);
    const char *problem = i == -1                                 ? "is not in it"
                          : i < 0                                 ? "is in it more than once"
                          : ff_saved_block(f->s, i)->size != size ? "has another size"
                          : f->blocks[i].records                  ? "is in it, with its memory"
                                                                  : NULL;

    if (problem) {
        fail_block(f, error, problem, name);
        return -1;
    }
    f->blocks[i].handed_in = true;
    return i;
}

bool ff_live_file_put(FfLiveFile *f, unsigned block, uint64_t page, const uint8_t *bytes,
                      GError **error)
{
    void *writer;
    const FfPageSink *sink = sink_of(f, &writer);

    return bytes ? sink->data(writer, block, page, bytes, error)
                 : sink->zero(writer, block, page, error);
}

uint64_t ff_live_file_place(const FfLiveFile *f, unsigned block)
{
    return ff_mapped_writer_place(f->mapped, block);
}

void ff_live_file_mark(FfLiveFile *f, unsigned block, uint64_t first, uint64_t n)
{
    ff_mapped_writer_mark(f->mapped, block, first, n);
}

/* ---- the end --------------------------------------------------------------------------------- */

bool ff_live_file_end(FfLiveFile *f, GError **error)
{
    for (guint i = 0; i < f->s->blocks->len; i++) {
        if (!f->blocks[i].handed_in && !f->blocks[i].records) {
            return fail_block(f, error, "has no memory, in it or elsewhere",
                              ff_saved_block(f->s, i)->name);
        }
    }
    return f->mapped ? ff_mapped_writer_end(f->mapped, error)
                     : ff_stream_writer_end(&f->stream, error);
}
