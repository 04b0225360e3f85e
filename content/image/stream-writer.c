/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes an ordinary stream; see stream-writer.h.
 *
 * System calls: none.
 */
#include "content/image/stream-writer.h"

#include <string.h>

#include "content/image/completeness.h"
#include "content/image/encode.h"

/* ADDRESSES NULL: a stream without x-ignore-shared. */
static bool begin_stream(FfStreamWriter *w, const FfSaved *s, const uint64_t *addresses,
                         FfOutput *o, GError **error)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    *w = (FfStreamWriter){.s = s, .o = o, .block = -1};
    ff_encode_head(b, s, addresses ? "x-ignore-shared" : NULL);
    for (guint i = 0; i < s->blocks->len; i++) {
        ff_encode_block(b, ff_saved_block(s, i));
        if (addresses) {
            ff_encode_number(b, addresses[i], 8);
        }
    }
    ff_encode_eos(b, s);
    if (addresses) {
        ff_encode_number(b, FF_SECTION_COMMAND, 1);
        ff_encode_number(b, FF_COMMAND_OPEN_RETURN_PATH, 2);
        ff_encode_number(b, 0, 2);
    }
    ff_encode_number(b, FF_SECTION_PART, 1);
    ff_encode_number(b, s->section, 4);
    return ff_output_append(o, b->data, b->len, error);
}

bool ff_stream_writer_begin(FfStreamWriter *w, const FfSaved *s, FfOutput *o, GError **error)
{
    return begin_stream(w, s, NULL, o, error);
}

bool ff_stream_writer_begin_devices(FfStreamWriter *w, const FfSaved *s, const uint64_t *addresses,
                                    FfOutput *o, GError **error)
{
    return begin_stream(w, s, addresses, o, error);
}

bool ff_stream_writer_put(FfStreamWriter *w, guint block, uint64_t page, const uint8_t *bytes,
                          GError **error)
{
    bool named = w->block == (int)block;
    uint64_t word = GUINT64_TO_BE(page * FF_SAVED_PAGE | (bytes ? FF_RECORD_PAGE : FF_RECORD_ZERO) |
                                  (named ? FF_RECORD_CONTINUE : 0));
    const char *name = ff_saved_block(w->s, block)->name;
    uint8_t length = strlen(name);

    if (!ff_output_append(w->o, &word, sizeof(word), error)) {
        return false;
    }
    if (!named && (!ff_output_append(w->o, &length, 1, error) ||
                   !ff_output_append(w->o, name, length, error))) {
        return false;
    }
    w->block = block;
    return ff_output_append(w->o, bytes ? bytes : (const uint8_t *)"", bytes ? FF_SAVED_PAGE : 1,
                            error);
}

static bool put_zero(void *opaque, guint block, uint64_t page, GError **error)
{
    return ff_stream_writer_put(opaque, block, page, NULL, error);
}

static bool put_data(void *opaque, guint block, uint64_t page, const uint8_t *bytes, GError **error)
{
    static const uint8_t zeros[FF_SAVED_PAGE];
    bool zero = memcmp(bytes, zeros, sizeof(zeros)) == 0;

    return ff_stream_writer_put(opaque, block, page, zero ? NULL : bytes, error);
}

const FfPageSink ff_stream_writer_sink = {put_data, put_zero};

bool ff_stream_writer_end(FfStreamWriter *w, GError **error)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    ff_encode_eos(b, w->s);
    ff_encode_end(b, w->s);
    return ff_output_append(w->o, b->data, b->len, error) && ff_tail_copy(w->s, w->o, error) &&
           ff_output_flush(w->o, error);
}
