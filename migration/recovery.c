/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What both sides need to go on after a lost connection or a dead engine: the client's commands
 * (pause, resume, recover), the exchange of channels, and what is noted for the next engine.
 *
 * A connection is a set of channels and of threads that live as long as it. When it is lost the
 * coordinator shuts it down, joins its threads, and from then on is the only one that touches
 * it, so channels can be exchanged without a lock on the data paths. The sides' own parts are in
 * source-recover.c and dest-recover.c; docs/recovery.md has the protocol.
 *
 * Threads: the driver calls ff_migration_*(), the coordinator the rest.
 */
#include "migration/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A peer that is there answers within this time (milliseconds). */
#define ANSWER_DEADLINE_MS 20000
/* For the word that the user has paused this side, and again for the peer to hear it. */
#define LAST_WORD_MS 1000

/* ---- the client's commands ------------------------------------------------------------------ */

static bool refuse(GError **error, const char *text)
{
    g_set_error_literal(error, FF_M_ERROR, 0, text);
    return false;
}

static FfStatus status_of(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    FfStatus s = m->status;
    ff_mutex_unlock(&m->lock);
    return s;
}

bool ff_migration_pause(FfMigration *m, GError **error)
{
    FfStatus s = status_of(m);

    if (s != FF_STATUS_POSTCOPY_ACTIVE && s != FF_STATUS_POSTCOPY_RECOVER &&
        s != FF_STATUS_POSTCOPY_RECOVER_SETUP) {
        return refuse(error, "migrate-pause is currently only supported during postcopy-active or "
                             "postcopy-recover state");
    }
    ff_m_event(m, FF_EV_PAUSE);
    ff_m_dead(m, "Postcopy migration is paused by the user");
    if (m->cfg.role == FF_ROLE_SOURCE) {
        g_cancellable_cancel(m->cancel); /* a connect() that hangs */
    }
    if (s != FF_STATUS_POSTCOPY_ACTIVE) {
        ff_m_shutdown_channels(m); /* else it is the coordinator's, after a last word */
    }
    return true;
}

/* The coordinator takes them when it comes to it; what nobody took is replaced. */
static void set_target_locked(FfMigration *m, const char *uri, int fd, bool recover_setup)
{
    if (m->new_fd >= 0) {
        close(m->new_fd);
    }
    g_free(m->new_uri);
    m->new_uri = g_strdup(uri);
    m->new_fd = fd;
    m->recover_setup = recover_setup;
    m->events |= FF_EV_RECOVER;
    m->events &= ~FF_EV_PAUSE;
    if (m->connecting) {
        /* D: an fd on which nobody has spoken yet. */
        ff_channel_shutdown(m->connecting);
    }
    ff_cond_broadcast(&m->changed);
}

/* S: an order is stored only as long as it is certain to be taken in this pause. One that stayed
 * behind would be carried out at the next break, when the guest may run at the destination: the
 * coordinator takes it and leaves postcopy-paused in one step. */
static bool order(FfMigration *m, const char *uri, int fd, bool recover_setup, bool revoke,
                  bool force)
{
    ff_mutex_lock(&m->lock);
    bool paused = m->cfg.role == FF_ROLE_SOURCE && m->status == FF_STATUS_POSTCOPY_PAUSED;
    if (paused) {
        m->want_revoke = revoke;
        m->force_revoke = force;
        set_target_locked(m, uri, fd, recover_setup);
    }
    ff_mutex_unlock(&m->lock);
    if (!paused && fd >= 0) {
        close(fd);
    }
    return paused;
}

bool ff_migration_resume(FfMigration *m, const char *uri, int fd, bool recover_setup,
                         GError **error)
{
    return order(m, uri, fd, recover_setup, false, false) ||
           refuse(error, "Cannot resume if there is no paused migration");
}

