/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The channels of a migration and their threads; see connection.h. System calls: poll. */
#include "migration/common/connection.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* For the last word on a connection, and again for the peer to hear it (milliseconds). */
#define LAST_WORD_MS 1000

#define CHANNELS_FEW 2
#define CHANNELS_MANY 4

unsigned ff_channels_default(void)
{
    return CLAMP(g_get_num_processors(), CHANNELS_FEW, CHANNELS_MANY);
}

FfChannel *ff_conn_channel_new(const FfConnection *conn, int fd, FfChannelKind kind)
{
    FfChannel *ch = ff_channel_new(fd, kind);

    ff_channel_set_deadline(ch, conn->cfg->peer_timeout_ms);
    return ch;
}

uint64_t ff_conn_bytes_locked(const FfConnection *conn)
{
    uint64_t bytes = conn->past_bytes + (conn->main ? ff_channel_bytes(conn->main) : 0) +
                     (conn->urgent ? ff_channel_bytes(conn->urgent) : 0);

    for (unsigned i = 0; i < conn->n_bulk; i++) {
        bytes += ff_channel_bytes(conn->bulk[i].ch);
    }
    return bytes;
}

/* ---- the end of a connection ----------------------------------------------------------------- */

void ff_conn_shutdown(FfConnection *conn)
{
    FfControl *c = conn->control;

    ff_mutex_lock(&c->lock);
    FfChannel *all[] = {conn->main,       conn->urgent,         conn->arrived,
                        conn->connecting, conn->arrived_urgent, conn->accepting};
    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        if (all[i] && !(conn->keep_main && all[i] == conn->main)) {
            ff_channel_shutdown(all[i]);
        }
    }
    for (unsigned i = 0; i < conn->n_bulk; i++) {
        ff_channel_shutdown(conn->bulk[i].ch);
    }
    ff_cond_broadcast(&c->changed);
    ff_mutex_unlock(&c->lock);
}

static const char *channel_name(FfConnection *conn, const FfChannel *ch)
{
    ff_mutex_lock(&conn->control->lock);
    const char *name = !ch || ch == conn->main ? ""
                       : ch == conn->urgent    ? " on the urgent channel"
                                               : " on a bulk channel";
    ff_mutex_unlock(&conn->control->lock);
    return name;
}

void ff_conn_silent(FfConnection *conn, const FfChannel *ch)
{
    ff_control_dead(conn->control,
                    "nothing came from the %s for %u ms%s: it hangs, or the network does",
                    conn->peer, conn->cfg->peer_timeout_ms, channel_name(conn, ch));
}

void ff_conn_lost(FfConnection *conn, const FfChannel *ch, int rc)
{
    if (rc == -ETIMEDOUT && conn->cfg->peer_timeout_ms) {
        ff_conn_silent(conn, ch); /* the kernel has looked first (TCP_USER_TIMEOUT) */
    } else {
        g_autofree char *text = g_strdup_printf("lost the connection to the %s%s: %s", conn->peer,
                                                channel_name(conn, ch),
                                                rc == -EPIPE ? "the peer closed it"
                                                : ch         ? ff_channel_strerror(ch, rc)
                                                             : g_strerror(-rc));
        ff_control_lost(conn->control, text);
    }
}

/* Said on the main channel, while the end of any other is taken for a break, after which the peer
 * would come back by itself: so the others end when the peer has heard, which ends the main one. */
static void say_last(FfConnection *conn, FfFrameType word)
{
    if (ff_channel_send_last(conn->main, ff_frame(word, 0), NULL, LAST_WORD_MS)) {
        ff_control_wait_until(conn->control, FF_EV_MAIN_ENDED | FF_EV_QUIT,
                              g_get_monotonic_time() + LAST_WORD_MS * 1000);
    }
}

bool ff_conn_vmm_ended(const FfConnection *conn, int within_ms)
{
    struct pollfd p = {.fd = conn->cfg->pidfd, .events = POLLIN};

    return p.fd >= 0 && poll(&p, 1, within_ms) > 0;
}

void ff_conn_say_last(FfConnection *conn)
{
    FfControl *c = conn->control;
    uint32_t known = conn->main && conn->main_reader ? conn->peer_features : 0;

    ff_mutex_lock(&c->lock);
    bool pauses = c->events & FF_EV_PAUSE, granted = c->granted;
    ff_mutex_unlock(&c->lock);
    bool ended = granted && ff_conn_vmm_ended(conn, 0);
    if (ended && known & FF_FEATURE_ENDED) {
        say_last(conn, FF_FRAME_ENDED);
    } else if (pauses && known & FF_FEATURE_ALIVE) {
        say_last(conn, FF_FRAME_PAUSED);
    }
    if (ended) {
        ff_control_event(conn->control, FF_EV_TOLD);
        g_main_context_wakeup(conn->control->driver_ctx); /* which waits to end */
    }
}

