/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source after the grant: keeps everything through lost connections, connects again when it
 * is told to, and learns from the destination which pages are still to be sent.
 *
 * The guest is the peer's: nothing here ever starts it, and nothing gives its memory up.
 *
 * Thread: the coordinator.
 */
#include "migration/source/recover.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "migration/common/keepalive.h"
#include "migration/common/ownership.h"
#include "migration/source/bulk.h"
#include "migration/source/connect.h"
#include "migration/source/reader.h"
#include "migration/source/revoke.h"
#include "migration/source/send.h"
#include "migration/source/urgent.h"

/* Between two attempts of its own; the time doubles. */
#define FIRST_PAUSE_MS 100
#define LONGEST_PAUSE_MS 2000

/* ---- the end of a connection ----------------------------------------------------------------- */

/* Empties an eventfd that has woken a thread which is joined now. */
static void drain_eventfd(int fd)
{
    uint64_t n;
    G_GNUC_UNUSED ssize_t rc = read(fd, &n, sizeof(n));
}

void ff_source_end_connection(FfSource *s)
{
    uint64_t one = 1;

    ff_conn_say_last(s->conn);
    ff_conn_shutdown(s->conn);
    G_GNUC_UNUSED ssize_t n = write(s->urgent_wake, &one, sizeof(one));
    ff_keepalive_end(s->conn);
    ff_control_join(&s->bulk_thread);
    ff_control_join(&s->conn->urgent_thread);
    ff_control_join(&s->conn->main_reader);
    ff_conn_end_bulk(s->conn);
    drain_eventfd(s->urgent_wake);
}

/* ---- a new one ------------------------------------------------------------------------------- */

static bool say_resume(FfSource *s, FfConnectAttempt *call, GError **error)
{
    const FfGreetingWords *words = call->sentence->words;
    FfResume r = {.version = GUINT32_TO_LE(FF_WIRE_VERSION),
                  .features = GUINT32_TO_LE(ff_source_features(s)),
                  .epoch = GUINT64_TO_LE(s->conn->epoch + 1)};
    union {
        FfResumeReply reply;
        char text[FF_FRAME_MAX_TEXT + 1];
    } u = {0};
    FfFrame f;

    memcpy(r.session, s->conn->session, sizeof(r.session));
    memcpy(r.secret, s->conn->secret, sizeof(r.secret));
    if (!ff_greeting_say(call->ch, words, ff_frame(FF_FRAME_RESUME, sizeof(r)), &r, error) ||
        !ff_greeting_expect(call->ch, words, FF_FRAME_RESUME_REPLY, &f, &u, FF_FRAME_MAX_TEXT,
                            error)) {
        return false;
    }
    if (f.page != 0) {
        g_set_error(error, FF_M_ERROR, 0, "the destination refused: %s", ff_peer_text(u.text));
        return false;
    }
    uint64_t epoch = GUINT64_FROM_LE(u.reply.epoch);
    FfPhase phase = GUINT32_FROM_LE(u.reply.phase);
    if (f.length != sizeof(u.reply) || epoch <= s->conn->epoch ||
        (phase != FF_PHASE_LOADED && phase != FF_PHASE_GRANTED && phase != FF_PHASE_DONE)) {
        g_set_error(error, FF_M_ERROR, 0, "%s: malformed reply to resume",
                    ff_channel_peer(call->ch));
        return false;
    }
    call->phase = phase;
    s->conn->epoch = epoch;
    __atomic_store_n(&s->cfg->state->epoch, epoch, __ATOMIC_RELAXED); /* read by ff_split_new() */
    return true;
}

/* ---- what the destination has ---------------------------------------------------------------- */

static bool take_have(FfSource *s, const FfFrame *f, const uint64_t *words, GError **error)
{
    FfBitmap *bm;
    const char *why;

    if (f->type != FF_FRAME_HAVE ||
        ff_frame_check_have(f, s->ram->frame_blocks, s->ram->n_blocks, &why) < 0) {
        g_set_error(error, FF_M_ERROR, 0, "the destination sent '%s': %s", ff_frame_name(f->type),
                    f->type == FF_FRAME_HAVE ? why : "its list of pages is not at its end");
        return false;
    }
    bm = &s->ram->blocks[f->block].bitmap;
    for (uint64_t i = 0; i < ff_bitmap_words(f->n_pages); i++) {
        bm->words[f->page / 64 + i] &= f->flags ? 0 : ~GUINT64_FROM_LE(words[i]);
    }
    return true;
}

/* Afterwards the bitmaps have what the destination lacks. No sender runs. Pages that were
 * released here had been acknowledged, so the destination names them. */
