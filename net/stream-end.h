/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One end of a connection that is spliced between a peer and QEMU: a socket, or a channel under
 * TLS, of which the other end sees the plain text.
 *
 * One thread reads and another writes; both block. ff_end_shutdown() may come from any thread and
 * ends both.
 */
#ifndef FF_NET_STREAM_END_H
#define FF_NET_STREAM_END_H

#include <stdbool.h>

#include "net/channel.h"
#include "net/tls.h"

typedef struct FfEnd FfEnd;

/* FD is connected, blocking, and taken. */
FfEnd *ff_end_new(int fd);
/* Takes CHANNEL; without TLS under it only its socket is kept. */
FfEnd *ff_end_new_channel(FfChannel *channel);
/* CHANNEL (taken) is to be put under TLS by ff_end_secure(), before anything else. */
FfEnd *ff_end_new_tls(FfChannel *channel);
/* The handshake, or what is left of it; blocks. */
bool ff_end_secure(FfEnd *end, FfTls *tls, const char *hostname, GError **error);
void ff_end_free(FfEnd *end);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfEnd, ff_end_free)

void ff_end_shutdown(FfEnd *end);
bool ff_end_read_all(FfEnd *end, void *buf, size_t n);
bool ff_end_write_all(FfEnd *end, const void *buf, size_t n);
/* Moves what comes from FROM to TO until its end, which TO is told; on an error of TO, FROM is shut
 * down: the sender is to learn that nobody reads any more. */
void ff_end_copy(FfEnd *from, FfEnd *to);

#endif
