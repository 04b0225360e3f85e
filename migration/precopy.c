/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's precopy: rounds of what the guest wrote, while it runs, until it is time to switch.
 *
 * A round is: scan (which write-protects), drain, copy; docs/precopy.md says why in this order and
 * why nothing is lost. The dirty bitmap is the one that postcopy goes on with: a scan sets bits,
 * sending claims them, so at the switch a clear bit means that the destination has the page as it
 * is now. What it has and what was written since is told to it as runs of stale pages.
 *
 * Thread: the coordinator; no other one claims from the bitmap before the guest is stopped.
 * System calls: ioctl(UFFDIO_*, PAGEMAP_SCAN).
 */
#include "migration/internal.h"

#include <errno.h>
#include <string.h>

#include "uffd/pagemap.h"
#include "uffd/uffd.h"

/* Two scans are at least so far apart: each holds up the guest for a moment. */
#define SCAN_INTERVAL_US 50000
/* Bandwidth is measured over at least so long. */
#define MEASURE_US 20000

struct FfPrecopy {
    FfRegions *regions;
    bool registered;
    bool started;  /* a page was sent, so there can be stale ones */
    GArray *fresh; /* FfRun that the scan turned from clean to dirty; NULL: not collected */
    uint64_t n_fresh;
    int64_t scan_us; /* when the last scan was */
    /* The round under way. */
    int64_t round_us;
    uint64_t round_bytes; /* of the main channel at its beginning */
    unsigned block;
    uint64_t page;
    int64_t next_us;    /* nothing is sent before, by the rate limit */
    uint64_t bandwidth; /* bytes per second, measured; 0: not yet */
};

/* ---- tracking ------------------------------------------------------------------------------ */

G_GNUC_PRINTF(2, 3) static bool untracked(FfMigration *m, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_message("no precopy: %s", text);
    ff_precopy_free(m);
    ff_mutex_lock(&m->lock);
    g_free(m->untracked);
    m->untracked = g_steal_pointer(&text);
    ff_mutex_unlock(&m->lock);
    return false;
}

static int for_pieces(int (*fn)(int uffd, uint64_t addr, uint64_t len), int uffd, const FfRegion *r)
{
    int rc = 0;

    for (uint64_t at = 0; at < r->len && rc == 0; at += FF_PAGEMAP_PIECE) {
        rc = fn(uffd, r->addr + at, MIN(FF_PAGEMAP_PIECE, r->len - at));
    }
    return rc;
}

static void unregister(FfMigration *m, const FfRegions *regions)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(regions, &n);

    for (unsigned i = 0; i < n; i++) {
        /* In pieces from the front: the kernel clears page table entries meanwhile, and the
         * mapping is in two parts at most. */
        int rc = for_pieces(ff_uffd_unregister, m->cfg.uffds[0], &r[i]);
        if (rc == -ESRCH || (rc == -EINVAL && !m->precopy)) {
            return; /* QEMU has ended; or its userfaultfd was never used */
        }
        if (rc < 0) {
            g_warning("write tracking cannot be ended: %s", g_strerror(-rc));
        }
    }
}

/* Of all RAM that is mapped, whatever the engine knew that died. */
static void end_left_over(FfMigration *m)
{
    const GPtrArray *blocks = m->cfg.vmm->blocks(m->cfg.vmm);
    g_autofree int *fds = g_new(int, blocks->len);
    g_autofree uint64_t *sizes = g_new(uint64_t, blocks->len);

    for (guint i = 0; i < blocks->len; i++) {
        const FfRamBlock *b = blocks->pdata[i];
        fds[i] = b->memfd;
        sizes[i] = b->size;
    }
    g_autoptr(FfRegions) regions = ff_regions_new(m->cfg.maps_fd, fds, sizes, blocks->len, NULL);
    if (regions) {
        unregister(m, regions);
    }
}

void ff_precopy_end(FfMigration *m)
{
    FfPrecopy *p = m->precopy;

    if (p && p->registered) {
        p->registered = false;
        unregister(m, p->regions);
    } else if (m->adopting && m->cfg.n_uffds && m->cfg.maps_fd >= 0) {
        end_left_over(m);
    }
}

