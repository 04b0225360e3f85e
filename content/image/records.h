/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What follows the table of blocks: the pages of an ordinary stream, one after the other, as often
 * as they were saved, up to where device state begins.
 */
#ifndef FF_CONTENT_IMAGE_RECORDS_H
#define FF_CONTENT_IMAGE_RECORDS_H

#include "content/image/saved.h"

/* Who is told of each record; the last one of a page counts. FALSE and ERROR: enough. */
typedef struct {
    bool (*data)(void *opaque, guint block, uint64_t page, const uint8_t *bytes, GError **error);
    bool (*zero)(void *opaque, guint block, uint64_t page, GError **error);
} FfPageSink;

/* Reads all records, and fills in what saved.h says is known then; FfSaved.end is the file's size.
 * ERROR (G_IO_ERROR, one line): the file is cut or damaged, or it has what we cannot read. */
bool ff_records_walk(FfSaved *s, const FfPageSink *sink, void *opaque, GError **error);

#endif
