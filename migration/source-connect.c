/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's side of the connections: connect, greet, compare blocks, open the urgent
 * channel. The first time, and again after the connection was lost.
 *
 * Thread: the coordinator.
 */
#include "migration/source-connect.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "migration/greeting.h"
#include "migration/keepalive.h"
#include "migration/source-reader.h"
#include "migration/source-send.h"
#include "migration/tls.h"

static bool fail(GError **error, const FfChannel *ch, const char *what, int rc, const char *why)
{
    g_set_error(error, FF_M_ERROR, 0, "%s: %s: %s", ff_channel_peer(ch), what,
                why                ? why
                : rc == -EPIPE     ? "the peer closed the connection"
                : rc == -ETIMEDOUT ? "no answer in time"
                                   : ff_channel_strerror(ch, rc));
    return false;
}

void ff_source_store_peer(FfSource *s, const FfAddress *address)
{
    FfStateHeader *state = s->cfg->state;
    char *uri = address ? ff_address_uri(address) : NULL;

    ff_mutex_lock(&s->control->lock);
    g_free(s->peer_uri);
    s->peer_uri = uri;
    memset(state->peer_uri, 0, sizeof(state->peer_uri));
    if (uri && strlen(uri) < sizeof(state->peer_uri)) {
        memcpy(state->peer_uri, uri, strlen(uri));
    }
    ff_mutex_unlock(&s->control->lock);
}

char *ff_source_peer_uri(FfSource *s)
{
    ff_mutex_lock(&s->control->lock);
    char *uri = g_strdup(s->peer_uri);
    ff_mutex_unlock(&s->control->lock);
    return uri;
}

/* Reads one frame of a type that is expected now, with its payload (at most CAP bytes). The first
 * HAVE bytes of it, FIRST, were read already. */
static bool expect_from(FfChannel *ch, const uint8_t *first, size_t have, FfFrameType type,
                        FfFrame *f, void *payload, size_t cap, GError **error)
{
    const char *why = NULL;

    if (have) {
        memcpy(f, first, have);
    }
    int rc = ff_channel_read_all(ch, (char *)f + have, sizeof(*f) - have, FF_GREETING_DEADLINE_MS);

    rc = rc < 0 ? rc : ff_frame_decode(f, &why);
    if (rc < 0) {
        return fail(error, ch, "waiting for the peer", rc, why);
    }
    if (f->type != type || f->length > cap) {
        g_set_error(error, FF_M_ERROR, 0, "%s: sent '%s' where '%s' belongs: not a farfault peer",
                    ff_channel_peer(ch), ff_frame_name(f->type), ff_frame_name(type));
        return false;
    }
    rc = ff_channel_read_all(ch, payload, f->length, FF_GREETING_DEADLINE_MS);
    return rc < 0 ? fail(error, ch, "waiting for the peer", rc, NULL) : true;
}

static bool expect(FfChannel *ch, FfFrameType type, FfFrame *f, void *payload, size_t cap,
                   GError **error)
{
    return expect_from(ch, NULL, 0, type, f, payload, cap, error);
}

/* NULL: it cannot be had. */
static FfChannel *open_second(FfSource *s, const FfAddress *address)
{
    g_autoptr(GError) error = NULL;
    int fd = ff_address_connect(address, s->control->cancel, &error);
    g_autoptr(FfChannel) ch = fd >= 0 ? ff_conn_channel_new(s->conn, fd, FF_CHANNEL_MAIN) : NULL;

    if (!ch || !ff_conn_secure(s->conn, ch, &error)) {
        g_message("a second connection for a peer that says nothing: %s", error->message);
        return NULL;
    }
    return g_steal_pointer(&ch);
}

/* Returns 0 when the peer has said something. A QEMU that waits for its second channel gets one:
 * see plain.c. */
