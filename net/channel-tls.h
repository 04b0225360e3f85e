/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS under a channel: the handshake, and who the peer is. Before any other thread uses the
 * channel; what it came to may be asked by any thread.
 */
#ifndef FF_NET_CHANNEL_TLS_H
#define FF_NET_CHANNEL_TLS_H

#include "base/io-result.h"
#include "net/channel.h"
#include "net/tls.h"

/* Puts TLS under the channel: handshake, and who the peer is (net/tls.h); or ends a handshake that
 * was begun. Before any other thread uses the channel but for ff_channel_shutdown(). FALSE and
 * ERROR: the channel is of no use any more. HOSTNAME can be NULL. */
bool ff_channel_start_tls(FfChannel *ch, FfTls *tls, const char *hostname, int deadline_ms,
                          GError **error);
/* The same without waiting: begin it, then one attempt after the other. Again: *EVENTS, POLLIN or
 * POLLOUT, is what the next one waits for. Dead: ERROR is set, and if ff_channel_error() is EPROTO
 * the peer has been told why and may need a moment to read it. */
void ff_channel_begin_tls(FfChannel *ch, FfTls *tls, const char *hostname);
FfIo ff_channel_step_tls(FfChannel *ch, short *events, GError **error);
bool ff_channel_has_tls(const FfChannel *ch);
/* Under TLS: the peer has proved who it is (net/tls.h). */
bool ff_channel_proved(const FfChannel *ch);
/* Under TLS: the peer has proved who it is, and has said that it writes no more (net/tls.h). */
bool ff_channel_declined(const FfChannel *ch);
/* "TLSv1.3 ..." (g_free), NULL in the clear. */
char *ff_channel_tls(const FfChannel *ch);

#endif