void ff_precopy_free(FfMigration *m)
{
    FfPrecopy *p = m->precopy;

    if (p) {
        ff_precopy_end(m);
        ff_regions_free(p->regions);
        g_clear_pointer(&p->fresh, g_array_unref);
        g_free(p);
        m->precopy = NULL;
    }
}

static void ignore(uint64_t addr, uint64_t len, void *opaque)
{
}

/* Registers and write-protects everything; this is the scan of the first round, which sends all.
 * Probed by doing it: what is missing shows here, and nothing was sent yet. */
static bool track(FfMigration *m)
{
    int uffd = m->cfg.n_uffds ? m->cfg.uffds[0] : -1;
    FfPrecopy *p = m->precopy;
    unsigned n;
    int rc = ff_uffd_init(uffd, FF_UFFD_TRACKING, NULL);

    if (rc < 0 && rc != -EINVAL) {
        return untracked(m, "userfaultfd: %s", g_strerror(-rc));
    }
    /* EINVAL: an older kernel, or used by an earlier migration. Registering tells. */
    const FfRegion *r = ff_regions_all(p->regions, &n);
    p->registered = true;
    for (unsigned i = 0; i < n; i++) {
        rc = ff_uffd_register_wp(uffd, r[i].addr, r[i].len);
        if (rc == 0) {
            rc = for_pieces(ff_uffd_protect, uffd, &r[i]);
        }
        if (rc == 0) {
            rc = ff_pagemap_scan(m->cfg.pagemap_fd, r[i].addr, m->blocks[r[i].file].info.page_size,
                                 false, ignore, NULL);
        }
        if (rc < 0) {
            return untracked(m,
                             "writes to '%s' cannot be tracked (%s): Linux 6.7 or newer is "
                             "needed",
                             m->blocks[r[i].file].info.id, g_strerror(-rc));
        }
    }
    return true;
}

static bool begin(FfMigration *m)
{
    g_autofree int *fds = g_new(int, m->n_blocks);
    g_autofree uint64_t *sizes = g_new(uint64_t, m->n_blocks);
    g_autoptr(GError) error = NULL;
    FfVmm *vmm = m->cfg.vmm;

    if (m->cfg.pagemap_fd < 0 || m->cfg.maps_fd < 0 || m->cfg.n_uffds < 1) {
        return untracked(m, "QEMU's agent handed over no pagemap or no userfaultfd");
    }
    g_autofree char *why = vmm->untrackable ? vmm->untrackable(vmm) : NULL;
    if (why) {
        return untracked(m, "%s", why);
    }
    for (unsigned i = 0; i < m->n_blocks; i++) {
        fds[i] = m->blocks[i].info.memfd;
        sizes[i] = m->blocks[i].info.size;
    }
    m->precopy = g_new0(FfPrecopy, 1);
    m->precopy->regions = ff_regions_new(m->cfg.maps_fd, fds, sizes, m->n_blocks, &error);
    return m->precopy->regions ? track(m) : untracked(m, "%s", error->message);
}

/* ---- scanning ------------------------------------------------------------------------------ */

static void note(FfMigration *m, unsigned block, uint64_t first, uint64_t n)
{
    FfPrecopy *p = m->precopy;

    ff_bitmap_set_run(&m->blocks[block].bitmap, first, n);
    p->n_fresh += n;
    __atomic_sub_fetch(&m->done_pages, n, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&m->done_bytes, n * m->blocks[block].info.page_size, __ATOMIC_RELAXED);
    if (p->fresh) {
        FfRun r = {block, first, n};
        g_array_append_val(p->fresh, r);
    }
}

/* Of the pages that were written those count that had a clear bit. */
static void note_written(uint64_t addr, uint64_t len, void *opaque)
{
    FfMigration *m = opaque;
    unsigned block;
    uint64_t offset;

    if (!ff_regions_find(m->precopy->regions, addr, &block, &offset)) {
        return; /* only what is registered is scanned, so the kernel never says this */
    }
    const FfBitmap *bm = &m->blocks[block].bitmap;
    uint64_t ps = m->blocks[block].info.page_size, page = offset / ps, end = page + len / ps;
    while (page < end) {
        uint64_t first;
        uint64_t n = ff_bitmap_next_run(bm, page, false, &first);
        if (!n || first >= end) {
            return;
        }
        n = MIN(n, end - first);
        note(m, block, first, n);
        page = first + n;
    }
}