static int await_first_byte(FfSource *s, const FfAddress *address)
{
    /* Over a passed fd QEMU has one channel, so nobody there waits for a second one. */
    unsigned second = address && s->cfg->uri ? s->cfg->second_ms : 0;
    int rc =
        ff_channel_wait_readable(s->conn->main, second ? (int)second : FF_GREETING_DEADLINE_MS);

    if (rc == -ETIMEDOUT && second) {
        s->plain->second = open_second(s, address);
        rc = ff_channel_wait_readable(s->conn->main, FF_GREETING_DEADLINE_MS - (int)second);
    }
    return rc;
}

static bool fail_silent(const FfSource *s, GError **error)
{
    g_set_error(error, FF_M_ERROR, 0,
                "%s has accepted the connection and said nothing for %d s: neither farfault nor a "
                "QEMU serves it now (its engine or its host hangs, or something else listens "
                "there). The guest stays here: see to the destination, then migrate again%s%s",
                ff_channel_peer(s->conn->main), FF_GREETING_DEADLINE_MS / 1000,
                s->cfg->silence ? ". " : "", s->cfg->silence ? s->cfg->silence : "");
    return false;
}

static bool greet(FfSource *s, const FfAddress *address, GError **error)
{
    g_autoptr(GError) stock = NULL;
    uint8_t first[FF_PONG_SIZE];
    FfGreeting g;
    FfFrame f;

    s->plain->opening = ff_plain_opening(s->plain);
    struct iovec iov = {(void *)g_bytes_get_data(s->plain->opening, NULL),
                        g_bytes_get_size(s->plain->opening)};
    int rc = ff_channel_write_all(s->conn->main, &iov, 1, true);
    if (rc < 0) {
        return fail(error, s->conn->main, "greeting the peer", rc, NULL);
    }
    rc = await_first_byte(s, address);
    if (rc == -ETIMEDOUT) {
        return fail_silent(s, error);
    }
    rc = rc ? rc : ff_plain_first_answer(s->plain, first, &stock);
    if (rc < 0) {
        return fail(error, s->conn->main, "waiting for the peer", rc, NULL);
    }
    if (stock) {
        g_propagate_error(error, g_steal_pointer(&stock));
        return false;
    }
    if (!expect_from(s->conn->main, first, sizeof(first), FF_FRAME_GREETING, &f, &g, sizeof(g),
                     error)) {
        return false;
    }
    uint32_t version = GUINT32_FROM_LE(g.version);
    if (version != FF_WIRE_VERSION) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the destination speaks wire version %u, this side %u: install the same "
                    "farfault on both",
                    version, FF_WIRE_VERSION);
        return false;
    }
    s->conn->peer_features = GUINT32_FROM_LE(g.features);
    g_clear_pointer(&s->plain->second, ff_channel_free); /* it was a slow farfault */
    return true;
}

static bool hello(FfSource *s, GError **error)
{
    size_t len = sizeof(FfHello) + s->ram->n_blocks * sizeof(FfHelloBlock);
    g_autofree uint8_t *payload = g_malloc0(len);
    FfHello *h = (FfHello *)payload;
    FfHelloBlock *hb = (FfHelloBlock *)(h + 1);

    if (getrandom(s->conn->session, sizeof(s->conn->session), 0) != sizeof(s->conn->session)) {
        g_set_error(error, FF_M_ERROR, 0, "getrandom: %s", g_strerror(errno));
        return false;
    }
    h->version = GUINT32_TO_LE(FF_WIRE_VERSION);
    h->features = GUINT32_TO_LE(ff_source_features(s) |
                                (s->cfg->validate_uuid ? FF_FEATURE_VALIDATE_UUID : 0));
    h->epoch = GUINT64_TO_LE(s->conn->epoch);
    memcpy(h->session, s->conn->session, sizeof(h->session));
    memcpy(h->vm_uuid, s->conn->vm_uuid, sizeof(h->vm_uuid));
    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        g_strlcpy(hb[i].id, s->ram->blocks[i].info.id, sizeof(hb[i].id));
        hb[i].size = GUINT64_TO_LE(s->ram->blocks[i].info.size);
        hb[i].page_size = GUINT64_TO_LE(s->ram->blocks[i].info.page_size);
        hb[i].gpa = GUINT64_TO_LE(s->ram->blocks[i].info.gpa);
    }
    FfFrame f = ff_frame(FF_FRAME_HELLO, len);
    f.n_pages = s->ram->n_blocks;
    int rc = ff_channel_send(s->conn->main, f, payload, true);
    if (rc < 0) {
        return fail(error, s->conn->main, "greeting the peer", rc, NULL);
    }
    char reply[FF_FRAME_MAX_TEXT + 1] = "";
    if (!expect(s->conn->main, FF_FRAME_HELLO_REPLY, &f, reply, FF_FRAME_MAX_TEXT, error)) {
        return false;
    }
    if (f.page != 0) {
        g_set_error(error, FF_M_ERROR, 0, "the destination refused: %s", ff_peer_text(reply));
        return false;
    }
    if (f.length != sizeof(FfHelloReply)) {
        return fail(error, s->conn->main, "greeting the peer", 0, "malformed reply to hello");
    }
    memcpy(s->conn->secret, reply, sizeof(s->conn->secret));
    return true;
}

