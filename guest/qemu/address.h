/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where QEMU has a block of guest RAM: FfVmmMemory.address(). */
#ifndef FF_GUEST_QEMU_ADDRESS_H
#define FF_GUEST_QEMU_ADDRESS_H

#include "contract/vmm.h"

bool ff_qemu_address(FfVmmMemory *memory, const char *block, uint64_t *address, GError **error);

#endif
