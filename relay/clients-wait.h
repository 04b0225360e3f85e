/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clients say to the old QEMU of an upgrade waits from FF_MARK_MOVED on: the guest may be
 * another QEMU's by now, where they go to (clients.h). Not for longer than some seconds. The main
 * loop's thread.
 */
#ifndef FF_RELAY_CLIENTS_WAIT_H
#define FF_RELAY_CLIENTS_WAIT_H

#include "relay/shared.h"

bool ff_clients_wait(FfRelay *relay);
/* The engine has spoken, or has ended: if they need not wait any more, they are pumped. */
void ff_clients_look(FfRelay *relay);

#endif
