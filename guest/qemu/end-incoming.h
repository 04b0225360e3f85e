/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Functions of FfVmmState (contract/vmm-state.h). */
#ifndef FF_GUEST_QEMU_END_INCOMING_H
#define FF_GUEST_QEMU_END_INCOMING_H

#include "contract/vmm.h"

void ff_qemu_abandon(FfVmmState *state);
void ff_qemu_doom(FfVmmState *state);

#endif
