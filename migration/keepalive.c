/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the peer lives: says ALIVE on each channel of a connection on which nothing else was
 * said for a while, and ends the connection when nothing came for the peer's time. So a cable that
 * is out, a connection that is half open, a host that hangs and an engine that was stopped are
 * noticed on every kind of socket and in every state, also when neither side has anything to say.
 *
 * What cannot be said tells as well: at the source nobody reads a further connection. But the main
 * one may hold the peer's own word of why, so it has until the next look to be read.
 *
 * What is counted are looks without a byte, not the time between them: an engine that was stopped
 * itself (or had no processor for a while) does not take its own absence for that of the peer.
 *
 * It looks at one thing more, at the source while the guest stands still: device state that the
 * destination's QEMU does not load. Its engine lives, and yet nothing goes on; before the grant
 * the guest can go on here.
 *
 * Thread: one per connection; starts when both sides have greeted, joined before a channel is
 * freed. It takes FfMigration.lock for the moment in which it looks which channels there are.
 */
#include "migration/internal.h"

#include <errno.h>
#include <string.h>

/* Between two looks (milliseconds); the peer's timeout is divided into eight at least. */
#define LOOK_MS 1000
#define LOOKS_MIN 8

/* Main and urgent, then the further ones. On those only the source speaks. */
#define CHANNELS (2 + FF_MAX_EXTRA)
#define BOTH_WAYS 2

typedef struct {
    FfChannel *ch[CHANNELS]; /* NULL: there is none */
    uint64_t received[CHANNELS];
    unsigned silent[CHANNELS]; /* looks without a byte */
    unsigned mute[CHANNELS];   /* looks at which nothing could be said */
    uint64_t progress;         /* pages and device state */
    unsigned stuck;            /* looks without any, the guest standing still */
} Look;

FfChannel *ff_m_channel_new(FfMigration *m, int fd, FfChannelKind kind)
{
    FfChannel *ch = ff_channel_new(fd, kind);

    ff_channel_set_deadline(ch, m->cfg.peer_timeout_ms);
    return ch;
}

static unsigned look_ms(const FfMigration *m)
{
    return CLAMP(m->cfg.peer_timeout_ms / LOOKS_MIN, 1, LOOK_MS);
}

static const char *peer_name(const FfMigration *m)
{
    return m->cfg.role == FF_ROLE_SOURCE ? "destination" : "source";
}

static const char *where(FfMigration *m, const FfChannel *ch)
{
    ff_mutex_lock(&m->lock);
    const char *name = !ch || ch == m->main ? ""
                       : ch == m->urgent    ? " on the urgent channel"
                                            : " on a bulk channel";
    ff_mutex_unlock(&m->lock);
    return name;
}

static void is_gone(FfMigration *m, const FfChannel *ch)
{
    ff_m_dead(m, "nothing came from the %s for %u ms%s: it hangs, or the network does",
              peer_name(m), m->cfg.peer_timeout_ms, where(m, ch));
}

void ff_m_lost(FfMigration *m, const FfChannel *ch, int rc)
{
    if (rc == -ETIMEDOUT && m->cfg.peer_timeout_ms) {
        is_gone(m, ch); /* the kernel has looked first (TCP_USER_TIMEOUT) */
    } else {
        ff_m_dead(m, "lost the connection to the %s%s: %s", peer_name(m), where(m, ch),
                  rc == -EPIPE ? "the peer closed it"
                  : ch         ? ff_channel_strerror(ch, rc)
                               : g_strerror(-rc));
    }
}

/* FALSE: it is time to end. */
static bool wait_for_look(FfMigration *m, Look *p, int64_t next_us)
{
    ff_mutex_lock(&m->lock);
    while (!m->keepalive_stop && g_get_monotonic_time() < next_us) {
        ff_cond_wait_until(&m->changed, &m->lock, next_us);
    }
    p->ch[FF_CHANNEL_MAIN] = m->main;
    p->ch[FF_CHANNEL_URGENT] = m->urgent;
    for (unsigned i = 0; i < FF_MAX_EXTRA; i++) {
        p->ch[BOTH_WAYS + i] = i < m->n_extra ? m->extra[i].ch : NULL;
    }
    bool go_on = !m->keepalive_stop;
    ff_mutex_unlock(&m->lock);
    return go_on;
}

