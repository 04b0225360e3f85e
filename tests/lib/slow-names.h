/* SPDX-License-Identifier: GPL-2.0-or-later */
/* getaddrinfo() as slow as the test wants it to be: slow-names.c is linked into the test or
 * preloaded. Threads: those that ask. */
#ifndef FF_TESTS_SLOW_NAMES_H
#define FF_TESTS_SLOW_NAMES_H

/* Asking for this name waits until who has the FIFO that SLOW_NAMES_GATE names open for writing
 * closes it: opening it so waits, in turn, until somebody asks. The answer is 127.0.0.1, or that
 * there is no such name if a byte was written before. */
#define SLOW_NAME "slow.example.org"
#define SLOW_NAMES_GATE "FF_SLOW_NAMES_GATE"

#endif
