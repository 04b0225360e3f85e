/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination after a lost connection: waits for the source to come back (where it listens,
 * or where the client tells it to), proves that it is the same source, tells it which pages are
 * here, and asks again for those that somebody waits for.
 *
 * A destination that is LOADED cannot know whether the grant was on its way, so it stays too:
 * paused, recoverable, never running. Only the source (ABORT) or the user ends it.
 *
 * The fault thread goes on while there is no connection; it is stopped only for the moment in
 * which its channel is exchanged, so it needs no lock for it.
 *
 * Thread: the coordinator.
 */
#include "migration/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_BYTES_DEADLINE_MS 20000
/* How long a completed destination waits for a source that has not heard of it (seconds), and
 * then for that source to end its QEMU's migration. */
#define LINGER_S 600
#define FINISH_S 60
#define LOST "the connection was lost"

/* ---- the end of a connection ------------------------------------------------------------------
 */

static void stop_fault_thread(FfMigration *m)
{
    uint64_t one = 1;
    G_GNUC_UNUSED ssize_t n = write(m->fault_wake, &one, sizeof(one));

    ff_m_join(&m->fault_thread);
    ff_recovery_drain(m->fault_wake);
}

void ff_dest_end_connection(FfMigration *m)
{
    ff_recovery_say_paused(m);
    ff_m_shutdown_channels(m);
    ff_keepalive_end(m);
    ff_m_join(&m->main_reader);
    ff_m_join(&m->urgent_thread);
    ff_extra_end(m);
    ff_mutex_lock(&m->lock);
    if (!m->recovering) {
        m->events &= ~FF_EV_MAIN; /* later it is that of a source that has come already */
    }
    m->recovering = true;
    m->want_channel = false;
    ff_mutex_unlock(&m->lock);
    if (g_atomic_int_compare_and_exchange(&m->acceptor_failed, 1, 0)) {
        ff_m_join(&m->acceptor);
    }
    if (m->listen_fd >= 0 && !m->acceptor) {
        m->acceptor = g_thread_new("ff-accept", ff_dest_acceptor, m); /* of the engine before us */
    }
}

static void drop_arrived(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    FfChannel *main = g_steal_pointer(&m->arrived), *urgent = g_steal_pointer(&m->arrived_urgent);
    m->events &= ~FF_EV_MAIN;
    ff_mutex_unlock(&m->lock);
    ff_channel_free(main);
    ff_channel_free(urgent);
}

/* ---- where the source comes to ------------------------------------------------------------------
 */

void ff_dest_stop_listening(FfMigration *m, const char *next_uri)
{
    g_cancellable_cancel(m->cancel);
    ff_mutex_lock(&m->lock);
    if (m->accepting) {
        ff_channel_shutdown(m->accepting);
    }
    ff_mutex_unlock(&m->lock);
    ff_m_join(&m->acceptor);
    g_atomic_int_set(&m->acceptor_failed, 0);
    g_cancellable_reset(m->cancel);
    if (ff_m_events(m) & FF_EV_QUIT) {
        g_cancellable_cancel(m->cancel);
    }
    if (m->listen_fd >= 0) {
        close(m->listen_fd);
        m->listen_fd = -1;
    }
    if (m->listener_held) {
        m->ops.drop("listener", m->ops.opaque);
        m->listener_held = false;
    }
    /* Not a socket that was made anew under the same name. */
    if (m->listen_path && !(next_uri && strcmp(next_uri + strlen("unix:"), m->listen_path) == 0)) {
        unlink(m->listen_path);
    }
    g_clear_pointer(&m->listen_path, g_free);
}

void ff_dest_hold_listener(FfMigration *m)
{
    if (m->listen_fd >= 0 && m->ops.hold && m->ops.drop) {
        m->ops.hold("listener", m->listen_fd, m->ops.opaque);
        m->listener_held = true;
    }
}

/* On a passed fd nobody has spoken yet: its first byte is the beginning of a recovery. NULL: the
 * client gave another target meanwhile, or the end. */
