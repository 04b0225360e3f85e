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
 * client's downtime-limit, and so does all of it where there is no base. QEMU's own migration sends
 * such memory while the guest runs. So where it would take longer than that limit QEMU carries the
 * migration; else it is part of what precopy reckons the downtime with.
 *
 * With what it is read through all of QEMU's memory could be read, its secrets too. So that is done
 * before the peer is spoken to, which may be hostile, and the fd is closed then.
 *
 * Threads: the base is collected by the coordinator, used by the device thread. No lock.
 */
#include "migration/source/device.h"

#include <string.h>

#include "migration/source/send.h"
#include "uffd/private.h"

/* Sends N bytes as they are or, where the link is slow, compressed. */
static int send_piece(FfSource *s, FfDevicePacing *pacing, FfCompressing *pk, FfFrame f,
                      const void *data, size_t n)
{
    int64_t now = g_get_monotonic_time();
    size_t len = 0;

    f.length = n;
    if (ff_source_compresses_device(s) &&
        ff_compress_device_wanted(pacing, n, ff_channel_unsent(s->conn->main), now) &&
        ff_compressing_prepare(pk, FF_ZSTD_LEVEL_MIN, FF_RUN_MAX_BYTES)) {
        len = ff_compressor_run(pk->packer, data, n, pk->out);
        pacing->packed += n;
        pacing->packed_us += g_get_monotonic_time() - now;
    }
    if (len) {
        f.flags |= FF_DEVICE_COMPRESSED;
        f.page = n;
        f.length = len;
        data = pk->out;
    }
    pacing->sent += f.length;
    return ff_channel_send(s->conn->main, f, data, true);
}

/* ---- the base -------------------------------------------------------------------------------- */

/* So little is no reason to leave a migration to QEMU, even where the client has set the limit to
 * nothing because it will say itself when to switch: SeaBIOS and option ROMs. OVMF is more. */
#define NEGLIGIBLE_MS 10u

typedef struct {
    FfSource *s;
    FfDelta *base;
    uint64_t rest; /* bytes that it has no room for */
    bool full, more;
} Reading;

static uint64_t reckoned_ms(FfSource *s, uint64_t bytes, uint64_t *limit)
{
    ff_mutex_lock(&s->control->lock);
    uint64_t rate = s->cfg->switchover_bandwidth;
    *limit = s->cfg->downtime_limit;
    ff_mutex_unlock(&s->control->lock);
    return bytes * 1000 / (rate ? rate : FF_RECKONED_RATE);
}

/* What is decided already need not be read to its end: it may be all of a guest's memory. */
static bool is_too_much(const Reading *r)
{
    uint64_t limit, ms = r->rest ? reckoned_ms(r->s, r->rest, &limit) : 0;

    return r->rest && ff_plain_possible(r->s->plain) && ms > MAX(limit, NEGLIGIBLE_MS);
}

static bool add_page(const void *page, void *opaque)
{
    Reading *r = opaque;

    r->full = !page || r->full || !ff_delta_add(r->base, page, FF_DELTA_PAGE);
    r->rest += r->full ? FF_DELTA_PAGE : 0;
    r->more = is_too_much(r);
    return !r->more && !g_atomic_int_get(&r->s->base_unwanted);
}

gpointer ff_source_read_base(gpointer p)
{
    FfSource *s = p;
    const FfMigrationConfig *c = s->cfg;

    if (c->refusal) {
        return NULL;
    }
    g_autoptr(FfDelta) base = ff_delta_new();

    /* What cannot be read is not in it: a part is a base as well. An engine's later migration has
     * no mem_fd, thus no base: all that is there goes while the guest stands. */
    Reading r = {.s = s, .base = base};
    ff_private_read(c->maps_fd, c->pagemap_fd, c->mem_fd, add_page, &r);
    s->private_rest = r.rest;
    s->private_more = r.more;
    if (ff_delta_size(base) && ff_delta_index(base)) {
        return g_steal_pointer(&base);
    }
    s->private_rest += ff_delta_size(base);
    return NULL;
}

/* The peer will not have it, so what it holds goes while the guest stands still. */
static void drop_base(FfSource *s)
{
    if (s->device_base) {
        s->private_rest += ff_delta_size(s->device_base);
        g_clear_pointer(&s->device_base, ff_delta_free);
    }
}

bool ff_source_private_fits(FfSource *s, GError **error)
{
    if (!ff_source_may_compress_device(s)) {
        drop_base(s);
    }
    uint64_t limit, ms = reckoned_ms(s, s->private_rest, &limit);

    if (ms <= MAX(limit, NEGLIGIBLE_MS) && !s->private_more) {
        return true;
    }
    g_set_error(error, FF_M_ERROR, 0,
                "the guest would stand still for %s %" G_GUINT64_FORMAT " ms for %" G_GUINT64_FORMAT
                " MiB of memory that QEMU keeps to itself (a display's, "
                "above all), and downtime-limit is %" G_GUINT64_FORMAT " ms",
                s->private_more ? "more than" : "about", ms, s->private_rest >> 20, limit);
    return false;
}

void ff_source_send_base(FfSource *s, FfPace *pace)
{
    if (!(ff_source_features(s) & FF_FEATURE_DELTA_DEVICE)) {
        drop_base(s);
    }
    const uint8_t *data = s->device_base ? ff_delta_data(s->device_base) : NULL;
    size_t size = s->device_base ? ff_delta_size(s->device_base) : 0;
    FfDevicePacing pacing = {0};
    FfCompressing packing = {0};
    const unsigned over = FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL;
    int rc = 0;

    for (size_t at = 0, n; rc == 0 && at < size && !(ff_control_events(s->control) & over);
         at += n) {
        uint64_t before = pacing.sent;
        n = MIN(size - at, FF_RUN_MAX_BYTES);
        if (pace) {
            ff_pace_wait(pace, over | FF_EV_WANT_POSTCOPY);
        }
        rc = send_piece(s, &pacing, &packing, ff_frame(FF_FRAME_BASE, 0), data + at, n);
        if (pace) {
            ff_pace_charge(pace, pacing.sent - before);
        }
    }
    ff_compressing_clear(&packing);
}

/* ---- the stream ------------------------------------------------------------------------------ */

/* TRUE: *DATA, of *N bytes, is a delta now. */
static bool make_delta(FfSource *s, FfDevicePacing *pacing, const void **data, size_t *n)
{
    if (!s->device_base) {
        return false;
    }
    if (!pacing->delta) {
        pacing->delta = g_malloc(FF_RUN_MAX_BYTES);
    }
    size_t len = ff_delta_encode(s->device_base, *data, *n, pacing->delta);
    if (len) {
        *data = pacing->delta;
        *n = len;
    }
    return len > 0;
}

int ff_source_send_device(FfSource *s, FfDevicePacing *pacing, FfCompressing *pk, const void *data,
                          size_t n)
{
    FfFrame f = ff_frame(FF_FRAME_DEVICE, 0);
    size_t whole = n;
    uint64_t before = pacing->sent;

    if (make_delta(s, pacing, &data, &n)) {
        f.flags = FF_DEVICE_DELTA;
        f.n_pages = whole;
    }
    int rc = send_piece(s, pacing, pk, f, data, n);
    ff_count(s->stats->device_wire, pacing->sent - before);
    return rc;
}
