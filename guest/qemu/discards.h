/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether QEMU has a device by which the guest gives memory back while it runs.
 */
#ifndef FF_GUEST_QEMU_DISCARDS_H
#define FF_GUEST_QEMU_DISCARDS_H

#include "contract/vmm-memory.h"

/* FfVmmMemory.gives_back. */
char *ff_qemu_gives_back(FfVmmMemory *memory);

#endif
