/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The peers that have connected to a destination and have not yet said who they are. Several wait
 * here at once, so that none that says nothing, or half a sentence, or stops in a handshake of TLS,
 * stands in front of the source.
 *
 * One thread: the acceptor. All functions are its.
 */
#ifndef FF_MIGRATION_DESTINATION_HANDSHAKES_H
#define FF_MIGRATION_DESTINATION_HANDSHAKES_H

#include <gio/gio.h>

#include "net/channel-read.h"
#include "net/channel-tls.h"
#include "net/channel.h"

/* So many wait at once. A peer that comes then takes the place of the one that has waited longest,
 * if that was longer than FF_HANDSHAKES_GRACE_MS; else it waits outside, in the kernel's queue.
 * One that this side has refused goes first of all, and one that has proved under TLS who it is
 * goes last. */
#define FF_HANDSHAKES_PLACES 32
#define FF_HANDSHAKES_GRACE_MS 1000
/* A peer that has not spoken by then is sent away. Under TLS each of these may last so long: until
 * its handshake begins, the handshake, the first words inside. */
#define FF_HANDSHAKES_DEADLINE_MS 10000

/* Lines in the log about those that are sent away, in a minute: a peer that reaches the port could
 * fill the disk with them. How many more there were is said with the next one, or at the end. */
#define FF_HANDSHAKES_LINES 10

typedef struct FfHandshakes FfHandshakes;

/* CH begins with the byte FIRST, which is not taken: FALSE and ERROR: it is sent away. TRUE: it
 * may stay; if it has begun TLS on CH (ff_channel_begin_tls()), the handshake is done here. */
typedef bool (*FfHandshakesAdmit)(FfChannel *ch, uint8_t first, gpointer opaque, GError **error);

/* LISTEN_FD and CANCEL are borrowed. ADMIT can be NULL: everybody may stay, in the clear. */
FfHandshakes *ff_handshakes_new(int listen_fd, GCancellable *cancel, FfHandshakesAdmit admit,
                                gpointer opaque);
/* The next one whose first words are there, whole, or whose end is: the caller's. A thread that
 * reads the opening of a source, or the greeting of an additional channel, from it need not wait
 * for it. NULL and ERROR: cancelled, or accept() failed. */
FfChannel *ff_handshakes_next(FfHandshakes *handshakes, GError **error);
/* Those that came after the last one that was taken: an array of FfChannel, which frees them, the
 * caller's. A handshake may be begun in them, or over, and what they have said is in them. */
GPtrArray *ff_handshakes_later(FfHandshakes *handshakes);
/* Logs that CH, which ff_handshakes_next() returned, was refused, and WHY. */
void ff_handshakes_log(FfHandshakes *handshakes, const FfChannel *ch, const char *why);
/* Closes those that wait still. */
void ff_handshakes_free(FfHandshakes *handshakes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfHandshakes, ff_handshakes_free)

#endif
