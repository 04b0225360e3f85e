/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The connection between two engines: its channels, the threads that live as long as they do, and
 * what both sides have agreed on.
 *
 *   main     everything, and all of bulk if there is no other
 *   urgent   requests, and the pages that answer them; NULL: they share the main one
 *   bulk     additional connections for bulk pages (x-farfault-channels)
 *
 * When it is lost the coordinator shuts it down, joins its threads, and from then on is the only
 * one that touches it. So channels are exchanged without a lock on the data paths: a channel is set
 * before the threads that use it are started, and freed after they are joined.
 *
 * In postcopy a page is final and is claimed once, so the order of frames on different connections
 * does not matter. In precopy it does, from one round to the next: migration/source/precopy-send.c
 * keeps it. While everything is sent before the grant the main connection carries all. The source
 * opens the bulk channels one after the other before the urgent one, which ends their time, so both
 * sides count them alike. When one channel is lost, all are.
 *
 * Threads: the coordinator; a destination's acceptor attaches; any thread shuts down or says that a
 * channel is lost. "Lock" is the control's.
 */
#ifndef FF_MIGRATION_COMMON_CONNECTION_H
#define FF_MIGRATION_COMMON_CONNECTION_H

#include "contract/state.h"
#include "migration/common/control.h"
#include "net/address.h"
#include "net/channel-read.h"
#include "net/channel-tls.h"
#include "net/channel-write.h"
#include "net/channel.h"

/* Bulk channels besides the main one, at most. */
#define FF_MAX_BULK (FF_CHANNELS_MAX - 1)
/* Numbers of channels in acknowledgements; the bulk ones follow. */
#define FF_INDEX_MAIN 0
#define FF_INDEX_URGENT 1

typedef struct {
    gpointer side; /* FfSource or FfDestination */
    FfChannel *ch;
    GThread *thread; /* S: sends. D: reads. NULL: not started */
    unsigned index;
} FfBulkChannel;

typedef struct {
    FfMigrationConfig *cfg; /* borrowed: TLS, the peer's time */
    FfControl *control;     /* borrowed */
    gpointer side;
    const char *peer; /* for messages: "source", "destination" */
    bool incoming;    /* the peer connects to us */
    bool tls_set;     /* atomic: cfg->tls is there in spite of cfg->tls_refusal */

    /* Agreed on. */
    uint64_t epoch; /* of this connection; a new one has a higher one */
    uint8_t session[16], vm_uuid[16], secret[32];
    uint32_t peer_features;
    /* S: coordinator. D: set before FF_EV_PREPARE. Every page comes before the grant. */
    bool complete_at_grant;

    FfChannel *main;
    FfChannel *urgent; /* a connection of its own; NULL: shared with main */
    FfBulkChannel bulk[FF_MAX_BULK];
    unsigned n_bulk; /* lock; a thread that runs as long as the connection reads it without */
    GThread *main_reader;
    GThread *urgent_thread; /* S: answers requests. D: places urgent pages */
    GThread *keepalive;
    bool keepalive_stop; /* lock */
    bool keep_main;      /* lock; D: ff_conn_shutdown() leaves the main one */
    bool urgent_shared;  /* lock */
    uint64_t past_bytes; /* lock; of channels that are gone */

    /* What is not part of it yet. */
    FfChannel *connecting;     /* lock; being agreed on, not main yet */
    FfChannel *accepting;      /* lock; D: the acceptor looks who it is; can be NULL */
    FfChannel *arrived;        /* lock; D: main channel from the acceptor to the coordinator */
    FfChannel *arrived_urgent; /* lock; D: likewise */
    bool want_channel;         /* lock; D: the session exists, an urgent channel may come */
    bool attaching;            /* lock; D: a channel was answered, and is not in its place yet */
    bool recovering;           /* lock; D: another main channel may come */
    uint64_t want_epoch;       /* lock; D: that a channel of it must have */
} FfConnection;

/* A channel to the peer, over FD (taken), with the deadline for writes. */
FfChannel *ff_conn_channel_new(const FfConnection *conn, int fd, FfChannelKind kind);
/* That urgent frames go over: no lock. */
static inline FfChannel *ff_conn_urgent(const FfConnection *conn)
{
    return conn->urgent ? conn->urgent : conn->main;
}
/* Bytes over all its channels so far. The control's lock is held. */
uint64_t ff_conn_bytes_locked(const FfConnection *conn);
/* Shuts every channel down; threads that use them end. Any thread. */
void ff_conn_shutdown(FfConnection *conn);
/* As ff_control_dead(), for CH (can be NULL), which failed with RC (-errno). */
void ff_conn_lost(FfConnection *conn, const FfChannel *ch, int rc);
/* Nothing was heard on CH for the peer's time. */
void ff_conn_silent(FfConnection *conn, const FfChannel *ch);
/* Makes CH (NULL: none) the one that pause and the end shut down. FALSE and ERROR: they came
 * before, or one of the events CANCELLED did. */
bool ff_conn_connecting(FfConnection *conn, FfChannel *ch, unsigned cancelled, GError **error);
/* Makes CH, on which was connected, the main one of a connection that has no channel yet. */
void ff_conn_set_main(FfConnection *conn, FfChannel *ch);
/* Frees the channels of the old connection and puts MAIN and URGENT (NULL: shared) in their
 * place. No thread may use the old ones. */
void ff_conn_install(FfConnection *conn, FfChannel *main, FfChannel *urgent);
/* This side's VMM has ended, or does so WITHIN_MS milliseconds. FALSE as well if nobody knows. Any
 * thread. */
bool ff_conn_vmm_ended(const FfConnection *conn, int within_ms);
/* The client has paused this side, or its VMM has ended after the grant: the peer is told that
 * there is nothing to reconnect to. */
void ff_conn_say_last(FfConnection *conn);
/* Notes session, secret and epoch for the engine that may have to adopt. */
void ff_conn_store(const FfConnection *conn, FfStateHeader *state);
/* D: the source opens no more channels: FALSE: it had said so before. Under the lock, which it
 * leaves while one that was answered is put in its place (main reader, coordinator). */
bool ff_conn_agreed_locked(FfConnection *conn);
/* Frees all channels. No thread is left. */
void ff_conn_clear(FfConnection *conn);

/* ---- bulk channels */

/* Takes CH over as the next one. The lock is held. */
FfBulkChannel *ff_conn_add_bulk_locked(FfConnection *conn, FfChannel *ch);
/* Starts RUN(FfBulkChannel *) for each. */
void ff_conn_start_bulk(FfConnection *conn, GThreadFunc run);
/* Waits for the threads, which must end by themselves. */
void ff_conn_join_bulk(FfConnection *conn);
/* Joins the threads of all and frees them; the channels are shut down already. */
void ff_conn_end_bulk(FfConnection *conn);

#endif
