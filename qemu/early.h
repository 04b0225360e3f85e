/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether QEMU writes the state of a device in front of the memory.
 */
#ifndef FF_QEMU_EARLY_H
#define FF_QEMU_EARLY_H

#include "vmm/memory.h"

/* FfVmmMemory.saved_before. */
char *ff_qemu_saved_before(FfVmmMemory *memory);

#endif
