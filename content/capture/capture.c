/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory of a process at one instant; see capture.h for the order of the calls and the threads.
 * What a page goes through is in uffd/protect.h, which page is written next in writer.c.
 *
 * Lock: `lock` guards the writer's pointer, as the fault thread and the one that cancels wake it,
 * and is held for nothing else.
 *
 * System calls: fcntl, eventfd, write (eventfd), close.
 */
#include "content/capture/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "uffd/faults.h"
#include "uffd/regions.h"
#include "uffd/uffd.h"

/* Ahead of the instant: until so few pages are left, or so often. Protecting 1000 single pages
 * takes about 2 ms. */
#define FEW_PAGES 1000
#define MAX_PASSES 5
/* The same right before it: as much as 0.2 ms of the stop. */
#define VERY_FEW_PAGES 100
#define MAX_LAST_PASSES 3
/* Kept around a write, bytes, while there is much room: a fault costs as much as copying so much.
 */
#define AROUND (64u << 10)
/* What making huge mappings again may take, milliseconds. */
#define RESTORE_MS 500
/* Of one step of a pass, bytes: so soon a cancel is heard. */
#define STEP (64ull << 20)

static const FfCaptureWords guest_words = {
    .memory = "guest RAM",
    .busy = "a migration of it is under way, or QEMU takes a snapshot by itself",
    .needs = "live snapshots need Linux 5.19 with CONFIG_PTE_MARKER_UFFD_WP",
    .given_back = "pages were given back by the guest while they were saved",
};

/* ---- what the space tells -------------------------------------------------------------------- */

static void wake_writer(FfCapture *c)
{
    uint64_t one = 1;

    while (write(c->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    pthread_mutex_lock(&c->lock);
    if (c->writer) {
        ff_writer_wake(c->writer);
    }
    pthread_mutex_unlock(&c->lock);
}

/* Fault thread, or the writer itself. */
static void on_page(FfPager *p, const FfRun *run)
{
    wake_writer((FfCapture *)(void *)p);
}

/* Fault thread, the space being locked. A writer that waits for a page that was just being kept
 * waits in vain.
 */
static void on_removed(FfPager *p, const FfRun *run, FfRemoved why)
{
    wake_writer((FfCapture *)(void *)p);
}

static void on_failure(const FfRun *run, int rc, void *opaque)
{
    FfCapture *c = opaque;

    __atomic_store_n(&c->failed, rc, __ATOMIC_RELEASE);
    ff_capture_cancel(c);
    if (!run) {
        /* The fault thread ends, and somebody may wait for a writer that nobody answers: QEMU. */
        ff_protect_lift_all(c->protect);
    }
}

static const FfSpaceOps space_ops = {.failed = on_failure};

static gpointer answer_faults(gpointer p)
{
    FfCapture *c = p;

    if (c->at_fault_thread) {
        c->at_fault_thread();
    }
    ff_faults_run(c->space);
    return NULL;
}

/* ---- making it ------------------------------------------------------------------------------- */

static bool set_errno_error(GError **error, int rc, const char *what)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc), "%s: %s", what, g_strerror(-rc));
    return false;
}

/* WHAT: what the memory cannot be. */
static bool fail_memory(const FfCapture *c, GError **error, int rc, const char *what)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc), "%s cannot be %s: %s",
                c->words->memory, what, g_strerror(-rc));
    return false;
}

static FfRegions *find_regions(const FfCaptureConfig *cfg, GError **error)
{
    g_autofree int *fds = g_new(int, cfg->n_blocks);
    g_autofree uint64_t *sizes = g_new(uint64_t, cfg->n_blocks);

    for (unsigned i = 0; i < cfg->n_blocks; i++) {
        fds[i] = cfg->blocks[i].backing.fd;
        sizes[i] = cfg->blocks[i].backing.size;
    }
    return ff_regions_new(cfg->maps_fd, fds, sizes, cfg->n_blocks, error);
}

static int fill_space(FfCapture *c, const FfRegion *r, unsigned n)
{
    int rc = 0;

    for (unsigned i = 0; i < c->n_blocks && rc >= 0; i++) {
        rc = ff_space_add_block(c->space, &c->blocks[i].backing, NULL);
    }
    for (unsigned i = 0; i < n && rc >= 0; i++) {
        rc = ff_space_add_range(c->space, r[i].addr, r[i].len, r[i].file, r[i].offset);
    }
    return rc < 0 ? rc : 0;
}

static void note_runs(FfCapture *c, const FfRegion *r, unsigned n)
{
    c->runs = g_new(FfRun, n);
    c->n_runs = n;
    for (unsigned i = 0; i < n; i++) {
        uint64_t ps = c->blocks[r[i].file].backing.page_size;
        c->runs[i] = (FfRun){r[i].file, r[i].offset / ps, r[i].len / ps};
        c->pages += c->runs[i].n;
    }
}

