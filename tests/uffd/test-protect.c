/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Synchronous write protection: what a saver gets is what the memory held when it was protected,
 * page by page and each exactly once, whatever writers do meanwhile and however small the buffer
 * is; and every write is there in the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/uffd/rig.h"
#include "tests/uffd/swap.h"
#include "uffd/pagemap.h"
#include "uffd/protect.h"
#include "uffd/space-internal.h"

#define WP UFFDIO_REGISTER_MODE_WP
#define WRITERS 3

typedef struct {
    Rig *r;
    FfProtect *p;
    unsigned writers_left; /* r->lock */
    unsigned saved;
    unsigned *seen; /* by page */
    unsigned holes; /* from this page on nothing was there */
} Saver;

static void on_written(FfPager *p, const FfRun *run)
{
    Rig *r = (Rig *)p;

    pthread_mutex_lock(&r->lock);
    r->written += run->n;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void add_bytes(uint64_t addr, uint64_t len, void *opaque)
{
    *(uint64_t *)opaque += len;
}

/* Huge pages are mapped; protecting splits them. */
static void assert_is_huge(const Rig *r)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t bytes = 0;
    int rc = ff_pagemap_scan_huge(pagemap, (uintptr_t)r->map, r->len, add_bytes, &bytes);

    close(pagemap);
    if (rc == 0) { /* before Linux 6.7 nobody can tell */
        g_assert_cmpuint(bytes, ==, r->len);
    }
}

