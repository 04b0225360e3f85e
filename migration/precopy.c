/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's precopy: rounds of what the guest wrote, while it runs, until it is time to switch.
 *
 * A round goes through memory in windows: protect (which tells what was written), drain, copy;
 * docs/precopy.md says why in this order and why nothing is lost. A window is protected when its
 * turn comes: what is protected long before it is sent costs the guest the same, and is sent twice.
 * Between rounds a scan that protects nothing counts what is dirty.
 *
 * Behind each scan the VMM is asked whether the guest now does what writes past the tracking. One
 * sight of it makes everything that was sent stale, and ends precopy.
 *
 * The dirty bitmap is the one that postcopy goes on with: a scan sets bits, sending claims them, so
 * at the switch a clear bit means that the destination has the page as it is now. What it has and
 * what was written since is told to it as runs of stale pages.
 *
 * Thread: the coordinator. Before the guest is stopped the senders of precopy-send.c claim from the
 * bitmap as well, in a window that is open and at no other time.
 */
#include "migration/precopy-send.h"

#include <errno.h>
#include <string.h>

/* Two scans of everything are at least so far apart, and so many times what the last one took. */
#define SCAN_INTERVAL_US 50000
#define SCAN_SHARE 5
/* What is left of the downtime that the client allows for sending, when the scan takes more: one
 * part of so many. */
#define SCAN_LIMIT 4
/* Bandwidth is measured over at least so long. */
#define MEASURE_US 20000
/* A window is what is sent in so long, or in so many times what the last drain took: while disks
 * are drained, they are held up. */
#define WINDOW_US 250000
#define DRAIN_SHARE 50
/* Huge mappings are restored for so long at most, in which the client waits for its answer. */
#define RESTORE_MS 500

struct FfPrecopy {
    FfTracking *tracking;
    const FfPiece *pieces;
    unsigned n_pieces;
    bool started;  /* a page was sent, so there can be stale ones */
    bool lost;     /* the guest wrote past the tracking: nothing that was sent is valid */
    GArray *fresh; /* FfRun that the scan turned from clean to dirty; NULL: not collected */
    uint64_t n_fresh;
    int64_t scan_us;      /* when the last scan was ... */
    int64_t scan_took_us; /* ... and how long it took */
    int64_t next_scan_us;
    int64_t drain_us; /* how long the last one took */
    /* The round under way. */
    int64_t round_us;
    uint64_t round_bytes;  /* sent before it, in bytes of the guest */
    uint64_t round_main;   /* of it, by the main connection ... */
    int64_t round_main_us; /* ... and the time that this took */
    /* Bytes of the guest per second, measured; 0: not yet. */
    uint64_t bandwidth; /* over all connections */
    uint64_t alone;     /* what the main one carries while it sends */
};

/* ---- tracking ------------------------------------------------------------------------------ */

static void note_untracked(FfMigration *m, const char *why)
{
    g_message("no precopy: %s", why);
    ff_mutex_lock(&m->lock);
    g_free(m->untracked);
    m->untracked = g_strdup(why);
    ff_mutex_unlock(&m->lock);
}

/* Without tracking all of the memory follows the guest: whether that is wanted. A client that has
 * not asked for the switch may not have accepted that a broken connection then costs the guest. */
static bool accepts_untracked(const FfMigration *m)
{
    return m->cfg.untracked != FF_UNTRACKED_QEMU;
}

/* Whether the switch comes as soon as it is known that there is no precopy. */
static bool switches_untracked(const FfMigration *m)
{
    return m->cfg.untracked == FF_UNTRACKED_POSTCOPY || !m->cfg.client_switches;
}

/* Of all RAM that is mapped, whatever the engine knew that died. */
static void end_left_over(FfMigration *m)
{
    const GPtrArray *blocks = m->cfg.vmm->memory.blocks(&m->cfg.vmm->memory);
    g_autofree FfTrackedFile *files = g_new0(FfTrackedFile, blocks->len);

    for (guint i = 0; i < blocks->len; i++) {
        const FfRamBlock *b = blocks->pdata[i];
        files[i] = (FfTrackedFile){.fd = b->memfd, .size = b->size};
    }
    ff_tracking_end_left_over(files, blocks->len, m->cfg.maps_fd, m->cfg.uffds[0]);
}

void ff_precopy_end(FfMigration *m, bool stays)
{
    FfPrecopy *p = m->precopy;

    if (p) {
        ff_tracking_end(p->tracking);
        if (stays) {
            ff_tracking_restore(p->tracking, RESTORE_MS);
        }
    } else if (m->adopting && m->cfg.n_uffds && m->cfg.maps_fd >= 0) {
        end_left_over(m);
    }
}

