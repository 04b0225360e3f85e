/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a memory backend is part of the guest.
 */
#ifndef FF_QEMU_RAMBLOCK_H
#define FF_QEMU_RAMBLOCK_H

#include "vmm/memory.h"

/* FfVmmMemory.is_used. */
bool ff_qemu_is_used(FfVmmMemory *memory, const char *block);
/* The same of what "info ramblock" says. */
bool ff_qemu_is_used_in(const char *text, const char *block);

#endif