static void on_full(FfPager *p, const FfRun *run)
{
    Rig *r = (Rig *)p;

    pthread_mutex_lock(&r->lock);
    r->full += run->n;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void wait_until_full(Rig *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->full) {
        pthread_cond_wait(&r->changed, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
}

/* Memory of KIND that holds the pattern, and its last quarter nothing; protected, with a BUFFER. */
static Rig *protected_memory(RigKind kind, uint64_t features, unsigned slots, FfProtect **p)
{
    Rig *r = rig_new(kind, WP, features);

    if (!r) {
        return NULL;
    }
    rig_populate(r);
    for (unsigned i = 0; i < r->n_pages; i++) { /* maps it, too */
        rig_check(r, i, rig_page(r, i));
    }
    if (kind == RIG_SHMEM_HUGE) {
        assert_is_huge(r);
    }
    if (!features) { /* nobody reads of it yet */
        rig_drop(r, r->n_pages - r->n_pages / 4, r->n_pages / 4);
    }
    r->pager.written = on_written;
    r->pager.full = on_full;
    g_assert_cmpint(ff_protect_new(r->s, slots * r->page_size, p), ==, 0);
    g_assert_cmpint(ff_protect_arm(*p, &(FfRun){0, 0, r->n_pages}), ==, 0);
    g_assert_cmpuint(ff_protect_left(*p), ==, r->n_pages);
    return r;
}

static void check_saved(Saver *s, unsigned page, const void *data)
{
    g_assert_cmpuint(s->seen[page], ==, 0);
    s->seen[page]++;
    s->saved++;
    if (page < s->holes) {
        g_assert_true(rig_is_pattern(s->r, page, data));
    } else {
        rig_check_zero(s->r, data);
    }
}

/* TRUE: there was one. */
static bool save_kept(Saver *s)
{
    const void *data;
    unsigned slot;
    FfRun run;

    if (!ff_protect_take(s->p, &slot, &run, &data)) {
        return false;
    }
    check_saved(s, run.first, data);
    ff_protect_release(s->p, slot);
    return true;
}

static void save_run(Saver *s, const FfRun *run)
{
    uint64_t ps = s->r->page_size;
    g_autofree char *buf = g_malloc(ps);

    for (unsigned i = 0; i < run->n; i++) {
        uint64_t page = run->first + i;
        g_assert_cmpint(ff_protect_read(s->p, &(FfRun){0, page, 1}, buf), ==, 0);
        check_saved(s, page, buf);
    }
    g_assert_cmpint(ff_protect_done(s->p, run), ==, 0);
}

/* FALSE: there is nothing to save just now. */
static bool save_some(Saver *s, uint64_t *at)
{
    FfRun run = {0};

    if (save_kept(s)) {
        return true;
    }
    if (!ff_protect_wanted(s->p, &run)) {
        run.n = ff_protect_claim(s->p, 0, *at, 7, &run.first);
        *at = run.n ? run.first + run.n : *at;
    }
    if (run.n) {
        save_run(s, &run);
    }
    return run.n;
}

static unsigned told(Rig *r)
{
    return r->written + r->full;
}

static void save_all(Saver *s)
{
    Rig *r = s->r;

    for (uint64_t at = 0; s->saved < r->n_pages;) {
        pthread_mutex_lock(&r->lock);
        unsigned before = told(r);
        pthread_mutex_unlock(&r->lock);
        if (save_some(s, &at)) {
            continue;
        }
        pthread_mutex_lock(&r->lock);
        while (told(r) == before) {
            pthread_cond_wait(&r->changed, &r->lock);
        }
        pthread_mutex_unlock(&r->lock);
    }
}

typedef struct {
    Saver *s;
    unsigned index;
} Writer;

/* Each writer has a word of its own in every page. */
static gpointer write_all(gpointer p)
{
    Writer *w = p;
    Rig *r = w->s->r;

    for (unsigned i = 0; i < r->n_pages; i++) {
        unsigned page = (i * (2 * w->index + 1) * 5 + w->index) % r->n_pages;
        volatile uint64_t *words = (uint64_t *)rig_page(r, page);
        words[w->index] = page * WRITERS + w->index + 1;
    }
    return NULL;
}

static void save_while_written(RigKind kind, unsigned slots)
{
    g_autoptr(FfProtect) p = NULL;
    Rig *r = protected_memory(kind, 0, slots, &p);
    GThread *threads[WRITERS];
    Writer writers[WRITERS];

    if (!r) {
        return;
    }
    g_autofree unsigned *seen = g_new0(unsigned, r->n_pages);
    Saver s = {.r = r, .p = p, .seen = seen, .holes = r->n_pages - r->n_pages / 4};
    rig_start(r);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (Writer){&s, i};
        threads[i] = g_thread_new("writer", write_all, &writers[i]);
    }
    save_all(&s);
    for (unsigned i = 0; i < WRITERS; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpuint(ff_protect_left(p), ==, 0);
    g_assert_cmpuint(ff_protect_lost(p), ==, 0);
    for (unsigned i = 0; i < r->n_pages; i++) {
        for (unsigned k = 0; k < WRITERS; k++) {
            g_assert_cmpuint(((uint64_t *)rig_page(r, i))[k], ==, i * WRITERS + k + 1);
        }
    }
    if (slots == 0) {
        g_assert_cmpuint(r->written, ==, 0);
    }
    rig_stop(r);
    g_clear_pointer(&p, ff_protect_free);
    rig_free(r);
}

static void test_save_large(RigKind kind)
{
    save_while_written(kind, 2000);
}

static void test_save_small(RigKind kind)
{
    save_while_written(kind, 2);
}

static void test_save_without(RigKind kind)
{
    save_while_written(kind, 0);
}

/* Nobody saves until the buffer is full: as many pages as slots are kept, and the writer waits.
 * Then only what was kept is taken, so every page goes through the buffer. */
static void test_full(RigKind kind)
{
    enum { SLOTS = 3 };
    g_autoptr(FfProtect) p = NULL;
    Rig *r = protected_memory(kind, 0, SLOTS, &p);

    if (!r) {
        return;
    }
    g_autofree unsigned *seen = g_new0(unsigned, r->n_pages);
    Saver s = {.r = r, .p = p, .seen = seen, .holes = r->n_pages - r->n_pages / 4};
    Writer w = {&s, 0};
    rig_start(r);
    GThread *writer = g_thread_new("writer", write_all, &w);
    for (unsigned n = 1; n <= r->n_pages; n++) {
        pthread_mutex_lock(&r->lock);
        while (r->written < n) {
            pthread_cond_wait(&r->changed, &r->lock);
        }
        g_assert_cmpuint(r->written, <=, n - 1 + SLOTS);
        pthread_mutex_unlock(&r->lock);
        if (n == 1) {
            wait_until_full(r); /* the fourth write */
            g_assert_cmpuint(ff_protect_left(p), ==, r->n_pages);
            g_assert_cmpuint(ff_protect_waited(p), ==, 1);
        }
        g_assert_true(save_kept(&s));
    }
    g_thread_join(writer);
    g_assert_cmpuint(s.saved, ==, r->n_pages);
    g_assert_cmpuint(r->written, ==, r->n_pages);
    g_assert_cmpuint(ff_protect_left(p), ==, 0);
    rig_stop(r);
    g_clear_pointer(&p, ff_protect_free);
    rig_free(r);
}

/* Without a buffer of its own: the pager notes the write, and lets it continue. */
static void test_lift(RigKind kind)
{
    Rig *r = rig_new(kind, WP, 0);

    if (!r) {
        return;
    }
    g_autofree char *buf = g_malloc(r->page_size);
    r->pager.written = on_written;
    rig_populate(r);
    g_assert_cmpint(ff_uffd_protect(r->uffd, (uintptr_t)r->map, r->len), ==, 0);
    rig_start(r);
    Saver s = {.r = r};
    Writer w = {&s, 0};
    GThread *writer = g_thread_new("writer", write_all, &w);
    for (unsigned n = 0; n < r->n_pages; n++) {
        pthread_mutex_lock(&r->lock);
        while (r->written < n + 1) {
            pthread_cond_wait(&r->changed, &r->lock);
        }
        g_assert_cmpuint(r->written, ==, n + 1); /* it waits */
        pthread_mutex_unlock(&r->lock);
        FfRun run = {0, n * 5 % r->n_pages, 1};
        /* not written yet */
        g_assert_cmpint(ff_backing_read(&r->backing, run.first * r->page_size,
                                        (uintptr_t)rig_page(r, run.first), buf, r->page_size),
                        ==, 0);
        g_assert_true(rig_is_pattern(r, run.first, buf));
        g_assert_cmpint(ff_protect_lift(r->s, &run), ==, 0);
    }
    g_thread_join(writer);
    rig_stop(r);
    g_assert_cmpuint(ff_space_counts(r->s).written, ==, r->n_pages);
    rig_free(r);
}

/* Before it is armed, protected memory can be written: nothing is kept, and what was written to is
 * protected again when it is armed. */
static void test_prepare(RigKind kind)
{
    g_autoptr(FfProtect) p = NULL;
    Rig *r = rig_new(kind, WP, 0);
    uint64_t n;

    if (!r) {
        return;
    }
    FfRun all = {0, 0, r->n_pages};
    g_autofree unsigned *seen = g_new0(unsigned, r->n_pages);
    rig_populate(r);
    r->pager.written = on_written;
    g_assert_cmpint(ff_protect_new(r->s, 4 * r->page_size, &p), ==, 0);
    rig_start(r);
    for (unsigned round = 0; round < 3; round++) {
        g_assert_cmpint(ff_protect_prepare(p, &all, &n), ==, 0);
        g_assert_cmpuint(n, ==, round == 0 ? r->n_pages : 2);
        for (unsigned i = 3; i < 5; i++) {
            volatile uint64_t *words = (uint64_t *)rig_page(r, i);
            words[0] = rig_word(i, 0);
            words[1] = rig_word(i, 1); /* no fault any more */
        }
        g_assert_cmpuint(ff_space_counts(r->s).written, ==, 2 * (round + 1));
    }
    g_assert_cmpuint(ff_protect_left(p), ==, 0);
    g_assert_cmpint(ff_protect_arm(p, &all), ==, 0);
    g_assert_cmpuint(rig_written(r), ==, 0);
    Saver s = {.r = r, .p = p, .seen = seen, .holes = r->n_pages};
    for (unsigned i = 4; i < 6; i++) { /* one was written to, and the other one not */
        *(volatile uint64_t *)rig_page(r, i) = 1;
        g_assert_true(save_kept(&s));
        g_assert_cmpuint(seen[i], ==, 1);
    }
    rig_stop(r);
    g_clear_pointer(&p, ff_protect_free);
    rig_free(r);
}

/* A page is given back ahead of the instant: the event is read, the page is protected, and then the
 * kernel takes it out, and its protection with it. It is armed all the same. */
static void test_prepare_given(RigKind kind)
{
    g_autoptr(FfProtect) p = NULL;
    Rig *r = rig_new(kind, WP, UFFD_FEATURE_EVENT_REMOVE);
    uint64_t n;

    if (!r) {
        return;
    }
    FfRun all = {0, 0, r->n_pages};
    g_autofree unsigned *seen = g_new0(unsigned, r->n_pages);
    rig_populate(r);
    r->pager.written = on_written;
    g_assert_cmpint(ff_protect_new(r->s, 4 * r->page_size, &p), ==, 0);
    rig_start(r);
    g_assert_cmpint(ff_protect_prepare(p, &all, &n), ==, 0);
    g_assert_cmpint(madvise(rig_page(r, 3), r->page_size, MADV_REMOVE), ==, 0);
    for (unsigned pass = 0; pass < 2; pass++) {
        g_assert_cmpint(ff_protect_prepare(p, &all, &n), ==, 0);
        g_assert_cmpuint(n, ==, 1);
    }
    rig_drop(r, 3, 1); /* without an event */
    g_assert_cmpint(ff_protect_arm(p, &all), ==, 0);
    Saver s = {.r = r, .p = p, .seen = seen, .holes = 3};
    *(volatile uint64_t *)rig_page(r, 3) = 1;
    g_assert_true(save_kept(&s));
    g_assert_cmpuint(seen[3], ==, 1);
    rig_stop(r);
    g_clear_pointer(&p, ff_protect_free);
    rig_free(r);
}

/* And it ends with nothing armed. */
static void test_prepare_end(RigKind kind)
{
    g_autoptr(FfProtect) p = NULL;
    Rig *r = rig_new(kind, WP, 0);
    uint64_t n;

    if (!r) {
        return;
    }
    rig_populate(r);
    g_assert_cmpint(ff_protect_new(r->s, 0, &p), ==, 0);
    g_assert_cmpint(ff_protect_prepare(p, &(FfRun){0, 0, r->n_pages}, &n), ==, 0);
    g_clear_pointer(&p, ff_protect_free);
    for (unsigned i = 0; i < r->n_pages; i++) {
        *(volatile char *)rig_page(r, i) = 1; /* nobody would answer */
    }
    rig_free(r);
}

/* What is given back before it was saved is lost, and counted. */
static void test_lost(RigKind kind)
{
    g_autoptr(FfProtect) p = NULL;
    Rig *r = protected_memory(kind, UFFD_FEATURE_EVENT_REMOVE, 4, &p);

    if (!r) {
        return;
    }
    FfRun run = {.block = 0};
    rig_start(r);
    run.n = ff_protect_claim(p, 0, 0, 2, &run.first);
    g_assert_cmpuint(run.n, ==, 2);
    g_assert_cmpint(ff_protect_done(p, &run), ==, 0);
    g_assert_cmpint(madvise(r->map, 4 * r->page_size, r->fd < 0 ? MADV_DONTNEED : MADV_REMOVE), ==,
                    0);
    g_assert_cmpuint(ff_protect_lost(p), ==, 2);
    g_assert_cmpuint(ff_protect_left(p), ==, r->n_pages - 4);
    *(volatile char *)r->map = 1; /* nobody is in the way any more */
    rig_stop(r);
    g_clear_pointer(&p, ff_protect_free);
    rig_free(r);
}

/* What only is not mapped any more (MADV_DONTNEED of shared memory) is neither lost nor open. */
static void test_unmapped(RigKind kind)
{
    g_autoptr(FfProtect) p = NULL;
    Rig *r = protected_memory(kind, UFFD_FEATURE_EVENT_REMOVE, 4, &p);

    if (!r) {
        return;
    }
    g_autofree unsigned *seen = g_new0(unsigned, r->n_pages);
    Saver s = {.r = r, .p = p, .seen = seen, .holes = r->n_pages};
    r->s->cfg.shared_remove = FF_SHARED_REMOVE_UNMAPS;
    rig_start(r);
    g_assert_cmpint(madvise(r->map, 4 * r->page_size, MADV_DONTNEED), ==, 0);
    g_assert_cmpuint(ff_protect_lost(p), ==, 0);
    *(volatile char *)r->map = 1;
    g_assert_true(save_kept(&s));
    g_assert_cmpuint(seen[0], ==, 1);
    g_assert_cmpuint(ff_protect_left(p), ==, r->n_pages - 1);
    rig_stop(r);
    g_clear_pointer(&p, ff_protect_free);
    rig_free(r);
}

static gpointer write_first(gpointer p)
{
    Rig *r = p;

    *(volatile char *)r->map = 1;
    return NULL;
}

/* A thread that waits continues when the protection ends before the page was saved, whether the
 * fault was read or not. */
static void test_end(RigKind kind)
{
    for (unsigned round = 0; round < 2; round++) {
        g_autoptr(FfProtect) p = NULL;
        Rig *r = protected_memory(kind, 0, 0, &p);
        if (!r) {
            return;
        }
        if (round == 0) {
            rig_start(r);
        }
        GThread *writer = g_thread_new("writer", write_first, r);
        if (round == 0) {
            wait_until_full(r);
        }
        rig_stop(r);
        g_clear_pointer(&p, ff_protect_free);
        g_thread_join(writer);
        g_assert_cmpint(r->map[0], ==, 1);
        rig_free(r);
    }
}

/* And when the memory is taken out of the userfaultfd: of writers the kernel wakes nobody by
 * itself. */
static void test_unregister(RigKind kind)
{
    g_autoptr(FfProtect) p = NULL;
    Rig *r = protected_memory(kind, 0, 0, &p);

    if (!r) {
        return;
    }
    rig_start(r);
    GThread *writer = g_thread_new("writer", write_first, r);
    wait_until_full(r);
    g_assert_cmpint(ff_space_unregister(r->s), ==, 0);
    g_thread_join(writer);
    rig_stop(r);
    g_clear_pointer(&p, ff_protect_free);
    rig_free(r);
}

/* ---- swapped out ----------------------------------------------------------------------------- */

/* Memory that is in swap is there: nothing is placed over it, and its old content is kept as that
 * of any other. */
static void test_swapped(RigKind kind)
{
    const char *why = NULL;
    Swap *swap = swap_try(&why);

    if (!swap) {
        g_test_skip(why);
        return;
    }
    Rig *r = rig_new(kind, WP, 0);
    if (r) {
        rig_populate(r);
        for (unsigned i = 0; i < r->n_pages; i++) { /* maps it, alone: else it stays in memory */
            rig_check(r, i, rig_page(r, i));
        }
        g_assert_true(!r->alias || madvise(r->alias, r->len, MADV_DONTNEED) == 0);
        unsigned out = swap_out(r->map, r->len);
        g_test_message("%u of %u pages are swapped out", out, r->n_pages);
        g_assert_cmpuint(out, >=, r->n_pages / 2);
        g_autofree char *other = g_malloc0(r->page_size);
        uint64_t done;
        g_assert_cmpint(
            ff_uffd_try(r->uffd, FF_UFFD_COPY, (uintptr_t)r->map, other, r->page_size, &done), ==,
            -EEXIST);
        r->pager.written = on_written;
        r->pager.full = on_full;
        g_autoptr(FfProtect) p = NULL;
        g_assert_cmpint(ff_protect_new(r->s, 64 * r->page_size, &p), ==, 0);
        g_autofree unsigned *seen = g_new0(unsigned, r->n_pages);
        Saver s = {.r = r, .p = p, .seen = seen, .holes = r->n_pages};
        Writer w = {&s, 0};
        g_assert_cmpint(ff_protect_arm(p, &(FfRun){0, 0, r->n_pages}), ==, 0);
        rig_start(r);
        GThread *writer = g_thread_new("writer", write_all, &w);
        save_all(&s);
        g_thread_join(writer);
        rig_stop(r);
        g_assert_cmpuint(ff_space_counts(r->s).missing, ==, 0);
        g_clear_pointer(&p, ff_protect_free);
        rig_free(r);
    }
    swap_free(swap);
}

/* ---- refused --------------------------------------------------------------------------------- */

/* What is placed takes the protection off. */
static void test_refuse_missing(RigKind kind)
{
    static const uint64_t other[] = {UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_MINOR};

    for (unsigned i = 0; i < G_N_ELEMENTS(other); i++) {
        Rig *r = rig_new(kind, 0, 0);
        if (!r) {
            return;
        }
        g_assert_cmpint(ff_space_register(r->s, WP | other[i], NULL), ==, -EINVAL);
        rig_free(r);
    }
    Rig *r = rig_new(kind, WP, 0);
    if (r) {
        g_assert_cmpint(ff_space_register(r->s, UFFDIO_REGISTER_MODE_MISSING, NULL), ==, -EINVAL);
        rig_free(r);
    }
}

/* What a child writes to memory that it shares is told to nobody. */
static void test_refuse_fork(RigKind kind)
{
    Rig *r = rig_new(kind, WP, UFFD_FEATURE_EVENT_FORK);
    g_autoptr(FfProtect) p = NULL;

    if (!r) {
        return;
    }
    g_assert_cmpint(ff_protect_new(r->s, r->page_size, &p), ==, kind == RIG_ANON ? 0 : -ENOTSUP);
    g_clear_pointer(&p, ff_protect_free);
    rig_free(r);
}

/* ---- in the stop ----------------------------------------------------------------------------- */

typedef struct {
    uint64_t faults; /* page faults of our own */
    int64_t us;      /* of this thread's processor time */
} Cost;

static Cost own_cost(void)
{
    struct timespec t;
    struct rusage u;

    g_assert_cmpint(getrusage(RUSAGE_THREAD, &u), ==, 0);
    g_assert_cmpint(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), ==, 0);
    return (Cost){(uint64_t)u.ru_minflt, t.tv_sec * 1000000 + t.tv_nsec / 1000};
}

/* BYTES of holes, all of them ready. */
static Cost arm_ready(uint64_t bytes, uint64_t features)
{
    static const FfSpaceOps no_ops = {0};
    FfPager pager = {0};
    const FfRun all = {0, 0, bytes / 4096};
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    int fd = memfd_create("much", MFD_CLOEXEC);
    FfBacking backing;
    FfProtect *p;
    uint64_t n;

    g_assert_cmpint(ff_uffd_init(uffd, features, NULL), ==, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)bytes), ==, 0);
    char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    g_assert_true(map != MAP_FAILED);
    g_assert_cmpint(ff_backing_of_file(fd, &backing), ==, 0);
    FfSpace *s = ff_space_new(&(FfSpaceConfig){
        .uffd = uffd, .features = features, .pagemap_fd = -1, .pager = &pager, .ops = &no_ops});
    g_assert_cmpuint(ff_space_add_block(s, &backing, NULL), ==, 0);
    g_assert_cmpint(ff_space_add_range(s, (uintptr_t)map, bytes, 0, 0), ==, 0);
    g_assert_cmpint(ff_space_register(s, WP, NULL), ==, 0);
    g_assert_cmpint(ff_protect_new(s, 0, &p), ==, 0);
    g_assert_cmpint(ff_protect_prepare(p, &all, &n), ==, 0);
    g_assert_cmpuint(n, ==, all.n);
    Cost before = own_cost();
    g_assert_cmpint(ff_protect_arm(p, &all), ==, 0);
    Cost after = own_cost();
    g_assert_cmpuint(ff_protect_left(p), ==, all.n);
    ff_protect_free(p);
    ff_space_free(s);
    munmap(map, bytes);
    close(fd);
    close(uffd);
    return (Cost){after.faults - before.faults, after.us - before.us};
}

