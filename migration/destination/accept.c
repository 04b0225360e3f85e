/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who comes to the destination: listen, tell a farfault source from anything else, and hand over
 * sources (to the coordinator: greet.c) and additional channels of the one that is here.
 *
 * Threads: the acceptor takes connections one after the other, in the order in which they have
 * spoken (handshakes.c), under TLS after the handshake. A connection that is neither a farfault
 * source nor one of its channels is closed with a line in the log, and the wait continues: a port
 * scanner must not end a guest.
 */
#include "migration/destination/accept.h"

#include <string.h>

#include "base/failpoints.h"
#include "migration/common/greeting.h"
#include "migration/common/tls.h"
#include "migration/destination/handshakes.h"
#include "migration/destination/read.h"
#include "migration/destination/urgent.h"

void ff_dest_set_listener(FfDestination *d, int fd)
{
    char *uri = fd >= 0 ? ff_address_of_listener(fd) : NULL;

    d->listen_fd = fd;
    ff_mutex_lock(&d->control->lock);
    g_free(d->socket_address);
    d->socket_address = uri;
    ff_mutex_unlock(&d->control->lock);
}

bool ff_dest_listen(FfDestination *d, GError **error)
{
    d->listen_address = ff_address_parse(d->cfg->uri, error);
    if (!d->listen_address) {
        return false;
    }
    ff_dest_set_listener(d, ff_address_listen(d->listen_address, error));
    return d->listen_fd >= 0;
}

/* ---- the acceptor ---------------------------------------------------------------------------- */

/* The coordinator waits for it, puts it in its place, or frees it: nothing is done with it here
 * once it is handed over. */
static void attach_urgent(FfDestination *d, FfChannel *ch)
{
    ff_channel_set_urgent(ch);
    ff_channel_send(ch, ff_frame(FF_FRAME_CHANNEL_REPLY, 0), NULL, true);
    ff_mutex_lock(&d->control->lock);
    d->conn->accepting = NULL;
    if (d->conn->want_channel) {
        d->conn->want_channel = false;
        d->conn->arrived_urgent = g_steal_pointer(&ch);
        d->control->events |= FF_EV_CHANNEL;
        ff_cond_broadcast(&d->control->changed);
    }
    ff_mutex_unlock(&d->control->lock);
    ff_channel_free(ch); /* the attempt is over */
}

/* The epoch that an additional channel must have; 0: none is expected. Under the lock. */
static uint64_t wanted_epoch(const FfDestination *d)
{
    return d->conn->want_channel ? d->conn->want_epoch : 0;
}

static void expected_epoch(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    d->conn->attaching = false;
    ff_cond_broadcast(&d->control->changed);
    ff_mutex_unlock(&d->control->lock);
}

/* The answer comes first: once it is attached, the coordinator may free it at any time. The thread
 * that ends the time of additional channels waits for what was answered (ff_conn_agreed_locked()).
 * In a recovery its reader is started when the whole connection stands. */
static const char *attach_bulk(FfDestination *d, FfChannel **ch, uint64_t epoch)
{
    ff_mutex_lock(&d->control->lock);
    d->conn->attaching = wanted_epoch(d) == epoch && d->conn->n_bulk < FF_MAX_BULK;
    bool wanted = d->conn->attaching;
    ff_mutex_unlock(&d->control->lock);
    if (!wanted) {
        return "no bulk channel is expected now";
    }
    ff_channel_send(*ch, ff_frame(FF_FRAME_CHANNEL_REPLY, 0), NULL, true);
    FF_FAULT_AT("attaching");
    ff_mutex_lock(&d->control->lock);
    bool recovering = d->conn->recovering;
    FfBulkChannel *x = NULL;
    if (wanted_epoch(d) == epoch) {
        d->conn->accepting = NULL;
        x = ff_conn_add_bulk_locked(d->conn, g_steal_pointer(ch));
    }
    ff_mutex_unlock(&d->control->lock);
    if (x && !recovering) {
        x->thread = g_thread_new("ff-bulk", ff_dest_bulk_reader, x);
    }
    expected_epoch(d);
    return x ? NULL : "no bulk channel is expected any more";
}

/* The first bytes are a frame: an additional channel of the migration under way. */
static const char *take_channel(FfDestination *d, FfChannel **ch, const GByteArray *first)
{
    FfFrame f;
    FfChannelHello h;
    const char *why = NULL;

    if (first->len < sizeof(f) + sizeof(h)) {
        return "it ended before it had said who it is";
    }
    memcpy(&f, first->data, sizeof(f));
    memcpy(&h, first->data + sizeof(f), sizeof(h));
    if (ff_frame_decode(&f, &why) < 0 || f.type != FF_FRAME_CHANNEL) {
        return why ? why : "not a migration stream";
    }
    ff_mutex_lock(&d->control->lock);
    uint64_t epoch = wanted_epoch(d);
    ff_mutex_unlock(&d->control->lock);
    uint32_t kind = GUINT32_FROM_LE(h.kind);
    if (!epoch || (kind != FF_CHANNEL_URGENT && kind != FF_CHANNEL_BULK)) {
        return "no channel is expected now";
    }
    if (!ff_greeting_same(h.session, d->conn->session, sizeof(h.session)) ||
        !ff_greeting_same(h.secret, d->conn->secret, sizeof(h.secret))) {
        return "it does not belong to this migration (wrong secret)";
    }
    if (GUINT32_FROM_LE(h.epoch) != (uint32_t)epoch) {
        return "it belongs to an earlier connection";
    }
    if (kind == FF_CHANNEL_BULK) {
        return attach_bulk(d, ch, epoch);
    }
    attach_urgent(d, g_steal_pointer(ch));
    return NULL;
}

