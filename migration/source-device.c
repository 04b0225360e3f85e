/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device state on its way to the peer, for which the guest stands still.
 *
 * QEMU's stream holds the guest memory that is QEMU's own: firmware, a display's memory, some
 * megabytes, nearly all of which is the same for long. So it is read and sent ahead while the guest
 * runs, and the stream says of such pages only which ones they are. What counts is QEMU's stream
 * alone: a page that has changed in between is not found in the base, and goes as it is.
 *
 * What the base has no room for crosses the link while the guest stands still, whatever the
 * client's downtime-limit. QEMU's own migration sends such memory while the guest runs. So where it
 * would take longer than that limit QEMU carries the migration.
 *
 * With what it is read through all of QEMU's memory could be read, its secrets too. So that is done
 * before the peer is spoken to, who may be hostile, and the fd is closed then.
 *
 * Threads: the base is collected by the coordinator, used by the device thread. No lock.
 */
#include "migration/internal.h"
#include "migration/precopy-send.h"

#include <string.h>

#include "uffd/private.h"

/* Under TLS the length of what is compressed says something of it: only who asks for that has it.
 */
bool ff_source_packs_device(const FfMigration *m)
{
    return m->peer_features & FF_FEATURE_PACKED_DEVICE &&
           (m->cfg.compress != FF_COMPRESS_NEVER || !m->cfg.tls);
}

/* Sends N bytes as they are or, where the link is slow, compressed. */
static int send_piece(FfMigration *m, FfDevicePacing *pacing, FfPacking *pk, FfFrame f,
                      const void *data, size_t n)
{
    int64_t now = g_get_monotonic_time();
    size_t len = 0;

    f.length = n;
    if (ff_source_packs_device(m) &&
        ff_compress_device_wanted(pacing, n, ff_channel_unsent(m->main), now) &&
        ff_packing_prepare(pk, FF_ZSTD_LEVEL_MIN, FF_RUN_MAX_BYTES)) {
        len = ff_packer_pack(pk->packer, data, n, pk->out);
        pacing->packed += n;
        pacing->packed_us += g_get_monotonic_time() - now;
    }
    if (len) {
        f.flags |= FF_DEVICE_PACKED;
        f.page = n;
        f.length = len;
        data = pk->out;
    }
    pacing->sent += f.length;
    return ff_channel_send(m->main, f, data, true);
}

/* ---- the base ------------------------------------------------------------------------------ */

/* Bytes per second at which the rest is reckoned before there is a link to measure: 1 Gbit/s. */
#define RECKONED_RATE 125000000ull

typedef struct {
    FfDelta *base;
    uint64_t rest; /* bytes that it has no room for */
    bool full;
} Reading;

static bool add_page(const void *page, void *opaque)
{
    Reading *r = opaque;

    r->full = r->full || !ff_delta_add(r->base, page, FF_DELTA_PAGE);
    r->rest += r->full ? FF_DELTA_PAGE : 0;
    return true;
}

gpointer ff_source_read_base(gpointer p)
{
    FfMigration *m = p;
    const FfMigrationConfig *c = &m->cfg;
    g_autoptr(FfDelta) base = ff_delta_new();

    /* What cannot be read is not in it: a part is a base as well. */
    Reading r = {.base = base};
    ff_private_read(c->maps_fd, c->pagemap_fd, c->mem_fd, add_page, &r);
    m->private_rest = r.rest;
    return ff_delta_size(base) && ff_delta_index(base) ? g_steal_pointer(&base) : NULL;
}

bool ff_source_private_fits(FfMigration *m, GError **error)
{
    ff_mutex_lock(&m->lock);
    uint64_t limit = m->cfg.downtime_limit, rate = m->cfg.switchover_bandwidth;
    ff_mutex_unlock(&m->lock);
    uint64_t ms = m->private_rest * 1000 / (rate ? rate : RECKONED_RATE);

    if (ms <= limit) {
        return true;
    }
    g_set_error(error, FF_M_ERROR, 0,
                "the guest would stand still for about %" G_GUINT64_FORMAT
                " ms for %" G_GUINT64_FORMAT
                " MiB of memory that QEMU keeps to itself (a display's, "
                "above all), and downtime-limit is %" G_GUINT64_FORMAT " ms",
                ms, m->private_rest >> 20, limit);
    return false;
}

void ff_source_send_base(FfMigration *m)
{
    if (!(ff_source_features(m) & FF_FEATURE_DELTA_DEVICE)) {
        g_clear_pointer(&m->device_base, ff_delta_free);
    }
    const uint8_t *data = m->device_base ? ff_delta_data(m->device_base) : NULL;
    size_t size = m->device_base ? ff_delta_size(m->device_base) : 0;
    FfDevicePacing pacing = {0};
    FfPacking packing = {0};
    const unsigned over = FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL;
    int rc = 0;

    for (size_t at = 0, n; rc == 0 && at < size && !(ff_m_events(m) & over); at += n) {
        uint64_t before = pacing.sent;
        n = MIN(size - at, FF_RUN_MAX_BYTES);
        if (m->rounds) {
            ff_rounds_pace(m);
        }
        rc = send_piece(m, &pacing, &packing, ff_frame(FF_FRAME_BASE, 0), data + at, n);
        if (m->rounds) {
            ff_rounds_charge(m, pacing.sent - before);
        }
    }
    ff_packing_clear(&packing);
}

/* ---- the stream ----------------------------------------------------------------------------- */

/* TRUE: *DATA, of *N bytes, is a delta now. */
static bool make_delta(FfMigration *m, FfDevicePacing *pacing, const void **data, size_t *n)
{
    if (!m->device_base) {
        return false;
    }
    if (!pacing->delta) {
        pacing->delta = g_malloc(FF_RUN_MAX_BYTES);
    }
    size_t len = ff_delta_encode(m->device_base, *data, *n, pacing->delta);
    if (len) {
        *data = pacing->delta;
        *n = len;
    }
    return len > 0;
}

int ff_source_send_device(FfMigration *m, FfDevicePacing *pacing, FfPacking *pk, const void *data,
                          size_t n)
{
    FfFrame f = ff_frame(FF_FRAME_DEVICE, 0);
    size_t whole = n;
    uint64_t before = pacing->sent;

    if (make_delta(m, pacing, &data, &n)) {
        f.flags = FF_DEVICE_DELTA;
        f.n_pages = whole;
    }
    int rc = send_piece(m, pacing, pk, f, data, n);
    ff_count(m->stats.device_wire, pacing->sent - before);
    return rc;
}