void ff_precopy_free(FfMigration *m)
{
    FfPrecopy *p = m->precopy;

    if (p) {
        ff_tracking_free(p->tracking);
        g_clear_pointer(&p->fresh, g_array_unref);
        g_free(p);
        m->precopy = NULL;
    }
    ff_rounds_free(m);
}

/* NULL, or why not (g_free). */
static char *begin(FfMigration *m)
{
    g_autofree FfTrackedFile *files = g_new(FfTrackedFile, m->n_blocks);
    g_autoptr(GError) error = NULL;
    FfVmm *vmm = m->cfg.vmm;

    if (m->cfg.pagemap_fd < 0 || m->cfg.maps_fd < 0 || m->cfg.n_uffds < 1) {
        return g_strdup("QEMU's agent handed over no pagemap or no userfaultfd");
    }
    char *why = vmm->memory.untrackable ? vmm->memory.untrackable(&vmm->memory, false) : NULL;
    if (why) {
        return why;
    }
    for (unsigned i = 0; i < m->n_blocks; i++) {
        const FfRamBlock *b = &m->blocks[i].info;
        files[i] = (FfTrackedFile){b->memfd, b->size, b->page_size, b->id};
    }
    FfTracking *t = ff_tracking_new(files, m->n_blocks, m->cfg.maps_fd, m->cfg.uffds[0],
                                    m->cfg.pagemap_fd, m->cfg.pidfd, &error);
    if (!t) {
        return g_strdup(error->message);
    }
    m->precopy = g_new0(FfPrecopy, 1);
    m->precopy->tracking = t;
    m->precopy->pieces = ff_tracking_pieces(t, &m->precopy->n_pieces);
    return NULL;
}

bool ff_precopy_begin(FfMigration *m, GError **error)
{
    g_autofree char *why = begin(m);

    if (!why) {
        return true;
    }
    if (!accepts_untracked(m)) {
        g_set_error(error, FF_M_ERROR, 0, "the guest's writes cannot be tracked: %s", why);
        return false;
    }
    note_untracked(m, why);
    return true;
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

/* Of the pages that were written those count that had a clear bit. Senders may still claim in the
 * pieces before: what is said of pages from END on is not looked at. */
static void note_written(unsigned block, uint64_t offset, uint64_t len, void *opaque)
{
    FfMigration *m = opaque;
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

static bool unreadable(int rc, GError **error)
{
    g_set_error(error, FF_M_ERROR, 0, "the guest's writes cannot be tracked any more: %s",
                g_strerror(-rc));
    return false;
}

static bool scan(FfMigration *m, bool protect, GError **error)
{
    int rc = ff_tracking_scan(m->precopy->tracking, protect, note_written, m);

    return rc == 0 || unreadable(rc, error);
}

static char *untrackable(FfMigration *m, bool stopped)
{
    FfVmm *vmm = m->cfg.vmm;

    return m->precopy->lost || !vmm->memory.untrackable
               ? NULL
               : vmm->memory.untrackable(&vmm->memory, stopped);
}

/* Whether what the scan before said is all: the guest runs. FALSE and ERROR: it is not, and nobody
 * has accepted that the memory follows the guest. */
static bool look(FfMigration *m, GError **error)
{
    g_autofree char *why = untrackable(m, false);

    if (!why) {
        return true;
    }
    /* The peer may have been told already that all comes before the grant. */
    if (m->whole || (!accepts_untracked(m) && !(ff_m_events(m) & FF_EV_WANT_POSTCOPY))) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the guest's writes cannot be tracked any more: %s; migrate again, QEMU will "
                    "carry it",
                    why);
        return false;
    }
    note_untracked(m, why);
    m->precopy->lost = true;
    return true;
}

/* The same behind the stop. Whatever the client wants, it is not worth the wait: the destination
 * would have to drop all of the guest's memory while the guest stands still. */
static bool look_stopped(FfMigration *m, GError **error)
{
    g_autofree char *why = untrackable(m, true);

    if (why) {
        g_set_error(error, FF_M_ERROR, 0, "the guest's writes were not all tracked: %s", why);
    }
    return !why;
}

/* Nothing of what was sent is valid. The senders of precopy-send.c have ended. */
static void forget_sent(FfMigration *m)
{
    for (unsigned i = 0; i < m->n_blocks && m->precopy->lost; i++) {
        note_written(i, 0, m->blocks[i].info.size, m);
    }
    m->holes_sent &= !m->precopy->lost;
}

/* With the guest stopped the main connection carries all that is left. It may be slower than all of
 * them; but what a rate limit kept it from does not count. */
