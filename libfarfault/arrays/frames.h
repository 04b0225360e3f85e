/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a file of zstd's seekable format unpacks to, for an array: any thread reads, several at
 * once. The frames that were read last are kept unpacked.
 */
#ifndef FARFAULT_ARRAY_FRAMES_H
#define FARFAULT_ARRAY_FRAMES_H

#include <glib.h>
#include <stdint.h>

typedef struct FfFrames FfFrames;

/* What zstd allocates to unpack, besides frames. */
#define FF_FRAMES_CONTEXT (256u << 10)

/* Of FD, a regular file, which is borrowed. PATH is for errors. 0 or -errno, said. */
int ff_frames_new(int fd, const char *path, FfFrames **result);
/* Nobody reads any more. Can be NULL. */
void ff_frames_free(FfFrames *f);
/* Bytes, unpacked: one at least. */
uint64_t ff_frames_len(const FfFrames *f);
/* N bytes at AT, before the end. 0; -EIO: the file is damaged, cut, or cannot be read. */
int ff_frames_read(FfFrames *f, uint64_t at, void *to, size_t n);
/* What is read from here on is of the file as it is now. Any thread. */
void ff_frames_forget(FfFrames *f);
/* Where in the file that is which unpacks to [AT, END). */
void ff_frames_where(const FfFrames *f, uint64_t at, uint64_t end, uint64_t *from, uint64_t *to);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfFrames, ff_frames_free)

#endif