/* Arming what is ready is done while a guest stands: it makes no system call, meets no page for the
 * first time, and takes four times as long for four times as much. */
static void test_arm_much(void)
{
    uint64_t features = 0;
    Cost best[2] = {{UINT64_MAX, INT64_MAX}, {UINT64_MAX, INT64_MAX}};

    if (!rig_features(RIG_MEMFD, WP, &features)) {
        return;
    }
    for (unsigned i = 0; i < 6; i++) {
        Cost c = arm_ready(1ull << (30 + i % 2 * 2), features);

        best[i % 2].us = MIN(best[i % 2].us, c.us);
        best[i % 2].faults = MIN(best[i % 2].faults, c.faults);
    }
    g_test_message("armed: 1 GiB in %d us, 4 GiB in %d us with %d page faults", (int)best[0].us,
                   (int)best[1].us, (int)best[1].faults);
#if !defined(__SANITIZE_ADDRESS__) &&                                                              \
    !defined(__SANITIZE_THREAD__) /* have a shadow, which faults */
    g_assert_cmpuint(best[1].faults, <, 8);
#endif
    g_assert_cmpint(best[1].us, <, 9 * best[0].us);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_add("/protect/save-large", RIG_ALL, test_save_large);
    rig_add("/protect/save-small", RIG_ALL, test_save_small);
    rig_add("/protect/save-without", RIG_ALL, test_save_without);
    rig_add("/protect/full", RIG_ALL, test_full);
    rig_add("/protect/lift", RIG_ALL, test_lift);
    rig_add("/protect/prepare", RIG_ALL, test_prepare);
    rig_add("/protect/prepare-given", RIG_FILES, test_prepare_given);
    rig_add("/protect/prepare-end", RIG_ALL, test_prepare_end);
    rig_add("/protect/lost", RIG_ALL, test_lost);
    g_test_add_func("/protect/arm-much", test_arm_much);
    rig_add("/protect/unmapped", RIG_FILES, test_unmapped);
    rig_add("/protect/end", RIG_ALL, test_end);
    rig_add("/protect/unregister", RIG_ALL, test_unregister);
    /* hugetlb is never swapped out */
    rig_add("/protect/swapped", RIG_ALL & ~RIG_BIT(RIG_HUGETLB), test_swapped);
    rig_add("/protect/refuse-missing", RIG_ALL, test_refuse_missing);
    rig_add("/protect/refuse-fork", RIG_ALL, test_refuse_fork);
    return g_test_run();
}
