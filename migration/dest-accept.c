/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's side of the connections: listen, tell a farfault source from anything else,
 * compare its guest with ours, attach the urgent channel.
 *
 * Threads: the acceptor takes connections one after the other, in the order in which they have
 * spoken (handshakes.c), under TLS behind the handshake; ff_dest_greet() is the coordinator's. A
 * connection that is neither a farfault source nor one of its channels is closed with a line in the
 * log, and the wait goes on: a port scanner must not end a guest.
 */
#include "migration/dest-accept.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "fault/fault.h"
#include "migration/dest-read.h"
#include "migration/dest-urgent.h"
#include "migration/greeting.h"
#include "migration/handshakes.h"
#include "migration/tls.h"

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

/* ---- the acceptor ------------------------------------------------------------------------- */

/* The coordinator waits for it, puts it in its place, or frees it: nothing is done with it here
 * once it is handed over. */
static void hand_over_urgent(FfDestination *d, FfChannel *ch)
{
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

static void attach_urgent(FfDestination *d, FfChannel *ch)
{
    ff_channel_set_urgent(ch);
    ff_mutex_lock(&d->control->lock);
    bool recovering = d->conn->recovering;
    if (!recovering) {
        d->conn->urgent = ch;
        d->conn->want_channel = false;
        d->conn->accepting = NULL;
    }
    ff_mutex_unlock(&d->control->lock);
    if (recovering) {
        hand_over_urgent(d, ch);
        return;
    }
    if (ff_channel_send(ch, ff_frame(FF_FRAME_CHANNEL_REPLY, 0), NULL, true) < 0) {
        ff_control_dead(d->control, "the urgent channel closed at once");
        return;
    }
    d->conn->urgent_thread = g_thread_new("ff-urgent", ff_dest_urgent_reader, d);
    ff_control_event(d->control, FF_EV_CHANNEL);
}

/* The epoch that a further channel must have; 0: none is expected. Under the lock. */
static uint64_t wanted_epoch(const FfDestination *d)
{
    return !d->conn->want_channel ? 0 : d->conn->recovering ? d->conn->want_epoch : d->conn->epoch;
}

static void attached(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    d->conn->attaching = false;
    ff_cond_broadcast(&d->control->changed);
    ff_mutex_unlock(&d->control->lock);
}

/* The answer comes first: once it is attached, the coordinator may free it at any time. Whoever
 * ends the time of further channels waits for what was answered (ff_conn_agreed_locked()). In a
 * recovery its reader is started when the whole connection stands. */
static const char *attach_bulk(FfDestination *d, FfChannel **ch, uint64_t epoch)
{
    ff_mutex_lock(&d->control->lock);
    d->conn->attaching = wanted_epoch(d) == epoch && d->conn->n_bulk < FF_MAX_BULK;
    bool wanted = d->conn->attaching;
    ff_mutex_unlock(&d->control->lock);
    if (!wanted) {
        return "no further channel is expected now";
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
    attached(d);
    return x ? NULL : "no further channel is expected any more";
}

/* The first bytes are a frame: a further channel of the migration under way. */
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
    bool taken = d->conn->arrived || (d->conn->main && !d->conn->recovering) ||
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
    bool waiting =
        !d->conn->main && !d->conn->arrived && !d->conn->recovering && !d->control->granted;
    ff_mutex_unlock(&d->control->lock);
    /* Only this thread lets a source in, so none has come in between. */
    if (waiting && ff_channel_declined(ch)) {
        ff_control_dead(d->control,
                        "%s ended the connection behind the TLS handshake: it does not accept this "
                        "side's certificate, and its log says why",
                        ff_channel_peer(ch));
        /* Who learns from the source that it failed may end this QEMU at once, and expects the
         * status of a failure: the connection, for whose end the source waits, ends after that
         * is certain. */
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
    case FF_PEER_STOCK_QEMU:
        if (d->cfg->stock) {
            return take_main(d, ch, first);
        }
        return "a QEMU without farfault, and x-farfault-peer is require: start the source through "
               "farfault";
    case FF_PEER_MORE:
        return "it ended before it had said who it is";
    default:
        return "not a migration stream";
    }
}

/* Whom it answers is ended with everything else: shutdown reaches this channel, too. */
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
            g_message("connection from %s refused: %s", ff_channel_peer(ch), why);
        }
        set_accepting(d, NULL);
        if (d->plain->first) {
            /* Its further channels are for QEMU. The coordinator joins this thread first. */
            d->plain->later = ff_handshakes_later(handshakes);
            return NULL;
        }
    }
}

/* ---- greeting ------------------------------------------------------------------------------- */

static bool lost(GError **error, const FfChannel *ch, int rc, const char *why)
{
    g_set_error(error, FF_M_ERROR, 0, "%s: %s", ff_channel_peer(ch),
                why                ? why
                : rc == -ETIMEDOUT ? "no answer in time"
                : rc == -EPIPE     ? "the source closed the connection"
                                   : ff_channel_strerror(ch, rc));
    return false;
}

