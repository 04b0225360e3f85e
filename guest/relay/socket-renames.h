/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that QEMU has made beside those of the QEMU whose guest it takes over: sockets at which it
 * listens, its pid file (guest/launch/inherit-argv.h). They take the others' places when the guest
 * is its own. The main loop's thread.
 */
#ifndef FF_GUEST_RELAY_SOCKET_RENAMES_H
#define FF_GUEST_RELAY_SOCKET_RENAMES_H

#include "guest/relay/shared.h"

/* TAKEN: the engine says that the guest is this QEMU's. Else, while it is another QEMU's still
 * (FF_MARK_BORROWED), nothing is done; nor the second time. */
void ff_names_take(FfRelay *relay, bool taken);
/* QEMU has ended: it has made them under names that they do not have any more. */
void ff_names_end(FfRelay *relay);

#endif
