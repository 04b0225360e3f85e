/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Functions of FfVmmState (vmm/state.h). */
#ifndef FF_QEMU_LEAVE_H
#define FF_QEMU_LEAVE_H

#include "vmm/vmm.h"

void ff_qemu_leave(FfVmmState *state, int pidfd);

#endif
