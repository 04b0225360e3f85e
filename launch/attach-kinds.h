/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which userfaultfds a QEMU still has that has lost its relay. Any thread. */
#ifndef FF_LAUNCH_ATTACH_KINDS_H
#define FF_LAUNCH_ATTACH_KINDS_H

#include "agent/agent.h"
#include "state/state.h"

/* Fills in HELLO's .error and .kept by what the relay before has noted in STATE: a farfault of
 * before the kinds, too. */
void ff_attach_kinds(const FfStateHeader *state, FfAgentHello *hello);

#endif
