/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * zstd's seekable format, version 0.1: frames that can each be unpacked alone, and at the end their
 * table in a frame that plain zstd skips. So "zstd -d" gives the whole, and a page costs one frame.
 *
 * An object belongs to one thread.
 */
#ifndef FF_SNAPSHOT_SEEKABLE_H
#define FF_SNAPSHOT_SEEKABLE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* What we write in a frame: what a page that is waited for costs to unpack. */
#define FF_SEEKABLE_FRAME (128u << 10)

typedef struct FfSeekable FfSeekable;
/* Reads [AT, AT + N) of the compressed file. */
typedef bool (*FfSeekableRead)(void *opaque, uint64_t at, void *to, size_t n, GError **error);

/* A file that begins with MAGIC is zstd's. */
bool ff_seekable_is(const uint8_t magic[4]);
/* Reads the table of a file of SIZE bytes. ERROR (G_IO_ERROR): it has none, or not a right one.
 * PATH is for errors; OPAQUE must outlive the object. */
FfSeekable *ff_seekable_new(const char *path, uint64_t size, FfSeekableRead read, void *opaque,
                            GError **error);
void ff_seekable_free(FfSeekable *s);
/* Bytes, unpacked. */
uint64_t ff_seekable_size(const FfSeekable *s);
/* Reads [AT, AT + N) of what it unpacks to. */
bool ff_seekable_read(FfSeekable *s, uint64_t at, void *to, size_t n, GError **error);

#endif
