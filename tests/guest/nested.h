/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest of the test guest's own, by its kernel's KVM: it counts in its one page of memory, and
 * the count is checked after each of its exits. One thread, main; the virtual machine has its own.
 */
#ifndef FF_TESTS_GUEST_NESTED_H
#define FF_TESTS_GUEST_NESTED_H

#include <stdbool.h>
#include <stdint.h>

/* Process 1 only: the kernel's drivers. Debian's 6.1 sets EFER.SVME with the first virtual machine,
 * and clears it with the last one. */
void nested_load_modules(void);
/* Begins. Returns NULL, or what is wrong (static). */
const char *nested_begin(void);
/* Ends it, and closes all that is the kernel's. */
void nested_end(void);
bool nested_runs(void);

typedef struct {
    uint64_t exits; /* all of them, of those that have ended too */
    uint64_t bad;   /* wrong counts, and exits that are not its own */
} NestedCounts;
NestedCounts nested_counts(void);

#endif