static bool scan(FfMigration *m, bool protect, GError **error)
{
    FfPrecopy *p = m->precopy;
    unsigned n;
    const FfRegion *r = ff_regions_all(p->regions, &n);

    p->n_fresh = 0;
    for (unsigned i = 0; i < n; i++) {
        int rc = ff_pagemap_scan(m->cfg.pagemap_fd, r[i].addr, r[i].len, protect, note_written, m);
        if (rc < 0) {
            g_set_error(error, FF_M_ERROR, 0, "the writes to '%s' cannot be read: %s",
                        m->blocks[r[i].file].info.id, g_strerror(-rc));
            return false;
        }
    }
    return true;
}

static uint64_t remaining(FfMigration *m)
{
    return m->total_bytes - MIN(m->total_bytes, ff_counted(m->done_bytes));
}

static bool drain(FfMigration *m, GError **error)
{
    return FF_FAULT_STEP("drain", !m->cfg.vmm->drain || m->cfg.vmm->drain(m->cfg.vmm, error));
}

/* Scan, drain, and what they say: the beginning of every round but the first. */
static bool sync_dirty(FfMigration *m, GError **error)
{
    FfPrecopy *p = m->precopy;
    int64_t now = g_get_monotonic_time();

    ff_m_new_pass(m);
    if (!scan(m, true, error) || !drain(m, error)) {
        return false;
    }
    if (now > p->scan_us) {
        __atomic_store_n(&m->dirty_rate, p->n_fresh * G_USEC_PER_SEC / (now - p->scan_us),
                         __ATOMIC_RELAXED);
    }
    p->scan_us = now;
    if (p->bandwidth) {
        __atomic_store_n(&m->expected_ms, (int64_t)(remaining(m) * 1000 / p->bandwidth),
                         __ATOMIC_RELAXED);
    }
    return true;
}

/* ---- sending --------------------------------------------------------------------------------- */

static bool broken(FfMigration *m, int rc, GError **error)
{
    ff_m_lost(m, m->main, rc);
    return ff_m_await(m, 0, error);
}

/* Bandwidth of the round so far, or of the one before while this one is young. */
static void measure(FfMigration *m)
{
    FfPrecopy *p = m->precopy;
    int64_t dt = g_get_monotonic_time() - p->round_us;
    uint64_t bytes = ff_channel_bytes(m->main) - p->round_bytes;

    if (bytes && (dt >= MEASURE_US || (!p->bandwidth && dt > 0))) {
        p->bandwidth = bytes * G_USEC_PER_SEC / dt;
    }
}

/* What is left goes through within the downtime that the client allows. */
static bool fits(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    uint64_t limit = m->cfg.downtime_limit, given = m->cfg.switchover_bandwidth;
    ff_mutex_unlock(&m->lock);
    double bandwidth = given ? given : m->precopy->bandwidth;

    return remaining(m) <= bandwidth * limit / 1000;
}

/* Waits until the rate limit allows more; a new limit counts at once. */
static void pace(FfMigration *m)
{
    FfPrecopy *p = m->precopy;

    ff_mutex_lock(&m->lock);
    uint64_t limit = m->cfg.max_bandwidth;
    while (limit && p->next_us > g_get_monotonic_time() &&
           !(m->events & (FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL | FF_EV_WANT_POSTCOPY))) {
        ff_cond_wait_until(&m->changed, &m->lock, p->next_us);
        if (m->cfg.max_bandwidth != limit) {
            p->next_us = 0;
            limit = m->cfg.max_bandwidth;
        }
    }
    ff_mutex_unlock(&m->lock);
}

