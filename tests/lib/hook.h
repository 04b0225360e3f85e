/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hook for discards in a VM's QEMU, as an engine has it: taken from where QEMU keeps it for
 * `farfault attach`.
 */
#ifndef FF_TESTS_HOOK_H
#define FF_TESTS_HOOK_H

#include "contract/discards.h"
#include "tests/lib/vm.h"

/* ff_discards_free(). The test fails if there is none. */
FfDiscards *hook_of(Vm *vm);
/* The file of guest RAM whose backend has the id NAME, or (NULL) of the first one of its plan, or
 * which QEMU has as the memfd NAME; the caller's. */
int hook_ram(Vm *vm, const char *name);
/* Arms it for that file, and where QEMU has it mapped. */
void hook_arm(Vm *vm, FfDiscards *discards, int ram);
/* Bytes that a file has. */
uint64_t hook_allocated(int fd);

#endif
