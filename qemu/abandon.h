/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Functions of FfVmmState (vmm/state.h). */
#ifndef FF_QEMU_ABANDON_H
#define FF_QEMU_ABANDON_H

#include "vmm/vmm.h"

void ff_qemu_abandon(FfVmmState *state);
void ff_qemu_doom(FfVmmState *state);

#endif
