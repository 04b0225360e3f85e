/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that the test guest takes and gives back when it is told to, so that a balloon finds
 * pages that held something, and what it has given back is used again. One thread, main.
 */
#ifndef FF_TESTS_GUEST_EXTRA_H
#define FF_TESTS_GUEST_EXTRA_H

#include <stdbool.h>
#include <stdint.h>

/* Takes MIB of memory and fills them with what no earlier call has. FALSE: there is not so much. */
bool extra_take(unsigned mib);
/* Checks all of it, if there is any. Returns the number of wrong pages so far. */
uint64_t extra_verify(void);
/* Checks it, and gives it back. */
void extra_give_back(void);
bool extra_taken(void);
/* Makes a word of it wrong, to show that it is found. */
void extra_damage(void);

#endif
