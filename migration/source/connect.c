/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See connect.h. A channel is the connection's `connecting` until all of them are there, so
 * that pause, cancel and the end reach it.
 *
 * No system calls of its own.
 */
#include "migration/source/connect.h"

#include <string.h>

#include "migration/common/keepalive.h"
#include "migration/common/tls.h"
#include "migration/source/reader.h"

/* On a connection that stands. */
static const FfGreetingWords bulk_words = {
    .saying = "opening a bulk channel",
    .hearing = "waiting for the peer",
    .peer = "peer",
    .stranger = ": not a farfault peer",
};

/* ---- where the destination is ---------------------------------------------------------------- */

/* ADDRESS (NULL: none) is where the destination listens. */
static void store_peer(FfSource *s, const FfAddress *address)
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

FfConnectAttempt ff_source_redial(FfSource *s, const FfSentence *sentence)
{
    FfConnectAttempt call = {.sentence = sentence};

    ff_mutex_lock(&s->control->lock);
    call.uri = g_steal_pointer(&s->control->new_uri);
    call.fd = g_steal_fd(&s->control->new_fd);
    ff_mutex_unlock(&s->control->lock);
    return call;
}

/* ---- the call -------------------------------------------------------------------------------- */

static bool dial_destination(FfSource *s, FfConnectAttempt *call, GError **error)
{
    int fd = ff_address_open(g_steal_fd(&call->fd), call->uri, &call->address, s->control->cancel,
                             error);

    if (fd < 0) {
        return false;
    }
    call->ch = ff_conn_channel_new(s->conn, fd, FF_CHANNEL_MAIN);
    store_peer(s, call->address);
    return ff_conn_connecting(s->conn, call->ch, call->sentence->gives_way, error) &&
           (!call->sentence->dialed || call->sentence->dialed(s, call, error));
}

/* What QEMU would say first. To a peer that may be a QEMU, with all that QEMU says of its guest. */
static bool say_opening(FfSource *s, FfConnectAttempt *call, GError **error)
{
    const FfSentence *sentence = call->sentence;
    uint8_t bare[FF_PROLOGUE_SIZE];
    struct iovec iov = {bare, ff_prologue_encode(bare, NULL, 0)};

    if (sentence->first) {
        s->plain->opening = ff_plain_opening(s->plain);
        iov.iov_base = (void *)g_bytes_get_data(s->plain->opening, &iov.iov_len);
    }
    int rc = ff_channel_write_all(call->ch, &iov, 1, true);
    if (rc < 0) {
        return ff_greeting_lost(error, call->ch, sentence->words, sentence->words->saying, rc,
                                NULL);
    }
    if (sentence->recovers) {
        ff_control_set_status(s->control, FF_STATUS_POSTCOPY_RECOVER);
    }
    return !sentence->opened || sentence->opened(s, call, error);
}

/* The first bytes of the answer are coming. */
static bool tell_qemu_apart(FfSource *s, FfConnectAttempt *call, GError **error)
{
    const FfGreetingWords *words = call->sentence->words;
    g_autoptr(GError) plain = NULL;
    uint8_t first[FF_PONG_SIZE];
    int rc = ff_plain_first_answer(s->plain, call->ch, first, &plain);

    if (rc < 0) {
        return ff_greeting_lost(error, call->ch, words, words->hearing, rc, NULL);
    }
    if (plain) {
        g_propagate_error(error, g_steal_pointer(&plain));
        return false;
    }
    ff_channel_unread(call->ch, first, sizeof(first));
    return true;
}

static bool hear_greeting(FfSource *s, FfConnectAttempt *call, GError **error)
{
    const FfSentence *sentence = call->sentence;
    FfGreeting g;
    FfFrame f;

    if (!ff_conn_check_clear(s->conn, call->ch, FF_GREETING_DEADLINE_MS, error) ||
        (sentence->first && !tell_qemu_apart(s, call, error)) ||
        !ff_greeting_expect(call->ch, sentence->words, FF_FRAME_GREETING, &f, &g, sizeof(g),
                            error)) {
        return false;
    }
    uint32_t version = GUINT32_FROM_LE(g.version);
    if (version != FF_WIRE_VERSION) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the destination speaks wire version %u, this side %u: %s", version,
                    FF_WIRE_VERSION, sentence->other);
        return false;
    }
    s->conn->peer_features = GUINT32_FROM_LE(g.features);
    return true;
}

bool ff_source_call(FfSource *s, FfConnectAttempt *call, GError **error)
{
    return dial_destination(s, call, error) && ff_conn_secure(s->conn, call->ch, error) &&
           say_opening(s, call, error) && hear_greeting(s, call, error) &&
           call->sentence->say(s, call, error);
}

void ff_source_hang_up(FfSource *s, FfConnectAttempt *call)
{
    ff_conn_connecting(s->conn, NULL, 0, NULL);
    g_clear_pointer(&call->urgent, ff_channel_free);
    g_clear_pointer(&call->ch, ff_channel_free);
    g_clear_pointer(&call->address, ff_address_free);
    g_clear_pointer(&call->uri, g_free);
}

/* ---- the other channels ---------------------------------------------------------------------- */

static FfChannel *open_channel(FfSource *s, const FfAddress *address, FfChannelKind kind,
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
    memcpy(h.session, s->conn->session, sizeof(h.session));
    memcpy(h.secret, s->conn->secret, sizeof(h.secret));
    bool ok = ff_conn_secure(s->conn, ch, error) &&
              ff_greeting_say(ch, &bulk_words, ff_frame(FF_FRAME_CHANNEL, sizeof(h)), &h, error) &&
              ff_greeting_expect(ch, &bulk_words, FF_FRAME_CHANNEL_REPLY, &f, NULL, 0, error);
    return ok ? g_steal_pointer(&ch) : NULL;
}

/* As many as the client wants, or as can be had. */
static bool open_bulk(FfSource *s, const FfAddress *address, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (!address || !(s->conn->peer_features & FF_FEATURE_LISTENS)) {
        return true; /* the urgent channel's attempt, which follows, says so */
    }
    for (unsigned i = 1; i < MIN(s->cfg->channels, FF_MAX_BULK + 1) && !local; i++) {
        FfChannel *ch = open_channel(s, address, FF_CHANNEL_BULK, &local);
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

static bool open_urgent(FfSource *s, FfConnectAttempt *call, GError **error)
{
    g_autoptr(GError) local = NULL;

    call->urgent = open_channel(s, call->address, FF_CHANNEL_URGENT, &local);
    if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    if (!call->urgent) {
        g_message("urgent pages share the main connection: %s", local->message);
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

static bool put_in_place(FfSource *s, FfConnectAttempt *call, GError **error)
{
    g_clear_pointer(&s->feed, ff_feed_free); /* what it holds is asked for again */
    ff_conn_install(s->conn, g_steal_pointer(&call->ch), g_steal_pointer(&call->urgent));
    return s->conn->urgent || ff_source_feed_urgent(s, error);
}

bool ff_source_join(FfSource *s, FfConnectAttempt *call, GError **error)
{
    if (!open_bulk(s, call->address, error) || !open_urgent(s, call, error) ||
        !put_in_place(s, call, error) || !call->sentence->joined(s, call, error)) {
        return false;
    }
    s->conn->main_reader = g_thread_new("ff-main", ff_source_main_reader, s);
    ff_keepalive_start(s->conn, s->ram, s->stats, &s->guest_stopped);
    return true;
}
