/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a guest is made of, for the comparison of both sides: FfVmmState.parts(). */
#ifndef FF_GUEST_QEMU_PARTS_H
#define FF_GUEST_QEMU_PARTS_H

#include "contract/vmm.h"

/* Thread: the coordinator's. */
char *ff_qemu_parts(FfVmmState *state);

#endif
