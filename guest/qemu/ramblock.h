/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a memory backend is part of the guest, and of QEMU's streams.
 */
#ifndef FF_GUEST_QEMU_RAMBLOCK_H
#define FF_GUEST_QEMU_RAMBLOCK_H

#include "contract/vmm-memory.h"

/* FfVmmMemory.use. */
FfBlockUse ff_qemu_block_use(FfVmmMemory *memory, const char *block);
/* FfVmmMemory.backends. */
GPtrArray *ff_qemu_backends(FfVmmMemory *memory, GError **error);
/* Whether "info ramblock" (TEXT) has it: then it is in QEMU's streams. */
bool ff_qemu_is_saved_in(const char *text, const char *block);

#endif