static uint64_t switch_bandwidth(const FfPrecopy *p)
{
    return p->alone ? MIN(p->bandwidth, p->alone) : p->bandwidth;
}

static uint64_t remaining(FfMigration *m)
{
    return m->total_bytes - MIN(m->total_bytes, ff_counted(m->done_bytes));
}

static bool drain(FfMigration *m, GError **error)
{
    int64_t begin = g_get_monotonic_time();
    bool ok = FF_FAULT_STEP("drain", !m->cfg.vmm->memory.drain ||
                                         m->cfg.vmm->memory.drain(&m->cfg.vmm->memory, error));

    m->precopy->drain_us = g_get_monotonic_time() - begin;
    return ok;
}

/* Counts what is dirty now: the end of every round. Nothing is copied for it, so it protects
 * nothing and drains nothing. */
static bool sync_dirty(FfMigration *m, GError **error)
{
    FfPrecopy *p = m->precopy;
    int64_t now = g_get_monotonic_time();

    ff_m_new_pass(m);
    if (!scan(m, false, error) || !look(m, error)) {
        return false;
    }
    if (now > p->scan_us) {
        __atomic_store_n(&m->dirty_rate, p->n_fresh * G_USEC_PER_SEC / (now - p->scan_us),
                         __ATOMIC_RELAXED);
    }
    p->n_fresh = 0;
    p->scan_us = now;
    p->scan_took_us = g_get_monotonic_time() - now;
    p->next_scan_us = now + MAX(SCAN_INTERVAL_US, SCAN_SHARE * p->scan_took_us);
    if (p->bandwidth) {
        __atomic_store_n(
            &m->expected_ms,
            (int64_t)(remaining(m) * 1000 / switch_bandwidth(p) + p->scan_took_us / 1000),
            __ATOMIC_RELAXED);
    }
    return true;
}

/* ---- sending --------------------------------------------------------------------------------- */

static bool broken(FfMigration *m, int rc, GError **error)
{
    if (rc != -ECANCELED) {
        ff_m_lost(m, m->main, rc);
    }
    return ff_m_await(m, 0, error);
}

/* In bytes of the guest: compression makes the link that much wider. */
static uint64_t all_sent(const FfMigration *m)
{
    return ff_rounds_bytes(m) + ff_rounds_saved(m);
}

static uint64_t round_sent(const FfMigration *m)
{
    return all_sent(m) - m->precopy->round_bytes;
}

/* Bandwidth of the round so far, or of the one before while this one is young. */
static void measure(FfMigration *m)
{
    FfPrecopy *p = m->precopy;
    int64_t dt = g_get_monotonic_time() - p->round_us;
    uint64_t bytes = round_sent(m);

    if (bytes && (dt >= MEASURE_US || (!p->bandwidth && dt > 0))) {
        p->bandwidth = bytes * G_USEC_PER_SEC / dt;
    }
    int64_t us;
    uint64_t main = ff_rounds_main(m, &us) - p->round_main;
    us -= p->round_main_us;
    if (main && (us >= MEASURE_US || (!p->alone && us > 0))) {
        p->alone = main * G_USEC_PER_SEC / us;
    }
}

/* What is left goes through within the downtime that the client allows. */
static bool fits(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    uint64_t limit = m->cfg.downtime_limit, given = m->cfg.switchover_bandwidth;
    ff_mutex_unlock(&m->lock);
    double bandwidth = given ? given : switch_bandwidth(m->precopy);
    /* Behind the stop everything is scanned once more. Some time has to be left, or it would never
     * fit where that takes longer than the client allows. */
    double us = MAX(limit * 1000.0 - m->precopy->scan_took_us, limit * 1000.0 / SCAN_LIMIT);

    return remaining(m) <= bandwidth * us / G_USEC_PER_SEC;
}

/* TRUE: time to look again (or to switch). */
static bool round_over(FfMigration *m)
{
    measure(m);
    return ff_m_events(m) & FF_EV_WANT_POSTCOPY ||
           (m->precopy->next_scan_us <= g_get_monotonic_time() && fits(m));
}

/* Protects the next pieces in which there is something to send, from *END on, until they are a
 * window; then drains: [*FIRST, *END) may be copied. */
