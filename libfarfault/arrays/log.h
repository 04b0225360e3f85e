/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file of an array's log (redo.h): whose it may be, and that nobody else has it open. */
#ifndef FARFAULT_ARRAY_LOG_H
#define FARFAULT_ARRAY_LOG_H

#include "libfarfault/arrays/disk.h"
#include "libfarfault/arrays/redo.h"

/* Locks the log NAME of DISK, which is made if it is not there, for those that may read DISK's
 * file. Its name, and that of the file beside it, are on the disk. 0 or -errno, said. */
int ff_array_log_open(const char *name, const FfArrayDisk *disk, FfRedo **log);

#endif