bool ff_migration_revoke(FfMigration *m, const char *uri, int fd, bool force, GError **error)
{
    static const char not_paused[] =
        "There is no paused migration from which the guest could be taken back";
    g_autofree char *same = !uri && fd < 0 && !force ? ff_m_peer_uri(m) : NULL;
    const char *why = NULL;

    if (m->cfg.role != FF_ROLE_SOURCE || status_of(m) != FF_STATUS_POSTCOPY_PAUSED) {
        why = not_paused;
    } else if (g_atomic_int_get(&m->released)) {
        why = "This side has given up memory that the destination has (release-ram): resume the "
              "migration";
    } else if (!uri && fd < 0 && !same && !force) {
        why = "It is not known where the destination listens: name its URI";
    }
    if (why) {
        if (fd >= 0) {
            close(fd);
        }
        return refuse(error, why);
    }
    return order(m, uri ? uri : same, fd, false, true, force) || refuse(error, not_paused);
}

bool ff_migration_recover(FfMigration *m, const char *uri, int fd, GError **error)
{
    FfStatus s = status_of(m);

    if (m->cfg.role != FF_ROLE_DESTINATION ||
        (s != FF_STATUS_POSTCOPY_PAUSED && s != FF_STATUS_COMPLETED)) {
        if (fd >= 0) {
            close(fd);
        }
        return refuse(error, "Migrate recover can only be run when postcopy is paused.");
    }
    if (uri && fd < 0) {
        g_autoptr(FfAddress) address = ff_address_parse(uri, error);
        fd = address ? ff_address_listen(address, error) : -1;
        if (fd < 0) {
            return false;
        }
    }
    if (uri) {
        ff_mutex_lock(&m->lock);
        g_free(m->socket_address);
        m->socket_address = ff_address_of_listener(fd);
        ff_mutex_unlock(&m->lock);
    }
    ff_mutex_lock(&m->lock);
    set_target_locked(m, uri, fd, false);
    ff_mutex_unlock(&m->lock);
    return true;
}

void ff_migration_stop_waiting(FfMigration *m)
{
    ff_m_event(m, FF_EV_FINISHED);
    ff_m_shutdown_channels(m);
}

/* ---- from one connection to the next ----------------------------------------------------------
 */

unsigned ff_m_wait_until(FfMigration *m, unsigned want, int64_t end_us)
{
    ff_mutex_lock(&m->lock);
    while (!(m->events & want) && (end_us < 0 || g_get_monotonic_time() < end_us)) {
        if (end_us < 0) {
            ff_cond_wait(&m->changed, &m->lock);
        } else {
            ff_cond_wait_until(&m->changed, &m->lock, end_us);
        }
    }
    unsigned got = m->events & want;
    ff_mutex_unlock(&m->lock);
    return got;
}

void ff_recovery_begin(FfMigration *m, unsigned events)
{
    ff_mutex_lock(&m->lock);
    m->events &= ~(events | FF_EV_MAIN_ENDED);
    g_clear_pointer(&m->error, g_free);
    ff_mutex_unlock(&m->lock);
}

void ff_recovery_pause(FfMigration *m, const char *why)
{
    ff_m_set_error(m, why);
    ff_mutex_lock(&m->lock);
    FfStatus s = m->status;
    ff_mutex_unlock(&m->lock);
    if (s != FF_STATUS_COMPLETED) {
        ff_m_set_status(m, FF_STATUS_POSTCOPY_PAUSED);
    }
}

void ff_recovery_reset_cancel(FfMigration *m)
{
    g_cancellable_reset(m->cancel);
    if (ff_m_events(m) & (FF_EV_QUIT | FF_EV_PAUSE)) {
        g_cancellable_cancel(m->cancel);
    }
}

int64_t ff_recovery_auto_end(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    int64_t span = m->events & FF_EV_PAUSE ? 0 : m->cfg.auto_recover_s * G_TIME_SPAN_SECOND;
    ff_mutex_unlock(&m->lock);
    return span ? g_get_monotonic_time() + span : 0;
}

/* Said on the main channel, while the end of any other is taken for a break, after which the peer
 * would come back by itself: so the others end when the peer has heard, which ends the main one. */
