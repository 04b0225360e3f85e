/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What QEMU keeps of an upgrade for a relay and an engine that come after both have died. */
#ifndef FF_GUEST_QEMU_UPGRADE_FDSTORE_H
#define FF_GUEST_QEMU_UPGRADE_FDSTORE_H

#include "contract/vmm-state.h"

/* FfVmmState.keep_pact, .forget_pact */
bool ff_qemu_keep_pact(FfVmmState *state, const int *fds, unsigned n, GError **error);
void ff_qemu_forget_pact(FfVmmState *state);

#endif