static bool open_window(FfMigration *m, unsigned *end, GError **error)
{
    FfPrecopy *p = m->precopy;
    uint64_t us = MAX(WINDOW_US, DRAIN_SHARE * p->drain_us), bytes = 0;
    uint64_t enough = p->bandwidth / 1000 * us / 1000;

    for (bool any = false; *end < p->n_pieces && (!any || bytes < enough); (*end)++) {
        const FfPiece *piece = &p->pieces[*end];
        const FfBlock *b = &m->blocks[piece->file];
        uint64_t ps = b->info.page_size, first = piece->offset / ps, n = piece->len / ps;
        if (!ff_bitmap_count_run(&b->bitmap, first, n)) {
            continue;
        }
        int rc = ff_tracking_protect(p->tracking, *end, note_written, m);
        if (rc < 0) {
            return unreadable(rc, error);
        }
        bytes += ff_bitmap_count_run(&b->bitmap, first, n) * ps;
        any = true;
    }
    return look(m, error) && drain(m, error);
}

static bool send_round(FfMigration *m, GError **error)
{
    FfPrecopy *p = m->precopy;
    bool over = false;

    p->round_us = g_get_monotonic_time();
    p->round_bytes = all_sent(m);
    p->round_main = ff_rounds_main(m, &p->round_main_us);
    p->started = true;
    for (unsigned at = 0, end = 0; at < p->n_pieces && !over; at = end) {
        if (!open_window(m, &end, error)) {
            return false;
        }
        if (p->lost) {
            break;
        }
        int rc = ff_rounds_send(m, at, end, &over);
        if (rc < 0) {
            return broken(m, rc, error);
        }
    }
    m->holes_sent |= !over && !p->lost;
    return ff_rounds_settle(m, error);
}

/* ---- the rounds --------------------------------------------------------------------------------
 */

/* Waits until the next scan is due or something happens. */
static void rest(FfMigration *m)
{
    FfPrecopy *p = m->precopy;

    ff_mutex_lock(&m->lock);
    while (g_get_monotonic_time() < p->next_scan_us &&
           !(m->events & (FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL | FF_EV_WANT_POSTCOPY))) {
        ff_cond_wait_until(&m->changed, &m->lock, p->next_scan_us);
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

static bool run_rounds(FfMigration *m, GError **error)
{
    FfPrecopy *p = m->precopy;

    p->scan_us = g_get_monotonic_time();
    p->next_scan_us = p->scan_us + SCAN_INTERVAL_US;
    for (;;) {
        if (!send_round(m, error)) {
            return false;
        }
        uint64_t sent = round_sent(m);
        rest(m);
        if (ff_m_events(m) & (FF_EV_WANT_POSTCOPY | FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL)) {
            return ff_m_await(m, FF_EV_WANT_POSTCOPY, error);
        }
        if (!p->lost && !sync_dirty(m, error)) {
            return false;
        }
        if (p->lost) {
            return switches_untracked(m) || ff_m_await(m, FF_EV_WANT_POSTCOPY, error);
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

bool ff_precopy_run(FfMigration *m, GError **error)
{
    if (ff_m_events(m) & FF_EV_WANT_POSTCOPY) {
        ff_precopy_end(m, true); /* nothing was protected yet */
        ff_precopy_free(m);
        return ff_m_await(m, FF_EV_WANT_POSTCOPY, error);
    }
    if (!m->precopy) {
        if (switches_untracked(m)) {
            return true;
        }
        /* A client that switches behind the first pass (virsh --postcopy-after-precopy) would wait
         * for ever: there is nothing that a pass could send. */
        ff_m_new_pass(m);
        return ff_m_await(m, FF_EV_WANT_POSTCOPY, error);
    }
    if (!ff_rounds_begin(m, m->precopy->pieces, round_over, error)) {
        return false;
    }
    ff_source_send_base(m);
    bool ok = run_rounds(m, error);
    ff_rounds_end(m, ok);
    forget_sent(m);
    return ok;
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
    if (!scan(m, true, error) || !look(m, error)) {
        return false;
    }
    forget_sent(m);
    return tell(m, NULL, 0, error);
}

bool ff_precopy_tell_again(FfMigration *m, GError **error)
{
    if (!m->precopy || !m->precopy->started) {
        return true;
    }
    next_fresh(m);
    if (!scan(m, true, error) || !look(m, error)) {
        return false;
    }
    forget_sent(m);
    return tell(m, m->precopy->fresh, FF_STALE_TELL, error) && ff_m_await(m, FF_EV_SETTLED, error);
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
        ok = scan(m, false, error) && look_stopped(m, error) &&
             tell(m, p->fresh, FF_STALE_LAST, error);
        next_fresh(m);
    } else {
        ok = tell(m, none, FF_STALE_LAST, error);
    }
    __atomic_store_n(&m->precopy_bytes, ff_rounds_bytes(m), __ATOMIC_RELAXED);
    g_atomic_int_set(&m->frozen, 1);
    return ok;
}