/* Before the first protection. */
static void note_huge(FfCapture *c, const FfRegion *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (c->blocks[r[i].file].backing.kind != FF_BACKING_HUGETLB) {
            ff_huge_note(c->huge, c->pagemap_fd, r[i].file, r[i].addr, r[i].offset, r[i].len);
        }
    }
}

/* After the last. */
static void restore_huge(FfCapture *c)
{
    g_autofree int *fds = g_new(int, c->n_blocks);

    for (unsigned i = 0; i < c->n_blocks; i++) {
        bool is_file = c->blocks[i].backing.kind != FF_BACKING_PRIVATE;
        fds[i] = is_file ? c->blocks[i].backing.fd : -1;
    }
    if (c->pidfd >= 0) {
        ff_huge_restore(c->huge, fds, c->pagemap_fd, c->pidfd, RESTORE_MS);
    }
}

static bool make_space(FfCapture *c, const FfCaptureConfig *cfg, GError **error)
{
    g_autoptr(FfRegions) regions = NULL;
    const FfRegion *r = cfg->ranges;
    unsigned block = 0, n = cfg->n_ranges;

    if (!r) {
        regions = find_regions(cfg, error);
        if (!regions) {
            return false;
        }
        r = ff_regions_all(regions, &n);
    }
    if (c->wake_fd < 0) {
        return set_errno_error(error, -errno, "eventfd");
    }
    c->space = ff_space_new(
        &(FfSpaceConfig){.uffd = cfg->uffd,
                         .features = cfg->features ? cfg->features : FF_UFFD_PROTECTION,
                         .pagemap_fd = cfg->pagemap_fd,
                         .callers = cfg->callers,
                         .pager = &c->pager,
                         .shared_remove = FF_SHARED_REMOVE_GIVES_BACK,
                         .ops = &space_ops,
                         .opaque = c});
    int rc = c->space ? fill_space(c, r, n) : -errno;
    rc = rc < 0 ? rc : ff_protect_new(c->space, cfg->buffer, &c->protect);
    if (rc < 0) {
        return fail_memory(c, error, rc, "watched");
    }
    ff_protect_set_around(c->protect, AROUND);
    note_runs(c, r, n);
    note_huge(c, r, n);
    rc = ff_space_register(c->space, UFFDIO_REGISTER_MODE_WP, &block);
    if (rc == -EBUSY) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_BUSY,
                    "%s '%s' is watched by another userfaultfd: %s", c->words->memory,
                    c->blocks[block].name, c->words->busy);
    } else if (rc < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc),
                    "writes to %s '%s' cannot be held up (%s): %s", c->words->memory,
                    c->blocks[block].name, g_strerror(-rc), c->words->needs);
    } else {
        /* Whoever waits here since before, told to one that has died and not answered, is told to
         * this one. */
        ff_space_wake_all(c->space);
    }
    return rc == 0;
}

static bool begin_answering(FfCapture *c, GError **error)
{
    g_autoptr(GError) why = NULL;

    c->fault_thread = g_thread_try_new("ff-protect", answer_faults, c, &why);
    if (!c->fault_thread) {
        /* As errno has it: no limit of another kind ends in this. */
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(EAGAIN), "%s", why->message);
    }
    return c->fault_thread;
}

FfCapture *ff_capture_new(const FfCaptureConfig *cfg, GError **error)
{
    FfCapture *c = g_new0(FfCapture, 1);

    c->pager.written = c->pager.full = on_page;
    c->pager.removed = on_removed;
    c->blocks = g_memdup2(cfg->blocks, cfg->n_blocks * sizeof(*cfg->blocks));
    c->n_blocks = cfg->n_blocks;
    c->at_fault_thread = cfg->fault_thread;
    c->stands = cfg->stands;
    c->pidfd = cfg->pidfd;
    c->pagemap_fd = cfg->pagemap_fd;
    c->words = cfg->words ? cfg->words : &guest_words;
    c->huge = ff_huge_new();
    pthread_mutex_init(&c->lock, NULL);
    c->written.way = FF_WRITER_BUFFERED; /* of the one that writes in a row */
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!make_space(c, cfg, error) || !begin_answering(c, error)) {
        bool is_clean = ff_capture_end(c);
        if (cfg->stuck) {
            *cfg->stuck = !is_clean;
        }
        ff_capture_free(c);
        return NULL;
    }
    return c;
}

/* ---- up to the instant ----------------------------------------------------------------------- */

