/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes a saved guest in one of QEMU's two forms. What is written is what stock QEMU writes, and
 * device state is copied byte for byte.
 */
#ifndef FF_CONTENT_IMAGE_WRITE_H
#define FF_CONTENT_IMAGE_WRITE_H

#include "content/image/output.h"
#include "content/image/saved.h"

/* The first two: S has not been walked over yet, and is by this. One thread. ERROR (G_IO_ERROR, one
 * line).
 */

/* mapped-ram that begins at byte BASE of O; in front of it is a hole. */
bool ff_write_mapped(FfSaved *s, FfOutput *o, uint64_t base, GError **error);
/* An ordinary stream, from mapped-ram. */
bool ff_write_stream(FfSaved *s, FfOutput *o, uint64_t base, GError **error);
/* After ff_records_walk() and ff_tail_check(), of mapped-ram: what a QEMU with x-ignore-shared on
 * loads of it, and answers on its return path: all but the pages of the blocks LEFT_OUT. ADDRESSES:
 * of each block, as QEMU has it. From byte 0 of O on. */
bool ff_write_devices(FfSaved *s, const uint64_t *addresses, const bool *left_out, FfOutput *o,
                      GError **error);

#endif
