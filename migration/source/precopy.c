/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's precopy: rounds of what the guest wrote, while it runs, until it is time to switch.
 *
 * A round goes through memory in windows: protect (which tells what was written), drain, copy;
 * docs/design/precopy.md says why in this order and why nothing is lost. A window is protected when
 * its turn comes: what is protected long before it is sent costs the guest the same, and is sent
 * twice.
 * Between rounds a scan that protects nothing counts what is dirty.
 *
 * After each scan the VMM is asked whether the guest now does what writes past the tracking. One
 * sight of it makes everything that was sent stale, and ends precopy.
 *
 * The dirty bitmap is the one that postcopy continues with: a scan sets bits, sending claims them,
 * so at the switch a clear bit means that the destination has the page as it is now. What it has
 * and what was written since is told to it as runs of stale pages.
 *
 * Thread: the coordinator. Before the guest is stopped the senders of precopy-send.c claim from the
 * bitmap as well, in a window that is open and at no other time.
 */
#include "migration/source/precopy.h"

#include <errno.h>
#include <string.h>

#include "base/failpoints.h"
#include "migration/source/device.h"
#include "migration/source/precopy-send.h"

/* Two scans of everything are at least so far apart, and so many times what the last one took. */
#define SCAN_INTERVAL_US 50000
#define SCAN_SHARE 5
/* What RAM has at least of the downtime that the client allows: one part of so many. */
#define RAM_SHARE 4
/* Bandwidth is measured over at least so long. */
#define MEASURE_US 20000
/* A window is what is sent in so long, or in so many times what the last drain took: while disks
 * are drained, they are held up. */
#define WINDOW_US 500000
#define DRAIN_SHARE 50
/* Looks at what the guest writes, before it is stopped: only if what is left takes so long. They
 * take one part of so many of that, and are so far apart at most. */
#define LOOKS (FF_HEAT_LOOKS - 2)
#define LOOKS_WORTH_US 500000
#define LOOKS_SHARE 30
#define LOOK_MAX_US 50000
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
    uint64_t round_wire;   /* and in those of the link */
    uint64_t round_main;   /* of it, by the main connection ... */
    int64_t round_main_us; /* ... and the time that this took */
    /* Bytes of the guest per second, measured; 0: not yet. */
    uint64_t bandwidth; /* over all connections */
    uint64_t alone;     /* what the main one carries while it sends */
    double wire;        /* bytes of the link for each of them */
};

/* ---- tracking -------------------------------------------------------------------------------- */

static void note_untracked(FfSource *s, const char *why)
{
    g_message("no precopy: %s", why);
    ff_mutex_lock(&s->control->lock);
    g_free(s->untracked);
    s->untracked = g_strdup(why);
    ff_mutex_unlock(&s->control->lock);
}

/* Without tracking all of the memory follows the guest: whether that is wanted. A client that has
 * not asked for the switch may not have accepted that a broken connection then costs the guest. */
static bool accepts_untracked(const FfSource *s)
{
    return s->cfg->untracked != FF_UNTRACKED_QEMU;
}

/* Whether the switch comes as soon as it is known that there is no precopy. */
static bool switches_untracked(const FfSource *s)
{
    return s->cfg->untracked == FF_UNTRACKED_POSTCOPY || !s->cfg->client_switches;
}

/* Devices in other processes write past the tracking, into a log. */
static bool has_devices(const FfSource *s)
{
    return s->cfg->vmm->memory.has_devices;
}

/* Of all RAM that is mapped, whatever the engine knew that died. */
static void end_left_over(FfSource *s)
{
    const GPtrArray *blocks = s->cfg->vmm->memory.blocks(&s->cfg->vmm->memory);
    g_autofree FfTrackedFile *files = g_new0(FfTrackedFile, blocks->len);

    for (guint i = 0; i < blocks->len; i++) {
        const FfRamBlock *b = blocks->pdata[i];
        files[i] = (FfTrackedFile){.fd = b->memfd, .size = b->size};
    }
    ff_tracking_end_left_over(files, blocks->len, s->cfg->maps_fd, s->cfg->uffds[FF_KIND_TRACKING]);
}