void ff_recovery_say_paused(FfMigration *m)
{
    bool pauses = m->main && m->main_reader && ff_m_events(m) & FF_EV_PAUSE &&
                  m->peer_features & FF_FEATURE_ALIVE;

    if (pauses && ff_channel_send_last(m->main, ff_frame(FF_FRAME_PAUSED, 0), NULL, LAST_WORD_MS)) {
        ff_m_wait_until(m, FF_EV_MAIN_ENDED | FF_EV_QUIT,
                        g_get_monotonic_time() + LAST_WORD_MS * 1000);
    }
}

void ff_migration_set_auto_recover(FfMigration *m, unsigned seconds)
{
    ff_mutex_lock(&m->lock);
    m->cfg.auto_recover_s = seconds;
    ff_mutex_unlock(&m->lock);
}

bool ff_recovery_connecting(FfMigration *m, FfChannel *ch, GError **error)
{
    ff_mutex_lock(&m->lock);
    bool stopped = m->events & (FF_EV_QUIT | FF_EV_DEAD);
    m->connecting = stopped ? NULL : ch;
    if (stopped && ch) {
        g_set_error_literal(error, FF_M_ERROR, 0, m->error ? m->error : "interrupted");
    }
    ff_mutex_unlock(&m->lock);
    return !stopped;
}

void ff_recovery_install(FfMigration *m, FfChannel *main, FfChannel *urgent)
{
    ff_mutex_lock(&m->lock);
    FfChannel *old[] = {m->main, m->urgent, m->urgent_in != m->urgent ? m->urgent_in : NULL};
    for (unsigned i = 0; i < G_N_ELEMENTS(old); i++) {
        /* The end of a socketpair is no way of its own. */
        m->past_bytes += old[i] && i < 2 ? ff_channel_bytes(old[i]) : 0;
    }
    m->main = main;
    m->urgent = urgent;
    m->urgent_in = m->cfg.role == FF_ROLE_SOURCE ? urgent : NULL;
    m->channel_shared = !urgent;
    m->connecting = NULL;
    if (m->urgent_feed >= 0) {
        close(m->urgent_feed);
        m->urgent_feed = -1;
    }
    g_clear_pointer(&m->feed_late, g_array_unref); /* they are asked for again */
    if (m->events & (FF_EV_DEAD | FF_EV_QUIT)) {
        /* Paused in between: the threads that start now are to end at once. */
        ff_channel_shutdown(main);
        if (urgent) {
            ff_channel_shutdown(urgent);
        }
    }
    ff_mutex_unlock(&m->lock);
    for (unsigned i = 0; i < G_N_ELEMENTS(old); i++) {
        ff_channel_free(old[i]);
    }
}

void ff_recovery_drain(int fd)
{
    uint64_t n;
    G_GNUC_UNUSED ssize_t rc = read(fd, &n, sizeof(n));
}

/* ---- talking before the threads run -------------------------------------------------------------
 */

static bool lost(GError **error, const FfChannel *ch, int rc, const char *why)
{
    g_set_error(error, FF_M_ERROR, 0, "%s: %s", ff_channel_peer(ch),
                why                ? why
                : rc == -EPIPE     ? "the peer closed the connection"
                : rc == -ETIMEDOUT ? "no answer in time"
                                   : ff_channel_strerror(ch, rc));
    return false;
}

bool ff_recovery_hear(FfChannel *ch, FfFrame *f, void *payload, size_t cap, GError **error)
{
    const char *why = NULL;
    int rc = ff_channel_read_frame(ch, f, ANSWER_DEADLINE_MS, &why);

    if (rc == 0 && f->length > cap) {
        why = "a longer frame than can come now";
        rc = -EBADMSG;
    }
    if (rc == 0) {
        rc = ff_channel_read_all(ch, payload, f->length, ANSWER_DEADLINE_MS);
    }
    return rc < 0 ? lost(error, ch, rc, why) : true;
}

