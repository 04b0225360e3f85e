/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes a saved guest as mapped-ram. Where a block's header, bitmap and pages are depends on names
 * and sizes alone, so pages can be written to their places in any order, also by somebody else.
 *
 * An object belongs to one thread.
 */
#ifndef FF_CONTENT_IMAGE_MAPPED_WRITER_H
#define FF_CONTENT_IMAGE_MAPPED_WRITER_H

#include "content/image/output.h"
#include "content/image/records.h"

typedef struct FfMappedWriter FfMappedWriter;

/* For the blocks of S, beginning at byte BASE of O; in front of it is a hole. S and O are
 * borrowed. ERROR (G_IO_ERROR): no memory for the bitmaps. */
FfMappedWriter *ff_mapped_writer_new(const FfSaved *s, FfOutput *o, uint64_t base, GError **error);
void ff_mapped_writer_free(FfMappedWriter *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfMappedWriter, ff_mapped_writer_free)

/* Takes pages; its opaque is the FfMappedWriter. */
extern const FfPageSink ff_mapped_writer_sink;

/* The byte of the file where page 0 of BLOCK is; the others follow. */
uint64_t ff_mapped_writer_place(const FfMappedWriter *w, guint block);
/* N pages of BLOCK from FIRST on have been written to their places by somebody else. */
void ff_mapped_writer_mark(FfMappedWriter *w, guint block, uint64_t first, uint64_t n);

/* After ff_records_walk() of S and all pages: everything but the pages, and S's device state. */
bool ff_mapped_writer_end(FfMappedWriter *w, GError **error);

#endif
