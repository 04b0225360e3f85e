/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ranges of an address space and the states of its pages; see space.h for the threads and
 * space-internal.h for the lock. Only changes of the space allocate: what a page fault comes to
 * does not.
 *
 * From before the kernel changes a mapping until the thread that changes it has continued after
 * its event was read, it refuses to place (EAGAIN). The end of that has no event: the thread has
 * been woken, but may not have run yet. So a thread that waits for it looks again after a moment.
 *
 * System calls: eventfd, ioctl(UFFDIO_*), mmap, munmap, close.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "uffd/space-internal.h"
#include "uffd/uffd.h"

/* Of a thread that waits for the end of a change. */
#define LOOK_AGAIN_NS (1000 * 1000)
/* The kernel holds the process's mmap lock for so many bytes at most. */
#define UNREGISTER_PIECE (16ull << 20)
#define SMALL_PAGE 4096ull

static __thread const FfSpace *fault_thread_of;

/* ---- making ---------------------------------------------------------------------------------- */

static void init_locks(FfSpace *s)
{
    pthread_rwlockattr_t rw;
    pthread_condattr_t mono;

    /* The fault thread must not wait for as long as others keep placing. */
    pthread_rwlockattr_init(&rw);
    pthread_rwlockattr_setkind_np(&rw, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&s->lock, &rw);
    pthread_rwlockattr_destroy(&rw);
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &mono);
    pthread_condattr_destroy(&mono);
    pthread_mutex_init(&s->changed_lock, NULL);
    pthread_mutex_init(&s->again_lock, NULL);
    pthread_mutex_init(&s->answering, NULL);
}

typedef struct {
    uint64_t start, end;
} Unmap;

/* Of a space with WAKE_FD, which is taken. */
static FfSpace *new_space(const FfSpaceConfig *cfg, int wake_fd)
{
    FfSpace *s = g_new0(FfSpace, 1);

    /* A child of which nobody knows would find zeros, or wait for ever. */
    g_assert(!(cfg->features & UFFD_FEATURE_EVENT_FORK) || cfg->messages ||
             (cfg->ops && cfg->ops->forked));
    g_assert(!cfg->messages || cfg->features & FF_UFFD_EVENTS);
    s->cfg = *cfg;
    s->changes = cfg->features & FF_UFFD_EVENTS;
    s->ranges = g_array_new(FALSE, FALSE, sizeof(FfRegion));
    s->unmaps = g_array_new(FALSE, FALSE, sizeof(Unmap));
    s->wake_fd = wake_fd;
    s->child_wake_fd = -1;
    ff_sharers_init(&s->sharers, -1);
    init_locks(s);
    return s;
}

FfSpace *ff_space_new(const FfSpaceConfig *cfg)
{
    int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (wake_fd < 0) {
        return NULL;
    }
    g_autoptr(FfSpace) s = new_space(cfg, wake_fd);
    if (!s->changes) {
        s->sharers.changed_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    return s->changes || s->sharers.changed_fd >= 0 ? g_steal_pointer(&s) : NULL;
}

void ff_space_free(FfSpace *s)
{
    if (!s) {
        return;
    }
    for (unsigned i = 0; i < s->n_blocks; i++) {
        ff_bitmap_clear(&s->blocks[i].placed);
        ff_bitmap_clear(&s->blocks[i].requested);
        ff_bitmap_clear(&s->blocks[i].late);
    }
    if (s->zeros) {
        munmap(s->zeros, s->zeros_len);
    }
    if (s->owns_uffd) {
        close(s->cfg.uffd);
    }
    ff_sharers_clear(&s->sharers);
    close(s->wake_fd);
    if (s->child_wake_fd >= 0) {
        close(s->child_wake_fd);
    }
    g_array_unref(s->unmaps);
    g_array_unref(s->ranges);
    pthread_rwlock_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->changed_lock);
    pthread_mutex_destroy(&s->again_lock);
    pthread_mutex_destroy(&s->answering);
    g_free(s->blocks);
    g_free(s);
}