/* ---- the next one ---------------------------------------------------------------------------- */

bool ff_conn_connecting(FfConnection *conn, FfChannel *ch, unsigned cancelled, GError **error)
{
    FfControl *c = conn->control;

    ff_mutex_lock(&c->lock);
    bool stopped = c->events & (FF_EV_QUIT | FF_EV_DEAD | cancelled);
    conn->connecting = stopped ? NULL : ch;
    if (stopped && ch && c->events & cancelled) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "migration was cancelled");
    } else if (stopped && ch) {
        g_set_error_literal(error, FF_M_ERROR, 0, c->error ? c->error : "interrupted");
    }
    ff_mutex_unlock(&c->lock);
    return !stopped;
}

void ff_conn_set_main(FfConnection *conn, FfChannel *ch)
{
    ff_mutex_lock(&conn->control->lock);
    conn->main = ch;
    conn->connecting = NULL;
    ff_mutex_unlock(&conn->control->lock);
}

void ff_conn_install(FfConnection *conn, FfChannel *main, FfChannel *urgent)
{
    FfControl *c = conn->control;

    ff_mutex_lock(&c->lock);
    FfChannel *old[] = {conn->main, conn->urgent};
    for (unsigned i = 0; i < G_N_ELEMENTS(old); i++) {
        conn->past_bytes += old[i] ? ff_channel_bytes(old[i]) : 0;
    }
    conn->main = main;
    conn->urgent = urgent;
    conn->urgent_shared = !urgent;
    conn->connecting = NULL;
    if (c->events & (FF_EV_DEAD | FF_EV_QUIT)) {
        /* Paused in between: the threads that start now must end at once. */
        ff_channel_shutdown(main);
        if (urgent) {
            ff_channel_shutdown(urgent);
        }
    }
    ff_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < G_N_ELEMENTS(old); i++) {
        ff_channel_free(old[i]);
    }
}

bool ff_conn_agreed_locked(FfConnection *conn)
{
    while (conn->attaching) {
        ff_cond_wait(&conn->control->changed, &conn->control->lock);
    }
    bool wanted = conn->want_channel;
    conn->want_channel = false;
    return wanted;
}

void ff_conn_store(const FfConnection *conn, FfStateHeader *state)
{
    /* Observer: the thread that says what half of a migration knows (split.c). */
    __atomic_store_n(&state->epoch, conn->epoch, __ATOMIC_RELAXED);
    memcpy(state->uuid, conn->session, sizeof(state->uuid));
    memcpy(state->secret, conn->secret, sizeof(state->secret));
}

void ff_conn_clear(FfConnection *conn)
{
    ff_conn_end_bulk(conn);
    ff_channel_free(conn->urgent);
    ff_channel_free(conn->main);
    ff_channel_free(conn->arrived);
    ff_channel_free(conn->arrived_urgent);
}

/* ---- bulk channels --------------------------------------------------------------------------- */

FfBulkChannel *ff_conn_add_bulk_locked(FfConnection *conn, FfChannel *ch)
{
    unsigned i = conn->n_bulk++;

    g_assert(i < FF_MAX_BULK);
    conn->bulk[i] = (FfBulkChannel){.side = conn->side, .ch = ch, .index = FF_INDEX_URGENT + 1 + i};
    if (conn->control->events & (FF_EV_DEAD | FF_EV_QUIT)) {
        ff_channel_shutdown(ch); /* the end had come before */
    }
    return &conn->bulk[i];
}

void ff_conn_start_bulk(FfConnection *conn, GThreadFunc run)
{
    for (unsigned i = 0; i < conn->n_bulk; i++) {
        conn->bulk[i].thread = g_thread_new("ff-bulk", run, &conn->bulk[i]);
    }
}

void ff_conn_join_bulk(FfConnection *conn)
{
    for (unsigned i = 0; i < conn->n_bulk; i++) {
        ff_control_join(&conn->bulk[i].thread);
    }
}

static unsigned count_channels(FfConnection *conn)
{
    ff_mutex_lock(&conn->control->lock);
    unsigned n = conn->n_bulk;
    ff_mutex_unlock(&conn->control->lock);
    return n;
}

void ff_conn_end_bulk(FfConnection *conn)
{
    FfChannel *old[FF_MAX_BULK];

    for (unsigned i = 0, n = count_channels(conn); i < n; i++) {
        ff_control_join(&conn->bulk[i].thread);
    }
    /* D: one that has just come for an attempt that has failed has no thread. */
    ff_mutex_lock(&conn->control->lock);
    unsigned n = conn->n_bulk;
    conn->n_bulk = 0;
    for (unsigned i = 0; i < n; i++) {
        old[i] = conn->bulk[i].ch;
        conn->past_bytes += ff_channel_bytes(old[i]);
    }
    ff_mutex_unlock(&conn->control->lock);
    for (unsigned i = 0; i < n; i++) {
        ff_channel_free(old[i]);
    }
}
