/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection between two engines: stream sockets of any kind (TCP, unix, a passed fd), plain
 * or under TLS, behind one interface, with three-way results (done, again, dead).
 *
 * The socket is non-blocking; the *_all() calls wait by poll(). Reading is one thread's
 * business, so no lock; writing may be several threads': whole frames go out under the
 * channel's writer lock, at which urgent writers pass waiting bulk writers.
 * ff_channel_shutdown() may come from any thread and wakes everybody.
 */
#ifndef FF_NET_CHANNEL_H
#define FF_NET_CHANNEL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "net/frame.h"

typedef enum { FF_IO_DONE, FF_IO_AGAIN, FF_IO_DEAD } FfIo;

typedef struct FfChannel FfChannel;
typedef struct FfTls FfTls; /* net/tls.h */

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

/* The first byte that the peer says in the clear, without taking it. 0 or an error as of
 * ff_channel_read_all(). Before any other thread uses the channel, and before TLS. */
int ff_channel_peek(FfChannel *ch, uint8_t *first, int deadline_ms);
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

/* One attempt to read up to LEN bytes; *DONE bytes were read (>= 1 when done). */
FfIo ff_channel_read(FfChannel *ch, void *buf, size_t len, size_t *done);
/* What a read that has to be repeated waits for, POLLIN or POLLOUT. The reader's. */
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

/* Writes frames: IOV (changed by the call) is a whole number of frames, headers in wire order.
 * Waits as long as it takes. URGENT passes those who wait with !URGENT. 0 or -errno. */
int ff_channel_write_all(FfChannel *ch, struct iovec *iov, int n, bool urgent);
/* Encodes and writes one frame. */
int ff_channel_send(FfChannel *ch, FfFrame f, const void *payload, bool urgent);
/* The last words before a shutdown: sent if the turn to write comes and the socket takes them
 * within WITHIN_MS (0: at once), else not, or in part. A peer that does not read must not hold up a
 * roll back. TRUE: the socket has taken them. */
bool ff_channel_send_last(FfChannel *ch, FfFrame f, const void *payload, unsigned within_ms);
/* Ends what this side writes: the peer reads an orderly end. Reading may go on. */
void ff_channel_finish(FfChannel *ch);
/* Waits until the socket takes data (with TCP_NOTSENT_LOWAT: until little is unsent), so that a
 * claim made after it goes out at once. 0 or -errno. */
int ff_channel_wait_writable(FfChannel *ch);
/* The link is slower than this side: what is on its way is being kept short. */
bool ff_channel_bounded(FfChannel *ch);
/* Bytes written that the kernel has not sent yet, since the link or the peer takes no more now. 0
 * if that is not known (no TCP). Any thread. */
uint64_t ff_channel_unsent(const FfChannel *ch);
/* Bytes per second that it carried of late, at best; 0: not known. For who waits for room on it. */
uint64_t ff_channel_rate(const FfChannel *ch);
/* Waits for data or the end. TIMEOUT_MS or -1. 0, -ETIMEDOUT or -errno. */
int ff_channel_wait_readable(FfChannel *ch, int timeout_ms);
/* Bytes that were received are still to be read though poll() on the socket may not tell. For who
 * polls it together with others. */
bool ff_channel_pending(FfChannel *ch);
/* Bytes read and written since the beginning; any thread. */
uint64_t ff_channel_bytes(const FfChannel *ch);
/* Those that were read. */
uint64_t ff_channel_received(const FfChannel *ch);
/* A peer that takes nothing for MS milliseconds while somebody writes is gone: -ETIMEDOUT, and the
 * channel is shut down. 0: no deadline, which is how a channel begins. Any thread. */
void ff_channel_set_deadline(FfChannel *ch, int ms);
/* Writes what the socket takes now of LEN bytes that are no frame; returns how many, 0 as well if
 * somebody is writing or the channel is dead. Never waits. Not under TLS. */
size_t ff_channel_write_some(FfChannel *ch, const void *data, size_t len);
/* Writes one frame without payload if nobody is writing and the socket takes it now; never waits.
 * Else there is no need: what is on its way says as much. 0, or -errno: the connection is dead. */
int ff_channel_try_send(FfChannel *ch, FfFrame f);

#endif