/* NULL if it cannot be had (then urgent frames share the main one). */
FfChannel *ff_source_open_channel(FfSource *s, const FfAddress *address, FfChannelKind kind,
                                  GError **error)
{
    FfChannelHello h = {.kind = GUINT32_TO_LE(kind),
                        .epoch = GUINT32_TO_LE((uint32_t)s->conn->epoch)};
    FfFrame f;

    if (!address) {
        g_set_error_literal(error, FF_M_ERROR, 0, "its peer has no address to connect to");
        return NULL;
    }
    if (!(s->conn->peer_features & FF_FEATURE_LISTENS)) {
        g_set_error_literal(error, FF_M_ERROR, 0, "the destination listens at no address");
        return NULL;
    }
    int fd = ff_address_connect(address, s->control->cancel, error);
    if (fd < 0) {
        return NULL;
    }
    g_autoptr(FfChannel) ch = ff_conn_channel_new(s->conn, fd, kind);
    if (!ff_conn_secure(s->conn, ch, error)) {
        return NULL;
    }
    memcpy(h.session, s->conn->session, sizeof(h.session));
    memcpy(h.secret, s->conn->secret, sizeof(h.secret));
    int rc = ff_channel_send(ch, ff_frame(FF_FRAME_CHANNEL, sizeof(h)), &h, true);
    if (rc < 0) {
        fail(error, ch, "opening a further channel", rc, NULL);
        return NULL;
    }
    return expect(ch, FF_FRAME_CHANNEL_REPLY, &f, NULL, 0, error) ? g_steal_pointer(&ch) : NULL;
}

bool ff_source_open_bulk(FfSource *s, const FfAddress *address, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (!address || !(s->conn->peer_features & FF_FEATURE_LISTENS)) {
        return true; /* the urgent channel's attempt, which follows, says so */
    }
    for (unsigned i = 1; i < MIN(s->cfg->channels, FF_MAX_BULK + 1) && !local; i++) {
        FfChannel *ch = ff_source_open_channel(s, address, FF_CHANNEL_BULK, &local);
        if (ch) {
            ff_mutex_lock(&s->control->lock);
            ff_conn_add_bulk_locked(s->conn, ch);
            ff_mutex_unlock(&s->control->lock);
        }
    }
    if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    if (local) {
        g_message("%u bulk connections in place of %u: %s", s->conn->n_bulk + 1, s->cfg->channels,
                  local->message);
    }
    return true;
}

bool ff_source_feed_urgent(FfSource *s, GError **error)
{
    FfFeed *feed = ff_feed_new(error);

    if (!feed) {
        return false;
    }
    s->feed = feed;
    ff_mutex_lock(&s->control->lock);
    s->conn->urgent_shared = true;
    ff_mutex_unlock(&s->control->lock);
    return true;
}