static char *uuid_text(const uint8_t *u)
{
    GString *s = g_string_new(NULL);

    for (int i = 0; i < 16; i++) {
        g_string_append_printf(s, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
    }
    return g_string_free(s, FALSE);
}

/* In QEMU's words. Who has none is not asked for it. */
static char *compare_uuid(const FfDestination *d, const uint8_t *received)
{
    static const uint8_t none[16];

    if (!memcmp(received, d->conn->vm_uuid, 16) || !memcmp(received, none, 16) ||
        !memcmp(d->conn->vm_uuid, none, 16)) {
        return NULL;
    }
    g_autofree char *theirs = uuid_text(received), *ours = uuid_text(d->conn->vm_uuid);
    return g_strdup_printf("UUID received is %s and local is %s", theirs, ours);
}

static const FfBlock *find_block(const FfDestination *d, const char *id)
{
    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        if (strcmp(d->ram->blocks[i].info.id, id) == 0) {
            return &d->ram->blocks[i];
        }
    }
    return NULL;
}

/* NULL if the source's block fits to ours, else why not, with both sides' values; g_free. */
static char *compare_block(const FfDestination *d, FfHelloBlock *hb)
{
    hb->id[sizeof(hb->id) - 1] = '\0';
    const FfBlock *b = find_block(d, hb->id);
    uint64_t size = GUINT64_FROM_LE(hb->size), ps = GUINT64_FROM_LE(hb->page_size);
    uint64_t gpa = GUINT64_FROM_LE(hb->gpa);

    if (!b) {
        return g_strdup_printf("the source has a memory backend '%s', this side has none",
                               ff_peer_text(hb->id));
    }
    if (size != b->info.size) {
        return g_strdup_printf("size of memory backend '%s': %" G_GUINT64_FORMAT
                               " bytes at the source, %" G_GUINT64_FORMAT
                               " here: start both with the same -m",
                               b->info.id, size, b->info.size);
    }
    if (ps != b->info.page_size) {
        return g_strdup_printf("page size of memory backend '%s': %" G_GUINT64_FORMAT
                               " bytes at the source, %" G_GUINT64_FORMAT
                               " here: use the same hugepages on both",
                               b->info.id, ps, b->info.page_size);
    }
    if (gpa != b->info.gpa) {
        return g_strdup_printf("address of memory backend '%s': 0x%" G_GINT64_MODIFIER
                               "x at the source, 0x%" G_GINT64_MODIFIER "x here",
                               b->info.id, gpa, b->info.gpa);
    }
    return NULL;
}

/* Puts our blocks into the order of the source's list: an index on the wire then means the same
 * on both sides. No other thread uses the array
 * yet but the driver, for the totals. */
static void order_blocks(FfDestination *d, const FfHelloBlock *hb)
{
    ff_mutex_lock(&d->control->lock);
    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        unsigned j = find_block(d, hb[i].id) - d->ram->blocks;
        FfBlock b = d->ram->blocks[i];
        FfFrameBlock fb = d->ram->frame_blocks[i];
        FfStateBlock sb = d->cfg->state->block[i];
        d->ram->blocks[i] = d->ram->blocks[j];
        d->ram->blocks[j] = b;
        d->ram->frame_blocks[i] = d->ram->frame_blocks[j];
        d->ram->frame_blocks[j] = fb;
        d->cfg->state->block[i] = d->cfg->state->block[j];
        d->cfg->state->block[j] = sb;
    }
    ff_mutex_unlock(&d->control->lock);
}

static char *compare(FfDestination *d, const FfFrame *f, uint8_t *payload)
{
    FfHello *h = (FfHello *)payload;
    FfHelloBlock *hb = (FfHelloBlock *)(h + 1);
    uint32_t version = GUINT32_FROM_LE(h->version);

    if (version != FF_WIRE_VERSION) {
        return g_strdup_printf("wire version %u at the source, %u here: install the same "
                               "farfault on both",
                               version, FF_WIRE_VERSION);
    }
    if (f->n_pages > FF_MAX_BLOCKS ||
        f->length != sizeof(FfHello) + f->n_pages * sizeof(FfHelloBlock)) {
        return g_strdup("malformed hello");
    }
    if (GUINT32_FROM_LE(h->features) & FF_FEATURE_VALIDATE_UUID) {
        char *why = compare_uuid(d, h->vm_uuid);
        if (why) {
            return why;
        }
    }
    for (unsigned i = 0; i < f->n_pages; i++) {
        char *why = compare_block(d, &hb[i]);
        if (why) {
            return why;
        }
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(hb[i].id, hb[j].id) == 0) {
                return g_strdup("a memory backend is named twice");
            }
        }
    }
    if (f->n_pages != d->ram->n_blocks) {
        return g_strdup_printf("%u memory backends at the source, %u here", f->n_pages,
                               d->ram->n_blocks);
    }
    d->conn->peer_features = GUINT32_FROM_LE(h->features);
    memcpy(d->conn->session, h->session, sizeof(d->conn->session));
    d->conn->epoch = GUINT64_FROM_LE(h->epoch);
    order_blocks(d, hb);
    return NULL;
}

