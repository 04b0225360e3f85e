/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether QEMU writes the state of a device in front of the memory.
 */
#ifndef FF_GUEST_QEMU_BEFORE_MEMORY_H
#define FF_GUEST_QEMU_BEFORE_MEMORY_H

#include "contract/vmm-memory.h"

/* FfVmmMemory.saved_before. */
char *ff_qemu_saved_before(FfVmmMemory *memory);

#endif
