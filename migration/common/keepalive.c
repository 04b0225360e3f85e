/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the peer lives: says ALIVE on each channel of a connection on which nothing else was
 * said for a while, and ends the connection when nothing came for the peer's time. So a cable that
 * is out, a connection that is half open, a host that hangs and an engine that was stopped are
 * noticed on every kind of socket and in every state, also when neither side has anything to say.
 *
 * What cannot be said tells as well: at the source nobody reads an additional connection. But the
 * main one may hold the peer's own word of why, so it has until the next look to be read.
 *
 * What is counted are looks without a byte, not the time between them: an engine that was stopped
 * itself (or had no processor for a while) does not take its own absence for that of the peer.
 *
 * It looks at one thing more, at the source while the guest stands still: device state that the
 * destination's QEMU does not load. Its engine lives, and yet nothing moves; before the grant
 * the guest can continue here.
 *
 * Thread: one per connection; starts when both sides have greeted, joined before a channel is
 * freed. It takes FfControl.lock for the moment in which it looks which channels there are.
 */
#include "migration/common/keepalive.h"

#include <errno.h>
#include <string.h>

/* Between two looks (milliseconds); the peer's timeout is divided into eight at least. */
#define LOOK_MS 1000
#define LOOKS_MIN 8

/* Main and urgent, then the additional ones. On those only the source speaks. */
#define CHANNELS (2 + FF_MAX_BULK)
#define BOTH_WAYS 2

typedef struct {
    FfConnection *conn;
    const FfRam *ram;
    const FfStats *stats;
    const gint *guest_stopped; /* can be NULL */
    FfChannel *ch[CHANNELS];   /* NULL: there is none */
    uint64_t received[CHANNELS];
    unsigned silent[CHANNELS]; /* looks without a byte */
    unsigned mute[CHANNELS];   /* looks at which nothing could be said */
    uint64_t progress;         /* pages and device state */
    unsigned stuck;            /* looks without any, the guest standing still */
} Look;

static unsigned look_ms(const FfConnection *conn)
{
    return CLAMP(conn->cfg->peer_timeout_ms / LOOKS_MIN, 1, LOOK_MS);
}

/* FALSE: it is time to end. */
static bool wait_for_look(Look *p, int64_t next_us)
{
    ff_mutex_lock(&p->conn->control->lock);
    while (!p->conn->keepalive_stop && g_get_monotonic_time() < next_us) {
        ff_cond_wait_until(&p->conn->control->changed, &p->conn->control->lock, next_us);
    }
    p->ch[FF_CHANNEL_MAIN] = p->conn->main;
    p->ch[FF_CHANNEL_URGENT] = p->conn->urgent;
    for (unsigned i = 0; i < FF_MAX_BULK; i++) {
        p->ch[BOTH_WAYS + i] = i < p->conn->n_bulk ? p->conn->bulk[i].ch : NULL;
    }
    bool go_on = !p->conn->keepalive_stop;
    ff_mutex_unlock(&p->conn->control->lock);
    return go_on;
}

/* TRUE: nothing came on channel I for too long. */
static bool is_silent(Look *p, unsigned i)
{
    uint64_t received = ff_channel_received(p->ch[i]);

    p->silent[i] = received == p->received[i] ? p->silent[i] + 1 : 0;
    p->received[i] = received;
    return p->silent[i] * look_ms(p->conn) >= p->conn->cfg->peer_timeout_ms;
}

static void say_alive(Look *p, unsigned i)
{
    int rc = ff_channel_try_send(p->ch[i], ff_frame(FF_FRAME_ALIVE, 0));

    p->mute[i] = rc < 0 ? p->mute[i] + 1 : 0;
    if (p->mute[i] > 1) {
        ff_conn_lost(p->conn, p->ch[i], rc);
    }
}

static uint64_t count_progress(const Look *p)
{
    return ff_counted(p->ram->done_pages) + ff_counted(p->stats->device_bytes) +
           ff_counted(p->stats->requests);
}

/* TRUE: the guest stands still, and nothing has moved for too long. */
static bool is_stuck(Look *p)
{
    uint64_t now = count_progress(p);

    ff_mutex_lock(&p->conn->control->lock);
    bool waits = p->guest_stopped && p->conn->control->status == FF_STATUS_DEVICE &&
                 !(p->conn->control->events & FF_EV_LOADED);
    ff_mutex_unlock(&p->conn->control->lock);
    p->stuck = waits && now == p->progress ? p->stuck + 1 : 0;
    p->progress = now;
    return p->stuck * look_ms(p->conn) >= p->conn->cfg->peer_timeout_ms;
}

static void end_connection(const Look *p)
{
    for (unsigned i = 0; i < CHANNELS; i++) {
        if (p->ch[i]) {
            ff_channel_shutdown(p->ch[i]);
        }
    }
}

/* FALSE: the connection is over. */
static bool look_at_peer(Look *p)
{
    bool source = p->guest_stopped;
    /* Before the guest is stopped nobody reads the urgent channel at the source. */
    unsigned heard = !source ? CHANNELS : g_atomic_int_get(p->guest_stopped) ? BOTH_WAYS : 1;

    for (unsigned i = 0; i < CHANNELS; i++) {
        bool hears = i < heard, speaks = source || i < BOTH_WAYS;
        if (p->ch[i] && hears && is_silent(p, i)) {
            ff_conn_silent(p->conn, p->ch[i]);
            end_connection(p);
            return false;
        }
        if (p->ch[i] && speaks) {
            say_alive(p, i);
        }
    }
    if (is_stuck(p)) {
        /* The channels stay: the destination must be told. */
        ff_control_dead(p->conn->control,
                        "the destination's QEMU has not loaded the device state for %u ms",
                        p->conn->cfg->peer_timeout_ms);
        p->stuck = 0;
    }
    return true;
}

static gpointer keep_alive(gpointer data)
{
    g_autofree Look *p = data;
    int64_t next = g_get_monotonic_time();

    do {
        int64_t now = g_get_monotonic_time();
        next = MAX(next, now) + look_ms(p->conn) * 1000LL;
    } while (wait_for_look(p, next) && look_at_peer(p));
    return NULL;
}

void ff_keepalive_start(FfConnection *conn, const FfRam *ram, const FfStats *stats,
                        const gint *guest_stopped)
{
    if (!conn->cfg->peer_timeout_ms || !(conn->peer_features & FF_FEATURE_ALIVE)) {
        return; /* what TCP does by itself must do */
    }
    Look *p = g_new0(Look, 1);
    *p = (Look){.conn = conn, .ram = ram, .stats = stats, .guest_stopped = guest_stopped};
    ff_mutex_lock(&conn->control->lock);
    conn->keepalive_stop = false;
    ff_mutex_unlock(&conn->control->lock);
    conn->keepalive = g_thread_new("ff-keepalive", keep_alive, p);
}

void ff_keepalive_end(FfConnection *conn)
{
    ff_mutex_lock(&conn->control->lock);
    conn->keepalive_stop = true;
    ff_cond_broadcast(&conn->control->changed);
    ff_mutex_unlock(&conn->control->lock);
    ff_control_join(&conn->keepalive);
}
