/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object that channel.c makes, channel-read.c reads, channel-write.c writes and channel-tls.c
 * puts under TLS.
 */
#ifndef FF_NET_CHANNEL_INTERNAL_H
#define FF_NET_CHANNEL_INTERNAL_H

#include "base/io-result.h"
#include "base/sync.h"
#include "net/channel.h"
#include "net/tls.h"
#include "net/window.h"

struct FfChannel {
    int fd;
    FfChannelKind kind;
    char *peer;
    gint error;         /* atomic; first errno that killed it. Observer: any thread */
    gint closed;        /* atomic; ff_channel_shutdown was called */
    uint64_t sent;      /* atomic, relaxed; observer: statistics */
    uint64_t received;  /* the same; observer also: the thread that looks whether the peer lives */
    gint deadline;      /* atomic; ms for a write without any progress, 0: none */
    FfTlsSession *tls;  /* NULL: in the clear. Set before other threads use the channel */
    uint8_t *record;    /* [FF_TLS_RECORD]; its user has the turn. NULL: in the clear */
    short read_events;  /* reader; what a read that is to be repeated waits for */
    GByteArray *unread; /* reader; comes before all else. NULL: nothing */
    struct {            /* reader; NULL: nothing is read ahead */
        uint8_t *buf;
        size_t size, at, end;
    } ahead;
    FfWindow window;    /* a thread that waits for room to write bulk, one at a time */
    uint64_t waited_us; /* atomic, relaxed; writers, for room. Observer: that thread */
    gint piece;         /* atomic; ff_window_piece(). Observer: writers */
    gint trial; /* atomic; ff_window_trial() of the one that leads. Observer: its bulk thread */
    struct {
        FfMutex lock;
        FfCond turn;
        bool busy;
        unsigned urgent_waiting;
    } writer;
};

/* Notes ERR (positive) as what the channel died of, if it is the first. Returns FF_IO_DEAD. */
FfIo ff_channel_died(FfChannel *ch, int err);
/* TIMEOUT in milliseconds, -1 for none. 0, -ETIMEDOUT or -errno. An error or a hang-up of the
 * socket is no error: the read or write that follows tells. */
int ff_channel_wait(FfChannel *ch, short events, int timeout);

#endif
