/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The first sentence of a migration: HELLO names the session and the guest's memory. It is said to
 * a peer of which nothing is known, so this is also where one that says nothing is found out, and a
 * QEMU that waits for its second channel gets one (migration/common/qemu-carries.c).
 *
 * Thread: the coordinator.
 *
 * System calls: getrandom.
 */
#include "migration/source/hello.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/failpoint-deadline.h"
#include "migration/common/tls.h"
#include "migration/source/connect.h"
#include "migration/source/send.h"

/* ---- does anybody answer --------------------------------------------------------------------- */

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

/* Milliseconds that a peer may say nothing. */
static int peer_timeout_ms(void)
{
    return ff_deadline_ms("greeting", FF_GREETING_DEADLINE_MS);
}

/* A guest that is QEMU's to migrate: QEMU would wait for as long as the connection stands, for a
 * main loop that is in storage, and nothing is lost by it. The guest runs, nothing of it is sent,
 * and the switch that is asked for meanwhile comes after the answer. */
static int await_as_qemu(const FfConnectAttempt *call, int patience_ms)
{
    g_message("%s has accepted the connection and said nothing for %d s. It is waited for, as QEMU "
              "would; migrate_cancel ends that",
              ff_channel_peer(call->ch), patience_ms / 1000);
    return ff_channel_wait_readable(call->ch, -1);
}

/* The handshake is what a peer must answer first. */
static bool await_handshake(FfSource *s, FfConnectAttempt *call, GError **error)
{
    short events;

    if (!s->cfg->tls || !s->plain->refused) {
        return true;
    }
    int patience_ms = peer_timeout_ms();

    ff_channel_begin_tls(call->ch, s->cfg->tls, s->cfg->tls_hostname);
    if (ff_channel_step_tls(call->ch, &events, error) == FF_IO_DEAD) {
        return false;
    }
    if (ff_channel_wait_readable(call->ch, patience_ms) == -ETIMEDOUT) {
        await_as_qemu(call, patience_ms); /* the thread that reads it says what has come */
    }
    return true;
}

/* Returns 0 when the peer has said something. A QEMU that waits for its second channel gets one:
 * see migration/common/qemu-carries.c. */
static int await_first_byte(FfSource *s, const FfConnectAttempt *call, int patience_ms)
{
    /* Over a passed fd QEMU has one channel, so nobody there waits for a second one. */
    unsigned second = call->address && s->cfg->uri ? s->cfg->second_ms : 0;
    int rc = ff_channel_wait_readable(call->ch, second ? (int)second : patience_ms);

    if (rc == -ETIMEDOUT && second) {
        s->plain->second = open_second(s, call->address);
        rc = ff_channel_wait_readable(call->ch, patience_ms - (int)second);
    }
    return rc == -ETIMEDOUT && s->plain->refused ? await_as_qemu(call, patience_ms) : rc;
}

static bool await_answer(FfSource *s, FfConnectAttempt *call, GError **error)
{
    const FfGreetingWords *words = call->sentence->words;
    int patience_ms = peer_timeout_ms(), rc = await_first_byte(s, call, patience_ms);

    if (rc == 0) {
        return true;
    }
    if (rc != -ETIMEDOUT) {
        return ff_greeting_lost(error, call->ch, words, words->hearing, rc, NULL);
    }
    g_set_error(error, FF_M_ERROR, 0,
                "%s has accepted the connection and said nothing for %d s: neither farfault nor a "
                "QEMU serves it now (its engine or its host hangs, or something else listens "
                "there). The guest stays here: see to the destination, then migrate again%s%s",
                ff_channel_peer(call->ch), patience_ms / 1000, s->cfg->silence ? ". " : "",
                s->cfg->silence ? s->cfg->silence : "");
    return false;
}

/* ---- the sentence ---------------------------------------------------------------------------- */

