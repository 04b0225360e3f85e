/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot from ff_snapshot_prepare() to ff_snapshot_wait(). The capture (snapshot/capture.h) has
 * the memory and its fault thread; the saver is a thread of this file's. Both block all signals: a
 * handler of the program's may write to a region.
 *
 * As soon as the saver has all contents it lifts everything; the disk is waited for after that.
 *
 * System calls: mmap, munmap, close, dup, rt_sigprocmask.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "farfault/capture.h"
#include "farfault/file.h"
#include "farfault/memory-internal.h"
#include "uffd/uffd.h"

#define BUFFER (64ull << 20)
#define EVENTS (UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)

static const FfCaptureWords words = {
    .memory = "memory",
    .busy = "this program, or a library of its own, registered it: it can be in one alone",
    .needs = "it must be private anonymous memory, a memfd, or hugetlb's",
    .given_back = "pages were given back (madvise, munmap) before they were saved: call "
                  "ff_region_discard() or ff_region_remove()",
};

/* Since BEGIN, into *US, which others may look at. */
static void note_us(FfMemory *m, uint64_t *us, int64_t begin)
{
    pthread_mutex_lock(&m->lock);
    *us = (uint64_t)(g_get_monotonic_time() - begin);
    pthread_mutex_unlock(&m->lock);
}

/* ---- making it, and its end --------------------------------------------------------------------
 */

static void drop_saved(FfMemory *m)
{
    for (guint i = 0; m->saved && i < m->saved->len; i++) {
        FfSaved *s = &g_array_index(m->saved, FfSaved, i);
        if (s->map) {
            munmap(s->map, s->map_len);
        }
        ff_owner_unref(s->owner);
    }
    g_clear_pointer(&m->saved, g_array_unref);
}

/* Region R, to be saved; as a block of the capture and where it is. */
static int add_saved(FfMemory *m, const FfMemoryRegion *r, FfCaptureBlock *block, FfRegion *range)
{
    FfSaved s = {
        .addr = r->addr, .len = r->len, .offset = r->offset, .page_size = r->backing.page_size};

    if (r->backing.kind == FF_BACKING_SHARED) {
        /* The program may unmap its own. */
        s.map_len = r->backing.size;
        s.map = mmap(NULL, s.map_len, PROT_READ, MAP_SHARED | MAP_NORESERVE, r->fd, 0);
        if (s.map == MAP_FAILED) {
            return ff_fail(-errno, "a file of memory cannot be mapped: %s", g_strerror(errno));
        }
    }
    s.owner = ff_owner_ref(r->owner);
    *block = (FfCaptureBlock){"a region", r->backing, s.map};
    *range = (FfRegion){m->saved->len, r->addr, r->offset, r->len};
    g_array_append_val(m->saved, s);
    return 0;
}

static int note_regions(FfMemory *m, FfCaptureBlock *blocks, FfRegion *ranges, uint64_t *features)
{
    int rc = 0;

    *features = EVENTS;
    m->saved = g_array_new(FALSE, FALSE, sizeof(FfSaved));
    for (guint i = 0; i < m->regions->len && rc == 0; i++) {
        const FfMemoryRegion *r = &g_array_index(m->regions, FfMemoryRegion, i);
        rc = add_saved(m, r, &blocks[i], &ranges[i]);
        *features |= ff_backing_features(&r->backing, UFFDIO_REGISTER_MODE_WP);
    }
    return rc;
}

void ff_block_signals(sigset_t *old)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, old);
}

void ff_unblock_signals(const sigset_t *old)
{
    pthread_sigmask(SIG_SETMASK, old, NULL);
}

static int make_capture(FfMemory *m, const FfSnapshotOptions *options)
{
    /* Nobody changes the regions in FF_PREPARING but ff_region_remove(). */
    pthread_mutex_lock(&m->lock);
    guint n = m->regions->len;
    g_autofree FfCaptureBlock *blocks = g_new0(FfCaptureBlock, n);
    g_autofree FfRegion *ranges = g_new0(FfRegion, n);
    g_autoptr(GError) error = NULL;
    uint64_t features;
    int rc = note_regions(m, blocks, ranges, &features);
    pthread_mutex_unlock(&m->lock);
    if (rc == 0 && n == 0) {
        rc = ff_fail(-EINVAL, "there is no region: call ff_region_add()");
    }
    m->uffd = rc < 0 ? rc : ff_memory_open_uffd(m, features);
    if (m->uffd < 0) {
        return m->uffd;
    }
    sigset_t old;
    ff_block_signals(&old);
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
                                                     .buffer = options->buffer},
                                  &error);
    ff_unblock_signals(&old);
    if (!c) {
        return ff_fail_error(error);
    }
    ff_capture_set_bandwidth(c, options->bandwidth);
    pthread_mutex_lock(&m->lock);
    m->capture = c;
    if (m->cancelled) {
        ff_capture_cancel(c);
    }
    pthread_mutex_unlock(&m->lock);
    return 0;
}

