/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection between two engines: stream sockets of any kind (TCP, unix, a passed fd), plain
 * or under TLS, behind one interface: channel-read.h, channel-write.h, channel-tls.h.
 *
 * The socket is non-blocking. Reading is one thread's business, writing may be several threads'.
 * ff_channel_shutdown() may come from any thread and wakes everybody.
 */
#ifndef FF_NET_CHANNEL_H
#define FF_NET_CHANNEL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/frame.h"

typedef struct FfChannel FfChannel;

/* Takes over FD (a connected stream socket). URGENT sets what a latency-bound socket wants.
 * Never fails. */
FfChannel *ff_channel_new(int fd, FfChannelKind kind);
/* What was taken for a bulk channel is an urgent one. */
void ff_channel_set_urgent(FfChannel *ch);
/* Closes the socket. No thread may be inside. */
void ff_channel_free(FfChannel *ch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfChannel, ff_channel_free)
/* Frees it without closing: returns the socket, blocking, for somebody who copies bytes. What was
 * given back by ff_channel_unread() is lost. */
int ff_channel_release(FfChannel *ch);
/* Ends both directions: every blocked or later call returns dead. Any thread. */
void ff_channel_shutdown(FfChannel *ch);
int ff_channel_fd(const FfChannel *ch);
/* errno-style reason of the death (positive), 0 if it was an orderly end. */
int ff_channel_error(const FfChannel *ch);
/* Why it is dead, for messages, when a call has returned RC (-errno). Never NULL. */
const char *ff_channel_strerror(const FfChannel *ch, int rc);
/* "tcp 127.0.0.1:49152", "unix /x": for messages. Never NULL. */
const char *ff_channel_peer(const FfChannel *ch);

/* Bytes read and written since the beginning; any thread. */
uint64_t ff_channel_bytes(const FfChannel *ch);
/* Those that were read. */
uint64_t ff_channel_received(const FfChannel *ch);

#endif
