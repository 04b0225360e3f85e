/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a saved guest in another form.
 */
#ifndef FF_CONTENT_IMAGE_CONVERT_H
#define FF_CONTENT_IMAGE_CONVERT_H

#include "content/image/saved.h"

typedef struct {
    FfSavedForm to;
    uint64_t offset; /* of the stream in the new file, bytes */
    bool libvirt;    /* libvirt's header stays in front of it, and OFFSET is where that ends */
    bool sparse;     /* set: that says so, and libvirt restores mapped-ram */
    bool compress;   /* zstd's seekable format; only to FF_SAVED_MAPPED, at offset 0 */
} FfConvertOptions;

/* Writes S, which has not been walked over, to the new file PATH. ERROR (G_IO_ERROR, one line that
 * names a file): there is no file of that name from us. One thread; takes as long as the disk does.
 */
bool ff_convert(FfSaved *s, const char *path, FfConvertOptions *options, GError **error);

#endif
