/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the regions of an FfMemory to a capture (content/capture/capture.h) and back: what a
 * snapshot and ff_fork() have in common. The fault thread is the capture's; like all threads of
 * ours it blocks all signals: a handler of the program's may write to a region. So does the
 * program's own thread while it has a lock that the fault thread needs.
 *
 * System calls: rt_sigprocmask, madvise.
 */
#include "libfarfault/snapshots/capture.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/priority.h"
#include "libfarfault/common/memory-internal.h"
#include "libfarfault/common/rlimits.h"
#include "libfarfault/common/threads.h"
#include "libfarfault/snapshots/pinned.h"
#include "uffd/uffd.h"

#define BUFFER (64ull << 20)
#define PAGE 4096ull
#define EVENTS (UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)

static const FfCaptureWords words = {
    .memory = "memory",
    .busy = "this program, or a library of its own, registered it: it can be in one alone",
    .needs = "it must be private anonymous memory, a memfd, or hugetlb's",
    .given_back = "pages were given back (madvise, munmap) before they were saved: call "
                  "ff_region_discard() or ff_region_remove()",
};

void ff_memory_note_us(FfMemory *m, uint64_t *us, int64_t begin)
{
    pthread_mutex_lock(&m->lock);
    *us = (uint64_t)(g_get_monotonic_time() - begin);
    pthread_mutex_unlock(&m->lock);
}

/* ---- making it, and its end ------------------------------------------------------------------ */

static void drop_saved(FfMemory *m)
{
    for (guint i = 0; m->saved && i < m->saved->len; i++) {
        FfSavedRegion *s = &g_array_index(m->saved, FfSavedRegion, i);
        ff_owner_unref(s->owner);
    }
    g_clear_pointer(&m->saved, g_array_unref);
}

/* Region R, to be saved; as a block of the capture and where it is. */
static void add_saved(FfMemory *m, const FfMemoryRegion *r, FfCaptureBlock *block, FfRegion *range)
{
    FfSavedRegion s = {
        .addr = r->addr, .len = r->len, .offset = r->offset, .page_size = r->backing.page_size};

    s.owner = ff_owner_ref(r->owner);
    /* No mapping: the program may make the file shorter, and a look there would be a SIGBUS. */
    *block = (FfCaptureBlock){"a region", r->backing, NULL};
    *range = (FfRegion){m->saved->len, r->addr, r->offset, r->len};
    g_array_append_val(m->saved, s);
}

static void note_regions(FfMemory *m, FfCaptureBlock *blocks, FfRegion *ranges, uint64_t *features)
{
    *features = EVENTS;
    m->saved = g_array_new(FALSE, FALSE, sizeof(FfSavedRegion));
    for (guint i = 0; i < m->regions->len; i++) {
        const FfMemoryRegion *r = &g_array_index(m->regions, FfMemoryRegion, i);
        add_saved(m, r, &blocks[i], &ranges[i]);
        *features |= ff_backing_features(&r->backing, UFFDIO_REGISTER_MODE_WP);
    }
}

/* What KSM merges has no protection any more: replace_page() of mm/ksm.c makes a new page table
 * entry without it, and the next write would have no fault. */
static int forbid_merging(const FfCaptureBlock *blocks, const FfRegion *ranges, guint n)
{
    for (guint i = 0; i < n; i++) {
        void *at = (void *)(uintptr_t)ranges[i].addr;
        if (blocks[i].backing.kind == FF_BACKING_PRIVATE &&
            madvise(at, ranges[i].len, MADV_UNMERGEABLE) < 0 && errno != EINVAL) { /* no KSM */
            return ff_fail(-errno, "%p: MADV_UNMERGEABLE: %s", at, ff_strerror(errno));
        }
    }
    return 0;
}

/* What a capture allocates at most: the tables of regions, of the buffer's pages, and of pages. */
static size_t small_things(const FfMemory *m, const FfSnapshotOptions *options)
{
    size_t n = m->regions->len * 2048 + options->buffer / PAGE * 32;

    for (guint i = 0; i < m->regions->len; i++) {
        const FfBacking *b = &g_array_index(m->regions, FfMemoryRegion, i).backing;
        n += b->size / b->page_size * 8;
    }
    return n;
}

/* Signals are blocked, for its fault thread as well. */
static int make_capture(FfMemory *m, const FfSnapshotOptions *options)
{
    /* Nobody changes the regions in FF_PREPARING but ff_region_remove(). */
    pthread_mutex_lock(&m->lock);
    guint n = m->regions->len;
    int rc = ff_reserve("ff_snapshot_prepare", small_things(m, options));
    if (rc < 0) {
        pthread_mutex_unlock(&m->lock);
        return rc;
    }
    g_autofree FfCaptureBlock *blocks = g_new0(FfCaptureBlock, n);
    g_autofree FfRegion *ranges = g_new0(FfRegion, n);
    g_autoptr(GError) error = NULL;
    uint64_t features;
    rc = n ? ff_regions_check(m) : ff_fail(-EINVAL, "there is no region: call ff_region_add()");
    rc = rc < 0 ? rc : ff_pinned_check(m);
    note_regions(m, blocks, ranges, &features);
    pthread_mutex_unlock(&m->lock);
    rc = rc < 0 ? rc : forbid_merging(blocks, ranges, n);
    rc = rc < 0 ? rc : ff_memory_set_uffd(m, features);
    if (rc < 0) {
        return rc;
    }
    FfCapture *c = ff_capture_new(&(FfCaptureConfig){.uffd = m->uffd,
                                                     .maps_fd = m->maps_fd,
                                                     .pagemap_fd = m->pagemap_fd,
                                                     .pidfd = m->pidfd,
                                                     .blocks = blocks,
                                                     .n_blocks = n,
                                                     .ranges = ranges,
                                                     .n_ranges = n,
                                                     .features = features,
                                                     .words = &words,
                                                     .callers = m->callers,
                                                     .fault_thread = ff_priority_urgent,
                                                     .buffer = options->buffer},
                                  &error);
    if (!c) {
        return ff_fail_error(error);
    }
    /* A discard that began before that has told nobody, and would take pages out that are protected
     * by then: the kernel holds no lock between the two (madvise_remove()). */
    pthread_mutex_lock(&m->discards);
    pthread_mutex_unlock(&m->discards);
    ff_capture_set_bandwidth(c, options->bandwidth);
    pthread_mutex_lock(&m->lock);
    m->capture = c;
    if (m->cancelled) {
        ff_capture_cancel(c);
    }
    pthread_mutex_unlock(&m->lock);
    return 0;
}

