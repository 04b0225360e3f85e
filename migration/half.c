/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one half of a migration between the switch and its end knows of itself: which pages are
 * where, who waits for a page, since when; and the copy of the device state that is kept for a
 * dump.
 *
 * Threads: the driver looks; the copy is the device thread's (S) or the main reader's (D), who are
 * the only ones to write it.
 */
#include "migration/internal.h"
#include "migration/states.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* So many waits are named. */
#define WAITS_MAX 64

static void fill_waits(FfMigration *m, FfHalf *h)
{
    uint32_t n = MIN(FF_MAX_WAITS, __atomic_load_n(&m->stats.waits.high, __ATOMIC_SEQ_CST));
    int64_t now = g_get_monotonic_time();

    h->waits = g_new0(FfHalfWait, WAITS_MAX);
    for (uint32_t i = 0; i < n && h->n_waits < WAITS_MAX; i++) {
        unsigned block;
        uint64_t page;
        if (!ff_waits_get(&m->stats.waits, i, &block, &page) || block >= m->n_blocks) {
            continue;
        }
        int64_t since = __atomic_load_n(&m->stats.waits.wait[i].since_us, __ATOMIC_RELAXED);
        h->waits[h->n_waits++] = (FfHalfWait){
            .vcpu = __atomic_load_n(&m->stats.waits.wait[i].who, __ATOMIC_RELAXED),
            .block = g_strdup(m->blocks[block].info.id),
            .offset = page * m->blocks[block].info.page_size,
            .ms = MAX(0, now - since) / 1000,
        };
    }
}

FfHalf *ff_m_half(FfMigration *m)
{
    const FfStateHeader *s = m->cfg.state;
    bool source = m->cfg.role == FF_ROLE_SOURCE;

    ff_mutex_lock(&m->lock);
    FfHalf *h = ff_state_is_postcopy(m->status) ? g_new0(FfHalf, 1) : NULL;
    if (h) {
        h->peer_uri = source ? g_strdup(m->peer_uri) : NULL;
        h->may_run = !source && m->given;
        h->device_state = ff_m_device_copy(m) >= 0;
    }
    ff_mutex_unlock(&m->lock);
    if (!h) {
        return NULL;
    }
    int64_t broken = ff_counted(m->broken_us);
    h->phase = ff_journal_phase(s);
    h->epoch = __atomic_load_n(&s->epoch, __ATOMIC_RELAXED);
    h->broken_ms = broken ? (g_get_monotonic_time() - broken) / 1000 : -1;
    h->pages_total = m->total_pages;
    h->pages_destination = MIN(ff_counted(m->done_pages), m->total_pages);
    h->released = g_atomic_int_get(&m->released);
    fill_waits(m, h);
    return h;
}

void ff_half_free(FfHalf *h)
{
    if (h) {
        for (unsigned i = 0; i < h->n_waits; i++) {
            g_free(h->waits[i].block);
        }
        g_free(h->waits);
        g_free(h->peer_uri);
        g_free(h);
    }
}

void ff_m_note_break(FfMigration *m, FfStatus status)
{
    if (status == FF_STATUS_POSTCOPY_ACTIVE) {
        __atomic_store_n(&m->broken_us, 0, __ATOMIC_RELAXED);
    } else if ((status == FF_STATUS_POSTCOPY_PAUSED || status == FF_STATUS_POSTCOPY_RECOVER) &&
               !ff_counted(m->broken_us)) {
        ff_stamp(m->broken_us);
    }
}

/* ---- the copy of the device state
 * ---------------------------------------------------------------- */

void ff_m_begin_device_copy(FfMigration *m)
{
    int fd = memfd_create("farfault-device", MFD_CLOEXEC);

    if (fd >= 0 && m->ops.hold && m->ops.drop) {
        m->ops.hold("device", fd, m->ops.opaque);
    }
    ff_mutex_lock(&m->lock);
    m->device_copy = fd;
    ff_mutex_unlock(&m->lock);
}

int ff_m_device_copy(const FfMigration *m)
{
    return m->cfg.role == FF_ROLE_DESTINATION && m->given ? -1 : m->device_copy;
}

void ff_m_copy_device(FfMigration *m, const void *data, size_t len)
{
    /* Under the lock: the coordinator may close it, and its number then be another file's. */
    ff_mutex_lock(&m->lock);
    bool whole = m->device_copy < 0 || write(m->device_copy, data, len) == (ssize_t)len;
    ff_mutex_unlock(&m->lock);
    /* Nothing depends on it: a copy that cannot be kept is not there. */
    if (!whole) {
        ff_m_end_device_copy(m);
    }
}

void ff_m_end_device_copy(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    int fd = m->device_copy;
    m->device_copy = -1;
    ff_mutex_unlock(&m->lock);
    if (fd < 0) {
        return;
    }
    close(fd);
    if (m->ops.hold && m->ops.drop) {
        m->ops.drop("device", m->ops.opaque);
    }
}