static FfChannel *await_first_byte(FfMigration *m, int fd)
{
    FfChannel *ch = ff_m_channel_new(m, fd, FF_CHANNEL_MAIN);

    ff_mutex_lock(&m->lock);
    bool over = m->events & (FF_EV_QUIT | FF_EV_RECOVER);
    m->connecting = over ? NULL : ch;
    ff_mutex_unlock(&m->lock);
    if (!over) {
        ff_channel_wait_readable(ch, -1);
        over = ff_m_events(m) & (FF_EV_QUIT | FF_EV_RECOVER);
    }
    if (over) {
        ff_recovery_connecting(m, NULL, NULL);
        g_clear_pointer(&ch, ff_channel_free);
    }
    return ch;
}

/* The client's migrate-recover. Returns a channel if it named a connected fd. */
static FfChannel *change_target(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    int fd = m->new_fd;
    g_autofree char *uri = g_steal_pointer(&m->new_uri);
    m->new_fd = -1;
    m->events &= ~FF_EV_RECOVER;
    ff_mutex_unlock(&m->lock);
    const char *local = uri && g_str_has_prefix(uri, "unix:") ? uri : NULL;
    ff_dest_stop_listening(m, local);
    drop_arrived(m);
    m->listen_path = local ? g_strdup(local + strlen("unix:")) : NULL;
    if (fd >= 0 && !ff_address_is_listening(fd)) {
        ff_dest_set_listener(m, -1);
        return await_first_byte(m, fd);
    }
    ff_dest_set_listener(m, fd);
    if (fd >= 0) {
        ff_dest_hold_listener(m);
        m->acceptor = g_thread_new("ff-accept", ff_dest_acceptor, m);
    }
    return NULL;
}

/* Waits for a source. NULL: look at the events again. *FIRST: its first bytes are unread. */
static FfChannel *await_source(FfMigration *m, bool *first, unsigned end, int64_t end_us)
{
    unsigned got = ff_m_wait_until(m, FF_EV_RECOVER | FF_EV_MAIN | end, end_us);

    *first = got & FF_EV_RECOVER;
    if (got & end) {
        return NULL;
    }
    if (got & FF_EV_RECOVER) {
        return change_target(m);
    }
    ff_mutex_lock(&m->lock);
    FfChannel *ch = g_steal_pointer(&m->arrived);
    m->events &= ~FF_EV_MAIN;
    m->connecting = ch;
    ff_mutex_unlock(&m->lock);
    return ch;
}

/* ---- who it is
 * ------------------------------------------------------------------------------------ */

static bool read_prologue(FfMigration *m, FfChannel *ch, GError **error)
{
    g_autoptr(GByteArray) first = g_byte_array_new();
    int rc;

    if (!ff_m_secure(m, ch, error)) {
        return false;
    }
    if (ff_dest_recognise(ch, first, FIRST_BYTES_DEADLINE_MS, &rc) != FF_PEER_FARFAULT) {
        g_set_error(error, FF_M_ERROR, 0, "%s: %s", ff_channel_peer(ch),
                    rc == 0            ? "not a stream of a farfault source"
                    : rc == -ETIMEDOUT ? "the source said nothing in time"
                                       : "the source closed the connection");
        return false;
    }
    return true;
}

static const char *judge(const FfMigration *m, const FfResume *r)
{
    uint8_t diff = 0;

    if (GUINT32_FROM_LE(r->version) != FF_WIRE_VERSION) {
        return "another wire version: it is not the source of this migration";
    }
    /* In a time that does not depend on where they differ. */
    for (size_t i = 0; i < sizeof(r->session); i++) {
        diff |= r->session[i] ^ m->session[i];
    }
    for (size_t i = 0; i < sizeof(r->secret); i++) {
        diff |= r->secret[i] ^ m->secret[i];
    }
    return diff ? "a paused migration waits here for its own source, which you are not" : NULL;
}

static bool refuse(FfChannel *ch, FfFrameType reply, const char *why, GError **error)
{
    FfFrame f = ff_frame(reply, strlen(why));

    f.page = 1;
    ff_channel_send_last(ch, f, why, 0);
    g_set_error(error, FF_M_ERROR, 0, "%s was refused: %s", ff_channel_peer(ch), why);
    return false;
}

/* TRUE: it is our source, and *EPOCH is that of the new connection. FALSE and *REVOKED: it is, and
 * this side is to end; CH is taken. */
