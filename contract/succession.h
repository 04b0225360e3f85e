/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is said when a relay takes the place of another one (guest/relay/replace-relay.h). One
 * message each, of one byte; NO is followed by a line of text. */
#ifndef FF_CONTRACT_SUCCESSION_H
#define FF_CONTRACT_SUCCESSION_H

#define FF_SUCCESSION_ASK 'A'
#define FF_SUCCESSION_PLAN 'P'
#define FF_SUCCESSION_NO 'N'
#define FF_SUCCESSION_TAKE 'T'
#define FF_SUCCESSION_GIVEN 'G'
/* There too, with a connected socket: it becomes a monitor of the guest's, where all others are
 * taken (FF_RELAY_DOOR). It is closed if it cannot. */
#define FF_SUCCESSION_MONITOR 'M'
/* There too, of a front's relay (guest/relay/placeholder.h), with a socket: the answer there is the
 * process in which the guest is, in decimal. */
#define FF_SUCCESSION_WHERE 'W'
/* At the door, not in place of ASK: the clients alone (guest/relay/clients.h). ROUNDS after it, in
 * the same message: who asks waits for those that come later. */
#define FF_SUCCESSION_CLIENTS 'C'
#define FF_SUCCESSION_ROUNDS 'R'
/* At the door of a front's relay (guest/relay/placeholder.h), from that of the QEMU that runs
 * behind it: HEIR, with a pidfd: that QEMU has the guest now. NEXT, with a pidfd: it may get the
 * guest from the one that has it. ORDERLY: the one that has it ends in an orderly way. */
#define FF_SUCCESSION_HEIR 'H'
#define FF_SUCCESSION_NEXT 'X'
#define FF_SUCCESSION_ORDERLY 'O'
/* There too, with a socket, from the relay of the QEMU that has the guest: this one's is to leave
 * the back-ends of its devices. Its end of that socket is closed when it has, or has ended; NO
 * there: it has its guest still. */
#define FF_SUCCESSION_LEAVE 'L'

/* In the environment of a relay that is started as root and becomes QEMU's user itself: the numbers
 * of user, group, and the other groups. */
#define FF_RELAY_USER "FARFAULT_RELAY_USER"

/* Of the plan's members that are not the launcher's. 2: with vhost-user back-ends. */
#define FF_SUCCESSION_VERSION 2
#define FF_SUCCESSION_TEXT 512       /* bytes of a message at most */
#define FF_SUCCESSION_REST_MS 8000   /* until all is at rest; an engine lingers for 5 s */
#define FF_SUCCESSION_FROZEN_MS 5000 /* from the plan to TAKE */
/* The plan's fds have the same numbers at the command: higher ones than it has any of its own. */
#define FF_SUCCESSION_FIRST_FD 600

#endif
