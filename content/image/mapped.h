/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mapped-ram: where things are in the file, and which pages a block has there.
 *
 * Each block has a header of 28 bytes, right after it a bitmap (64-bit words, little-endian on
 * x86), and from the next MiB of the file on its pages, each at its own place. A page whose bit is
 * 0 is zero, whatever stands at its place.
 */
#ifndef FF_CONTENT_IMAGE_MAPPED_H
#define FF_CONTENT_IMAGE_MAPPED_H

#include "content/image/saved.h"

/* Bytes of a block's bitmap. */
static inline uint64_t ff_mapped_bitmap_size(uint64_t block_size)
{
    return (block_size / FF_SAVED_PAGE + 63) / 64 * 8;
}

/* Told of N pages in a row, from FIRST on, that stand in the file. FALSE and ERROR: enough. */
typedef bool (*FfMappedRun)(void *opaque, uint64_t first, uint64_t n, GError **error);
/* All pages of B whose bit is set, in order, as long runs. Any thread. ERROR (G_IO_ERROR): it
 * cannot be read, or has bits for pages that are not there. */
bool ff_mapped_runs(const FfSaved *s, const FfSavedBlock *b, FfMappedRun run, void *opaque,
                    GError **error);

#endif