static void fill_stats(const FfMemory *m, FfSnapshotStats *st, const FfCaptureStats *c)
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

void ff_capture_finish(FfMemory *m)
{
    pthread_mutex_lock(&m->lock);
    FfCapture *c = m->capture;
    m->capture = NULL;
    m->cancelled = false;
    if (c) {
        FfCaptureStats now = ff_capture_stats(c);
        fill_stats(m, &m->stats, &now);
    }
    pthread_mutex_unlock(&m->lock);
    if (c) {
        ff_capture_end(c);
        ff_capture_free(c);
    }
    if (m->uffd >= 0) {
        close(m->uffd); /* what could not be taken out is let go by this */
        m->uffd = -1;
    }
    drop_saved(m);
}

/* ---- up to the moment --------------------------------------------------------------------------
 */

static int check_options(const FfSnapshotOptions *o)
{
    bool known =
        o->size == sizeof(*o) && !(o->flags & ~(FF_SNAPSHOT_NO_PASSES | FF_SNAPSHOT_NO_DIRECT));

    return known ? 0 : ff_fail(-EINVAL, "FfSnapshotOptions: a size or a flag that is not known");
}

/* In FF_PREPARING. */
static int prepare(FfMemory *m, const FfSnapshotOptions *options)
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
    note_us(m, &m->prepare_us, begin);
    if (rc < 0) {
        ff_capture_finish(m);
    }
    return rc;
}

static const FfSnapshotOptions default_options = {.size = sizeof(FfSnapshotOptions),
                                                  .buffer = BUFFER};

int ff_memory_prepare(FfMemory *m, const FfSnapshotOptions *options)
{
    const FfSnapshotOptions *o = options ? options : &default_options;
    int rc = check_options(o);

    return rc < 0 ? rc : prepare(m, o);
}

int ff_snapshot_prepare(FfMemory *m, const FfSnapshotOptions *options)
{
    int rc = ff_memory_step(m, FF_IDLE, FF_PREPARING, "ff_snapshot_prepare");

    if (rc < 0) {
        return rc;
    }
    rc = ff_memory_prepare(m, options);
    ff_memory_set_state(m, rc < 0 ? FF_IDLE : FF_PREPARED);
    return rc;
}

int ff_snapshot_begin(FfMemory *m)
{
    FfSnapshotOptions at_once = default_options;
    int64_t begin = g_get_monotonic_time();
    g_autoptr(GError) error = NULL;
    int rc = 0;

    at_once.flags = FF_SNAPSHOT_NO_PASSES;
    if (ff_memory_step(m, FF_IDLE, FF_PREPARING, "ff_snapshot_begin") == 0) {
        rc = prepare(m, &at_once);
    } else {
        rc = ff_memory_step(m, FF_PREPARED, FF_PREPARING, "ff_snapshot_begin");
        if (rc < 0) {
            return rc;
        }
    }
    if (rc == 0 && !ff_capture_arm(m->capture, &error)) {
        rc = ff_fail_error(error);
        ff_fork_drop(m);
        ff_capture_finish(m);
    }
    note_us(m, &m->begin_us, begin);
    ff_memory_set_state(m, rc < 0 ? FF_IDLE : FF_BEGUN);
    return rc;
}

/* ---- saving ------------------------------------------------------------------------------------
 */

typedef struct {
    FfMemory *m;
    FfOutput *output; /* NULL: pages */
    uint64_t size;
    FfSnapshotPage *page;
    void *opaque;
    int stopped; /* what PAGE said */
} Job;

static void job_free(Job *j)
{
    ff_output_free(j->output);
    g_free(j);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Job, job_free)

static bool write_file(Job *j, GError **error)
{
    FfMemory *m = j->m;
    g_autofree uint64_t *places = g_new(uint64_t, m->saved->len);

    for (guint i = 0; i < m->saved->len; i++) {
        const FfSaved *s = &g_array_index(m->saved, FfSaved, i);
        places[i] = s->place - s->offset; /* modulo 2^64 */
    }
    return ff_capture_write(m->capture, ff_output_fd(j->output), places,
                            m->no_direct ? FF_WRITER_BUFFERED : FF_WRITER_URING, error);
}

static bool put_page(void *opaque, unsigned block, uint64_t page, const uint8_t *bytes,
                     GError **error)
{
    Job *j = opaque;
    const FfSaved *s = &g_array_index(j->m->saved, FfSaved, block);
    uintptr_t addr = s->addr + (page * 4096 - s->offset);

    j->stopped = j->page(j->opaque, (void *)addr, bytes, 4096);
    if (j->stopped) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the callback said %d", j->stopped);
    }
    return !j->stopped;
}