static bool recognise(FfMigration *m, FfChannel *ch, uint64_t *epoch, bool *revoked, GError **error)
{
    FfGreeting g = ff_dest_greeting(m);
    FfResume r = {0};
    FfFrame f;

    if (!ff_recovery_say(ch, ff_frame(FF_FRAME_GREETING, sizeof(g)), &g, error) ||
        !ff_recovery_hear(ch, &f, &r, sizeof(r), error)) {
        return false;
    }
    bool revoke = f.type == FF_FRAME_REVOKE;
    if (f.type != FF_FRAME_RESUME && !revoke) {
        return refuse(ch, FF_FRAME_RESUME_REPLY, "a paused migration waits here for its own source",
                      error);
    }
    const char *why = judge(m, &r);
    if (why) {
        return refuse(ch, revoke ? FF_FRAME_REVOKED : FF_FRAME_RESUME_REPLY, why, error);
    }
    if (revoke) {
        *revoked = ff_dest_take_revoke(m, ch, error);
        return false;
    }
    m->peer_features = GUINT32_FROM_LE(r.features);
    /* Both engines may have been replaced: newer than what either has seen. */
    *epoch = MAX(GUINT64_FROM_LE(r.epoch), m->epoch + 1);
    return true;
}

/* ---- what is here
 * ---------------------------------------------------------------------------------- */

static bool say_have(FfMigration *m, FfChannel *ch, unsigned block, uint64_t page, uint64_t n,
                     uint64_t *words, GError **error)
{
    const FfBitmap *bm = &m->blocks[block].bitmap;
    uint64_t n_words = ff_bitmap_words(n), set = 0;

    for (uint64_t i = 0; i < n_words; i++) {
        uint64_t w = __atomic_load_n(&bm->words[page / 64 + i], __ATOMIC_ACQUIRE);
        set += __builtin_popcountll(w);
        words[i] = GUINT64_TO_LE(w);
    }
    if (!set) {
        return true;
    }
    FfFrame f = ff_frame(FF_FRAME_HAVE, set == n ? 0 : n_words * sizeof(uint64_t));
    f.flags = set == n;
    f.block = block;
    f.page = page;
    f.n_pages = n;
    return ff_recovery_say(ch, f, words, error);
}

static bool say_list(FfMigration *m, FfChannel *ch, GError **error)
{
    g_autofree uint64_t *words = g_malloc(FF_HAVE_MAX_PAGES / 8);

    for (unsigned i = 0; i < m->n_blocks; i++) {
        for (uint64_t page = 0; page < m->blocks[i].n_pages; page += FF_HAVE_MAX_PAGES) {
            uint64_t n = MIN(FF_HAVE_MAX_PAGES, m->blocks[i].n_pages - page);
            if (!say_have(m, ch, i, page, n, words, error)) {
                return false;
            }
        }
    }
    return ff_recovery_say(ch, ff_frame(FF_FRAME_HAVE_END, 0), NULL, error);
}

static bool answer(FfMigration *m, FfChannel *ch, uint64_t epoch, GError **error)
{
    uint32_t phase = ff_journal_phase(m->cfg.state);
    FfResumeReply r = {.epoch = GUINT64_TO_LE(epoch), .phase = GUINT32_TO_LE(phase)};

    ff_mutex_lock(&m->lock);
    m->want_channel = false;
    ff_mutex_unlock(&m->lock);
    ff_extra_end(m); /* of an attempt that failed */
    ff_mutex_lock(&m->lock);
    FfChannel *stale = g_steal_pointer(&m->arrived_urgent);
    m->events &= ~FF_EV_CHANNEL;
    m->want_epoch = epoch;
    m->want_channel = true;
    ff_mutex_unlock(&m->lock);
    ff_channel_free(stale); /* of an attempt that failed */
    return ff_recovery_say(ch, ff_frame(FF_FRAME_RESUME_REPLY, sizeof(r)), &r, error) &&
           say_list(m, ch, error);
}

/* ---- going on
 * ---------------------------------------------------------------------------------------
 */

static bool await_channels(FfMigration *m, FfChannel *ch, FfChannel **urgent, GError **error)
{
    FfFrame f;

    if (!ff_recovery_expect(ch, FF_FRAME_RESUMED, &f, NULL, 0, error)) {
        return false;
    }
    if (f.page == 0) {
        /* It has had the reply on it, so it is here in a moment. */
        ff_m_wait_until(m, FF_EV_CHANNEL | FF_EV_DEAD | FF_EV_QUIT,
                        g_get_monotonic_time() + FIRST_BYTES_DEADLINE_MS * 1000LL);
    }
    ff_mutex_lock(&m->lock);
    ff_dest_agreed_locked(m);
    *urgent = g_steal_pointer(&m->arrived_urgent);
    ff_mutex_unlock(&m->lock);
    if (!*urgent != (f.page != 0)) {
        g_set_error(error, FF_M_ERROR, 0, "%s: its urgent channel %s", ff_channel_peer(ch),
                    *urgent ? "came, and yet it shares the main one" : "did not come");
        g_clear_pointer(urgent, ff_channel_free);
        return false;
    }
    return true;
}

