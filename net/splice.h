/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Carries the connections of a migration that QEMU handles itself between a peer and a private
 * socket of QEMU's, byte for byte (TLS ends here): incoming ones from a listening socket of ours,
 * and those that were begun by the engine, until the peer was found to be a QEMU without farfault.
 *
 * Made and freed on the main loop's thread; one thread per direction of a connection copies.
 */
#ifndef FF_NET_SPLICE_H
#define FF_NET_SPLICE_H

#include <glib.h>
#include <stdbool.h>

#include "net/stream.h"

typedef struct FfSplice FfSplice;

/* The last connection has ended. On the main loop's thread; may free the object. */
typedef void (*FfSpliceDone)(gpointer opaque);

/* What was said on a connection before QEMU took part in it. */
typedef struct {
    GByteArray *first; /* read of the peer's stream, for QEMU; NULL: nothing */
    /* The opening that the peer was sent (net/frame.h): QEMU's own stream, which begins in the same
     * way, continues after it. NULL: nothing was sent. */
    GBytes *opening;
    bool ack; /* the peer's SWITCHOVER_ACK to it was read already: QEMU is told */
} FfSpliceBegun;

FfSplice *ff_splice_new(FfSpliceDone done, gpointer opaque);
/* MATCHED is called when QEMU's stream has begun as the peer was told (FfSpliceBegun.opening); if
 * it begins in another way its connection ends. On the main loop's thread; must not free the
 * object. Before there is any connection. */
void ff_splice_when_matched(FfSplice *native, FfSpliceDone matched);
/* It has, and MATCHED was called or is about to be. */
bool ff_splice_matches(FfSplice *native);
/* Every additional connection with the peer must be under TLS (reference taken); NULL: in the
 * clear. Before there is any. HOSTNAME is copied, can be NULL. */
void ff_splice_set_tls(FfSplice *native, FfTls *tls, const char *hostname);
/* Joins PEER and QEMU (connected, blocking; both taken). BEGUN is copied; can be NULL. */
void ff_splice_join(FfSplice *native, FfStream *peer, int qemu, const FfSpliceBegun *begun);
/* QEMU connects to LISTENER (borrowed) for each of its channels: the first is joined with PEER
 * (taken) as BEGUN says, the second one with SECOND (taken; NULL: there is none), for the others
 * there is a connection to ADDRESS (copied). */
void ff_splice_expect_qemu(FfSplice *native, int listener, FfStream *peer,
                           const FfSpliceBegun *begun, FfStream *second, const char *address);
/* A peer that connects to LISTENERS (of int, borrowed until ff_splice_free()) gets a connection to
 * PATH, the unix socket at which QEMU listens. */
void ff_splice_accept_peers(FfSplice *native, GArray *listeners, const char *path);
/* The same for PEER (taken), which has connected already, may have begun its handshake, and may
 * have spoken (ff_channel_unread()); after ff_splice_accept_peers(). */
void ff_splice_take_peer(FfSplice *native, FfChannel *peer);
/* Breaks what is still connected and waits for the threads. */
void ff_splice_free(FfSplice *native);

#endif
