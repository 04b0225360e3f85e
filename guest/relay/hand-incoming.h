/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hands -incoming's URI to QEMU, which was started with "defer" in its place: for want of an
 * engine QEMU listens itself.
 *
 * One thread (the main loop's); no locks.
 */
#ifndef FF_GUEST_RELAY_HAND_INCOMING_H
#define FF_GUEST_RELAY_HAND_INCOMING_H

typedef struct FfHandIncoming FfHandIncoming;

/* QEMU has answered. WHY NULL: it listens now, or did before. Else it refuses the URI, and this is
 * its reason. */
typedef void (*FfHandIncomingDone)(const char *why, void *opaque);

/* MONITOR: O_PATH of the private monitor's listening socket, which nobody else may use meanwhile.
 * DONE is called once, and not from inside; never if QEMU ends or ff_hand_incoming_free() comes
 * before its answer. NULL: QEMU does not take the connection, and errno says why. */
FfHandIncoming *ff_hand_incoming_new(int monitor, const char *uri, FfHandIncomingDone done,
                                     void *opaque);
void ff_hand_incoming_free(FfHandIncoming *hand);

#endif
