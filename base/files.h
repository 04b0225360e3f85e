/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How many files this process may have open.
 */
#ifndef FF_BASE_FILES_H
#define FF_BASE_FILES_H

#include <stdint.h>

/* As many as its hard limit says: how many. 0: that is not known. Any thread. */
uint64_t ff_files_raise(void);

#endif
