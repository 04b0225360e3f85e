/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Volatile ranges, by numbers of pages. */
#ifndef FF_TESTS_LIBFARFAULT_RANGE_H
#define FF_TESTS_LIBFARFAULT_RANGE_H

#include "tests/libfarfault/held.h"

#define PS 4096u
#define ALL SIZE_MAX

/* Without a callback. */
FfVolatile *plain(size_t n_pages);
int pin(FfVolatile *v, size_t first, size_t n);
int unpin(FfVolatile *v, size_t first, size_t n);
int status(FfVolatile *v, size_t first, size_t n);
void fill(FfVolatile *v, size_t first, size_t n, int byte);
void assert_holds(FfVolatile *v, size_t first, size_t n, int byte);
uint64_t bytes_of(FfVolatile *v);
/* In a child of fork(). */
void run_child(void (*fn)(FfVolatile *), FfVolatile *v);

#endif