/* Where there is no UFFDIO_ZEROPAGE. Nobody writes there, so it costs no memory. */
static int need_zeros(FfSpace *s, size_t len)
{
    if (s->zeros_len >= len) {
        return 0;
    }
    /* All of it is the kernel's page of zeros. Mapped at once: to copy from what is not, the kernel
     * takes a second huge page for a moment, and there may be none. */
    void *p = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE,
                   -1, 0);
    if (p == MAP_FAILED) {
        return -errno;
    }
    if (s->zeros) {
        munmap(s->zeros, s->zeros_len);
    }
    s->zeros = p;
    s->zeros_len = len;
    return 0;
}

int ff_space_add_block(FfSpace *s, const FfBacking *backing, uint64_t *placed)
{
    FfSpaceBlock b = {.backing = *backing, .n_pages = backing->size / backing->page_size};
    int rc = ff_backing_has_zeropage(backing) ? 0 : need_zeros(s, backing->page_size);

    if (rc < 0) {
        return rc;
    }
    if (placed) {
        ff_bitmap_init_over(&b.placed, placed, b.n_pages);
    }
    if ((!placed && !ff_bitmap_try_init(&b.placed, b.n_pages, false)) ||
        !ff_bitmap_try_init(&b.requested, b.n_pages, false) ||
        !ff_bitmap_try_init(&b.late, s->changes ? b.n_pages : 0, false)) {
        ff_bitmap_clear(&b.placed);
        ff_bitmap_clear(&b.requested);
        return -ENOMEM;
    }
    s->blocks = g_renew(FfSpaceBlock, s->blocks, s->n_blocks + 1);
    s->blocks[s->n_blocks] = b;
    s->total_pages += b.n_pages;
    s->done_pages += ff_bitmap_count(&b.placed);
    return s->n_blocks++;
}

void ff_space_set_pager(FfSpace *s, FfPager *pager)
{
    s->cfg.pager = pager;
}

/* ---- ranges ---------------------------------------------------------------------------------- */

static FfRegion *nth_range(const FfSpace *s, guint i)
{
    return &g_array_index(s->ranges, FfRegion, i);
}

