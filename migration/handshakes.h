/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who has connected to a destination and has not yet said who he is. Several wait here at once, so
 * that nobody who says nothing, or half a sentence, or stops in a handshake of TLS, stands in front
 * of the source.
 *
 * One thread: the acceptor. All functions are its.
 */
#ifndef FF_MIGRATION_HANDSHAKES_H
#define FF_MIGRATION_HANDSHAKES_H

#include <gio/gio.h>

#include "net/channel.h"
#include "net/channel-read.h"
#include "net/channel-tls.h"

/* So many wait at once. Who comes then takes the place of the one that has waited longest, if that
 * was longer than FF_HANDSHAKES_GRACE_MS; else he waits outside, in the kernel's queue. Whom this
 * side has refused goes first of all, and who has proved under TLS who he is goes last. */
#define FF_HANDSHAKES_PLACES 32
#define FF_HANDSHAKES_GRACE_MS 1000
/* Who has not spoken by then is sent away. Under TLS each of these may last so long: until its
 * handshake begins, the handshake, the first words inside. */
#define FF_HANDSHAKES_DEADLINE_MS 10000

/* Lines in the log about those who are sent away, in a minute: whoever reaches the port could fill
 * the disk with them. How many more there were is said with the next one, or at the end. */
#define FF_HANDSHAKES_LINES 10

typedef struct FfHandshakes FfHandshakes;

/* Who begins with the byte FIRST, which is not taken: FALSE and ERROR: he is sent away. TRUE: he
 * may stay; if it has begun TLS on CH (ff_channel_begin_tls()), the handshake is done here. */
typedef bool (*FfHandshakesAdmit)(FfChannel *ch, uint8_t first, gpointer opaque, GError **error);

/* LISTEN_FD and CANCEL are borrowed. ADMIT can be NULL: everybody may stay, in the clear. */
FfHandshakes *ff_handshakes_new(int listen_fd, GCancellable *cancel, FfHandshakesAdmit admit,
                                gpointer opaque);
/* The next one whose first words are there, whole, or whose end is: the caller's. Who reads the
 * opening of a source, or the greeting of a further channel, from it has not to wait for it. NULL
 * and ERROR: cancelled, or accept() failed. */
FfChannel *ff_handshakes_next(FfHandshakes *handshakes, GError **error);
/* Those who came after the last one that was taken: an array of FfChannel, which frees them, the
 * caller's. A handshake may be begun in them, or over, and what they have said is in them. */
GPtrArray *ff_handshakes_later(FfHandshakes *handshakes);
/* Logs that CH, whom ff_handshakes_next() returned, was refused, and WHY. */
void ff_handshakes_log(FfHandshakes *handshakes, const FfChannel *ch, const char *why);
/* Closes those who wait still. */
void ff_handshakes_free(FfHandshakes *handshakes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfHandshakes, ff_handshakes_free)

#endif