void ff_precopy_end(FfSource *s, bool stays)
{
    FfPrecopy *p = s->precopy;

    if (has_devices(s)) {
        s->cfg->vmm->memory.log_end(&s->cfg->vmm->memory);
    }
    if (p) {
        ff_tracking_end(p->tracking);
        if (stays) {
            ff_tracking_restore(p->tracking, RESTORE_MS);
        }
    } else if (s->adopted && s->cfg->uffds[FF_KIND_TRACKING] >= 0 && s->cfg->maps_fd >= 0) {
        end_left_over(s);
    }
}

void ff_precopy_free(FfSource *s)
{
    FfPrecopy *p = s->precopy;

    if (p) {
        ff_tracking_free(p->tracking);
        g_clear_pointer(&p->fresh, g_array_unref);
        g_free(p);
        s->precopy = NULL;
    }
    ff_rounds_free(s);
}

/* NULL, or why not (g_free). */
static char *begin_precopy(FfSource *s)
{
    g_autofree FfTrackedFile *files = g_new(FfTrackedFile, s->ram->n_blocks);
    g_autoptr(GError) error = NULL;
    FfVmm *vmm = s->cfg->vmm;

    int uffd = s->cfg->uffds[FF_KIND_TRACKING];
    const char *missing = s->cfg->uffd_error ? s->cfg->uffd_error[FF_KIND_TRACKING] : NULL;

    if (s->cfg->pagemap_fd < 0 || s->cfg->maps_fd < 0 || uffd < 0) {
        return g_strdup(missing ? missing
                                : "QEMU's agent handed over no pagemap or no userfaultfd");
    }
    char *why = vmm->memory.untrackable ? vmm->memory.untrackable(&vmm->memory, false) : NULL;
    if (why) {
        return why;
    }
    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        const FfRamBlock *b = &s->ram->blocks[i].info;
        files[i] = (FfTrackedFile){b->memfd, b->size, b->page_size, b->id};
    }
    FfTracking *t = ff_tracking_new(files, s->ram->n_blocks, s->cfg->maps_fd, uffd,
                                    s->cfg->pagemap_fd, s->cfg->pidfd, &error);
    if (!t) {
        return g_strdup(error->message);
    }
    s->precopy = g_new0(FfPrecopy, 1);
    s->precopy->tracking = t;
    s->precopy->pieces = ff_tracking_pieces(t, &s->precopy->n_pieces);
    return NULL;
}

/* What is sent is what QEMU has mapped: before anything is, where no tracking has found that out
 * (its error is one more reason to go without), and once more with the guest stopped. Of memory
 * that QEMU has let go of the tracking says only that nobody writes to it. */
static bool is_mapped(FfSource *s, GError **error)
{
    return s->cfg->maps_fd < 0 || ff_ram_is_mapped(s->ram, s->cfg->maps_fd, error);
}

bool ff_precopy_begin(FfSource *s, GError **error)
{
    g_autofree char *why = begin_precopy(s);

    if (!why) {
        return !has_devices(s) || s->cfg->vmm->memory.log_begin(&s->cfg->vmm->memory, error);
    }
    if (!accepts_untracked(s) || has_devices(s)) {
        g_set_error(error, FF_M_ERROR, 0, "the guest's writes cannot be tracked: %s", why);
        return false;
    }
    if (!is_mapped(s, error)) {
        return false;
    }
    note_untracked(s, why);
    return true;
}

/* ---- scanning -------------------------------------------------------------------------------- */

static void note_dirty(FfSource *s, unsigned block, uint64_t first, uint64_t n)
{
    FfPrecopy *p = s->precopy;

    ff_bitmap_set_run(&s->ram->blocks[block].bitmap, first, n);
    p->n_fresh += n;
    __atomic_sub_fetch(&s->ram->done_pages, n, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&s->ram->done_bytes, n * s->ram->blocks[block].info.page_size,
                       __ATOMIC_RELAXED);
    if (p->fresh) {
        FfRun r = {block, first, n};
        g_array_append_val(p->fresh, r);
    }
}

/* Of the pages that were written those count that had a clear bit. Senders may still claim in the
 * pieces before: what is said of pages from END on is not looked at. */