/* The first range that ends after ADDR. */
static guint search_range(const FfSpace *s, uint64_t addr)
{
    guint lo = 0, hi = s->ranges->len;

    while (lo < hi) {
        guint mid = (lo + hi) / 2;
        if (nth_range(s, mid)->addr + nth_range(s, mid)->len <= addr) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static bool follows_range(const FfRegion *a, const FfRegion *b)
{
    return a->file == b->file && a->addr + a->len == b->addr && a->offset + a->len == b->offset;
}

static void insert_range(FfSpace *s, FfRegion r)
{
    g_array_insert_val(s->ranges, search_range(s, r.addr), r);
}

/* With its neighbours it is one range again, if it has moved away and back: a process that moves
 * much must not make the list long. */
static void insert_joined(FfSpace *s, FfRegion r)
{
    guint i = search_range(s, r.addr);

    if (i < s->ranges->len && follows_range(&r, nth_range(s, i))) {
        r.len += nth_range(s, i)->len;
        g_array_remove_index(s->ranges, i);
    }
    if (i > 0 && follows_range(nth_range(s, i - 1), &r)) {
        nth_range(s, i - 1)->len += r.len;
    } else {
        g_array_insert_val(s->ranges, i, r);
    }
}

int ff_space_add_range(FfSpace *s, uint64_t addr, uint64_t len, unsigned block, uint64_t offset)
{
    if (block >= s->n_blocks) {
        return -EINVAL;
    }
    const FfSpaceBlock *b = &s->blocks[block];
    uint64_t ps = b->backing.page_size, size = b->n_pages * ps;
    if (!len || addr % ps || len % ps || offset % ps || offset > size || len > size - offset ||
        addr + len < addr) {
        return -EINVAL;
    }
    for (guint i = 0; i < s->ranges->len; i++) {
        const FfRegion *r = nth_range(s, i);
        bool same_addr = addr < r->addr + r->len && r->addr < addr + len;
        bool same_page =
            r->file == block && offset < r->offset + r->len && r->offset < offset + len;
        if (same_addr || same_page) {
            return -EEXIST;
        }
    }
    insert_range(s, (FfRegion){block, addr, offset, len});
    return 0;
}

int ff_space_register(FfSpace *s, uint64_t mode, unsigned *block)
{
    s->mode |= mode;
    s->not_registered = 0; /* an attempt before this one may have failed */
    if (s->mode & UFFDIO_REGISTER_MODE_WP && s->mode & ~UFFDIO_REGISTER_MODE_WP) {
        return -EINVAL;
    }
    for (guint i = 0; i < s->ranges->len; i++) {
        int rc = ff_uffd_register(s->cfg.uffd, nth_range(s, i)->addr, nth_range(s, i)->len, mode);
        if (rc < 0) {
            if (block) {
                *block = nth_range(s, i)->file;
            }
            /* EBUSY and the like are found before anything is changed, and what is another's must
             * not be taken out (older kernels do it). ENOMEM: of several mappings in this range the
             * first ones may be in. */
            s->not_registered = s->ranges->len - i - (rc == -ENOMEM);
            return rc;
        }
    }
    return 0;
}

/* Of writers at a protected page the kernel wakes nobody by itself; ff_uffd_unregister() does. It
 * goes through the page tables of what may be protected, hence the pieces. */
int ff_space_unregister(FfSpace *s)
{
    int rc = 0;

    ff_space_enter(s);
    for (guint i = 0; i + s->not_registered < s->ranges->len; i++) {
        const FfRegion *r = nth_range(s, i);
        uint64_t piece = s->mode == UFFDIO_REGISTER_MODE_MISSING
                             ? r->len
                             : MAX(UNREGISTER_PIECE, s->blocks[r->file].backing.page_size);
        for (uint64_t at = 0; at < r->len; at += piece) {
            int one = ff_uffd_unregister(s->cfg.uffd, r->addr + at, MIN(piece, r->len - at));
            rc = rc && one != -ENOMEM ? rc : one;
        }
    }
    ff_space_leave(s);
    int sharers = ff_sharers_unregister(&s->sharers);
    return sharers < 0 ? sharers : rc;
}

bool ff_space_find(const FfSpace *s, uint64_t addr, unsigned *block, uint64_t *page)
{
    guint i = search_range(s, addr);

    if (i == s->ranges->len || nth_range(s, i)->addr > addr) {
        return false;
    }
    const FfRegion *r = nth_range(s, i);
    *block = r->file;
    *page = (r->offset + (addr - r->addr)) / s->blocks[r->file].backing.page_size;
    return true;
}

uint64_t ff_space_find_addr(const FfSpace *s, unsigned block, uint64_t page, uint64_t *run)
{
    uint64_t offset = page * s->blocks[block].backing.page_size;

    for (guint i = 0; i < s->ranges->len; i++) {
        const FfRegion *r = nth_range(s, i);
        if (r->file == block && offset >= r->offset && offset - r->offset < r->len) {
            *run = r->len - (offset - r->offset);
            return r->addr + (offset - r->offset);
        }
    }
    *run = 0;
    return 0;
}

uint64_t ff_space_addr(const FfSpace *s, unsigned block, uint64_t page)
{
    uint64_t run;

    ff_space_enter((FfSpace *)s);
    uint64_t addr = ff_space_find_addr(s, block, page, &run);
    ff_space_leave((FfSpace *)s);
    return addr;
}

/* ---- changes --------------------------------------------------------------------------------- */

/* What R has of [START, END). FALSE: nothing. */
static bool part_of(const FfRegion *r, uint64_t start, uint64_t end, FfRegion *part)
{
    uint64_t from = MAX(start, r->addr), to = MIN(end, r->addr + r->len);

    if (from >= to) {
        return false;
    }
    *part = (FfRegion){r->file, from, r->offset + (from - r->addr), to - from};
    return true;
}

/* Of PART, which is bytes of one block, FN for whole pages, and PARTLY for others. */
static void each_page_of(FfSpace *s, const FfRegion *part, FfSpaceRunFunc fn, FfSpaceRunFunc partly,
                         void *opaque)
{
    uint64_t ps = s->blocks[part->file].backing.page_size, end = part->offset + part->len;
    uint64_t first = (part->offset + ps - 1) / ps, last = end / ps;

    if (part->offset % ps) {
        partly(s, &(FfRun){part->file, part->offset / ps, 1}, opaque);
    }
    if (first < last) {
        fn(s, &(FfRun){part->file, first, last - first}, opaque);
    }
    if (end % ps && last >= first) { /* else it is the page of which the begin is missing, too */
        partly(s, &(FfRun){part->file, last, 1}, opaque);
    }
}

void ff_space_each_run(FfSpace *s, uint64_t start, uint64_t end, FfSpaceRunFunc fn,
                       FfSpaceRunFunc part, void *opaque)
{
    for (guint i = search_range(s, start); i < s->ranges->len && nth_range(s, i)->addr < end; i++) {
        FfRegion some;
        if (part_of(nth_range(s, i), start, end, &some)) {
            each_page_of(s, &some, fn, part, opaque);
        }
    }
}

void ff_space_expect_unmap(FfSpace *s, uint64_t start, uint64_t end)
{
    if (s->cfg.features & UFFD_FEATURE_EVENT_UNMAP) {
        Unmap u = {start, end};
        g_array_append_val(s->unmaps, u);
    }
}

void ff_space_each_range(const FfSpace *s, FfSpaceRangeFunc fn, void *opaque)
{
    for (guint i = 0; i < s->ranges->len; i++) {
        const FfRegion *r = nth_range(s, i);
        fn(r->file, r->addr, r->len, r->offset, opaque);
    }
}

void ff_space_each_expected(const FfSpace *s, FfSpaceUnmapFunc fn, void *opaque)
{
    for (guint i = 0; i < s->unmaps->len; i++) {
        const Unmap *u = &g_array_index(s->unmaps, Unmap, i);
        fn(u->start, u->end, opaque);
    }
}

bool ff_space_is_expected_unmap(FfSpace *s, uint64_t start, uint64_t end)
{
    for (guint i = 0; i < s->unmaps->len; i++) {
        const Unmap *u = &g_array_index(s->unmaps, Unmap, i);
        if (u->start == start && u->end == end) {
            g_array_remove_index_fast(s->unmaps, i);
            return true;
        }
    }
    return false;
}

/* The kernel counts an UNMAP that is to come as a change from before the REMAP that it follows. */
void ff_space_forget_expected(FfSpace *s)
{
    const FfMessages *m = s->cfg.messages;

    /* In this order: what was read before the first look is known to the second. */
    if (s->unmaps->len && !ff_uffd_is_changing(s->cfg.uffd) &&
        (!m || m->is_idle(s->cfg.messages))) {
        g_array_set_size(s->unmaps, 0);
    }
}

void ff_space_cut(FfSpace *s, uint64_t start, uint64_t end)
{
    guint i = search_range(s, start);

    while (i < s->ranges->len && nth_range(s, i)->addr < end) {
        FfRegion r = *nth_range(s, i), before, after;
        bool has_before = part_of(&r, r.addr, start, &before);
        bool has_after = part_of(&r, end, r.addr + r.len, &after);
        g_array_remove_index(s->ranges, i);
        if (has_before) {
            g_array_insert_val(s->ranges, i++, before);
        }
        if (has_after) {
            g_array_insert_val(s->ranges, i++, after);
        }
    }
}

void ff_space_move(FfSpace *s, uint64_t from, uint64_t to, uint64_t len)
{
    g_autoptr(GArray) moved = g_array_new(FALSE, FALSE, sizeof(FfRegion));
    FfRegion part;

    for (guint i = 0; i < s->ranges->len; i++) {
        if (part_of(nth_range(s, i), from, from + len, &part)) {
            part.addr = to + (part.addr - from);
            g_array_append_val(moved, part);
        }
    }
    ff_space_cut(s, from, from + len);
    ff_space_cut(s, to, to + len);
    for (guint i = 0; i < moved->len; i++) {
        insert_joined(s, g_array_index(moved, FfRegion, i));
    }
}

int ff_space_prepare_fork(FfSpace *s)
{
    if (s->cfg.features & UFFD_FEATURE_EVENT_FORK && s->child_wake_fd < 0) {
        s->child_wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return s->child_wake_fd < 0 ? -errno : 0;
    }
    return 0;
}

FfSpace *ff_space_fork(FfSpace *s, int uffd)
{
    FfSpace *child = new_space(&s->cfg, s->child_wake_fd);

    s->child_wake_fd = -1;
    child->cfg.uffd = uffd;
    child->cfg.pager = NULL;
    child->cfg.pagemap_fd = -1; /* was the parent's */
    child->owns_uffd = true;
    for (unsigned i = 0; i < s->n_blocks; i++) {
        const FfSpaceBlock *b = &s->blocks[i];
        FfBacking backing = b->backing;
        if (backing.kind == FF_BACKING_PRIVATE) {
            backing.fd = -1; /* so was that */
        }
        g_assert(ff_space_add_block(child, &backing, NULL) >= 0);
        uint64_t first = 0, n;
        for (uint64_t at = 0; (n = ff_bitmap_next_run(&b->placed, at, true, &first));
             at = first + n) {
            child->done_pages += ff_bitmap_set_run(&child->blocks[i].placed, first, n);
        }
    }
    g_array_append_vals(child->ranges, s->ranges->data, s->ranges->len);
    return child;
}

/* ---- the lock, and who waits for a change ---------------------------------------------------- */

void ff_space_set_fault_thread(FfSpace *s)
{
    fault_thread_of = s;
}

bool ff_space_is_fault_thread(const FfSpace *s)
{
    return fault_thread_of == s;
}

uint64_t ff_space_enter(FfSpace *s)
{
    if (!s->changes || ff_space_is_fault_thread(s)) {
        return 0;
    }
    FfMessages *m = s->cfg.messages;
    pthread_rwlock_rdlock(&s->lock);
    unsigned seen;
    while (m && !m->enter(m, &seen)) {
        pthread_rwlock_unlock(&s->lock); /* for the fault thread, which opens the gate */
        m->wait(m, seen);
        pthread_rwlock_rdlock(&s->lock);
    }
    return s->generation;
}

void ff_space_leave(FfSpace *s)
{
    if (s->changes && !ff_space_is_fault_thread(s)) {
        if (s->cfg.messages) {
            s->cfg.messages->leave(s->cfg.messages);
        }
        pthread_rwlock_unlock(&s->lock);
    }
}

bool ff_space_begin_answers(FfSpace *s)
{
    FfMessages *m = s->cfg.messages;

    return !m || m->enter_to_answer(m);
}

void ff_space_end_answers(FfSpace *s)
{
    if (s->cfg.messages) {
        s->cfg.messages->leave(s->cfg.messages);
    }
}

/* Linux 6.8 and later looks for the mapping first, and then whether it is being changed: a mapping
 * that has just moved away is ENOENT, or another one stands there that does not fit. */
int ff_space_check(const FfSpace *s, int rc)
{
    bool odd = rc == -ENOENT || rc == -EINVAL || rc == -EFAULT;

    return odd && s->changes && ff_uffd_is_changing(s->cfg.uffd) ? -EAGAIN : rc;
}

int ff_space_wait_change(FfSpace *s, uint64_t seen)
{
    struct timespec end;

    if (!s->changes || !ff_uffd_is_changing(s->cfg.uffd)) {
        return 0; /* only a page table was being changed */
    }
    if (ff_space_is_fault_thread(s)) {
        return -EAGAIN;
    }
    ff_space_count(s, waits);
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += LOOK_AGAIN_NS;
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    pthread_mutex_lock(&s->changed_lock);
    int rc = 0;
    while (s->generation == seen && !s->cancelled && rc == 0) {
        rc = pthread_cond_timedwait(&s->changed, &s->changed_lock, &end);
    }
    bool cancelled = s->cancelled;
    pthread_mutex_unlock(&s->changed_lock);
    return cancelled ? -ECANCELED : 0;
}

void ff_space_cancel(FfSpace *s)
{
    pthread_mutex_lock(&s->changed_lock);
    s->cancelled = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->changed_lock);
}

void ff_space_uncancel(FfSpace *s)
{
    pthread_mutex_lock(&s->changed_lock);
    s->cancelled = false;
    pthread_mutex_unlock(&s->changed_lock);
}

bool ff_space_end_waits(FfSpace *s, unsigned block, uint64_t page, uint64_t n)
{
    return ff_waits_end(&s->waits, block, page, n, s->cfg.ops ? s->cfg.ops->wait_ended : NULL,
                        s->cfg.opaque);
}

void ff_space_defer(FfSpace *s, uint64_t addr)
{
    if (s->n_deferred < FF_SPACE_BATCH) {
        s->deferred[s->n_deferred++] = addr;
        return;
    }
    s->rest_start = s->rest_end ? MIN(s->rest_start, addr) : addr;
    s->rest_end = MAX(s->rest_end, addr + SMALL_PAGE);
}

void ff_space_lift_later(FfSpace *s, const FfRun *run)
{
    ff_bitmap_set_run(&s->blocks[run->block].late, run->first, run->n);
    s->has_late = true;
}

int ff_space_wake_all(FfSpace *s)
{
    int rc = 0;

    ff_space_enter(s);
    for (guint i = 0; i < s->ranges->len; i++) {
        int one = ff_uffd_wake(s->cfg.uffd, nth_range(s, i)->addr, nth_range(s, i)->len);
        rc = rc ? rc : one;
    }
    ff_space_leave(s);
    ff_sharers_wake_all(&s->sharers);
    return rc;
}

/* ---- who else has the memory ----------------------------------------------------------------- */

static bool fits_block(const FfSpace *s, const FfSharerRange *r)
{
    if (r->block >= s->n_blocks || s->changes) {
        return false;
    }
    const FfBacking *b = &s->blocks[r->block].backing;
    uint64_t odd = r->addr | r->len | r->offset;

    return b->kind != FF_BACKING_PRIVATE && r->len && !(odd % b->page_size) &&
           r->offset <= b->size && r->len <= b->size - r->offset && r->addr + r->len > r->addr;
}

static bool all_fit(const FfSpace *s, const FfSharerRange *ranges, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (!fits_block(s, &ranges[i])) {
            return false;
        }
    }
    return n > 0;
}