static bool read_list(FfSource *s, FfConnectAttempt *call, GError **error)
{
    g_autofree uint64_t *words = g_malloc(FF_HAVE_MAX_PAGES / 8);
    uint64_t missing = 0, missing_bytes = 0;
    FfFrame f;

    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        ff_ram_reset(&s->ram->blocks[i].bitmap, &s->ram->blocks[i], true);
        s->holes_sent = false;
    }
    for (;;) {
        if (!ff_greeting_hear(call->ch, call->sentence->words, &f, words, FF_HAVE_MAX_PAGES / 8,
                              error)) {
            return false;
        }
        if (f.type == FF_FRAME_HAVE_END) {
            break;
        }
        if (!take_have(s, &f, words, error)) {
            return false;
        }
    }
    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        uint64_t n = ff_bitmap_count(&s->ram->blocks[i].bitmap);
        missing += n;
        missing_bytes += n * s->ram->blocks[i].info.page_size;
    }
    __atomic_store_n(&s->ram->done_pages, s->ram->total_pages - missing, __ATOMIC_RELAXED);
    __atomic_store_n(&s->ram->done_bytes, s->ram->total_bytes - missing_bytes, __ATOMIC_RELAXED);
    g_atomic_int_set(&s->ram->uncounted, 0);
    g_message("recovery: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
              " pages are missing at the destination",
              missing, s->ram->total_pages);
    return true;
}

static bool ask_to_resume(FfSource *s, FfConnectAttempt *call, GError **error)
{
    return say_resume(s, call, error) && read_list(s, call, error);
}

/* ---- continuing ------------------------------------------------------------------------------ */

/* The connection stands: what the client said before that, and nobody took, was for the pause that
 * is over. At the next break the guest may run at the destination. */
static void forget_order(FfSource *s)
{
    ff_mutex_lock(&s->control->lock);
    s->control->events &= ~(unsigned)FF_EV_RECOVER;
    s->control->want_revoke = s->control->force_revoke = false;
    s->control->peer_ended = false;
    ff_mutex_unlock(&s->control->lock);
}

/* The grant is given once more to a destination that had not got it. */
static bool say_resumed(FfSource *s, FfConnectAttempt *call, GError **error)
{
    const FfGreetingWords *words = call->sentence->words;
    FfFrame f = ff_frame(FF_FRAME_RESUMED, 0);

    ff_source_begin_sent(s);
    s->pivot = 0;
    s->bulk_pace.next_us = 0; /* no sender runs */
    forget_order(s);
    f.page = !s->conn->urgent;
    if (!ff_greeting_say(s->conn->main, words, f, NULL, error) ||
        (call->phase == FF_PHASE_LOADED &&
         !ff_greeting_say(s->conn->main, words, ff_frame(FF_FRAME_GRANT, strlen(s->run_state)),
                          s->run_state, error))) {
        return false;
    }
    ff_control_set_status(s->control, FF_STATUS_POSTCOPY_ACTIVE);
    return true;
}

static const FfSentence resume_sentence = {
    FF_SENTENCE_AGAIN,
    .recovers = true,
    .say = ask_to_resume,
    .joined = say_resumed,
};

static bool start_senders(FfSource *s, FfConnectAttempt *call, GError **error)
{
    if (!ff_source_join(s, call, error)) {
        return false;
    }
    s->conn->urgent_thread = g_thread_new("ff-urgent", ff_source_urgent, s);
    s->bulk_thread = g_thread_new("ff-bulk", ff_source_bulk, s);
    return true;
}

/* Every page had arrived, only the last word had not. */
static bool hear_done(FfSource *s, FfConnectAttempt *call)
{
    g_clear_pointer(&s->feed, ff_feed_free);
    ff_conn_install(s->conn, g_steal_pointer(&call->ch), NULL);
    ff_control_set_status(s->control, FF_STATUS_POSTCOPY_ACTIVE);
    ff_control_event(s->control, FF_EV_DONE);
    /* Sees the end of the connection, with which the destination says that it is completed. */
    s->conn->main_reader = g_thread_new("ff-main", ff_source_main_reader, s);
    return true;
}

static bool send_resume(FfSource *s, GError **error)
{
    FfConnectAttempt call = ff_source_redial(s, &resume_sentence);
    bool ok = ff_source_call(s, &call, error) &&
              (call.phase == FF_PHASE_DONE ? hear_done(s, &call) : start_senders(s, &call, error));

    ff_source_hang_up(s, &call);
    return ok;
}

/* The destination has ended: the guest may run here again, as before the grant. */
static void take_back(FfSource *s)
{
    ff_mutex_lock(&s->control->lock);
    s->control->granted = false;
    s->stopped = true;
    ff_mutex_unlock(&s->control->lock);
    ff_ownership_take_back(s->cfg->state);
    s->revoked = true;
}

