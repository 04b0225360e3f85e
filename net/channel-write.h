/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What goes out on a channel. Several threads may write: whole frames go out under the channel's
 * writer lock, at which urgent writers pass waiting bulk writers.
 */
#ifndef FF_NET_CHANNEL_WRITE_H
#define FF_NET_CHANNEL_WRITE_H

#include <sys/uio.h>

#include "net/channel.h"
#include "net/frame.h"
#include "net/link-rate.h"

/* Writes frames: IOV (changed by the call) is a whole number of frames, headers in wire order.
 * Waits as long as it takes. URGENT passes those that wait with !URGENT. 0 or -errno. */
int ff_channel_write_all(FfChannel *ch, struct iovec *iov, int n, bool urgent);
/* Encodes and writes one frame. */
int ff_channel_send(FfChannel *ch, FfFrame f, const void *payload, bool urgent);
/* The last words before a shutdown: sent if the turn to write comes and the socket takes them
 * within WITHIN_MS (0: at once), else not, or in part. A peer that does not read must not hold up a
 * roll back. TRUE: the socket has taken them. */
bool ff_channel_send_last(FfChannel *ch, FfFrame f, const void *payload, unsigned within_ms);
/* Ends what this side writes: the peer reads an orderly end. Reading may continue. */
void ff_channel_finish(FfChannel *ch);
/* Waits until the socket takes data (with TCP_NOTSENT_LOWAT: until little is unsent), so that a
 * claim made after it goes out at once. 0 or -errno. */
int ff_channel_wait_writable(FfChannel *ch);
/* CH, of all bulk channels of a link, says when all try to have more on their way:
 * ff_window_lead(). RATE is of all channels of the link, the urgent one too; OTHERS: there are
 * other bulk channels. Returns whether the link is the limit. For a thread that waits for room on
 * it. */
bool ff_channel_lead(FfChannel *ch, const FfLinkRate *rate, bool slow, bool others);
/* What comes now is of another kind: nothing is tried for a second, and what was found is
 * forgotten. For the same thread. */
void ff_channel_settle(FfChannel *ch);
/* CH tries what LEADER does. For the thread that waits for room on LEADER. */
void ff_channel_follow(FfChannel *ch, const FfChannel *leader);
/* Bytes written that the kernel has not sent yet, since the link or the peer takes no more now. 0
 * if that is not known (no TCP). Any thread. */
uint64_t ff_channel_unsent(const FfChannel *ch);
/* Microseconds that its writers have waited for room on it, in all. Any thread. */
uint64_t ff_channel_waited_us(const FfChannel *ch);
/* Bytes per second that it carried of late, at best; 0: not known. For a thread that waits for room
 * on it. */
uint64_t ff_channel_rate(const FfChannel *ch);
/* A peer that takes nothing for MS milliseconds while somebody writes is gone: -ETIMEDOUT, and the
 * channel is shut down. 0: no deadline, which is how a channel begins. Any thread. */
void ff_channel_set_deadline(FfChannel *ch, int ms);
/* QEMU's own migration goes through it from now on: how long a peer may be out of reach is the
 * system's to say, as with QEMU's own sockets. */
void ff_channel_leave_to_vmm(FfChannel *ch);
/* Writes what the socket takes now of LEN bytes that are no frame; returns how many, 0 as well if
 * somebody is writing or the channel is dead. Never waits. Not under TLS. */
size_t ff_channel_write_some(FfChannel *ch, const void *data, size_t len);
/* Writes one frame without payload if nobody is writing and the socket takes it now; never waits.
 * Else there is no need: what is on its way says as much. 0, or -errno: the connection is dead. */
int ff_channel_try_send(FfChannel *ch, FfFrame f);

#endif
