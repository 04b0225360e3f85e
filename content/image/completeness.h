/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a saved guest's file has come to its end.
 *
 * Device sections do not say how long they are. But after the last one QEMU writes EOF and a
 * description of them all in JSON, with its length; a stream that is cut in there QEMU loads
 * without a word. So a file is complete if this description is its end.
 */
#ifndef FF_CONTENT_IMAGE_COMPLETENESS_H
#define FF_CONTENT_IMAGE_COMPLETENESS_H

#include "content/image/output.h"
#include "content/image/saved.h"

/* After ff_records_walk(). Sets FfSaved.end to the end of the description; zeros may follow it (a
 * block device is larger than what was written to it). FALSE and ERROR (G_IO_ERROR): it is not the
 * file's end. */
bool ff_tail_check(FfSaved *s, GError **error);
/* Then: appends device state and description to O, byte for byte. */
bool ff_tail_copy(const FfSaved *s, FfOutput *o, GError **error);

#endif