static void charge(FfMigration *m, uint64_t bytes)
{
    FfPrecopy *p = m->precopy;

    ff_mutex_lock(&m->lock);
    uint64_t limit = m->cfg.max_bandwidth;
    ff_mutex_unlock(&m->lock);
    if (limit) {
        int64_t now = g_get_monotonic_time();
        p->next_us = MAX(p->next_us, now) + bytes * G_USEC_PER_SEC / limit;
    }
}

static uint64_t claim(FfMigration *m, uint64_t *first)
{
    FfPrecopy *p = m->precopy;

    for (; p->block < m->n_blocks; p->block++, p->page = 0) {
        FfBlock *b = &m->blocks[p->block];
        uint64_t max = MAX(1, FF_RUN_MAX_BYTES / b->info.page_size);
        uint64_t n = ff_bitmap_claim_run(&b->bitmap, p->page, b->n_pages, max, first);
        if (n) {
            p->page = *first + n;
            return n;
        }
    }
    return 0;
}

/* TRUE: time to look again (or to switch). */
static bool round_over(FfMigration *m)
{
    FfPrecopy *p = m->precopy;

    return ff_m_events(m) & FF_EV_WANT_POSTCOPY ||
           (p->scan_us + SCAN_INTERVAL_US <= g_get_monotonic_time() && fits(m));
}

static bool send_round(FfMigration *m, GError **error)
{
    FfPrecopy *p = m->precopy;
    uint64_t first, n;

    p->block = 0;
    p->page = 0;
    p->round_us = g_get_monotonic_time();
    p->round_bytes = ff_channel_bytes(m->main);
    p->started = true;
    int rc = m->holes_sent ? 0 : ff_source_send_holes(m);
    while (rc == 0 && !round_over(m)) {
        pace(m);
        rc = ff_channel_wait_writable(m->main);
        n = rc == 0 ? claim(m, &first) : 0;
        if (!n) {
            break;
        }
        uint64_t before = ff_channel_bytes(m->main);
        rc = ff_source_send_run(m, m->main, p->block, first, n, false);
        charge(m, ff_channel_bytes(m->main) - before);
        measure(m);
    }
    return rc == 0 || broken(m, rc, error);
}

/* ---- the rounds --------------------------------------------------------------------------------
 */

/* Waits until the next scan is due or something happens. */
static void rest(FfMigration *m)
{
    FfPrecopy *p = m->precopy;

    ff_mutex_lock(&m->lock);
    while (g_get_monotonic_time() < p->scan_us + SCAN_INTERVAL_US &&
           !(m->events & (FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL | FF_EV_WANT_POSTCOPY))) {
        ff_cond_wait_until(&m->changed, &m->lock, p->scan_us + SCAN_INTERVAL_US);
    }
    ff_mutex_unlock(&m->lock);
}

/* The guest wrote more than half of what was sent meanwhile: another round would send much and
 * gain little. Switching at once after the first pass bounds the total by twice the RAM. */
static bool diverges(FfMigration *m, uint64_t sent)
{
    ff_mutex_lock(&m->lock);
    bool wanted = m->cfg.auto_postcopy;
    ff_mutex_unlock(&m->lock);
    return wanted && remaining(m) > sent / 2;
}

bool ff_precopy_run(FfMigration *m, GError **error)
{
    if (ff_m_events(m) & FF_EV_WANT_POSTCOPY) {
        return ff_m_await(m, FF_EV_WANT_POSTCOPY, error);
    }
    if (!begin(m)) {
        return !m->cfg.client_switches || ff_m_await(m, FF_EV_WANT_POSTCOPY, error);
    }
    FfPrecopy *p = m->precopy;
    p->scan_us = g_get_monotonic_time();
    if (!drain(m, error)) {
        return false;
    }
    for (;;) {
        if (!send_round(m, error)) {
            return false;
        }
        uint64_t sent = ff_channel_bytes(m->main) - p->round_bytes;
        rest(m);
        if (ff_m_events(m) & (FF_EV_WANT_POSTCOPY | FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL)) {
            return ff_m_await(m, FF_EV_WANT_POSTCOPY, error);
        }
        if (!sync_dirty(m, error)) {
            return false;
        }
        if (fits(m)) {
            m->whole = true;
            return true;
        }
        if (diverges(m, sent)) {
            return true;
        }
    }
}

