/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What saving memory by write protection costs at least: one thread answers each first write, and
 * does no more than to copy the page and to lift its protection; one writes the file, and lifts
 * what it has copied. Nothing of the library is in it, and what is saved is not checked.
 */
#ifndef FF_TESTS_BENCH_SAVES_FLOOR_H
#define FF_TESTS_BENCH_SAVES_FLOOR_H

#include <stddef.h>

/* Protects LEN bytes at MAP; nobody writes to them. From now on writes are answered. */
void floor_begin(char *map, size_t len);
/* Copies all of it to FD, PIECE bytes at once (multiple of 4096). */
void floor_save(int fd, size_t piece);
/* All is as before. */
void floor_end(void);

#endif
