/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One end of a connection that is spliced between a peer and QEMU: a socket, or a channel under
 * TLS, of which the other end sees the plain text.
 *
 * One thread reads and another writes; both block. ff_stream_shutdown() may come from any thread
 * and ends both.
 */
#ifndef FF_NET_STREAM_H
#define FF_NET_STREAM_H

#include <stdbool.h>

#include "net/channel.h"
#include "net/tls.h"

typedef struct FfStream FfStream;

/* FD is connected, blocking, and taken. */
FfStream *ff_stream_new(int fd);
/* Takes CHANNEL; without TLS under it only its socket is kept. */
FfStream *ff_stream_new_channel(FfChannel *channel);
/* CHANNEL (taken) is to be put under TLS by ff_stream_secure(), before anything else. */
FfStream *ff_stream_new_tls(FfChannel *channel);
/* The handshake, or what is left of it; blocks. */
bool ff_stream_secure(FfStream *end, FfTls *tls, const char *hostname, GError **error);
void ff_stream_free(FfStream *end);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfStream, ff_stream_free)

void ff_stream_shutdown(FfStream *end);
bool ff_stream_read_all(FfStream *end, void *buf, size_t n);
bool ff_stream_write_all(FfStream *end, const void *buf, size_t n);
/* Moves what comes from FROM to TO until its end, which TO is told; on an error of TO, FROM is shut
 * down: the sender must learn that nobody reads any more. */
void ff_stream_copy(FfStream *from, FfStream *to);

#endif