FfGreeting ff_dest_greeting(const FfDestination *d)
{
    return (FfGreeting){
        .version = GUINT32_TO_LE(FF_WIRE_VERSION),
        .features = GUINT32_TO_LE(FF_FEATURE_ALIVE | FF_FEATURE_ZSTD | FF_FEATURE_PACKED_DEVICE |
                                  FF_FEATURE_DELTA_DEVICE | FF_FEATURE_ROUNDS | FF_FEATURE_ENDED |
                                  (d->listen_fd >= 0 ? FF_FEATURE_LISTENS : 0)),
    };
}

static bool say_greeting(FfDestination *d, GError **error)
{
    FfGreeting g = ff_dest_greeting(d);

    int rc = ff_channel_send(d->conn->main, ff_frame(FF_FRAME_GREETING, sizeof(g)), &g, true);
    return rc < 0 ? lost(error, d->conn->main, rc, NULL) : true;
}

/* The source of a migration that was here before: this one waits for its own, for whom the place
 * is free before the stray knows that it is sent away. */
static bool send_away(FfDestination *d, const FfFrame *f, GError **error)
{
    static const char why[] = "the migration that you look for is not here any more";
    FfFrame reply = ff_frame(f->type == FF_FRAME_RESUME ? FF_FRAME_RESUME_REPLY : FF_FRAME_REVOKED,
                             strlen(why));
    FfResume r;

    /* What is left unread makes the end a reset, which would overtake the answer. */
    int rc = ff_channel_read_all(d->conn->main, &r, sizeof(r), FF_GREETING_DEADLINE_MS);
    if (rc < 0) {
        return lost(error, d->conn->main, rc, NULL);
    }
    ff_mutex_lock(&d->control->lock);
    FfChannel *stray = g_steal_pointer(&d->conn->main);
    d->control->events &= ~FF_EV_MAIN;
    ff_mutex_unlock(&d->control->lock);
    reply.page = 1;
    ff_channel_send_last(stray, reply, why, 0);
    g_set_error(error, FF_M_ERROR, FF_M_ERROR_STRAY, "%s looks for another migration",
                ff_channel_peer(stray));
    ff_channel_free(stray);
    return false;
}

static bool answer_hello(FfDestination *d, GError **error)
{
    const char *why = NULL;
    FfFrame f;
    int rc = ff_channel_read_frame(d->conn->main, &f, FF_GREETING_DEADLINE_MS, &why);

    if (rc == 0 && (f.type == FF_FRAME_RESUME || f.type == FF_FRAME_REVOKE)) {
        return send_away(d, &f, error);
    }
    if (rc < 0 || f.type != FF_FRAME_HELLO) {
        return lost(error, d->conn->main, rc, rc < 0 ? why : "no hello after the greeting");
    }
    g_autofree uint8_t *payload = g_malloc(f.length);
    rc = ff_channel_read_all(d->conn->main, payload, f.length, FF_GREETING_DEADLINE_MS);
    if (rc < 0) {
        return lost(error, d->conn->main, rc, NULL);
    }
    d->refusal = compare(d, &f, payload);
    if (d->refusal) {
        /* The coordinator tells the source, when QEMU has ended. */
        g_set_error(error, FF_M_ERROR, 0, "the guests differ: %s", d->refusal);
        return false;
    }
    if (getrandom(d->conn->secret, sizeof(d->conn->secret), 0) != sizeof(d->conn->secret)) {
        return lost(error, d->conn->main, -errno, NULL);
    }
    ff_mutex_lock(&d->control->lock);
    d->conn->want_channel = true;
    ff_mutex_unlock(&d->control->lock);
    rc = ff_channel_send(d->conn->main, ff_frame(FF_FRAME_HELLO_REPLY, sizeof(FfHelloReply)),
                         d->conn->secret, true);
    return rc < 0 ? lost(error, d->conn->main, rc, NULL) : true;
}

bool ff_dest_greet(FfDestination *d, GError **error)
{
    ff_mutex_lock(&d->control->lock);
    d->conn->main = g_steal_pointer(&d->conn->arrived);
    bool cancelled = d->control->events & (FF_EV_QUIT | FF_EV_WANT_CANCEL);
    ff_mutex_unlock(&d->control->lock);
    if (cancelled) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "migration was cancelled");
        return false;
    }
    if (!say_greeting(d, error) || !answer_hello(d, error)) {
        return false;
    }
    d->conn->main_reader = g_thread_new("ff-main", ff_dest_main_reader, d);
    return true;
}