static void note_written(unsigned block, uint64_t offset, uint64_t len, void *opaque)
{
    FfSource *s = opaque;
    const FfBitmap *bm = &s->ram->blocks[block].bitmap;
    uint64_t ps = s->ram->blocks[block].info.page_size, page = offset / ps, end = page + len / ps;

    if (s->heat) {
        ff_frequency_note(s->heat, block, page, len / ps);
    }
    while (page < end) {
        uint64_t first;
        uint64_t n = ff_bitmap_next_run_in(bm, page, end, false, &first);
        if (!n) {
            return;
        }
        note_dirty(s, block, first, n);
        page = first + n;
    }
}

static bool fail_tracking(int rc, GError **error)
{
    g_set_error(error, FF_M_ERROR, 0, "the guest's writes cannot be tracked any more: %s",
                g_strerror(-rc));
    return false;
}

/* What such devices wrote. After a protection or a scan, and before the copy: of what they write
 * after it the next call tells. */
static void take_log(FfSource *s)
{
    if (has_devices(s)) {
        s->cfg->vmm->memory.log_take(&s->cfg->vmm->memory, note_written, s);
    }
}

static bool scan_writes(FfSource *s, bool protect, GError **error)
{
    int rc = ff_tracking_scan(s->precopy->tracking, protect, note_written, s);

    take_log(s);
    return rc == 0 || fail_tracking(rc, error);
}

static bool log_is_whole(FfSource *s, bool stopped, GError **error)
{
    return !has_devices(s) || s->cfg->vmm->memory.log_whole(&s->cfg->vmm->memory, stopped, error);
}

static char *has_untrackable(FfSource *s, bool stopped)
{
    FfVmm *vmm = s->cfg->vmm;

    return s->precopy->lost || !vmm->memory.untrackable
               ? NULL
               : vmm->memory.untrackable(&vmm->memory, stopped);
}

/* Whether what the scan before said is all: the guest runs. FALSE and ERROR: it is not, and nobody
 * has accepted that the memory follows the guest. */
static bool look_after_stop(FfSource *s, GError **error)
{
    g_autofree char *why = has_untrackable(s, false);

    if (!log_is_whole(s, false, error)) {
        return false;
    }
    if (!why) {
        return true;
    }
    /* The peer may have been told already that all comes before the grant. */
    if (s->conn->complete_at_grant || has_devices(s) ||
        (!accepts_untracked(s) && !(ff_control_events(s->control) & FF_EV_WANT_POSTCOPY))) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the guest's writes cannot be tracked any more: %s; migrate again, QEMU will "
                    "carry it",
                    why);
        return false;
    }
    note_untracked(s, why);
    s->precopy->lost = true;
    return true;
}

/* The same after the stop. Whatever the client wants, it is not worth the wait: the destination
 * would have to drop all of the guest's memory while the guest stands still. */
static bool look_stopped(FfSource *s, GError **error)
{
    g_autofree char *why = has_untrackable(s, true);

    if (why) {
        g_set_error(error, FF_M_ERROR, 0, "the guest's writes were not all tracked: %s", why);
    }
    return !why;
}

/* Nothing of what was sent is valid. The senders of precopy-send.c have ended. */
static void forget_sent(FfSource *s)
{
    if (s->precopy->lost) {
        g_clear_pointer(&s->heat, ff_frequency_free);
    }
    for (unsigned i = 0; i < s->ram->n_blocks && s->precopy->lost; i++) {
        note_written(i, 0, s->ram->blocks[i].info.size, s);
    }
    s->holes_sent &= !s->precopy->lost;
}

/* With the guest stopped the main connection carries all that is left. It may be slower than all of
 * them; but what a rate limit kept it from does not count. */
static uint64_t switch_bandwidth(const FfPrecopy *p)
{
    return p->alone ? MIN(p->bandwidth, p->alone) : p->bandwidth;
}

/* In bytes of the guest: compression makes the link that much wider. */
static uint64_t all_sent(const FfSource *s)
{
    return ff_rounds_bytes(s) + ff_rounds_saved(s);
}

/* Device state goes over the main connection, and no rate limit holds it. Under one the socket
 * swallows what it is given, so that what the link carries is not seen. */
