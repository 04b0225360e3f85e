/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU whose guest has gone to another one on this host (farfault upgrade --keep-process), and
 * that stays because others know the guest by its process: a service manager, a script that waits
 * for it. It is the guest's front, has nothing of the guest any more, and never gets it back. The
 * QEMU that has the guest is behind it, now and after further upgrades the next one.
 *
 * The two have one end. What others do to the front is meant for the guest: SIGTERM ends the one
 * behind in an orderly way, and the front ends when that has. When the front is killed the other is
 * killed at once. When the other one ends the front ends in the same way. Both sides' relays see to
 * that (behind-placeholder.h is the other side's), and the agent in the QEMU behind
 * (guest/agent/front.c), should they have died.
 *
 * The main loop's thread.
 */
#ifndef FF_GUEST_RELAY_PLACEHOLDER_H
#define FF_GUEST_RELAY_PLACEHOLDER_H

#include "guest/relay/shared.h"

/* The pidfd HEIR is that of the QEMU that has the guest. Takes it. */
void ff_placeholder_set_heir(FfRelay *relay, int heir);
/* It has been said, and its pidfd is lost: the end of the one before is not the guest's. */
void ff_placeholder_lost_heir(FfRelay *relay);
/* NEXT may get the guest from that one, whose end is not the guest's as long as NEXT lives. Takes
 * it.
 */
void ff_placeholder_set_next(FfRelay *relay, int next);
/* That one ends in an orderly way. */
void ff_placeholder_orderly(FfRelay *relay);
/* This QEMU is a front from now on (FF_MARK_FRONT). HEIR: as above, if nobody has said it; -1.
 * FALSE: it was one already. */
bool ff_placeholder_begin(FfRelay *relay, int heir);
/* Says on SOCKET, borrowed, which process that is (FF_SUCCESSION_WHERE). */
void ff_placeholder_say_where(const FfRelay *relay, int socket);
/* This QEMU has ended its main loop, and asks what it must wait for. TRUE: that is answered. */
bool ff_placeholder_farewell(FfRelay *relay);
/* It has ended. */
void ff_placeholder_end(FfRelay *relay);

#endif