static void try_resume(FfSource *s)
{
    g_autoptr(GError) error = NULL;

    ff_control_reset_cancel(s->control);
    /* In one step: from here on no order is stored until the next pause. */
    ff_mutex_lock(&s->control->lock);
    s->control->events &= ~(unsigned)(FF_EV_DEAD | FF_EV_RECOVER | FF_EV_MAIN_ENDED);
    g_clear_pointer(&s->control->error, g_free);
    bool revoke = s->control->want_revoke, force = revoke && s->control->force_revoke;
    s->control->want_revoke = s->control->force_revoke = false;
    /* QEMU before 9.1 goes to postcopy-recover at once. */
    FfStatus next =
        s->control->recover_setup ? FF_STATUS_POSTCOPY_RECOVER_SETUP : FF_STATUS_POSTCOPY_RECOVER;
    FfStatus old = ff_control_enter_locked(s->control, next);
    ff_mutex_unlock(&s->control->lock);
    ff_control_entered(s->control, old, next);
    if (force || (revoke && ff_source_revoke(s, &error))) {
        take_back(s);
    } else if (revoke || !send_resume(s, &error)) {
        ff_source_end_connection(s);
        ff_control_dead(s->control, "%s", error->message);
    }
}

/* One attempt of this side's own. */
static bool try_again(FfSource *s, const char *uri, GError **error)
{
    ff_mutex_lock(&s->control->lock);
    g_free(s->control->new_uri);
    s->control->new_uri = g_strdup(uri);
    ff_mutex_unlock(&s->control->lock);
    ff_control_forget(s->control, FF_EV_DEAD);
    ff_control_reset_cancel(s->control);
    return send_resume(s, error);
}

/* x-farfault-auto-recover: TRUE if a connection stands again, without anybody's help. */
static bool auto_reconnect(FfSource *s)
{
    int64_t end = ff_control_auto_end(s->control), pause_ms = FIRST_PAUSE_MS;
    g_autofree char *uri = ff_source_peer_uri(s);

    if (!end || !uri) {
        return false;
    }
    ff_control_set_status(s->control, FF_STATUS_POSTCOPY_RECOVER);
    for (;;) {
        g_autoptr(GError) error = NULL;
        if (try_again(s, uri, &error)) {
            return true;
        }
        ff_source_end_connection(s);
        int64_t next = g_get_monotonic_time() + pause_ms * 1000;
        if (ff_control_wait_until(s->control, FF_EV_QUIT | FF_EV_PAUSE, MIN(next, end)) ||
            next >= end) {
            ff_control_dead(s->control, "%s", error->message);
            return false;
        }
        g_message("recovery: %s; once more", error->message);
        pause_ms = MIN(2 * pause_ms, LONGEST_PAUSE_MS);
    }
}

bool ff_source_persist(FfSource *s)
{
    for (;;) {
        unsigned got = ff_control_wait(s->control, FF_EV_DONE | FF_EV_DEAD | FF_EV_QUIT);
        if (got & FF_EV_QUIT) {
            return false;
        }
        if (!(got & FF_EV_DONE)) {
            ff_source_end_connection(s);
            /* The client sees a postcopy from here on, and the guest may be started there. */
            ff_mutex_lock(&s->control->lock);
            s->stands_there = false;
            ff_mutex_unlock(&s->control->lock);
        }
        if (ff_control_events(s->control) & FF_EV_DONE) {
            return true; /* perhaps the last that the main reader heard */
        }
        /* What was ordered while this engine could not take its place comes before all
         * (migration/adopt.c).
         */
        if (!(ff_control_events(s->control) & FF_EV_RECOVER) && auto_reconnect(s)) {
            continue;
        }
        ff_control_pause(s->control, "the connection was lost");
        if (ff_control_wait(s->control, FF_EV_RECOVER | FF_EV_QUIT) & FF_EV_QUIT) {
            return false;
        }
        try_resume(s);
        if (s->revoked) {
            return false;
        }
    }
}

/* ---- after the death of an engine
 * ------------------------------------------------------------------
 */

bool ff_source_adopt(FfSource *s, GError **error)
{
    if (s->cfg->fd >= 0) {
        /* SHUT, which lets QEMU end its migration, is still ours to give. */
        s->inner = ff_channel_new(s->cfg->fd, FF_CHANNEL_MAIN);
        s->cfg->fd = -1;
    }
    g_free(s->run_state);
    s->run_state = g_strndup(s->cfg->state->run_state, sizeof(s->cfg->state->run_state) - 1);
    s->saving = true;
    s->control->granted = true;
    g_atomic_int_set(&s->guest_stopped, 1);
    return ff_ram_adopt(s->ram, s->control, s->cfg->vmm->memory.blocks(&s->cfg->vmm->memory),
                        s->cfg->state, error) &&
           ff_ram_map(s->ram, error);
}