/* ---- the switch ---------------------------------------------------------------------------------
 */

typedef struct {
    FfMigration *m;
    FfStaleRun *runs;
    unsigned n;
} Stale;

static int flush(Stale *s, unsigned flags)
{
    FfFrame f = ff_frame(FF_FRAME_STALE, s->n * sizeof(FfStaleRun));

    f.epoch = s->m->epoch;
    f.flags = flags;
    f.n_pages = s->n;
    s->n = 0;
    return ff_channel_send(s->m->main, f, s->runs, true);
}

static int add(Stale *s, unsigned block, uint64_t first, uint64_t n)
{
    int rc = 0;

    while (n && rc == 0) {
        uint32_t len = MIN(n, UINT32_MAX);
        s->runs[s->n++] =
            (FfStaleRun){GUINT32_TO_LE(block), GUINT32_TO_LE(len), GUINT64_TO_LE(first)};
        first += len;
        n -= len;
        rc = s->n == FF_STALE_MAX_RUNS ? flush(s, 0) : 0;
    }
    return rc;
}

/* RUNS NULL: every dirty page. */
static bool tell(FfMigration *m, const GArray *runs, unsigned flags, GError **error)
{
    g_autofree FfStaleRun *buf = g_new(FfStaleRun, FF_STALE_MAX_RUNS);
    Stale s = {.m = m, .runs = buf};
    int rc = 0;

    for (guint i = 0; runs && i < runs->len && rc == 0; i++) {
        const FfRun *r = &g_array_index(runs, FfRun, i);
        rc = add(&s, r->block, r->first, r->n);
    }
    for (unsigned i = 0; !runs && i < m->n_blocks && rc == 0; i++) {
        uint64_t first, n;
        for (uint64_t at = 0; (n = ff_bitmap_next_run(&m->blocks[i].bitmap, at, true, &first));
             at = first + n) {
            rc = add(&s, i, first, n);
        }
    }
    if (rc == 0 && (s.n || flags)) {
        rc = flush(&s, flags);
    }
    return rc == 0 || broken(m, rc, error);
}

/* What the last scan found goes in front of what those before it found: written last, sent
 * first. */
static void next_fresh(FfMigration *m)
{
    FfPrecopy *p = m->precopy;

    if (m->hot) {
        g_array_append_vals(p->fresh, m->hot->data, m->hot->len);
        g_array_unref(m->hot);
    }
    m->hot = p->fresh;
    p->fresh = g_array_new(FALSE, FALSE, sizeof(FfRun));
}

bool ff_precopy_tell(FfMigration *m, GError **error)
{
    if (!m->precopy || !m->precopy->started) {
        return true;
    }
    m->precopy->fresh = g_array_new(FALSE, FALSE, sizeof(FfRun));
    return scan(m, true, error) && tell(m, NULL, 0, error);
}

bool ff_precopy_tell_again(FfMigration *m, GError **error)
{
    if (!m->precopy || !m->precopy->started) {
        return true;
    }
    next_fresh(m);
    return scan(m, true, error) && tell(m, m->precopy->fresh, FF_STALE_TELL, error) &&
           ff_m_await(m, FF_EV_SETTLED, error);
}

bool ff_precopy_freeze(FfMigration *m, GError **error)
{
    FfPrecopy *p = m->precopy;
    g_autoptr(GArray) none = g_array_new(FALSE, FALSE, sizeof(FfRun));
    bool ok;

    if (p && p->started) {
        next_fresh(m);
        /* Nobody writes any more, so nothing need be protected. stop's reply came after all I/O
         * was drained: a page that a disk was read into was pinned before, and is reported. */
        ok = scan(m, false, error) && tell(m, p->fresh, FF_STALE_LAST, error);
        next_fresh(m);
    } else {
        ok = tell(m, none, FF_STALE_LAST, error);
    }
    __atomic_store_n(&m->precopy_bytes, ff_channel_bytes(m->main), __ATOMIC_RELAXED);
    g_atomic_int_set(&m->frozen, 1);
    return ok;
}
