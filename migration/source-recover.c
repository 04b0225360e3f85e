/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source after the grant: keeps everything through lost connections, connects anew when it
 * is told to, and learns from the destination which pages are still to be sent.
 *
 * The guest is the peer's: nothing here ever starts it, and nothing gives its memory up.
 *
 * Thread: the coordinator.
 */
#include "migration/internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* The destination's first word (milliseconds). */
#define FIRST_BYTE_DEADLINE_MS 20000
/* Between two attempts of its own; the time doubles. */
#define FIRST_PAUSE_MS 100
#define LONGEST_PAUSE_MS 2000

/* ---- the end of a connection ------------------------------------------------------------------
 */

void ff_source_end_connection(FfMigration *m)
{
    uint64_t one = 1;

    ff_recovery_say_paused(m);
    ff_m_shutdown_channels(m);
    G_GNUC_UNUSED ssize_t n = write(m->urgent_wake, &one, sizeof(one));
    ff_keepalive_end(m);
    ff_m_join(&m->bulk_thread);
    ff_m_join(&m->urgent_thread);
    ff_m_join(&m->main_reader);
    ff_extra_end(m);
    ff_recovery_drain(m->urgent_wake);
}

/* ---- a new one ----------------------------------------------------------------------------------
 */

FfChannel *ff_source_connect_again(FfMigration *m, FfAddress **address, GError **error)
{
    ff_mutex_lock(&m->lock);
    g_autofree char *uri = g_steal_pointer(&m->new_uri);
    int fd = m->new_fd;
    m->new_fd = -1;
    ff_mutex_unlock(&m->lock);
    if (fd >= 0) {
        *address = ff_address_of_peer(fd);
    } else {
        *address = ff_address_parse(uri, error);
        fd = *address ? ff_address_connect(*address, m->cancel, error) : -1;
    }
    if (fd < 0) {
        return NULL;
    }
    ff_recovery_store_peer(m, *address);
    return ff_m_channel_new(m, fd, FF_CHANNEL_MAIN);
}

bool ff_source_greet_again(FfMigration *m, FfChannel *ch, bool paused, GError **error)
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
        ff_m_set_status(m, FF_STATUS_POSTCOPY_RECOVER);
    }
    if (!ff_m_check_clear(m, ch, FIRST_BYTE_DEADLINE_MS, error)) {
        return false;
    }
    if (!ff_recovery_expect(ch, FF_FRAME_GREETING, &f, &g, sizeof(g), error)) {
        return false;
    }
    if (GUINT32_FROM_LE(g.version) != FF_WIRE_VERSION) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the destination speaks wire version %u, this side %u: it is not the "
                    "destination of this migration",
                    GUINT32_FROM_LE(g.version), FF_WIRE_VERSION);
        return false;
    }
    m->peer_features = GUINT32_FROM_LE(g.features);
    return true;
}

static bool say_resume(FfMigration *m, FfChannel *ch, FfPhase *phase, GError **error)
{
    FfResume r = {.version = GUINT32_TO_LE(FF_WIRE_VERSION),
                  .features = GUINT32_TO_LE(ff_source_features(m)),
                  .epoch = GUINT64_TO_LE(m->epoch + 1)};
    union {
        FfResumeReply reply;
        char text[FF_FRAME_MAX_TEXT + 1];
    } u = {0};
    FfFrame f;

    memcpy(r.session, m->session, sizeof(r.session));
    memcpy(r.secret, m->secret, sizeof(r.secret));
    if (!ff_recovery_say(ch, ff_frame(FF_FRAME_RESUME, sizeof(r)), &r, error) ||
        !ff_recovery_expect(ch, FF_FRAME_RESUME_REPLY, &f, &u, FF_FRAME_MAX_TEXT, error)) {
        return false;
    }
    if (f.page != 0) {
        g_set_error(error, FF_M_ERROR, 0, "the destination refused: %s", ff_peer_text(u.text));
        return false;
    }
    uint64_t epoch = GUINT64_FROM_LE(u.reply.epoch);
    *phase = GUINT32_FROM_LE(u.reply.phase);
    if (f.length != sizeof(u.reply) || epoch <= m->epoch ||
        (*phase != FF_PHASE_LOADED && *phase != FF_PHASE_GRANTED && *phase != FF_PHASE_DONE)) {
        g_set_error(error, FF_M_ERROR, 0, "%s: malformed reply to resume", ff_channel_peer(ch));
        return false;
    }
    m->epoch = epoch;
    __atomic_store_n(&m->cfg.state->epoch, epoch, __ATOMIC_RELAXED); /* read by ff_m_half() */
    return true;
}

/* ---- what the destination has -------------------------------------------------------------------
 */

