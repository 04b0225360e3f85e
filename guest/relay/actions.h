/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a client says of the guest's end (contract/actions.h). The main loop's thread. */
#ifndef FF_GUEST_RELAY_ACTIONS_H
#define FF_GUEST_RELAY_ACTIONS_H

#include "contract/state.h"
#include "guest/relay/qmp-frame.h"

/* COMMAND goes to QEMU: notes what it says, if it is such a one. */
void ff_actions_note(FfStateHeader *state, const FfQmpCommand *command);

#endif