static double link_rate(const FfPrecopy *p)
{
    uint64_t alone = p->alone ? p->alone : p->bandwidth;

    return MIN(alone * p->wire, MAX(p->bandwidth * p->wire, FF_RECKONED_RATE));
}

static FfStandstill estimate_standstill(FfSource *s)
{
    ff_mutex_lock(&s->control->lock);
    uint64_t limit = s->cfg->downtime_limit, given = s->cfg->switchover_bandwidth;
    ff_mutex_unlock(&s->control->lock);
    const FfPrecopy *p = s->precopy;
    double bandwidth = given ? given : switch_bandwidth(p);

    return (FfStandstill){
        .limit_ms = limit,
        .ram = ff_ram_remaining(s->ram),
        .private_rest = s->private_rest,
        .scan_us = p->scan_took_us,
        .bandwidth = bandwidth,
        .link = given ? given : link_rate(p),
    };
}

static double private_us(const FfStandstill *t)
{
    return t->link > 0 ? t->private_rest / t->link * G_USEC_PER_SEC : 0;
}

int64_t ff_precopy_standstill_ms(const FfStandstill *t)
{
    return (t->ram / t->bandwidth * G_USEC_PER_SEC + private_us(t) + t->scan_us) / 1000;
}

/* Everything is scanned once more with the guest stopped, and what QEMU keeps to itself crosses the
 * link then as well. Both are as long in each round: where they leave RAM too little of the limit,
 * or nothing as on a link much slower than reckoned, a guest that writes would never be switched.
 * So RAM has a share all the same, and the limit is exceeded. */
bool ff_precopy_fits(const FfStandstill *t)
{
    double limit_us = t->limit_ms * 1000.0;
    double us = MAX(limit_us - t->scan_us - private_us(t), limit_us / RAM_SHARE);

    return t->ram <= t->bandwidth * us / G_USEC_PER_SEC;
}

static bool drain_writers(FfSource *s, GError **error)
{
    int64_t begin = g_get_monotonic_time();
    bool ok = FF_FAULT_STEP("drain", !s->cfg->vmm->memory.drain ||
                                         s->cfg->vmm->memory.drain(&s->cfg->vmm->memory, error));

    s->precopy->drain_us = g_get_monotonic_time() - begin;
    return ok;
}

/* Counts what is dirty now: the end of every round. Nothing is copied for it, so it protects
 * nothing and drains nothing. */
static bool sync_dirty(FfSource *s, GError **error)
{
    FfPrecopy *p = s->precopy;
    int64_t now = g_get_monotonic_time();

    ff_control_new_pass(s->control);
    if (!scan_writes(s, false, error) || !look_after_stop(s, error)) {
        return false;
    }
    if (now > p->scan_us) {
        __atomic_store_n(&s->stats->dirty_rate, p->n_fresh * G_USEC_PER_SEC / (now - p->scan_us),
                         __ATOMIC_RELAXED);
    }
    p->n_fresh = 0;
    p->scan_us = now;
    p->scan_took_us = g_get_monotonic_time() - now;
    p->next_scan_us = now + MAX(SCAN_INTERVAL_US, SCAN_SHARE * p->scan_took_us);
    if (p->bandwidth) {
        FfStandstill t = estimate_standstill(s);
        __atomic_store_n(&s->stats->expected_ms, ff_precopy_standstill_ms(&t), __ATOMIC_RELAXED);
    }
    return true;
}

/* ---- sending --------------------------------------------------------------------------------- */

static bool connection_broken(FfSource *s, int rc, GError **error)
{
    if (rc != -ECANCELED) {
        ff_conn_lost(s->conn, s->conn->main, rc);
    }
    return ff_control_await(s->control, 0, error);
}

static uint64_t round_sent(const FfSource *s)
{
    return all_sent(s) - s->precopy->round_bytes;
}

/* Bandwidth of the round so far, or of the one before while this one is young. */
static void measure_bandwidth(FfSource *s)
{
    FfPrecopy *p = s->precopy;
    int64_t dt = g_get_monotonic_time() - p->round_us;
    uint64_t bytes = round_sent(s);

    if (bytes && (dt >= MEASURE_US || (!p->bandwidth && dt > 0))) {
        p->bandwidth = bytes * G_USEC_PER_SEC / dt;
        /* How well earlier rounds compressed says nothing of this one. */
        p->wire = (double)(ff_rounds_bytes(s) - p->round_wire) / bytes;
    }
    int64_t us;
    uint64_t main = ff_rounds_main(s, &us) - p->round_main;
    us -= p->round_main_us;
    if (main && (us >= MEASURE_US || (!p->alone && us > 0))) {
        p->alone = main * G_USEC_PER_SEC / us;
    }
}

