/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Is this memory all zero? With vector instructions, and an early end for the usual no. */
#ifndef FF_MIGRATION_SOURCE_ZERO_H
#define FF_MIGRATION_SOURCE_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* P is aligned to 64 bytes, LEN (bytes) a multiple of 256. Any thread. */
bool ff_is_zero(const void *p, size_t len);
/* The same of LEN bytes (a multiple of 4096) of a file; a hole is zero, and stays a hole. FALSE
 * also if it cannot be read. */
bool ff_is_zero_file(int fd, uint64_t offset, uint64_t len);

#endif
