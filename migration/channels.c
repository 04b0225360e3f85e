/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Further bulk connections (x-farfault-channels): claims, sending, receiving and placing by several
 * threads at once.
 *
 * In postcopy a page is final and is claimed once, so the order of frames on different connections
 * does not matter. In precopy it does, from one round to the next (a page that is sent again, a
 * stale run): precopy-send.c keeps it. While everything is sent before the grant the main
 * connection carries all.
 *
 * The source opens them one after the other before the urgent channel, which ends their time, so
 * both sides count them alike. They live as long as the main connection: when one is lost, all are.
 *
 * Threads: the side's coordinator; the acceptor attaches (D); one sender (S; one for precopy, one
 * for postcopy) or reader (D) each.
 * FfMigration.lock guards m->extra and m->n_extra; who runs as long as the connection reads them
 * without.
 */
#include "migration/internal.h"

#define CHANNELS_FEW 2
#define CHANNELS_MANY 4

unsigned ff_channels_default(void)
{
    return CLAMP(g_get_num_processors(), CHANNELS_FEW, CHANNELS_MANY);
}

FfExtra *ff_extra_add_locked(FfMigration *m, FfChannel *ch)
{
    unsigned i = m->n_extra++;

    g_assert(i < FF_MAX_EXTRA);
    m->extra[i] = (FfExtra){.m = m, .ch = ch, .index = FF_INDEX_URGENT + 1 + i};
    if (m->events & (FF_EV_DEAD | FF_EV_QUIT)) {
        ff_channel_shutdown(ch); /* the end had come before */
    }
    return &m->extra[i];
}

void ff_extra_start(FfMigration *m, GThreadFunc run)
{
    for (unsigned i = 0; i < m->n_extra; i++) {
        m->extra[i].thread = g_thread_new("ff-bulk", run, &m->extra[i]);
    }
}

void ff_extra_join(FfMigration *m)
{
    for (unsigned i = 0; i < m->n_extra; i++) {
        ff_m_join(&m->extra[i].thread);
    }
}

static unsigned count(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    unsigned n = m->n_extra;
    ff_mutex_unlock(&m->lock);
    return n;
}

void ff_extra_end(FfMigration *m)
{
    FfChannel *old[FF_MAX_EXTRA];

    for (unsigned i = 0, n = count(m); i < n; i++) {
        ff_m_join(&m->extra[i].thread);
    }
    /* D: one that has just come for an attempt that has failed has no thread. */
    ff_mutex_lock(&m->lock);
    unsigned n = m->n_extra;
    m->n_extra = 0;
    for (unsigned i = 0; i < n; i++) {
        old[i] = m->extra[i].ch;
        m->past_bytes += ff_channel_bytes(old[i]);
    }
    ff_mutex_unlock(&m->lock);
    for (unsigned i = 0; i < n; i++) {
        ff_channel_free(old[i]);
    }
}

bool ff_source_open_extra(FfMigration *m, const FfAddress *address, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (!address || !(m->peer_features & FF_FEATURE_LISTENS)) {
        return true; /* the urgent channel's attempt, which follows, says so */
    }
    for (unsigned i = 1; i < MIN(m->cfg.channels, FF_MAX_EXTRA + 1) && !local; i++) {
        FfChannel *ch = ff_source_open_channel(m, address, FF_CHANNEL_BULK, &local);
        if (ch) {
            ff_mutex_lock(&m->lock);
            ff_extra_add_locked(m, ch);
            ff_mutex_unlock(&m->lock);
        }
    }
    if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    if (local) {
        g_message("%u bulk connections in place of %u: %s", m->n_extra + 1, m->cfg.channels,
                  local->message);
    }
    return true;
}
