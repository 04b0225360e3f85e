/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a guest whose memory somebody else holds: QEMU writes a stream with x-ignore-shared
 * (the "state"), which has the devices and QEMU's private memory; the shared blocks are handed in
 * here. What comes out is what stock QEMU would have written without x-ignore-shared, in either
 * form.
 *
 * An object belongs to one thread.
 */
#ifndef FF_CONTENT_IMAGE_LIVE_FILE_H
#define FF_CONTENT_IMAGE_LIVE_FILE_H

#include "content/image/output.h"
#include "content/image/saved.h"

typedef struct FfLiveFile FfLiveFile;

/* Reads all of STATE (taken), and writes the private memory. BASE: where the file begins in O
 * (borrowed), bytes; a stream begins where O is. ERROR (G_IO_ERROR, one line): STATE is cut or
 * damaged, or was written without x-ignore-shared; O cannot be written. */
FfLiveFile *ff_live_file_new(FfInput *state, FfSavedForm form, FfOutput *o, uint64_t base,
                             GError **error);
void ff_live_file_free(FfLiveFile *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfLiveFile, ff_live_file_free)

/* The number of the block of the backend NAME (ff_saved_find()) of SIZE bytes, which is handed in
 * from now on. -1 and ERROR: STATE has no such block, or has its memory. */
int ff_live_file_block(FfLiveFile *f, const char *name, uint64_t size, GError **error);

/* A page of such a block; each once at least, zeros too (BYTES NULL) in a stream. */
bool ff_live_file_put(FfLiveFile *f, unsigned block, uint64_t page, const uint8_t *bytes,
                      GError **error);

/* ---- FF_SAVED_MAPPED alone: pages are written by the caller, at their places ----------------- */

/* The byte of O's file where page 0 of BLOCK is. What is never written there reads as zeros. */
uint64_t ff_live_file_place(const FfLiveFile *f, unsigned block);
/* N pages from FIRST on are written, or will be by ff_live_file_end(). */
void ff_live_file_mark(FfLiveFile *f, unsigned block, uint64_t first, uint64_t n);

/* The rest of the file. ERROR also if a shared block was not handed in. O is not committed. */
bool ff_live_file_end(FfLiveFile *f, GError **error);

#endif