bool ff_recovery_expect(FfChannel *ch, FfFrameType type, FfFrame *f, void *payload, size_t cap,
                        GError **error)
{
    if (!ff_recovery_hear(ch, f, payload, cap, error)) {
        return false;
    }
    if (f->type != type) {
        g_set_error(error, FF_M_ERROR, 0, "%s: sent '%s' where '%s' belongs", ff_channel_peer(ch),
                    ff_frame_name(f->type), ff_frame_name(type));
        return false;
    }
    return true;
}

bool ff_recovery_say(FfChannel *ch, FfFrame f, const void *payload, GError **error)
{
    int rc = ff_channel_send(ch, f, payload, true);

    return rc < 0 ? lost(error, ch, rc, NULL) : true;
}

/* ---- for the next engine ------------------------------------------------------------------------
 */

void ff_recovery_store_session(FfMigration *m)
{
    FfStateHeader *s = m->cfg.state;

    __atomic_store_n(&s->epoch, m->epoch, __ATOMIC_RELAXED); /* read by ff_m_half() */
    memcpy(s->uuid, m->session, sizeof(s->uuid));
    memcpy(s->secret, m->secret, sizeof(s->secret));
}

void ff_recovery_store_peer(FfMigration *m, const FfAddress *address)
{
    FfStateHeader *s = m->cfg.state;
    char *uri = address ? ff_address_uri(address) : NULL;

    ff_mutex_lock(&m->lock);
    g_free(m->peer_uri);
    m->peer_uri = uri;
    memset(s->peer_uri, 0, sizeof(s->peer_uri));
    if (uri && strlen(uri) < sizeof(s->peer_uri)) {
        memcpy(s->peer_uri, uri, strlen(uri));
    }
    ff_mutex_unlock(&m->lock);
}

char *ff_m_peer_uri(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    char *uri = g_strdup(m->peer_uri);
    ff_mutex_unlock(&m->lock);
    return uri;
}

void ff_recovery_store_blocks(FfMigration *m)
{
    FfStateHeader *s = m->cfg.state;

    for (unsigned i = 0; i < m->n_blocks; i++) {
        const FfRamBlock *b = &m->blocks[i].info;
        g_strlcpy(s->block[i].id, b->id, sizeof(s->block[i].id));
        s->block[i].size = b->size;
        s->block[i].page_size = b->page_size;
        s->block[i].gpa = b->gpa;
    }
    s->n_blocks = m->n_blocks;
}

static FfRamBlock *find(GPtrArray *blocks, const FfStateBlock *sb)
{
    for (guint i = 0; i < blocks->len; i++) {
        FfRamBlock *b = blocks->pdata[i];
        if (strncmp(b->id, sb->id, sizeof(sb->id)) == 0 && b->size == sb->size &&
            b->page_size == sb->page_size) {
            return b;
        }
    }
    return NULL;
}

bool ff_recovery_adopt_blocks(FfMigration *m, GError **error)
{
    const FfStateHeader *s = m->cfg.state;
    GPtrArray *all = m->cfg.vmm->memory.blocks(&m->cfg.vmm->memory);
    g_autoptr(GPtrArray) ours = g_ptr_array_new();

    for (unsigned i = 0; i < MIN(s->n_blocks, FF_STATE_MAX_BLOCKS); i++) {
        FfRamBlock *b = find(all, &s->block[i]);
        if (!b) {
            g_set_error(error, FF_M_ERROR, 0, "guest RAM '%.*s' is not there any more",
                        (int)sizeof(s->block[i].id), s->block[i].id);
            return false;
        }
        g_ptr_array_add(ours, b);
    }
    if (!ff_m_set_blocks(m, ours, error)) {
        return false;
    }
    for (unsigned i = 0; i < m->n_blocks; i++) {
        m->blocks[i].info.gpa = s->block[i].gpa;
    }
    memcpy(m->session, s->uuid, sizeof(m->session));
    memcpy(m->secret, s->secret, sizeof(m->secret));
    return true;
}