/* The table of regions is dropped by ff_capture_finish(). */
static GArray *keep_table(const FfMemory *m)
{
    GArray *table = g_array_new(FALSE, FALSE, sizeof(FfSaved));

    g_array_append_vals(table, m->saved->data, m->saved->len);
    return table;
}

static gpointer save(gpointer p)
{
    g_autoptr(Job) j = p;
    FfMemory *m = j->m;
    g_autoptr(GArray) table = keep_table(m);
    g_autoptr(GError) error = NULL;
    int64_t begin = g_get_monotonic_time();

    bool ok =
        j->output ? write_file(j, &error) : ff_capture_stream(m->capture, put_page, j, &error);
    note_us(m, &m->save_us, begin);
    ff_capture_finish(m);
    ok = ok && (!j->output || ff_file_end(j->output, table, j->size, &error));
    /* Here, and not in ff_snapshot_wait(): another thread's ff_last_error(). */
    int rc = ok ? 0 : j->stopped ? j->stopped : ff_fail_error(error);
    ff_memory_finish(m, rc, ok ? NULL : error->message);
    return NULL;
}

static int start(FfMemory *m, Job *j, const char *what)
{
    sigset_t old;
    int rc = ff_memory_step(m, FF_BEGUN, FF_SAVING, what);

    if (rc < 0) {
        job_free(j);
        return rc;
    }
    j->m = m;
    ff_fork_drop(m); /* ff_fork() was not called */
    g_autoptr(GError) error = NULL;
    if (j->output) {
        j->size = ff_file_place(m->saved);
        if (!ff_file_begin(j->output, j->size, &error)) {
            rc = ff_fail_error(error);
            job_free(j);
            ff_memory_set_state(m, FF_BEGUN);
            return rc;
        }
    }
    ff_block_signals(&old);
    m->saver = g_thread_new("ff-save", save, j);
    ff_unblock_signals(&old);
    return 0;
}

int ff_snapshot_save_fd(FfMemory *m, int fd)
{
    g_autoptr(GError) error = NULL;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (own < 0) {
        return ff_fail(-errno, "ff_snapshot_save_fd: file %d: %s", fd, g_strerror(errno));
    }
    Job *j = g_new0(Job, 1);
    j->output = ff_output_new_fd(own, "the snapshot's file", &error);
    if (!j->output) {
        job_free(j);
        return ff_fail_error(error);
    }
    return start(m, j, "ff_snapshot_save_fd");
}

int ff_snapshot_save_path(FfMemory *m, const char *path)
{
    g_autoptr(GError) error = NULL;
    FfOutput *output = ff_output_new_replacing(path, &error);

    if (!output) {
        return ff_fail_error(error);
    }
    Job *j = g_new0(Job, 1);
    j->output = output;
    return start(m, j, "ff_snapshot_save_path");
}

int ff_snapshot_save_pages(FfMemory *m, FfSnapshotPage *page, void *opaque)
{
    Job *j = g_new0(Job, 1);

    j->page = page;
    j->opaque = opaque;
    return start(m, j, "ff_snapshot_save_pages");
}

int ff_snapshot_wait(FfMemory *m, FfSnapshotStats *stats)
{
    int rc = ff_memory_check(m);

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&m->lock);
    GThread *saver = m->saver;
    m->saver = NULL;
    pthread_mutex_unlock(&m->lock);
    if (!saver) {
        return ff_fail(-EINVAL, "ff_snapshot_wait: nothing is being saved");
    }
    g_thread_join(saver);
    if (stats) {
        ff_snapshot_stats(m, stats);
    }
    rc = m->result < 0 ? ff_fail(m->result, "%s", m->result_text) : m->result;
    ff_memory_set_state(m, FF_IDLE);
    return rc;
}

/* ---- any thread --------------------------------------------------------------------------------
 */

int ff_snapshot_cancel(FfMemory *m)
{
    int rc = ff_memory_check(m);
    bool mine = false;

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&m->lock);
    if (m->state == FF_PREPARED || m->state == FF_BEGUN) {
        mine = true;
        m->state = FF_PREPARING;
    } else if (m->capture) {
        ff_capture_cancel(m->capture);
    } else {
        m->cancelled = m->state == FF_PREPARING;
    }
    pthread_mutex_unlock(&m->lock);
    if (mine) {
        ff_fork_drop(m);
        ff_capture_finish(m);
        ff_memory_set_state(m, FF_IDLE);
    }
    return 0;
}

int ff_snapshot_stats(FfMemory *m, FfSnapshotStats *stats)
{
    int rc = ff_memory_check(m);
    FfSnapshotStats now;
    size_t size = stats->size;

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&m->lock);
    if (m->capture) {
        FfCaptureStats c = ff_capture_stats(m->capture);
        fill_stats(m, &now, &c);
    } else {
        now = m->stats;
        now.save_us = m->save_us;
    }
    pthread_mutex_unlock(&m->lock);
    memcpy(stats, &now, MIN(size, sizeof(now)));
    stats->size = size;
    return 0;
}
