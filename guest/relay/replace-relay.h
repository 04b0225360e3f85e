/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Another relay takes the place of this one, of a newer farfault, and nobody notices: QEMU, the
 * clients of its monitors and their connections stay as they are (farfault attach --replace).
 *
 * At rest a relay is a plan and fds. One that is asked waits until each monitor is between two
 * messages, says what it has as the text of a plan, and does nothing from then on but wait for the
 * other one's word. Nothing is read or written meanwhile, so either of them can go on: the old one
 * if the word does not come, the new one if it has.
 *
 *   command -> old relay, at its door   ASK, with a socket: all that follows goes over that one
 *   old -> command                      PLAN with a memfd, or NO and why
 *   (the command takes the fds that the plan names, and starts the new relay with them)
 *   new -> old                          TAKE
 *   old -> new                          GIVEN, and it ends without another word
 *
 * All functions: the main loop's thread.
 */
#ifndef FF_GUEST_RELAY_REPLACE_RELAY_H
#define FF_GUEST_RELAY_REPLACE_RELAY_H

#include "contract/succession.h"
#include "guest/relay/shared.h"

/* From now on this relay can be asked. If that cannot be, it is logged, and no other relay will
 * take its place. */
void ff_replace_relay_open(FfRelay *relay);
/* The new one, before its main loop runs: the place is its own. FALSE: it is not, and all is as it
 * was. Waits for the old one, which may have been stopped. */
bool ff_replace_relay_take(const FfRelay *relay);

#endif