bool ff_capture_goes_on(FfCapture *c, GError **error)
{
    int rc = __atomic_load_n(&c->failed, __ATOMIC_ACQUIRE);

    if (rc < 0) {
        return fail_memory(c, error, rc, "watched any more");
    }
    if (__atomic_load_n(&c->cancelled, __ATOMIC_ACQUIRE)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "it was cancelled");
        return false;
    }
    return true;
}

/* *N: pages that were not protected. */
static bool protect_pass(FfCapture *c, uint64_t *n, GError **error)
{
    *n = 0;
    for (unsigned i = 0; i < c->n_runs; i++) {
        const FfRun *all = &c->runs[i];
        uint64_t step = MAX(1, STEP / c->blocks[all->block].backing.page_size), one;
        for (FfRun run = {all->block, all->first, 0}; run.first < all->first + all->n;
             run.first += run.n) {
            run.n = MIN(step, all->first + all->n - run.first);
            int rc = ff_protect_prepare(c->protect, &run, &one);
            if (rc < 0) {
                return fail_memory(c, error, rc, "protected");
            }
            if (!ff_capture_goes_on(c, error)) {
                return false;
            }
            *n += one;
        }
    }
    return true;
}

static bool protect_passes(FfCapture *c, uint64_t few, unsigned max, GError **error)
{
    uint64_t n = UINT64_MAX;

    for (unsigned i = 0; i < max && n > few; i++) {
        if (!protect_pass(c, &n, error)) {
            return false;
        }
        FF_FAULT_AT("capture-pass");
        __atomic_add_fetch(&c->passes, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&c->prepared_last, n, __ATOMIC_RELAXED);
    }
    return true;
}

bool ff_capture_prepare(FfCapture *c, GError **error)
{
    return protect_passes(c, FEW_PAGES, MAX_PASSES, error);
}

bool ff_capture_prepare_again(FfCapture *c, GError **error)
{
    return protect_passes(c, VERY_FEW_PAGES, MAX_LAST_PASSES, error);
}

bool ff_capture_arm(FfCapture *c, GError **error)
{
    int64_t begin = g_get_monotonic_time();
    int rc = 0;

    ff_protect_set_still(c->protect, c->stands);
    for (unsigned i = 0; i < c->n_runs && rc == 0; i++) {
        rc = ff_protect_arm(c->protect, &c->runs[i]);
    }
    __atomic_store_n(&c->arm_us, (uint64_t)(g_get_monotonic_time() - begin), __ATOMIC_RELAXED);
    return rc == 0 ? ff_capture_goes_on(c, error) : fail_memory(c, error, rc, "protected");
}

bool ff_capture_next_gap(const FfCapture *c, FfRun *run)
{
    for (; run->block < c->n_blocks; *run = (FfRun){.block = run->block + 1}) {
        /* The pages of a file are there without a mapping. */
        if (c->blocks[run->block].backing.kind == FF_BACKING_PRIVATE &&
            ff_protect_next_gap(c->protect, run)) {
            return true;
        }
    }
    return false;
}

bool ff_capture_stood(FfCapture *c, GError **error)
{
    ff_protect_set_still(c->protect, false);
    uint64_t spoilt = ff_protect_spoilt(c->protect);

    if (spoilt) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "QEMU wrote to %" PRIu64 " pages of guest memory while its devices were saved "
                    "(for a character device that somebody writes to, or a USB device of the "
                    "host): repeat the snapshot",
                    spoilt);
    }
    return spoilt == 0;
}

/* ---- after it -------------------------------------------------------------------------------- */

static int make_writer(FfCapture *c, int fd, const uint64_t *places, FfWriterWay way)
{
    g_autofree FfWriterBlock *blocks = g_new0(FfWriterBlock, c->n_blocks);
    FfWriter *writer = NULL;

    for (unsigned i = 0; i < c->n_blocks; i++) {
        blocks[i] = (FfWriterBlock){c->blocks[i].backing, c->blocks[i].map, places[i]};
    }
    int rc = ff_writer_new(
        &(FfWriterConfig){
            .protect = c->protect, .fd = fd, .blocks = blocks, .n_blocks = c->n_blocks, .way = way},
        &writer);
    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&c->lock);
    c->writer = writer;
    ff_writer_set_bandwidth(writer, c->bandwidth);
    pthread_mutex_unlock(&c->lock);
    if (__atomic_load_n(&c->cancelled, __ATOMIC_ACQUIRE)) {
        ff_writer_cancel(writer); /* the one that has cancelled may have seen none */
    }
    return 0;
}