int ff_space_add_sharer(FfSpace *s, int uffd, const FfSharerRange *ranges, unsigned n)
{
    FfSharerRange own[FF_MAX_SHARER_RANGES];

    if (n > G_N_ELEMENTS(own) || !all_fit(s, ranges, n)) {
        close(uffd);
        return n > G_N_ELEMENTS(own) ? -ENOSPC : -EINVAL;
    }
    for (unsigned i = 0; i < n; i++) {
        own[i] = ranges[i];
        own[i].page_size = s->blocks[own[i].block].backing.page_size;
    }
    return ff_sharers_add(&s->sharers, uffd, own, n);
}

FfSharers *ff_space_sharers(FfSpace *s)
{
    return &s->sharers;
}

/* ---- what can be asked ----------------------------------------------------------------------- */

FfSpaceCounts ff_space_counts(const FfSpace *s)
{
    return (FfSpaceCounts){
        .missing = __atomic_load_n(&s->counts.missing, __ATOMIC_RELAXED),
        .minor = __atomic_load_n(&s->counts.minor, __ATOMIC_RELAXED),
        .written = __atomic_load_n(&s->counts.written, __ATOMIC_RELAXED),
        .events = __atomic_load_n(&s->counts.events, __ATOMIC_RELAXED),
        .waits = __atomic_load_n(&s->counts.waits, __ATOMIC_RELAXED),
    };
}

const FfWaits *ff_space_waits(const FfSpace *s)
{
    return &s->waits;
}

bool ff_space_is_placed(const FfSpace *s, unsigned block, uint64_t page)
{
    return ff_bitmap_test(&s->blocks[block].placed, page);
}

uint64_t ff_space_missing(const FfSpace *s)
{
    return s->total_pages - __atomic_load_n(&s->done_pages, __ATOMIC_ACQUIRE);
}
