/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a client says of the guest's end (state/actions.h). The main loop's thread. */
#ifndef FF_RELAY_ACTIONS_H
#define FF_RELAY_ACTIONS_H

#include "relay/qmp-frame.h"
#include "state/state.h"

/* COMMAND goes to QEMU: notes what it says, if it is such a one. */
void ff_actions_note(FfStateHeader *state, const FfQmpCommand *command);

#endif
