/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one half of a migration between the switch and its end knows of itself: which pages are
 * where, who waits for a page, since when.
 *
 * Thread: the driver looks while others continue.
 */
#include "migration/common/split.h"

#include "migration/common/ownership.h"
#include "migration/common/states.h"
#include "migration/common/stats.h"

/* So many waits are named. */
#define WAITS_MAX 64

static void fill_waits(const FfRam *ram, const FfWaits *waits, FfSplit *h)
{
    uint32_t high = waits ? __atomic_load_n(&waits->high, __ATOMIC_SEQ_CST) : 0;
    uint32_t n = MIN(FF_MAX_WAITS, high);
    int64_t now = g_get_monotonic_time();

    h->waits = g_new0(FfHalfWait, WAITS_MAX);
    for (uint32_t i = 0; i < n && h->n_waits < WAITS_MAX; i++) {
        unsigned block;
        uint64_t page;
        if (!ff_waits_get(waits, i, &block, &page) || block >= ram->n_blocks) {
            continue;
        }
        int64_t since = __atomic_load_n(&waits->wait[i].since_us, __ATOMIC_RELAXED);
        h->waits[h->n_waits++] = (FfHalfWait){
            .vcpu = __atomic_load_n(&waits->wait[i].who, __ATOMIC_RELAXED),
            .block = g_strdup(ram->blocks[block].info.id),
            .offset = page * ram->blocks[block].info.page_size,
            .ms = MAX(0, now - since) / 1000,
        };
    }
}

FfSplit *ff_split_new(FfControl *control, const FfRam *ram, const FfWaits *waits,
                      const FfStateHeader *s, const FfDeviceCopy *copy)
{
    ff_mutex_lock(&control->lock);
    FfSplit *h = ff_state_is_postcopy(control->status) ? g_new0(FfSplit, 1) : NULL;
    if (h) {
        h->device_state = ff_device_copy_fd_locked(copy) >= 0;
        h->peer_ended = control->peer_ended;
    }
    ff_mutex_unlock(&control->lock);
    if (!h) {
        return NULL;
    }
    int64_t broken = ff_counted(control->broken_us);
    h->phase = ff_ownership_phase(s);
    h->epoch = __atomic_load_n(&s->epoch, __ATOMIC_RELAXED);
    h->broken_ms = broken ? (g_get_monotonic_time() - broken) / 1000 : -1;
    h->pages_known = !g_atomic_int_get(&ram->uncounted);
    h->pages_total = ram->total_pages;
    uint64_t pages = ff_counted(ram->done_pages);
    h->pages_destination = MIN(pages, ram->total_pages);
    h->bytes_missing = ff_ram_remaining(ram);
    h->released = g_atomic_int_get(&ram->released);
    fill_waits(ram, waits, h);
    return h;
}

void ff_split_free(FfSplit *h)
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
