/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * zstd's seekable format, version 0.1: frames that can each be unpacked alone, and at the end their
 * table in a frame that plain zstd skips. So "zstd -d" gives the whole, and a page costs one frame.
 *
 * An object belongs to one thread.
 */
#ifndef FF_CONTENT_IMAGE_SEEKABLE_H
#define FF_CONTENT_IMAGE_SEEKABLE_H

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
/* Reads the table of a file of SIZE bytes, none of whose frames is larger than FRAME_MAX. ERROR
 * (G_IO_ERROR): it has none, or not a right one. PATH is for errors; OPAQUE must outlive the
 * object. */
FfSeekable *ff_seekable_new(const char *path, uint64_t size, uint32_t frame_max,
                            FfSeekableRead read, void *opaque, GError **error);
/* Of the same file and table, for another thread, which may also make it. */
FfSeekable *ff_seekable_dup(const FfSeekable *s, GError **error);
void ff_seekable_free(FfSeekable *s);
/* No frame stays unpacked: the next read is of the file. */
void ff_seekable_forget(FfSeekable *s);
/* Bytes, unpacked. */
uint64_t ff_seekable_size(const FfSeekable *s);
/* Bytes of the largest frame, unpacked or as it is in the file. */
uint32_t ff_seekable_largest(const FfSeekable *s);
/* Any thread. The frame of the byte AT, before the end: its number, what it unpacks to, where it
 * is in the file. */
typedef struct {
    guint number;
    uint64_t begin, end;
    uint64_t packed_begin, packed_end;
} FfSeekableFrame;
FfSeekableFrame ff_seekable_frame(const FfSeekable *s, uint64_t at);
/* Reads [AT, AT + N) of what it unpacks to. The frame that was read last stays unpacked: any number
 * of threads may read that one, while nobody reads another. Checksums of frames and of the table
 * are looked at, where there are some. */
bool ff_seekable_read(FfSeekable *s, uint64_t at, void *to, size_t n, GError **error);

#endif
