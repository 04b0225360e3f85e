/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes a saved guest as QEMU's ordinary stream: all in a row, so into a pipe as well. Each page
 * must be written once at least, zero pages too: QEMU leaves what the stream does not name as it
 * is. The order does not matter, and a page that is written again counts as it was written last.
 *
 * An object belongs to one thread.
 */
#ifndef FF_CONTENT_IMAGE_STREAM_WRITER_H
#define FF_CONTENT_IMAGE_STREAM_WRITER_H

#include "content/image/output.h"
#include "content/image/records.h"

typedef struct {
    const FfSaved *s; /* borrowed, as O */
    FfOutput *o;
    int block; /* of the last page; -1: none yet */
} FfStreamWriter;

/* Everything in front of the pages of S's blocks, to where O is. */
bool ff_stream_writer_begin(FfStreamWriter *w, const FfSaved *s, FfOutput *o, GError **error);
/* The same of a stream with x-ignore-shared, in which blocks can be left out, and which is answered
 * by the QEMU that loads it. ADDRESSES: of each block, as QEMU has it. */
bool ff_stream_writer_begin_devices(FfStreamWriter *w, const FfSaved *s, const uint64_t *addresses,
                                    FfOutput *o, GError **error);
/* BYTES: FF_SAVED_PAGE of them; NULL: a zero page. */
bool ff_stream_writer_put(FfStreamWriter *w, guint block, uint64_t page, const uint8_t *bytes,
                          GError **error);
/* Takes pages, those that are all zeros as such; its opaque is the FfStreamWriter. */
extern const FfPageSink ff_stream_writer_sink;
/* After ff_records_walk() of S and all pages: the end of the memory, and S's device state. */
bool ff_stream_writer_end(FfStreamWriter *w, GError **error);

#endif