static bool take_have(FfMigration *m, const FfFrame *f, const uint64_t *words, GError **error)
{
    FfBitmap *bm;
    const char *why;

    if (f->type != FF_FRAME_HAVE ||
        ff_frame_check_have(f, m->frame_blocks, m->n_blocks, &why) < 0) {
        g_set_error(error, FF_M_ERROR, 0, "the destination sent '%s': %s", ff_frame_name(f->type),
                    f->type == FF_FRAME_HAVE ? why : "its list of pages is not at its end");
        return false;
    }
    bm = &m->blocks[f->block].bitmap;
    for (uint64_t i = 0; i < ff_bitmap_words(f->n_pages); i++) {
        bm->words[f->page / 64 + i] &= f->flags ? 0 : ~GUINT64_FROM_LE(words[i]);
    }
    return true;
}

/* Afterwards the bitmaps have what the destination lacks. No sender runs. Pages that were
 * released here had been acknowledged, so the destination names them. */
static bool read_list(FfMigration *m, FfChannel *ch, GError **error)
{
    g_autofree uint64_t *words = g_malloc(FF_HAVE_MAX_PAGES / 8);
    uint64_t missing = 0, missing_bytes = 0;
    FfFrame f;

    for (unsigned i = 0; i < m->n_blocks; i++) {
        ff_bitmap_clear(&m->blocks[i].bitmap);
        ff_bitmap_init(&m->blocks[i].bitmap, m->blocks[i].n_pages, true);
        m->holes_sent = false;
    }
    for (;;) {
        if (!ff_recovery_hear(ch, &f, words, FF_HAVE_MAX_PAGES / 8, error)) {
            return false;
        }
        if (f.type == FF_FRAME_HAVE_END) {
            break;
        }
        if (!take_have(m, &f, words, error)) {
            return false;
        }
    }
    for (unsigned i = 0; i < m->n_blocks; i++) {
        uint64_t n = ff_bitmap_count(&m->blocks[i].bitmap);
        missing += n;
        missing_bytes += n * m->blocks[i].info.page_size;
    }
    __atomic_store_n(&m->done_pages, m->total_pages - missing, __ATOMIC_RELAXED);
    __atomic_store_n(&m->done_bytes, m->total_bytes - missing_bytes, __ATOMIC_RELAXED);
    g_message("recovery: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
              " pages are missing at the destination",
              missing, m->total_pages);
    return true;
}

/* ---- going on
 * ------------------------------------------------------------------------------------
 */

/* The channels stand, by RESUMED. The grant is given once more to who had not got it. */
static bool say_resumed(FfMigration *m, FfPhase phase, bool shared, GError **error)
{
    FfFrame f = ff_frame(FF_FRAME_RESUMED, 0);

    f.page = shared;
    if (!ff_recovery_say(m->main, f, NULL, error)) {
        return false;
    }
    return phase != FF_PHASE_LOADED ||
           ff_recovery_say(m->main, ff_frame(FF_FRAME_GRANT, strlen(m->run_state)), m->run_state,
                           error);
}

/* The connection stands: what the client said before that, and nobody took, was for the pause that
 * is over. At the next break the guest may run at the destination. */
static void forget_order(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    m->events &= ~(unsigned)FF_EV_RECOVER;
    m->want_revoke = m->force_revoke = false;
    ff_mutex_unlock(&m->lock);
}

static bool start_again(FfMigration *m, FfPhase phase, FfChannel *main, FfChannel *urgent,
                        GError **error)
{
    ff_recovery_install(m, main, urgent);
    for (unsigned i = 0; i < G_N_ELEMENTS(m->sent); i++) {
        m->sent[i].acked = 0;
    }
    ff_source_forget_sent(m);
    m->pivot = 0;
    m->bulk_next_us = 0; /* no sender runs */
    if (!urgent && !ff_source_feed_urgent(m, error)) {
        return false;
    }
    forget_order(m);
    if (!say_resumed(m, phase, !urgent, error)) {
        return false;
    }
    ff_m_set_status(m, FF_STATUS_POSTCOPY_ACTIVE);
    m->main_reader = g_thread_new("ff-main", ff_source_main_reader, m);
    m->urgent_thread = g_thread_new("ff-urgent", ff_source_urgent, m);
    m->bulk_thread = g_thread_new("ff-bulk", ff_source_bulk, m);
    ff_keepalive_start(m);
    return true;
}

static bool agree_again(FfMigration *m, FfChannel *ch, const FfAddress *address, FfChannel **urgent,
                        FfPhase *phase, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (!ff_recovery_connecting(m, ch, error) || !ff_m_secure(m, ch, error) ||
        !ff_source_greet_again(m, ch, true, error) || !say_resume(m, ch, phase, error) ||
        !read_list(m, ch, error)) {
        return false;
    }
    if (*phase == FF_PHASE_DONE) {
        return true;
    }
    if (!ff_source_open_extra(m, address, error)) {
        return false;
    }
    *urgent = ff_source_open_channel(m, address, FF_CHANNEL_URGENT, &local);
    if (!*urgent) {
        if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        g_message("urgent pages share the main connection: %s", local->message);
    }
    return true;
}