static void start_again(FfMigration *m, FfChannel *main, FfChannel *urgent, uint64_t epoch)
{
    stop_fault_thread(m);
    ff_recovery_install(m, main, urgent);
    ff_mutex_lock(&m->lock);
    m->epoch = epoch;
    m->recovering = false;
    if (!(m->events & FF_EV_DEAD)) {
        m->events &= ~(unsigned)FF_EV_PAUSE; /* of a connection that is gone, not of this one */
    }
    bool given = m->given;
    ff_mutex_unlock(&m->lock);
    ff_recovery_store_session(m);
    drop_arrived(m);
    for (unsigned i = 0; i < m->n_blocks; i++) {
        ff_bitmap_clear(&m->blocks[i].requested);
        ff_bitmap_init(&m->blocks[i].requested, m->blocks[i].n_pages, false);
    }
    if (given) {
        ff_m_set_status(m, FF_STATUS_POSTCOPY_ACTIVE);
    }
    m->main_reader = g_thread_new("ff-main", ff_dest_main_reader, m);
    if (urgent) {
        m->urgent_thread = g_thread_new("ff-urgent", ff_dest_urgent_reader, m);
    }
    ff_extra_start(m, ff_dest_extra_reader);
    /* Its first act is to ask for what was asked for before. */
    m->fault_thread = g_thread_new("ff-fault", ff_dest_fault, m);
    if (__atomic_load_n(&m->stats.waits.overflow, __ATOMIC_ACQUIRE)) {
        ff_dest_wake_all(m); /* waits that nobody has noted */
    }
    ff_keepalive_start(m);
}

static bool agree_again(FfMigration *m, FfChannel *ch, uint64_t epoch, GError **error)
{
    FfChannel *urgent = NULL;

    if (!answer(m, ch, epoch, error) || !await_channels(m, ch, &urgent, error)) {
        return false;
    }
    start_again(m, ch, urgent, epoch);
    return true;
}

static void begin(FfMigration *m)
{
    ff_recovery_begin(m, FF_EV_DEAD);
    ff_m_set_status(m, FF_STATUS_POSTCOPY_RECOVER);
    /* Who drives both sides asks this one as soon as the other has its answer. */
    ff_m_sync(m);
}

/* One source has come. TRUE: the connection stands. On an fd that the client gave, its first
 * byte begins the recovery, as in QEMU; who comes to a port is first to prove who he is. */
static bool try_source(FfMigration *m, FfChannel *ch, bool first)
{
    g_autoptr(GError) error = NULL;
    uint64_t epoch = 0;
    bool ok, revoked = false;

    if (first) {
        begin(m);
        ok = read_prologue(m, ch, &error) && recognise(m, ch, &epoch, &revoked, &error);
    } else {
        ok = recognise(m, ch, &epoch, &revoked, &error);
        if (ok) {
            begin(m);
        }
    }
    if (revoked) {
        return true; /* there is an event for it */
    }
    if (ok && agree_again(m, ch, epoch, &error)) {
        return true;
    }
    ff_recovery_connecting(m, NULL, NULL);
    ff_channel_free(ch);
    g_message("recovery: %s", error->message);
    if (!m->auto_end_us) {
        ff_recovery_pause(m, error->message);
    }
    return false;
}

/* Where nothing is lost but time, nobody is asked for help yet: the source knows where we listen,
 * and may come back by itself. */
static void await_by_itself(FfMigration *m)
{
    m->auto_end_us = m->listen_fd >= 0 ? ff_recovery_auto_end(m) : 0;
    if (m->auto_end_us) {
        ff_m_set_status(m, FF_STATUS_POSTCOPY_RECOVER);
    } else {
        ff_recovery_pause(m, LOST);
    }
}

