/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Huge pages of 2 MiB for a test, and a process that takes all that are free. They are the
 * machine's: one test at a time has them, another user of this, or tests/libvirt, waits.
 * hugepages_take() and hugepages_give(): any thread.
 */
#ifndef FF_TESTS_HUGEPAGES_H
#define FF_TESTS_HUGEPAGES_H

#include <glib.h>
#include <stdbool.h>

#define HUGEPAGE ((size_t)2 << 20)

typedef struct HugePages HugePages;

/* At least N that nobody has reserved. Skips the test and returns NULL where they cannot be had. */
HugePages *hugepages_new(unsigned n);
/* The same without a test: *WHY (static) is the reason of NULL. */
HugePages *hugepages_try(unsigned n, const char **why);
/* How many are free and not reserved. */
unsigned hugepages_free_now(void);
/* The size of the pool, and setting it: for a program that must clean up after a process that
 * aborted. */
unsigned hugepages_size(void);
bool hugepages_set_size(unsigned n);
/* Takes all that are free and not reserved. Twice is fine. */
void hugepages_take(HugePages *p);
/* Gives them back. */
void hugepages_give(HugePages *p);
/* Can be NULL. */
void hugepages_free(HugePages *p);

#endif
