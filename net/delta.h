/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A piece of a stream as what it shares with a base, page by page, and the rest (COPY and ADD, in
 * the words of RFC 3284). Both sides have the same base; where a page of it begins in the piece may
 * be anywhere. Knows nothing of what the base is.
 *
 * A delta is a row of instructions, each a 32-bit little-endian word: with FF_DELTA_COPY, the
 * number of a page of the base, which is copied whole; without, a length, not zero, of so many
 * bytes that follow.
 *
 * Threads: filled by one; decoding by any number then, encoding by one at a time (it keeps in mind
 * where it was). No locks, no system calls but malloc's.
 */
#ifndef FF_NET_DELTA_H
#define FF_NET_DELTA_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FF_DELTA_PAGE 4096u
/* A base, at most (bytes). */
#define FF_DELTA_BASE_MAX (8u << 20)
#define FF_DELTA_COPY 0x80000000u

typedef struct FfDelta FfDelta;

/* An empty base. */
FfDelta *ff_delta_new(void);
/* What the base held is wiped: it was a guest's. NULL is nothing. */
void ff_delta_free(FfDelta *d);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDelta, ff_delta_free)
/* Appends N bytes, whole pages, to the base. FALSE: no room (FF_DELTA_BASE_MAX) or no memory, and
 * the base is as before. */
bool ff_delta_add(FfDelta *d, const void *data, size_t n);
/* The base and its length in bytes; valid until more is added. */
const uint8_t *ff_delta_data(const FfDelta *d);
size_t ff_delta_size(const FfDelta *d);
/* Makes the base ready for ff_delta_encode(), after the last page. FALSE: no memory. */
bool ff_delta_index(FfDelta *d);
/* IN, of N bytes, as a delta into OUT, which has room for N. Returns its length, less than N; 0: it
 * would not be shorter, and OUT means nothing. */
size_t ff_delta_encode(FfDelta *d, const void *in, size_t n, void *out);
/* Makes of the LEN bytes of a delta the N bytes that it must be of, into OUT. Trusts nothing.
 * Returns 0, or -EBADMSG with *WHY set to a static text; then OUT means nothing. */
int ff_delta_decode(const FfDelta *d, const void *delta, size_t len, void *out, size_t n,
                    const char **why);

#endif
