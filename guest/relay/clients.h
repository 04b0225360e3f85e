/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The clients of a guest's monitors follow it to another QEMU (farfault upgrade): those of monitors
 * that listen, with what they have negotiated and what they have said since FF_MARK_MOVED, which
 * nobody has carried out (clients-wait.h).
 *
 *   new relay -> old, at the door   CLIENTS ROUNDS, with a socket: all that follows goes over that
 *   old -> new                      PLAN, a memfd and the connections of the clients that can go;
 *                                   the memfd names those that stay, too. Or NO and why
 *   new -> old                      TAKE
 *   old -> new                      GIVEN, and a byte for each, 1: from here on it is the new one's
 *   old -> new                      PLAN: the next round, when one that stays can go, or hung up
 *   either                          the end of the socket: nobody comes any more
 *
 * The new one asks when the guest is its QEMU's (TAKEN), and its engine lets the old QEMU be ended
 * after that. A client stays whose command has no answer yet, that does not read, or that has sent
 * an error and nothing after it. One that has sent half a command, or fds, takes them along. What
 * one that stays says is carried out by nobody (clients-wait.h); what it has said before is
 * answered by who has it. The monitor at the new relay that it is to come to takes no other client,
 * and keeps what the new QEMU says for it.
 *
 *                                    the old process ends   it stays
 *                                                           (placeholder.h)
 *   the new relay waits to hear      0.9 s (COME_MS)        10 s (COME_BEHIND_MS)
 *   its engine waits for             all                    the first round
 *   those that stay have             0.9 s                  60 s (LEAVE_MS)
 *
 * A QEMU behind a front that is replaced by the next one ends, and has COME_BEHIND_MS. An older
 * farfault does not say ROUNDS: then there is one, after QUIET_MS, and who stays is disconnected
 * with the old QEMU. Or it does not know them, and closes the socket after the first one.
 *
 * All functions: the main loop's thread.
 */
#ifndef FF_GUEST_RELAY_CLIENTS_H
#define FF_GUEST_RELAY_CLIENTS_H

#include "guest/relay/shared.h"

/* What all of them may have said that nobody has carried out, as base64; bytes. */
#define FF_CLIENTS_UNREAD_MAX (3u << 20)

/* ---- the old QEMU's relay ---- */

/* From now on it can be asked: relay->door is lent with the memory. */
void ff_clients_open(FfRelay *relay);

/* The clients are not its any more, for good: LEAVE(mon) lets each go. At once, or when those that
 * can go on to the new QEMU have: its engine may have died, and the next one is to ask first; or
 * they come later. */
void ff_clients_leave(FfRelay *relay, void (*leave)(FfMonitor *mon));

/* ---- the new one's ---- */

/* The guest is this QEMU's. Asks, once. */
void ff_clients_take(FfRelay *relay);
/* TRUE: they are to come. When they have, or will not, SYNCED is sent to the engine for SEQ. */
bool ff_clients_are_coming(FfRelay *relay, uint32_t seq);

#endif
