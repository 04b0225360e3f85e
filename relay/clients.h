/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The clients of a guest's monitors follow it to another QEMU (farfault upgrade): those of monitors
 * that listen, with what they have negotiated and what they have said since FF_MARK_MOVED, which
 * nobody has carried out (clients-wait.h).
 *
 *   new relay -> old, at the door   CLIENTS, with a socket: all that follows goes over that one
 *   old -> new                      PLAN, a memfd and the connections of the clients; or NO and why
 *   new -> old                      TAKE
 *   old -> new                      GIVEN, and a byte for each, 1: from here on it is the new one's
 *
 * The new one asks when the guest is its QEMU's (TAKEN), and its engine lets the old QEMU be ended
 * after that. A client that has sent half a command takes it along. One whose command has no answer
 * yet, or that does not read, stays, and is disconnected with the old QEMU.
 *
 * All functions: the main loop's thread.
 */
#ifndef FF_RELAY_CLIENTS_H
#define FF_RELAY_CLIENTS_H

#include "relay/shared.h"

/* What all of them may have said that nobody has carried out, as base64; bytes. */
#define FF_CLIENTS_UNREAD_MAX (3u << 20)

/* ---- the old QEMU's relay ---- */

/* From now on it can be asked: relay->door is lent with the memory. */
void ff_clients_open(FfRelay *relay);

/* The clients are not its any more, for good: LEAVE(relay) lets them go. At once, or when those
 * that can go on to the new QEMU have: its engine may have died, and the next one is to ask first.
 */
void ff_clients_leave(FfRelay *relay, void (*leave)(FfRelay *relay));

/* ---- the new one's ---- */

/* The guest is this QEMU's. Asks, once. */
void ff_clients_take(FfRelay *relay);
/* TRUE: they are to come. When they have, or will not, SYNCED is sent to the engine for SEQ. */
bool ff_clients_are_coming(FfRelay *relay, uint32_t seq);

#endif