/* A source's main channel; FIRST (can be NULL) was read of it, and it is a QEMU without farfault.
 */
static const char *take_main(FfDestination *d, FfChannel **ch, GByteArray *first)
{
    ff_mutex_lock(&d->control->lock);
    /* A paused migration is farfault's: no QEMU can bring it to its end. */
    bool here = d->conn->main || d->conn->connecting;
    bool taken = d->conn->arrived || (here && !d->conn->recovering) ||
                 (first && (d->conn->recovering || d->control->granted));
    if (!taken) {
        d->conn->arrived = g_steal_pointer(ch);
        d->conn->accepting = NULL; /* the coordinator may free it at any time from here on */
        d->plain->first = first ? g_byte_array_ref(first) : NULL;
    }
    ff_mutex_unlock(&d->control->lock);
    if (taken) {
        return "a migration is under way already";
    }
    ff_control_event(d->control, FF_EV_MAIN);
    return NULL;
}

/* A source that has come in under TLS and then ended the session before its first word has looked
 * at this side's certificate and does not want it: nobody else can have said so. That is a failed
 * migration, as it is to QEMU; but not to one that is under way. */
static void see_declined(FfDestination *d, const FfChannel *ch)
{
    ff_mutex_lock(&d->control->lock);
    bool waiting = !d->conn->main && !d->conn->connecting && !d->conn->arrived &&
                   !d->conn->recovering && !d->control->granted;
    ff_mutex_unlock(&d->control->lock);
    /* Only this thread lets a source in, so none has come in between. */
    if (waiting && ff_channel_declined(ch)) {
        ff_control_dead(d->control,
                        "%s ended the connection after the TLS handshake: it does not accept this "
                        "side's certificate, and its log says why",
                        ff_channel_peer(ch));
        /* A client that learns from the source that it failed may end this QEMU at once, and
         * expects the status of a failure: the connection, for whose end the source waits, ends
         * after that is certain. */
        ff_control_wait(d->control, FF_EV_TOLD | FF_EV_QUIT);
    }
}

/* All of its first words is there that will come. */
static const char *take_connection(FfDestination *d, FfChannel **ch)
{
    g_autoptr(GByteArray) first = ff_channel_take_unread(*ch);
    uint32_t magic = 0;
    size_t need;

    if (!first) {
        see_declined(d, *ch);
        return "it ended before it said anything";
    }
    memcpy(&magic, first->data, MIN(first->len, sizeof(magic)));
    if (GUINT32_FROM_LE(magic) == FF_FRAME_MAGIC) {
        return take_channel(d, ch, first);
    }
    switch (ff_prologue_decode(first->data, first->len, &need)) {
    case FF_PEER_FARFAULT:
        return take_main(d, ch, d->plain->refused ? first : NULL);
    case FF_PEER_PLAIN_QEMU:
        if (d->cfg->plain) {
            return take_main(d, ch, first);
        }
        return FF_PLAIN_SOURCE ", and x-farfault-peer is require: start the source through "
                               "farfault; if it is, its query-migrate has the reason";
    case FF_PEER_MORE:
        return "it ended before it had said who it is";
    default:
        return "not a migration stream";
    }
}

/* The peer that it answers is ended with everything else: shutdown reaches this channel, too. */
static void set_accepting(FfDestination *d, FfChannel *ch)
{
    ff_mutex_lock(&d->control->lock);
    d->conn->accepting = ch;
    if (ch && g_cancellable_is_cancelled(d->control->cancel)) {
        ff_channel_shutdown(ch); /* the end had come before */
    }
    ff_mutex_unlock(&d->control->lock);
}

gpointer ff_dest_acceptor(gpointer p)
{
    FfDestination *d = p;
    g_autoptr(FfHandshakes) handshakes =
        ff_handshakes_new(d->listen_fd, d->control->cancel, ff_conn_admit, d->conn);

    for (;;) {
        g_autoptr(GError) error = NULL;
        g_autoptr(FfChannel) ch = ff_handshakes_next(handshakes, &error);
        if (!ch) {
            if (!g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
                /* Observer: ff_dest_end_connection(). */
                g_atomic_int_set(&d->acceptor_failed, 1);
                ff_control_dead(d->control, "cannot accept connections: %s", error->message);
            }
            return NULL;
        }
        const char *why;
        ff_channel_set_deadline(ch, d->cfg->peer_timeout_ms);
        set_accepting(d, ch);
        if ((why = take_connection(d, &ch))) {
            ff_handshakes_log(handshakes, ch, why);
        }
        set_accepting(d, NULL);
        if (d->plain->first) {
            /* Its additional channels are for QEMU. The coordinator joins this thread first. */
            d->plain->later = ff_handshakes_later(handshakes);
            return NULL;
        }
    }
}
