/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a snapshot, as libfarfault/common/farfault.h describes it. One thread.
 */
#ifndef FARFAULT_FILE_H
#define FARFAULT_FILE_H

#include "content/image/output.h"
#include "libfarfault/common/memory-internal.h"

/* Finds a place for each of SAVED, page after page. Returns the size of the file. */
uint64_t ff_file_place(GArray *saved);
/* Without content: all that follows can be written. */
bool ff_file_begin(FfOutput *o, uint64_t size, GError **error);
/* Everything is written: the header, on the disk, and the file's name. */
bool ff_file_end(FfOutput *o, const GArray *saved, uint64_t size, GError **error);

#endif
