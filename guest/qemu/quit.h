/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Functions of FfVmmState (contract/vmm-state.h). */
#ifndef FF_GUEST_QEMU_QUIT_H
#define FF_GUEST_QEMU_QUIT_H

#include "contract/vmm.h"

void ff_qemu_leave(FfVmmState *state, int pidfd);

#endif