void ff_memory_fill_stats(const FfMemory *m, FfSnapshotStats *st, const FfCaptureStats *c)
{
    _Static_assert(FF_SNAPSHOT_BUCKETS == FF_CAPTURE_BUCKETS, "one is copied to the other");
    *st = (FfSnapshotStats){.size = sizeof(*st),
                            .pages = c->pages,
                            .left = c->left,
                            .faults = c->faults,
                            .waited = c->waited,
                            .bytes = c->bytes,
                            .zeros = c->zeros,
                            .passes = c->passes,
                            .prepare_us = m->prepare_us,
                            .begin_us = m->begin_us,
                            .save_us = m->save_us,
                            .slots = c->slots,
                            .free_slots = c->free_slots};
    memcpy(st->latency, c->latency, sizeof(st->latency));
}

static void finish_capture(FfMemory *m)
{
    if (m->drop_child) {
        m->drop_child(m);
    }
    pthread_mutex_lock(&m->lock);
    FfCapture *c = m->capture;
    m->capture = NULL;
    m->cancelled = false;
    if (c) {
        FfCaptureStats now = ff_capture_stats(c);
        ff_memory_fill_stats(m, &m->stats, &now);
    }
    pthread_mutex_unlock(&m->lock);
    if (c) {
        ff_capture_end(c);
        ff_capture_free(c);
    }
    ff_memory_close_uffd(m);
    drop_saved(m);
}

void ff_capture_finish(FfMemory *m)
{
    sigset_t old;

    ff_block_signals(&old);
    finish_capture(m);
    ff_unblock_signals(&old);
}

/* ---- up to the moment ------------------------------------------------------------------------ */

static int check_options(const FfSnapshotOptions *o)
{
    bool known =
        o->size == sizeof(*o) && !(o->flags & ~(FF_SNAPSHOT_NO_PASSES | FF_SNAPSHOT_NO_DIRECT));

    return known ? 0
                 : ff_fail(-EINVAL, "FfSnapshotOptions: size is sizeof(FfSnapshotOptions), flags "
                                    "are FF_SNAPSHOT_*");
}

static int prepare_capture(FfMemory *m, const FfSnapshotOptions *options)
{
    int64_t begin = g_get_monotonic_time();
    g_autoptr(GError) error = NULL;

    pthread_mutex_lock(&m->lock);
    m->begin_us = m->save_us = 0;
    pthread_mutex_unlock(&m->lock);
    m->no_direct = options->flags & FF_SNAPSHOT_NO_DIRECT;
    int rc = make_capture(m, options);
    if (rc == 0 && !(options->flags & FF_SNAPSHOT_NO_PASSES) &&
        !ff_capture_prepare(m->capture, &error)) {
        rc = ff_fail_error(error);
    }
    ff_memory_note_us(m, &m->prepare_us, begin);
    if (rc < 0) {
        ff_capture_finish(m);
    }
    return rc;
}

const FfSnapshotOptions ff_default_options = {.size = sizeof(FfSnapshotOptions), .buffer = BUFFER};

int ff_memory_prepare(FfMemory *m, const FfSnapshotOptions *options)
{
    const FfSnapshotOptions *o = options ? options : &ff_default_options;
    int rc = check_options(o);
    sigset_t old;

    ff_block_signals(&old);
    rc = rc < 0 ? rc : prepare_capture(m, o);
    ff_unblock_signals(&old);
    return rc;
}

static int arm_capture(FfMemory *m, int64_t begin)
{
    g_autoptr(GError) error = NULL;
    int rc = ff_reserve("ff_snapshot_begin", m->saved->len * 64);

    pthread_mutex_lock(&m->lock);
    rc = rc < 0 ? rc : ff_pinned_check(m); /* what was registered since */
    pthread_mutex_unlock(&m->lock);
    if (rc == 0 && !ff_capture_arm(m->capture, &error)) {
        rc = ff_fail_error(error);
    }
    pthread_mutex_lock(&m->lock);
    rc = rc < 0 ? rc : ff_regions_check_gaps(m);
    pthread_mutex_unlock(&m->lock);
    if (rc < 0) {
        char why[512];
        g_strlcpy(why, ff_last_error(), sizeof(why));
        ff_capture_finish(m);
        ff_fail(rc, "%s", why);
    }
    ff_memory_note_us(m, &m->begin_us, begin);
    return rc;
}

int ff_memory_arm(FfMemory *m, int64_t begin)
{
    sigset_t old;

    ff_block_signals(&old);
    int rc = arm_capture(m, begin);
    ff_unblock_signals(&old);
    return rc;
}

int ff_memory_start_saver(FfMemory *m, const char *name, GThreadFunc fn, void *opaque)
{
    GThread *saver = ff_thread_new(name, fn, opaque);
    pthread_mutex_lock(&m->lock);
    m->saver = saver;
    pthread_mutex_unlock(&m->lock);
    return saver ? 0 : -EAGAIN;
}
