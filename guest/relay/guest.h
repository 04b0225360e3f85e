/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QEMU's process. The main loop's thread. */
#ifndef FF_GUEST_RELAY_GUEST_H
#define FF_GUEST_RELAY_GUEST_H

#include "guest/relay/shared.h"

bool ff_guest_start(FfRelay *relay, GError **error);
/* Takes a hand-over that waits to be read. */
void ff_guest_look(FfRelay *relay);
/* QEMU's main() runs: an agent that has not spoken by now is not there. */
void ff_guest_is_up(FfRelay *relay);
/* QEMU closed a monitor without being asked. */
void ff_guest_hung_up(FfRelay *relay);
bool ff_guest_has_ended(const FfRelay *relay);
/* A client that cannot come again has gone: a QEMU that was started for a guest which it does not
 * get (FF_MARK_BORROWED) has no use any more. */
void ff_guest_left(FfRelay *relay);
void ff_guest_kill(FfRelay *relay, const char *why);

#endif
