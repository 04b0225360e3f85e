/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads from disks that are under way: FfVmmMemory.drain(). */
#ifndef FF_GUEST_QEMU_DRAIN_H
#define FF_GUEST_QEMU_DRAIN_H

#include "contract/vmm.h"

bool ff_qemu_drain(FfVmmMemory *memory, GError **error);

#endif
