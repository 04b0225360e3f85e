/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Swap for a test: what the machine has, or a zram device of its own, which a process takes away
 * again however the test ends.
 */
#ifndef FF_TESTS_UFFD_SWAP_H
#define FF_TESTS_UFFD_SWAP_H

#include <stdint.h>

typedef struct Swap Swap;

/* NULL: there is none, and *WHY (static) says why none can be made. */
Swap *swap_try(const char **why);
void swap_free(Swap *s);
/* Asks for [AT, AT + LEN) of this process, all of which is there, to be swapped out. How many pages
 * are. */
unsigned swap_out(char *at, uint64_t len);

#endif
