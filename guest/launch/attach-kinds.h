/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which userfaultfds a guest has, as its relay has noted it. Any thread. */
#ifndef FF_GUEST_LAUNCH_ATTACH_KINDS_H
#define FF_GUEST_LAUNCH_ATTACH_KINDS_H

#include "contract/state.h"
#include "guest/agent/agent.h"

/* 0: the agent has handed one of KIND over, and it was not lost since; else FfAgentHello.error. */
int ff_attach_kind_error(const FfStateHeader *state, FfKind kind);
/* Fills in HELLO's .error and .kept: what QEMU still has when its relay has ended. */
void ff_attach_kinds(const FfStateHeader *state, FfAgentHello *hello);

#endif