/* If it is time to. */
static void ask_for_help(FfMigration *m)
{
    if (m->auto_end_us &&
        (g_get_monotonic_time() >= m->auto_end_us || ff_m_events(m) & FF_EV_PAUSE)) {
        m->auto_end_us = 0;
        ff_recovery_pause(m, LOST);
    }
}

bool ff_dest_reconnect(FfMigration *m)
{
    ff_dest_end_connection(m);
    /* Perhaps the last that the readers heard. */
    ff_mutex_lock(&m->lock);
    bool decided = m->events & (m->given ? FF_EV_ALL : FF_EV_GRANT | FF_EV_ABORTED);
    ff_mutex_unlock(&m->lock);
    if (decided) {
        return true;
    }
    await_by_itself(m);
    for (;;) {
        bool first;
        bool by_itself = m->auto_end_us;
        FfChannel *ch = await_source(m, &first, FF_EV_QUIT | (by_itself ? FF_EV_PAUSE : 0),
                                     by_itself ? m->auto_end_us : -1);
        if (ff_m_events(m) & FF_EV_QUIT) {
            ff_recovery_connecting(m, NULL, NULL);
            ff_channel_free(ch);
            return false;
        }
        if (ch && try_source(m, ch, first)) {
            return true;
        }
        ask_for_help(m);
    }
}

/* ---- the last word
 * -----------------------------------------------------------------------------------
 */

static bool tell_done(FfMigration *m, FfChannel *ch, bool first)
{
    g_autoptr(GError) error = NULL;
    uint64_t epoch = 0;
    bool revoked = false; /* never: the guest is here */
    FfFrame f;

    if ((!first || read_prologue(m, ch, &error)) && recognise(m, ch, &epoch, &revoked, &error) &&
        answer(m, ch, epoch, &error)) {
        /* It ends its QEMU's migration first. */
        ff_channel_wait_readable(ch, FINISH_S * 1000);
        if (ff_recovery_expect(ch, FF_FRAME_FINISHED, &f, NULL, 0, &error)) {
            return true;
        }
    }
    g_message("recovery: %s", error->message);
    return false;
}

void ff_dest_linger(FfMigration *m)
{
    int64_t end = g_get_monotonic_time() + LINGER_S * G_TIME_SPAN_SECOND;

    while (g_get_monotonic_time() < end && !(ff_m_events(m) & (FF_EV_QUIT | FF_EV_FINISHED))) {
        bool first, told = false;
        FfChannel *ch = await_source(m, &first, FF_EV_QUIT | FF_EV_FINISHED, end);
        if (ch) {
            told = tell_done(m, ch, first);
            ff_recovery_connecting(m, NULL, NULL);
            ff_channel_free(ch);
        }
        if (told) {
            return;
        }
    }
}

/* ---- after the death of an engine
 * ----------------------------------------------------------------------
 */

void ff_dest_adopt_listener(FfMigration *m)
{
    if (m->cfg.listen_fd >= 0) {
        ff_dest_set_listener(m, m->cfg.listen_fd);
        m->cfg.listen_fd = -1;
        m->listener_held = m->ops.drop != NULL;
    }
}

bool ff_dest_adopt(FfMigration *m, GError **error)
{
    uint64_t pages = 0, bytes = 0;

    if (m->cfg.fd >= 0) {
        m->inner = ff_channel_new(m->cfg.fd, FF_CHANNEL_MAIN);
        m->cfg.fd = -1;
    }
    if (m->cfg.n_uffds < 2) {
        g_set_error_literal(error, FF_M_ERROR, 0, "the userfaultfd is not there any more");
        return false;
    }
    m->uffd = m->cfg.uffds[1];
    ff_dest_adopt_listener(m);
    if (!ff_recovery_adopt_blocks(m, error) || !ff_dest_map_bitmaps(m, false, error) ||
        !ff_dest_arm_again(m, error)) {
        return false;
    }
    for (unsigned i = 0; i < m->n_blocks; i++) {
        uint64_t n = ff_bitmap_count(&m->blocks[i].bitmap);
        pages += n;
        bytes += n * m->blocks[i].info.page_size;
    }
    m->done_pages = pages;
    m->done_bytes = bytes;
    if (pages == m->total_pages) {
        ff_m_event(m, FF_EV_ALL);
    }
    m->fault_thread = g_thread_new("ff-fault", ff_dest_fault, m);
    return true;
}