/* What is left goes through within the downtime that the client allows. */
static bool fits_downtime(FfSource *s)
{
    FfStandstill t = estimate_standstill(s);

    return ff_precopy_fits(&t);
}

/* TRUE: time to look again (or to switch). */
static bool round_over(FfSource *s)
{
    measure_bandwidth(s);
    return ff_control_events(s->control) & FF_EV_WANT_POSTCOPY ||
           (s->precopy->next_scan_us <= g_get_monotonic_time() && fits_downtime(s));
}

/* Protects the next pieces in which there is something to send, from *END on, until they are a
 * window; then drains: [*FIRST, *END) may be copied. */
static bool open_window(FfSource *s, unsigned *end, GError **error)
{
    FfPrecopy *p = s->precopy;
    uint64_t us = MAX(WINDOW_US, DRAIN_SHARE * p->drain_us), bytes = 0;
    uint64_t enough = p->bandwidth / 1000 * us / 1000;

    for (bool any = false; *end < p->n_pieces && (!any || bytes < enough); (*end)++) {
        const FfPiece *piece = &p->pieces[*end];
        const FfBlock *b = &s->ram->blocks[piece->file];
        uint64_t ps = b->info.page_size, first = piece->offset / ps, n = piece->len / ps;
        if (!ff_bitmap_count_run(&b->bitmap, first, n)) {
            continue;
        }
        int rc = ff_tracking_protect(p->tracking, *end, note_written, s);
        if (rc < 0) {
            return fail_tracking(rc, error);
        }
        bytes += ff_bitmap_count_run(&b->bitmap, first, n) * ps;
        any = true;
    }
    if (has_devices(s)) {
        /* Their log is of all memory: of the window before as well, where a page that somebody is
         * about to claim would be sent twice, over two connections, in either order. */
        ff_rounds_settle(s);
    }
    take_log(s);
    return look_after_stop(s, error) && drain_writers(s, error);
}

static bool send_round(FfSource *s, GError **error)
{
    FfPrecopy *p = s->precopy;
    bool over = false;

    p->round_us = g_get_monotonic_time();
    p->round_bytes = all_sent(s);
    p->round_wire = ff_rounds_bytes(s);
    p->round_main = ff_rounds_main(s, &p->round_main_us);
    p->started = true;
    for (unsigned at = 0, end = 0; at < p->n_pieces && !over; at = end) {
        if (!open_window(s, &end, error)) {
            return false;
        }
        if (p->lost) {
            break;
        }
        int rc = ff_rounds_send(s, at, end, &over);
        if (rc < 0) {
            return connection_broken(s, rc, error);
        }
    }
    s->holes_sent |= !over && !p->lost;
    return ff_rounds_finish(s, error);
}

/* ---- the rounds ------------------------------------------------------------------------------ */

/* Waits until the next scan is due or something happens. */
static void wait_for_scan(FfSource *s)
{
    FfPrecopy *p = s->precopy;

    ff_mutex_lock(&s->control->lock);
    while (g_get_monotonic_time() < p->next_scan_us &&
           !(s->control->events &
             (FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL | FF_EV_WANT_POSTCOPY))) {
        ff_cond_wait_until(&s->control->changed, &s->control->lock, p->next_scan_us);
    }
    ff_mutex_unlock(&s->control->lock);
}

/* The guest wrote more than half of what was sent meanwhile: another round would send much and
 * gain little. Switching at once after the first pass bounds the total by twice the RAM. */
static bool is_diverging(FfSource *s, uint64_t sent)
{
    ff_mutex_lock(&s->control->lock);
    bool wanted = s->cfg->auto_postcopy && !has_devices(s);
    ff_mutex_unlock(&s->control->lock);
    return wanted && ff_ram_remaining(s->ram) > sent / 2;
}

