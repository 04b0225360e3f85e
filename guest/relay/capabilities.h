/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which capabilities a client sets that are farfault's. For want of an engine QEMU is told of them,
 * and the next engine must ask it. Pure; any thread.
 */
#ifndef FF_GUEST_RELAY_CAPABILITIES_H
#define FF_GUEST_RELAY_CAPABILITIES_H

#include "guest/relay/qmp-frame.h"

/* FF_CLIENT_CAP_* that COMMAND names, on or off; 0 if it is not migrate-set-capabilities. What is
 * said to the human monitor is not looked at. */
unsigned ff_sets_capabilities(const FfQmpCommand *command);
/* COMMAND switches x-ignore-shared on, also through the human monitor. */
bool ff_ignores_shared(const FfQmpCommand *command);

#endif