static bool share_main(FfSource *s, GError **error)
{
    if (!ff_source_feed_urgent(s, error)) {
        return false;
    }
    /* A destination that has given up since its greeting takes no further channel, nor this: the
     * reader, which follows, says why. */
    ff_channel_send(s->conn->main, ff_frame(FF_FRAME_SHARED, 0), NULL, true);
    return true;
}

bool ff_source_connect(FfSource *s, GError **error)
{
    g_autoptr(FfAddress) address = NULL;
    g_autoptr(GError) local = NULL;
    int fd =
        ff_address_open(g_steal_fd(&s->cfg->fd), s->cfg->uri, &address, s->control->cancel, error);

    if (fd < 0) {
        return false;
    }
    ff_mutex_lock(&s->control->lock);
    s->conn->main = ff_conn_channel_new(s->conn, fd, FF_CHANNEL_MAIN);
    bool cancelled = s->control->events & (FF_EV_WANT_CANCEL | FF_EV_QUIT);
    ff_mutex_unlock(&s->control->lock);
    if (cancelled) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "migration was cancelled");
        return false;
    }
    ff_source_store_peer(s, address);
    if (!ff_conn_secure(s->conn, s->conn->main, error) || !greet(s, address, error) ||
        !hello(s, error)) {
        return false;
    }
    if (!ff_source_open_bulk(s, address, error)) {
        return false;
    }
    FfChannel *urgent = ff_source_open_channel(s, address, FF_CHANNEL_URGENT, &local);
    if (urgent) {
        ff_mutex_lock(&s->control->lock);
        s->conn->urgent = urgent;
        ff_mutex_unlock(&s->control->lock);
    } else if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    } else {
        g_message("urgent pages share the main connection: %s", local->message);
        if (!share_main(s, error)) {
            return false;
        }
    }
    s->conn->main_reader = g_thread_new("ff-main", ff_source_main_reader, s);
    ff_keepalive_start(s->conn, s->ram, s->stats, &s->guest_stopped);
    return true;
}

/* ---- once more ---------------------------------------------------------------------------- */

FfChannel *ff_source_connect_again(FfSource *s, FfAddress **address, GError **error)
{
    ff_mutex_lock(&s->control->lock);
    g_autofree char *uri = g_steal_pointer(&s->control->new_uri);
    int fd = s->control->new_fd;
    s->control->new_fd = -1;
    ff_mutex_unlock(&s->control->lock);
    fd = ff_address_open(fd, uri, address, s->control->cancel, error);
    if (fd < 0) {
        return NULL;
    }
    ff_source_store_peer(s, *address);
    return ff_conn_channel_new(s->conn, fd, FF_CHANNEL_MAIN);
}

bool ff_source_greet_again(FfSource *s, FfChannel *ch, bool paused, GError **error)
{
    uint8_t prologue[FF_PROLOGUE_SIZE];
    struct iovec iov = {prologue, ff_prologue_encode(prologue, NULL, 0)};
    FfGreeting g;
    FfFrame f;

    int rc = ff_channel_write_all(ch, &iov, 1, true);
    if (rc < 0) {
        g_set_error(error, FF_M_ERROR, 0, "%s: %s", ff_channel_peer(ch),
                    ff_channel_strerror(ch, rc));
        return false;
    }
    if (paused) {
        ff_control_set_status(s->control, FF_STATUS_POSTCOPY_RECOVER);
    }
    if (!ff_conn_check_clear(s->conn, ch, FF_GREETING_DEADLINE_MS, error)) {
        return false;
    }
    if (!ff_greeting_expect(ch, FF_FRAME_GREETING, &f, &g, sizeof(g), error)) {
        return false;
    }
    if (GUINT32_FROM_LE(g.version) != FF_WIRE_VERSION) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the destination speaks wire version %u, this side %u: it is not the "
                    "destination of this migration",
                    GUINT32_FROM_LE(g.version), FF_WIRE_VERSION);
        return false;
    }
    s->conn->peer_features = GUINT32_FROM_LE(g.features);
    return true;
}