bool ff_capture_has_all(FfCapture *c, GError **error)
{
    uint64_t lost = ff_protect_lost(c->protect);

    /* What was lost since it has failed, or was cancelled, is not why. */
    if (lost && ff_capture_goes_on(c, error)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%" PRIu64 " %s", lost,
                    c->words->given_back);
    }
    return lost == 0;
}

bool ff_capture_write(FfCapture *c, int fd, const uint64_t *places, FfWriterWay way, GError **error)
{
    int flags = fcntl(fd, F_GETFL);
    int rc = make_writer(c, fd, places, way);

    rc = rc < 0 ? rc : ff_writer_run(c->writer);
    if (flags >= 0) {
        fcntl(fd, F_SETFL, flags); /* what follows in the file is in no whole pages */
    }
    if (!ff_capture_goes_on(c, error)) {
        return false;
    }
    /* First: what is not there any more cannot be read either. */
    if (!ff_capture_has_all(c, error)) {
        return false;
    }
    return rc == 0 || set_errno_error(error, rc, "writing");
}

const FfBitmap *ff_capture_data(const FfCapture *c, unsigned block)
{
    return ff_writer_data(c->writer, block);
}

/* ---- the end --------------------------------------------------------------------------------- */

bool ff_capture_end(FfCapture *c)
{
    int rc = 0;

    if (c->fault_thread) {
        /* Much may be protected, and to lift it takes some 50 ms for each GiB: writers are answered
         * meanwhile, unless nobody can any more. */
        ff_protect_give_up(c->protect);
        FF_FAULT_AT("capture-lifting");
        if (__atomic_load_n(&c->failed, __ATOMIC_ACQUIRE) == 0) {
            ff_protect_lift_all(c->protect);
        }
        ff_faults_stop(c->space);
        g_thread_join(c->fault_thread);
        c->fault_thread = NULL;
    }
    pthread_mutex_lock(&c->lock);
    if (c->writer) {
        c->written = ff_writer_stats(c->writer);
    }
    pthread_mutex_unlock(&c->lock);
    g_clear_pointer(&c->protect, ff_protect_free);
    if (c->space) {
        rc = ff_space_unregister(c->space);
        ff_faults_finish(c->space);
        restore_huge(c);
    }
    return rc == 0;
}

void ff_capture_free(FfCapture *c)
{
    if (!c) {
        return;
    }
    ff_writer_free(c->writer);
    ff_space_free(c->space);
    ff_huge_free(c->huge);
    if (c->wake_fd >= 0) {
        close(c->wake_fd);
    }
    pthread_mutex_destroy(&c->lock);
    g_free(c->blocks);
    g_free(c->runs);
    g_free(c);
}

/* ---- any thread ------------------------------------------------------------------------------ */

void ff_capture_cancel(FfCapture *c)
{
    __atomic_store_n(&c->cancelled, true, __ATOMIC_RELEASE);
    /* After it: the caller's thread does not take what is lost by that for saved. And now: that
     * thread may be in a write to a disk that does not answer. */
    ff_protect_give_up(c->protect);
    pthread_mutex_lock(&c->lock);
    if (c->writer) {
        ff_writer_cancel(c->writer);
    }
    pthread_mutex_unlock(&c->lock);
    wake_writer(c);
}

void ff_capture_wake(FfCapture *c)
{
    wake_writer(c);
}

void ff_capture_set_bandwidth(FfCapture *c, uint64_t bytes_per_second)
{
    pthread_mutex_lock(&c->lock);
    c->bandwidth = bytes_per_second;
    if (c->writer) {
        ff_writer_set_bandwidth(c->writer, bytes_per_second);
    }
    pthread_mutex_unlock(&c->lock);
    wake_writer(c);
}

FfCaptureStats ff_capture_stats(FfCapture *c)
{
    FfCaptureStats st = {.pages = c->pages};
    FfWriterStats w;

    st.passes = __atomic_load_n(&c->passes, __ATOMIC_RELAXED);
    st.prepared_last = __atomic_load_n(&c->prepared_last, __ATOMIC_RELAXED);
    st.arm_us = __atomic_load_n(&c->arm_us, __ATOMIC_RELAXED);
    pthread_mutex_lock(&c->lock);
    w = c->writer ? ff_writer_stats(c->writer) : c->written;
    pthread_mutex_unlock(&c->lock);
    st.bytes = w.bytes;
    st.zeros = w.zeros;
    st.again = w.again;
    st.way = w.way;
    if (c->protect) {
        st.left = ff_protect_left(c->protect);
        st.faults = ff_protect_latency(c->protect, st.latency);
        st.latency_p99_us = ff_protect_latency_p99(c->protect);
        st.waited = ff_protect_waited(c->protect);
        st.slots = ff_protect_slots(c->protect, &st.free_slots);
    }
    return st;
}
