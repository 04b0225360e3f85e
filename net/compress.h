/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A run of memory as one zstd frame, and back. Knows nothing of what the memory is.
 *
 * Packing reads the memory once, into a buffer of its own: it may change meanwhile, which zstd does
 * not allow. What does not compress is noticed from a small sample, before the rest is looked at.
 * Unpacking trusts nothing: one frame that says the size that it must have, into exactly that much
 * room; no window is allocated, whatever a frame asks for.
 *
 * Threads: each object is one thread's at a time. No locks, no system calls but malloc's.
 */
#ifndef FF_NET_COMPRESS_H
#define FF_NET_COMPRESS_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

/* Levels of zstd. */
#define FF_ZSTD_LEVEL_MIN 1
#define FF_ZSTD_LEVEL_MAX 19
#define FF_ZSTD_LEVEL_DEFAULT 1

typedef struct FfCompressor FfCompressor;
typedef struct FfDecompressor FfDecompressor;

/* For runs of up to MAX bytes each. NULL: no memory for it. */
FfCompressor *ff_compressor_new(int level, size_t max);
/* Its buffer is wiped: it was guest memory. */
void ff_compressor_free(FfCompressor *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfCompressor, ff_compressor_free)
/* Packs the N bytes at DATA into OUT, which has room for N. Returns the bytes of the result, at
 * most 7/8 of N; 0: it is not worth it, or it failed, and OUT means nothing. */
size_t ff_compressor_run(FfCompressor *p, const void *data, size_t n, void *out);

/* NULL: no memory for it. */
FfDecompressor *ff_decompressor_new(void);
void ff_decompressor_free(FfDecompressor *u);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDecompressor, ff_decompressor_free)
/* Unpacks LEN bytes, which must be one whole frame of N bytes, into OUT. Returns 0, or -EBADMSG
 * with *WHY set to a static text; then OUT means nothing. */
int ff_decompressor_run(FfDecompressor *u, const void *data, size_t len, void *out, size_t n,
                        const char **why);

#endif
