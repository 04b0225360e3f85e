/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A source's HELLO: is its guest the one that this side was started for? Its memory backends are
 * compared with ours, and ours put into its order.
 *
 * Thread: the coordinator.
 *
 * System calls: getrandom.
 */
#include "migration/destination/hello.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "migration/destination/greet.h"
#include "migration/destination/parts.h"
#include "migration/destination/read.h"

static const FfGreetingWords words = {.peer = "source", .stranger = ""};

/* ---- the guests ------------------------------------------------------------------------------ */

static char *uuid_text(const uint8_t *u)
{
    GString *s = g_string_new(NULL);

    for (int i = 0; i < 16; i++) {
        g_string_append_printf(s, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
    }
    return g_string_free(s, FALSE);
}

/* In QEMU's words. A source that has none is not asked for it. */
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

static char *compare_hello(FfDestination *d, const FfFrame *f, uint8_t *payload)
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

/* What the source's guest is made of, if it says so: text (g_free), NULL if not. It must be read
 * also where the guest is refused for something else: what is left unread makes the end of the
 * connection a reset, which would overtake the answer. */
static bool hear_parts(FfVisit *visit, const FfHello *h, char **parts, GError **error)
{
    g_autofree char *text = NULL;
    FfFrame f;

    if (GUINT32_FROM_LE(h->version) != FF_WIRE_VERSION ||
        !(GUINT32_FROM_LE(h->features) & FF_FEATURE_PARTS)) {
        return true;
    }
    text = g_malloc0(FF_PARTS_MAX + 1);
    if (!ff_greeting_expect(visit->ch, &words, FF_FRAME_PARTS, &f, text, FF_PARTS_MAX, error)) {
        return false;
    }
    *parts = g_steal_pointer(&text);
    return true;
}

/* Our own are asked for now: devices may have been plugged in since this side began to listen.
 * *DIFFERENCES (g_free): what the source is to be told; NULL: nothing. */
static char *compare_parts(FfDestination *d, const char *theirs, char **differences)
{
    FfVmmState *state = &d->cfg->vmm->state;
    g_autofree char *ours = theirs && state->parts ? state->parts(state) : NULL;
    g_auto(FfPartsFit) fit = ours ? ff_parts_compare(theirs, ours) : (FfPartsFit){NULL};

    g_free(d->suspects);
    d->suspects = fit.differences && fit.versions
                      ? g_strdup_printf("%s; %s", fit.differences, fit.versions)
                      : g_strdup(fit.differences ? fit.differences : fit.versions);
    if (fit.differences && !fit.refusal) {
        g_message("the guests differ: %s", fit.differences);
    }
    *differences = g_steal_pointer(&fit.differences);
    return g_steal_pointer(&fit.refusal);
}

/* ---- the answers ----------------------------------------------------------------------------- */

/* The secret, and after it what else the source must know. */
static bool accept_hello(FfDestination *d, FfVisit *visit, const char *differences, GError **error)
{
    uint8_t reply[FF_FRAME_MAX_TEXT];
    size_t head = sizeof(FfHelloReply);
    size_t len = differences ? MIN(strlen(differences), sizeof(reply) - head) : 0;

    memcpy(reply, d->conn->secret, head);
    if (len) {
        memcpy(reply + head, differences, len);
    }
    return ff_greeting_say(visit->ch, &words, ff_frame(FF_FRAME_HELLO_REPLY, head + len), reply,
                           error);
}

static bool answer_hello(FfDestination *d, FfVisit *visit, GError **error)
{
    g_autofree uint8_t *payload = g_malloc(visit->f.length);
    g_autofree char *parts = NULL, *differences = NULL;

    if (!ff_greeting_hear_payload(visit->ch, &words, &visit->f, payload, visit->f.length, error) ||
        !hear_parts(visit, (const FfHello *)payload, &parts, error)) {
        return false;
    }
    d->refusal = compare_hello(d, &visit->f, payload);
    if (!d->refusal) {
        d->refusal = compare_parts(d, parts, &differences);
    }
    if (d->refusal) {
        /* The coordinator tells the source, when QEMU has ended. */
        g_set_error(error, FF_M_ERROR, 0, "the guests differ: %s", d->refusal);
        return false;
    }
    if (getrandom(d->conn->secret, sizeof(d->conn->secret), 0) != sizeof(d->conn->secret)) {
        return ff_greeting_lost(error, visit->ch, &words, NULL, -errno, NULL);
    }
    ff_dest_expect_channels(d, d->conn->epoch);
    return accept_hello(d, visit, differences, error);
}

/* The source of a migration that was here before: this one waits for its own, for which the place
 * is free before the stray knows that it is sent away. */
static bool send_away(FfDestination *d, FfVisit *visit, GError **error)
{
    static const char why[] = "the migration that you look for is not here any more";
    FfFrame reply = ff_frame(
        visit->f.type == FF_FRAME_RESUME ? FF_FRAME_RESUME_REPLY : FF_FRAME_REVOKED, strlen(why));
    FfResume r;

    /* What is left unread makes the end a reset, which would overtake the answer. */
    if (!ff_greeting_hear_payload(visit->ch, &words, &visit->f, &r, sizeof(r), error)) {
        return false;
    }
    ff_conn_connecting(d->conn, NULL, 0, NULL);
    reply.page = 1;
    ff_channel_send_last(visit->ch, reply, why, 0);
    g_set_error(error, FF_M_ERROR, FF_M_ERROR_STRAY, "%s looks for another migration",
                ff_channel_peer(visit->ch));
    g_clear_pointer(&visit->ch, ff_channel_free);
    return false;
}

static bool miss_hello(FfDestination *d, FfVisit *visit, GError **error)
{
    return ff_greeting_lost(error, visit->ch, &words, NULL, 0, "no hello after the greeting");
}

static const FfManners at_first = {
    .words = &words,
    .first = true,
    .opening_ms = -1,
    .hello = answer_hello,
    .resume = send_away,
    .revoke = send_away,
    .other = miss_hello,
};

bool ff_dest_hello(FfDestination *d, GError **error)
{
    FfVisit visit = {.ch = ff_dest_take_arrived(d), .unheard = d->listen_fd < 0};
    bool cancelled = ff_control_events(d->control) & (FF_EV_QUIT | FF_EV_WANT_CANCEL);

    if (cancelled) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "migration was cancelled");
    }
    bool ok = !cancelled && ff_dest_receive(d, &visit, &at_first, error);
    if (visit.ch) {
        /* Else it is told there why; or QEMU continues there. */
        ff_conn_set_main(d->conn, visit.ch);
    }
    if (ok) {
        d->conn->main_reader = g_thread_new("ff-main", ff_dest_main_reader, d);
    }
    return ok;
}