/* TRUE: nothing came on channel I for too long. */
static bool is_silent(FfMigration *m, Look *p, unsigned i)
{
    uint64_t received = ff_channel_received(p->ch[i]);

    p->silent[i] = received == p->received[i] ? p->silent[i] + 1 : 0;
    p->received[i] = received;
    return p->silent[i] * look_ms(m) >= m->cfg.peer_timeout_ms;
}

static void say_alive(FfMigration *m, Look *p, unsigned i)
{
    int rc = ff_channel_try_send(p->ch[i], ff_frame(FF_FRAME_ALIVE, 0));

    p->mute[i] = rc < 0 ? p->mute[i] + 1 : 0;
    if (p->mute[i] > 1) {
        ff_m_lost(m, p->ch[i], rc);
    }
}

static uint64_t progress(FfMigration *m)
{
    return ff_counted(m->done_pages) + ff_counted(m->stats.device_bytes) +
           ff_counted(m->stats.requests);
}

/* TRUE: the guest stands still, and nothing has moved for too long. */
static bool is_stuck(FfMigration *m, Look *p)
{
    uint64_t now = progress(m);

    ff_mutex_lock(&m->lock);
    bool waits = m->cfg.role == FF_ROLE_SOURCE && m->status == FF_STATUS_DEVICE &&
                 !(m->events & FF_EV_LOADED);
    ff_mutex_unlock(&m->lock);
    p->stuck = waits && now == p->progress ? p->stuck + 1 : 0;
    p->progress = now;
    return p->stuck * look_ms(m) >= m->cfg.peer_timeout_ms;
}

static void end_connection(FfMigration *m, const Look *p)
{
    for (unsigned i = 0; i < CHANNELS; i++) {
        if (p->ch[i]) {
            ff_channel_shutdown(p->ch[i]);
        }
    }
}

/* FALSE: the connection is over. */
static bool look(FfMigration *m, Look *p)
{
    bool source = m->cfg.role == FF_ROLE_SOURCE;
    /* Before the guest is stopped nobody reads the urgent channel at the source. */
    unsigned heard = !source ? CHANNELS : g_atomic_int_get(&m->frozen) ? BOTH_WAYS : 1;

    for (unsigned i = 0; i < CHANNELS; i++) {
        bool hears = i < heard, speaks = source || i < BOTH_WAYS;
        if (p->ch[i] && hears && is_silent(m, p, i)) {
            is_gone(m, p->ch[i]);
            end_connection(m, p);
            return false;
        }
        if (p->ch[i] && speaks) {
            say_alive(m, p, i);
        }
    }
    if (is_stuck(m, p)) {
        /* The channels stay: the destination is to be told. */
        ff_m_dead(m, "the destination's QEMU has not loaded the device state for %u ms",
                  m->cfg.peer_timeout_ms);
        p->stuck = 0;
    }
    return true;
}

static gpointer keep_alive(gpointer data)
{
    FfMigration *m = data;
    Look p = {0};
    int64_t next = g_get_monotonic_time();

    do {
        next = MAX(next, g_get_monotonic_time()) + look_ms(m) * 1000LL;
    } while (wait_for_look(m, &p, next) && look(m, &p));
    return NULL;
}

void ff_keepalive_start(FfMigration *m)
{
    if (!m->cfg.peer_timeout_ms || !(m->peer_features & FF_FEATURE_ALIVE)) {
        return; /* what TCP does by itself has to do */
    }
    ff_mutex_lock(&m->lock);
    m->keepalive_stop = false;
    ff_mutex_unlock(&m->lock);
    m->keepalive = g_thread_new("ff-keepalive", keep_alive, m);
}

void ff_keepalive_end(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    m->keepalive_stop = true;
    ff_cond_broadcast(&m->changed);
    ff_mutex_unlock(&m->lock);
    ff_m_join(&m->keepalive);
}
