/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing zstd's seekable format (content/image/seekable.h).
 */
#ifndef FF_CONTENT_IMAGE_SEEKABLE_WRITE_H
#define FF_CONTENT_IMAGE_SEEKABLE_WRITE_H

#include "content/image/output.h"

/* TRUE: no more of it. */
typedef bool FfSeekableStop(void *opaque);

/* Appends all of PLAIN to OUT in frames of FF_SEEKABLE_FRAME, each with a checksum, and their
 * table. Holes of PLAIN are not read. STOP (can be NULL) is asked before each frame: then it is
 * G_IO_ERROR_CANCELLED. One thread. ERROR (G_IO_ERROR). */
bool ff_seekable_write(FfOutput *plain, FfOutput *out, FfSeekableStop *stop, void *opaque,
                       GError **error);

#endif
