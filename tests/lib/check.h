/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finds what is wrong in the memory of a stopped guest. All return NULL if it is right, else one
 * line (g_free).
 */
#ifndef FF_TESTS_CHECK_H
#define FF_TESTS_CHECK_H

#include "tests/lib/vm.h"

/* The counters of all vCPUs of a boot-sector guest, or all memory of a ring-3 one (BOOT: NULL). */
char *check_counters(Vm *vm, const BootsectConfig *boot);
/* [FROM, TO) of guest-physical memory is equal in A and B, byte for byte. */
char *check_equal(Vm *a, Vm *b, uint64_t from, uint64_t to);
/* The same, but for the counters of the boot-sector guest: those of B may be ahead. For a source
 * that stands as it was stopped and a destination that ran on. BOOT: NULL for a ring-3 guest. */
char *check_moved(Vm *source, Vm *destination, const BootsectConfig *boot, uint64_t ram);

/* Fails the test with WRONG (taken), the answer of one of these; NULL: nothing is wrong. */
void check_right(char *wrong);

#endif