static bool run_rounds(FfSource *s, GError **error)
{
    FfPrecopy *p = s->precopy;

    p->scan_us = g_get_monotonic_time();
    p->next_scan_us = p->scan_us + SCAN_INTERVAL_US;
    for (;;) {
        if (!send_round(s, error)) {
            return false;
        }
        uint64_t sent = round_sent(s);
        wait_for_scan(s);
        if (ff_control_events(s->control) &
            (FF_EV_WANT_POSTCOPY | FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL)) {
            return ff_control_await(s->control, FF_EV_WANT_POSTCOPY, error);
        }
        if (!p->lost && !sync_dirty(s, error)) {
            return false;
        }
        if (p->lost) {
            return switches_untracked(s) ||
                   ff_control_await(s->control, FF_EV_WANT_POSTCOPY, error);
        }
        if (fits_downtime(s)) {
            s->conn->complete_at_grant = true;
            return true;
        }
        if (is_diverging(s, sent)) {
            return true;
        }
    }
}

bool ff_precopy_run(FfSource *s, GError **error)
{
    /* What is looked for behind the stop where there are devices is looked for by a round. */
    if (ff_control_events(s->control) & FF_EV_WANT_POSTCOPY && !has_devices(s)) {
        ff_precopy_end(s, true); /* nothing was protected yet */
        ff_precopy_free(s);
        return ff_control_await(s->control, FF_EV_WANT_POSTCOPY, error);
    }
    if (!s->precopy) {
        if (switches_untracked(s)) {
            return true;
        }
        /* A client that switches after the first pass (virsh --postcopy-after-precopy) would wait
         * for ever: there is nothing that a pass could send. */
        ff_control_new_pass(s->control);
        return ff_control_await(s->control, FF_EV_WANT_POSTCOPY, error);
    }
    if (!ff_rounds_begin(s, s->precopy->pieces, round_over, error)) {
        return false;
    }
    ff_source_send_base(s, ff_rounds_pace(s));
    bool ok = run_rounds(s, error);
    ff_rounds_end(s, ok);
    forget_sent(s);
    return ok;
}

/* ---- the switch ------------------------------------------------------------------------------ */

typedef struct {
    FfSource *s;
    FfStaleRun *runs;
    unsigned n;
} Stale;

static int flush_stale(Stale *t, unsigned flags)
{
    FfFrame f = ff_frame(FF_FRAME_STALE, t->n * sizeof(FfStaleRun));

    f.epoch = t->s->conn->epoch;
    f.flags = flags;
    f.n_pages = t->n;
    t->n = 0;
    return ff_channel_send(t->s->conn->main, f, t->runs, true);
}

static int add_stale(Stale *t, unsigned block, uint64_t first, uint64_t n)
{
    int rc = 0;

    while (n && rc == 0) {
        uint32_t len = MIN(n, UINT32_MAX);
        t->runs[t->n++] =
            (FfStaleRun){GUINT32_TO_LE(block), GUINT32_TO_LE(len), GUINT64_TO_LE(first)};
        first += len;
        n -= len;
        rc = t->n == FF_STALE_MAX_RUNS ? flush_stale(t, 0) : 0;
    }
    return rc;
}

/* RUNS NULL: every dirty page. */
static bool send_stale(FfSource *s, const GArray *runs, unsigned flags, GError **error)
{
    g_autofree FfStaleRun *buf = g_new(FfStaleRun, FF_STALE_MAX_RUNS);
    Stale t = {.s = s, .runs = buf};
    int rc = 0;

    for (guint i = 0; runs && i < runs->len && rc == 0; i++) {
        const FfRun *r = &g_array_index(runs, FfRun, i);
        rc = add_stale(&t, r->block, r->first, r->n);
    }
    for (unsigned i = 0; !runs && i < s->ram->n_blocks && rc == 0; i++) {
        uint64_t first, n;
        for (uint64_t at = 0; (n = ff_bitmap_next_run(&s->ram->blocks[i].bitmap, at, true, &first));
             at = first + n) {
            rc = add_stale(&t, i, first, n);
        }
    }
    if (rc == 0 && (t.n || flags)) {
        rc = flush_stale(&t, flags);
    }
    return rc == 0 || connection_broken(s, rc, error);
}