static bool resume(FfMigration *m, GError **error)
{
    g_autoptr(FfAddress) address = NULL;
    FfChannel *urgent = NULL;
    FfPhase phase;
    FfChannel *ch = ff_source_connect_again(m, &address, error);

    if (!ch) {
        return false;
    }
    if (!agree_again(m, ch, address, &urgent, &phase, error)) {
        ff_recovery_connecting(m, NULL, NULL);
        ff_channel_free(urgent);
        ff_channel_free(ch);
        return false;
    }
    if (phase == FF_PHASE_DONE) {
        /* Every page had arrived, only the last word had not. */
        ff_recovery_install(m, ch, NULL);
        ff_m_set_status(m, FF_STATUS_POSTCOPY_ACTIVE);
        ff_m_event(m, FF_EV_DONE);
        return true;
    }
    return start_again(m, phase, ch, urgent, error);
}

/* The destination has ended: the guest may run here again, as before the grant. */
static void take_back(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    m->given = false;
    m->stopped = true;
    ff_mutex_unlock(&m->lock);
    ff_journal_take_back(m->cfg.state);
    m->revoked = true;
}

static void try_resume(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    ff_recovery_reset_cancel(m);
    /* In one step: from here on no order is stored until the next pause. */
    ff_mutex_lock(&m->lock);
    m->events &= ~(unsigned)(FF_EV_DEAD | FF_EV_RECOVER | FF_EV_MAIN_ENDED);
    g_clear_pointer(&m->error, g_free);
    bool revoke = m->want_revoke, force = revoke && m->force_revoke;
    m->want_revoke = m->force_revoke = false;
    /* QEMU before 9.1 goes to postcopy-recover at once. */
    FfStatus next =
        m->recover_setup ? FF_STATUS_POSTCOPY_RECOVER_SETUP : FF_STATUS_POSTCOPY_RECOVER;
    FfStatus old = ff_m_enter_locked(m, next);
    ff_mutex_unlock(&m->lock);
    ff_m_entered(m, old, next);
    if (force || (revoke && ff_source_revoke(m, &error))) {
        take_back(m);
    } else if (revoke || !resume(m, &error)) {
        ff_source_end_connection(m);
        ff_m_dead(m, "%s", error->message);
    }
}

/* One attempt of this side's own. */
static bool try_again(FfMigration *m, const char *uri, GError **error)
{
    ff_mutex_lock(&m->lock);
    g_free(m->new_uri);
    m->new_uri = g_strdup(uri);
    ff_mutex_unlock(&m->lock);
    ff_recovery_begin(m, FF_EV_DEAD);
    ff_recovery_reset_cancel(m);
    return resume(m, error);
}

/* x-farfault-auto-recover: TRUE if a connection stands again, without anybody's help. */
static bool reconnect(FfMigration *m)
{
    int64_t end = ff_recovery_auto_end(m), pause_ms = FIRST_PAUSE_MS;
    g_autofree char *uri = ff_m_peer_uri(m);

    if (!end || !uri) {
        return false;
    }
    ff_m_set_status(m, FF_STATUS_POSTCOPY_RECOVER);
    for (;;) {
        g_autoptr(GError) error = NULL;
        if (try_again(m, uri, &error)) {
            return true;
        }
        ff_source_end_connection(m);
        int64_t next = g_get_monotonic_time() + pause_ms * 1000;
        if (ff_m_wait_until(m, FF_EV_QUIT | FF_EV_PAUSE, MIN(next, end)) || next >= end) {
            ff_m_dead(m, "%s", error->message);
            return false;
        }
        g_message("recovery: %s; once more", error->message);
        pause_ms = MIN(2 * pause_ms, LONGEST_PAUSE_MS);
    }
}

bool ff_source_persist(FfMigration *m)
{
    for (;;) {
        unsigned got = ff_m_wait(m, FF_EV_DONE | FF_EV_DEAD | FF_EV_QUIT);
        if (got & FF_EV_QUIT) {
            return false;
        }
        if (!(got & FF_EV_DONE)) {
            ff_source_end_connection(m);
        }
        if (ff_m_events(m) & FF_EV_DONE) {
            return true; /* perhaps the last that the main reader heard */
        }
        if (reconnect(m)) {
            continue;
        }
        ff_recovery_pause(m, "the connection was lost");
        if (ff_m_wait(m, FF_EV_RECOVER | FF_EV_QUIT) & FF_EV_QUIT) {
            return false;
        }
        try_resume(m);
        if (m->revoked) {
            return false;
        }
    }
}

/* ---- after the death of an engine
 * ------------------------------------------------------------------
 */

bool ff_source_adopt(FfMigration *m, GError **error)
{
    if (m->cfg.fd >= 0) {
        /* SHUT, which lets QEMU end its migration, is still ours to give. */
        m->inner = ff_channel_new(m->cfg.fd, FF_CHANNEL_MAIN);
        m->cfg.fd = -1;
    }
    m->run_state = g_strndup(m->cfg.state->run_state, sizeof(m->cfg.state->run_state) - 1);
    m->saving = true;
    m->given = true;
    g_atomic_int_set(&m->frozen, 1);
    return ff_recovery_adopt_blocks(m, error) && ff_source_map_blocks(m, error);
}
