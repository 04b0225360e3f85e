/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What stands against a migration: FfVmmMemory.check(). */
#ifndef FF_GUEST_QEMU_CHECK_H
#define FF_GUEST_QEMU_CHECK_H

#include "contract/vmm.h"

FfGuestFit ff_qemu_check(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                         GError **error);

#endif