/* What the next scan finds is a look of its own. Never with the guest stopped: it goes through a
 * byte for each page. */
static void next_look(FfSource *s)
{
    if (s->heat) {
        ff_frequency_look(s->heat);
    }
}

/* From now on it is counted how often pages are written. Where all that is left is sent before the
 * guest runs again the order is of no use. */
static void begin_looks(FfSource *s)
{
    if (s->conn->complete_at_grant || s->precopy->lost) {
        return;
    }
    g_autofree uint64_t *n_pages = g_new(uint64_t, s->ram->n_blocks);

    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        n_pages[i] = s->ram->blocks[i].n_pages;
    }
    ff_frequency_free(s->heat);
    s->heat = ff_frequency_new(n_pages, s->ram->n_blocks);
    next_look(s);
}

/* How far the looks are apart that are taken before the guest is stopped, microseconds; 0: none
 * are. They cost the guest a fault for each page that it writes, and the switch comes later; what
 * they gain is that the pages it lives on come first where all that is left takes long. */
static int64_t look_interval(FfSource *s, int64_t scan_us)
{
    FfPrecopy *p = s->precopy;

    if (!s->heat || p->lost || !p->bandwidth) {
        return 0;
    }
    uint64_t all_us = (double)ff_ram_remaining(s->ram) * G_USEC_PER_SEC / p->bandwidth;
    int64_t each_us = all_us / LOOKS_SHARE / LOOKS;

    return all_us < LOOKS_WORTH_US || each_us < scan_us ? 0 : MIN(each_us, LOOK_MAX_US);
}

/* SCAN_US: what a scan takes. */
static bool take_looks(FfSource *s, int64_t scan_us, GError **error)
{
    int64_t interval = look_interval(s, scan_us);

    for (unsigned i = 0; i < LOOKS && interval; i++) {
        if (ff_control_wait_until(s->control, FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL,
                                  g_get_monotonic_time() + interval)) {
            return ff_control_await(s->control, 0, error);
        }
        next_look(s);
        if (!scan_writes(s, true, error) || !look_after_stop(s, error)) {
            return false;
        }
    }
    return true;
}

bool ff_precopy_tell(FfSource *s, GError **error)
{
    if (!s->precopy || !s->precopy->started) {
        return true;
    }
    s->precopy->fresh = g_array_new(FALSE, FALSE, sizeof(FfRun));
    if (!scan_writes(s, true, error) || !look_after_stop(s, error)) {
        return false;
    }
    forget_sent(s);
    begin_looks(s);
    return send_stale(s, NULL, 0, error);
}

bool ff_precopy_tell_again(FfSource *s, GError **error)
{
    if (!s->precopy || !s->precopy->started) {
        return true;
    }
    int64_t begin = g_get_monotonic_time();

    g_array_set_size(s->precopy->fresh, 0);
    if (!scan_writes(s, true, error) || !look_after_stop(s, error) ||
        !take_looks(s, g_get_monotonic_time() - begin, error)) {
        return false;
    }
    forget_sent(s);
    next_look(s);
    return send_stale(s, s->precopy->fresh, FF_STALE_TELL, error) &&
           ff_control_await(s->control, FF_EV_STALE_DROPPED, error);
}

bool ff_precopy_freeze(FfSource *s, GError **error)
{
    FfPrecopy *p = s->precopy;
    g_autoptr(GArray) none = g_array_new(FALSE, FALSE, sizeof(FfRun));
    bool ok = is_mapped(s, error);

    if (ok && p && p->started) {
        g_array_set_size(p->fresh, 0);
        /* Nobody writes any more, so nothing need be protected. stop's reply came after all I/O
         * was drained: a page that a disk was read into was pinned before, and is reported. */
        ok = scan_writes(s, false, error) && look_stopped(s, error) &&
             log_is_whole(s, true, error) && send_stale(s, p->fresh, FF_STALE_LAST, error);
    } else {
        ok = ok && send_stale(s, none, FF_STALE_LAST, error);
    }
    __atomic_store_n(&s->stats->precopy_bytes, ff_rounds_bytes(s), __ATOMIC_RELAXED);
    g_atomic_int_set(&s->guest_stopped, 1);
    return ok;
}