static void describe_guest(const FfSource *s, FfHello *h, bool parts)
{
    FfHelloBlock *hb = (FfHelloBlock *)(h + 1);

    h->version = GUINT32_TO_LE(FF_WIRE_VERSION);
    h->features = GUINT32_TO_LE(ff_source_features(s) | (parts ? FF_FEATURE_PARTS : 0) |
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
}

/* What the destination has seen, and takes the guest all the same. */
static void note_differences(FfSource *s, const char *text)
{
    g_message("the guests differ: %s", text);
    ff_mutex_lock(&s->control->lock);
    g_free(s->differences);
    s->differences = g_strdup(text);
    ff_mutex_unlock(&s->control->lock);
}

/* PARTS: the destination was told what the guest is made of. */
static bool hear_reply(FfSource *s, FfConnectAttempt *call, bool parts, GError **error)
{
    const FfGreetingWords *words = call->sentence->words;
    char reply[FF_FRAME_MAX_TEXT + 1] = "";
    FfFrame f;

    if (!ff_greeting_expect(call->ch, words, FF_FRAME_HELLO_REPLY, &f, reply, FF_FRAME_MAX_TEXT,
                            error)) {
        return false;
    }
    if (f.page != 0) {
        g_set_error(error, FF_M_ERROR, 0, "the destination refused: %s", ff_peer_text(reply));
        return false;
    }
    if (parts ? f.length < sizeof(FfHelloReply) : f.length != sizeof(FfHelloReply)) {
        return ff_greeting_lost(error, call->ch, words, words->saying, 0,
                                "malformed reply to hello");
    }
    memcpy(s->conn->secret, reply, sizeof(s->conn->secret));
    if (f.length > sizeof(FfHelloReply)) {
        note_differences(s, ff_peer_text(reply + sizeof(FfHelloReply)));
    }
    return true;
}

/* NULL: the destination does not take it, or it cannot be had. */
static const char *own_parts(const FfSource *s)
{
    bool wanted = s->conn->peer_features & FF_FEATURE_PARTS && s->parts;

    return wanted && strlen(s->parts) <= FF_PARTS_MAX ? s->parts : NULL;
}

static bool say_hello(FfSource *s, FfConnectAttempt *call, GError **error)
{
    size_t len = sizeof(FfHello) + s->ram->n_blocks * sizeof(FfHelloBlock);
    g_autofree FfHello *h = g_malloc0(len);
    FfFrame f = ff_frame(FF_FRAME_HELLO, len);

    g_clear_pointer(&s->plain->second, ff_channel_free); /* it was a slow farfault */
    if (getrandom(s->conn->session, sizeof(s->conn->session), 0) != sizeof(s->conn->session)) {
        g_set_error(error, FF_M_ERROR, 0, "getrandom: %s", g_strerror(errno));
        return false;
    }
    const char *parts = own_parts(s);
    describe_guest(s, h, parts);
    f.n_pages = s->ram->n_blocks;
    return ff_greeting_say(call->ch, call->sentence->words, f, h, error) &&
           (!parts || ff_greeting_say(call->ch, call->sentence->words,
                                      ff_frame(FF_FRAME_PARTS, strlen(parts)), parts, error)) &&
           hear_reply(s, call, parts, error);
}

/* A destination that has given up since its greeting takes no additional channel, nor this: the
 * reader, which follows, says why. */
static bool say_shared(FfSource *s, FfConnectAttempt *call, GError **error)
{
    if (!s->conn->urgent) {
        ff_channel_send(s->conn->main, ff_frame(FF_FRAME_SHARED, 0), NULL, true);
    }
    return true;
}

static const FfGreetingWords hello_words = {
    .saying = "greeting the peer",
    .hearing = "waiting for the peer",
    .peer = "peer",
    .stranger = ": not a farfault peer",
};

static const FfSentence hello = {
    .words = &hello_words,
    .first = true,
    .gives_way = FF_EV_WANT_CANCEL | FF_EV_QUIT,
    .other = "install the same farfault on both",
    .dialed = await_handshake,
    .opened = await_answer,
    .say = say_hello,
    .joined = say_shared,
};

bool ff_source_hello(FfSource *s, GError **error)
{
    FfConnectAttempt call = {
        .sentence = &hello, .fd = g_steal_fd(&s->cfg->fd), .uri = g_strdup(s->cfg->uri)};
    bool ok = ff_source_call(s, &call, error) && ff_source_join(s, &call, error);

    if (call.ch) {
        /* The roll back says there why; or QEMU continues there. */
        ff_conn_set_main(s->conn, g_steal_pointer(&call.ch));
    }
    ff_source_hang_up(s, &call);
    return ok;
}
