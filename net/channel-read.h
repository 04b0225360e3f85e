/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What comes on a channel. One thread's business, the reader's; the *_all() calls wait by poll().
 */
#ifndef FF_NET_CHANNEL_READ_H
#define FF_NET_CHANNEL_READ_H

#include "base/io-result.h"
#include "net/channel.h"
#include "net/frame.h"

/* One attempt to read up to LEN bytes; *DONE bytes were read (>= 1 when done). */
FfIo ff_channel_read(FfChannel *ch, void *buf, size_t len, size_t *done);
/* What a read that must be repeated waits for, POLLIN or POLLOUT. The reader's. */
short ff_channel_read_events(const FfChannel *ch);
/* The next reads return these N bytes, which were read of it, then the rest. Only when there are
 * none of such; the reader's. */
void ff_channel_unread(FfChannel *ch, const void *bytes, size_t n);
/* Takes out again what was given back and not read since; NULL: nothing. */
GByteArray *ff_channel_take_unread(FfChannel *ch);
/* Reads exactly LEN bytes. DEADLINE_MS from now, or -1 for none. Returns 0, -EPIPE at an orderly
 * end before the first byte, -ECONNRESET in the middle or by reset, -ETIMEDOUT, or -errno. */
int ff_channel_read_all(FfChannel *ch, void *buf, size_t len, int deadline_ms);
/* Reads one frame header (checked by ff_frame_decode). Additionally -EBADMSG with *WHY. */
int ff_channel_read_frame(FfChannel *ch, FfFrame *f, int deadline_ms, const char **why);
/* From now on what has come is read at once, at most BYTES of it, so that small frames that come
 * together cost one system call, not two each. Not for a channel whose socket somebody else polls
 * without asking ff_channel_pending(). Has no effect under TLS, which reads records. The reader,
 * before its first read. */
void ff_channel_read_ahead(FfChannel *ch, size_t bytes);
/* LEN bytes that have been read ahead, not aligned, valid until the next read; NULL: they have not,
 * and nothing is taken. The reader. */
const void *ff_channel_take(FfChannel *ch, size_t len);
/* Waits for data or the end. TIMEOUT_MS or -1. 0, -ETIMEDOUT or -errno. */
int ff_channel_wait_readable(FfChannel *ch, int timeout_ms);
/* Bytes that were received are still to be read though poll() on the socket may not tell. For a
 * thread that polls it together with others. */
bool ff_channel_pending(FfChannel *ch);
/* The first byte that the peer says in the clear, without taking it. 0 or an error as of
 * ff_channel_read_all(). Before any other thread uses the channel, and before TLS. */
int ff_channel_peek(FfChannel *ch, uint8_t *first, int deadline_ms);

#endif
