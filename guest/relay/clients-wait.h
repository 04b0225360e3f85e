/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clients say to the old QEMU of an upgrade waits: settings of migrations, which have been
 * copied, from its beginning on; what is QEMU's to do, when the guest has been stopped for it, as
 * its state is saved; and from FF_MARK_MOVED on all, as the guest may be another QEMU's by now,
 * where they go to (clients.h). Not for longer than some seconds. The main loop's thread.
 */
#ifndef FF_GUEST_RELAY_CLIENTS_WAIT_H
#define FF_GUEST_RELAY_CLIENTS_WAIT_H

#include "guest/relay/qmp-frame.h"
#include "guest/relay/shared.h"

/* COMMAND (NULL: QEMU will refuse it) is the engine's to answer if it is OWNED. */
bool ff_clients_wait(FfRelay *relay, bool owned, const FfQmpCommand *command);
/* The same without its effect: nothing is going to be pumped for it. */
bool ff_clients_would_wait(const FfRelay *relay, bool owned, const FfQmpCommand *command);
/* The engine has spoken, or has ended: if they need not wait any more, they are pumped. */
void ff_clients_look(FfRelay *relay);

#endif
