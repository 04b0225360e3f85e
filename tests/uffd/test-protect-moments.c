/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Synchronous write protection at the moments that decide: two threads meet at one page, in an
 * order that named points make (base/failpoints.h).
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/uffd/rig.h"
#include "uffd/protect-internal.h"
#include "uffd/space-internal.h"

#define WP UFFDIO_REGISTER_MODE_WP
#define CHANGES (FF_UFFD_EVENTS & ~UFFD_FEATURE_EVENT_FORK)

/* What meets. */
typedef struct {
    Rig *r;
    FfProtect *p;
    unsigned page;
    uint64_t left;
    GThread *other, *writer;
    unsigned armed, went_on; /* Rig.lock; times */
    char *room;              /* for a page */
} Scene;

static void tell(Rig *r, unsigned *count)
{
    pthread_mutex_lock(&r->lock);
    ++*count;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void on_written(FfPager *p, const FfRun *run)
{
    tell((Rig *)p, &((Rig *)p)->written);
}

static void on_full(FfPager *p, const FfRun *run)
{
    tell((Rig *)p, &((Rig *)p)->full);
}

static void wait_for(Rig *r, const unsigned *count, unsigned n)
{
    pthread_mutex_lock(&r->lock);
    while (*count < n) {
        pthread_cond_wait(&r->changed, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
}

/* Memory of KIND that holds the pattern, protected, with SLOTS for pages. FALSE: skipped. */
static bool open_scene(Scene *sc, RigKind kind, uint64_t features, unsigned slots)
{
    Rig *r = rig_new(kind, WP, features);

    *sc = (Scene){.r = r};
    if (!r) {
        return false;
    }
    rig_populate(r);
    r->pager.written = on_written;
    r->pager.full = on_full;
    g_assert_cmpint(ff_protect_new(r->s, slots * r->page_size, &sc->p), ==, 0);
    g_assert_cmpint(ff_protect_arm(sc->p, &(FfRun){0, 0, r->n_pages}), ==, 0);
    return true;
}

static void close_scene(Scene *sc)
{
    rig_stop(sc->r);
    ff_protect_free(sc->p);
    rig_free(sc->r);
}

/* The thread that answers the fault has done what it does before this continues. */
static void write_page(const Rig *r, unsigned page)
{
    __atomic_store_n((uint64_t *)rig_page(r, page), page + 1, __ATOMIC_SEQ_CST);
}

static gpointer other_writes(gpointer p)
{
    Scene *sc = p;

    write_page(sc->r, sc->page);
    return NULL;
}

/* The next page that was kept is PAGE, with the pattern. */
static void take_pattern(Scene *sc, unsigned page)
{
    const void *data;
    unsigned slot;
    FfRun run;

    g_assert_true(ff_protect_take(sc->p, &slot, &run, &data));
    g_assert_cmpuint(run.first, ==, page);
    g_assert_true(rig_is_pattern(sc->r, page, data));
    ff_protect_release(sc->p, slot);
}

/* ---- what is left ---------------------------------------------------------------------------- */

static int look_what_is_left(void *opaque)
{
    Scene *sc = opaque;

    __atomic_store_n(&sc->left, ff_protect_left(sc->p),
                     __ATOMIC_RELEASE); /* observer: test_left() */
    return 0;
}

/* A page that is being kept is not saved: a saver that looks just then must not take it for the
 * end. */
static void test_left(RigKind kind)
{
    Scene sc;

    if (!open_scene(&sc, kind, 0, 4)) {
        return;
    }
    if (rig_at("protect-kept", look_what_is_left, &sc)) {
        rig_start(sc.r);
        write_page(sc.r, 1);
        g_assert_cmpuint(__atomic_load_n(&sc.left, __ATOMIC_ACQUIRE), ==, sc.r->n_pages);
        take_pattern(&sc, 1);
        g_assert_cmpuint(ff_protect_left(sc.p), ==, sc.r->n_pages - 1);
    }
    close_scene(&sc);
}

/* ---- what is protected again ----------------------------------------------------------------- */

static int arm_again(void *opaque)
{
    Scene *sc = opaque;

    g_assert_cmpint(ff_protect_arm(sc->p, &(FfRun){0, sc->page, 1}), ==, 0);
    return 0;
}

/* A page is saved, and armed again before its protection was lifted: it stays protected, and a
 * thread that waited for it is told again. */
static void test_arm_again(RigKind kind)
{
    Scene sc;
    FfRun run = {0};

    if (!open_scene(&sc, kind, 0, 4)) {
        return;
    }
    if (rig_at("protect-lift", arm_again, &sc)) {
        run.n = ff_protect_claim(sc.p, 0, 0, 1, &run.first);
        g_assert_cmpuint(run.n, ==, 1);
        GThread *writer = g_thread_new("writer", other_writes, &sc);
        g_assert_cmpint(ff_protect_done(sc.p, &run), ==, 0);
        g_assert_cmpuint(ff_protect_left(sc.p), ==, sc.r->n_pages);
        rig_start(sc.r);
        wait_for(sc.r, &sc.r->written, 1);
        g_thread_join(writer);
        take_pattern(&sc, 0);
    }
    close_scene(&sc);
}

/* ---- who wrote before ------------------------------------------------------------------------ */

static gpointer other_arms(gpointer p)
{
    Scene *sc = p;

    ff_protect_set_still(sc->p, true);
    g_assert_cmpint(ff_protect_arm(sc->p, &(FfRun){0, 0, sc->r->n_pages}), ==, 0);
    tell(sc->r, &sc->armed);
    return NULL;
}

/* Fault thread, which has read of a writer: somebody else lets it go, and then all is armed, if
 * that does not wait for the fault thread. */
static int let_go_and_arm(void *opaque)
{
    Scene *sc = opaque;
    int64_t end = g_get_monotonic_time() + 200 * 1000;
    struct timespec until = {end / 1000000, end % 1000000 * 1000};

    g_assert_cmpint(ff_protect_lift(sc->r->s, &(FfRun){0, sc->page, 1}), ==, 0);
    g_thread_join(sc->writer);
    sc->other = g_thread_new("arms", other_arms, sc);
    pthread_mutex_lock(&sc->r->lock);
    while (!sc->armed &&
           pthread_cond_clockwait(&sc->r->changed, &sc->r->lock, CLOCK_MONOTONIC, &until) == 0) {
    }
    pthread_mutex_unlock(&sc->r->lock);
    tell(sc->r, &sc->went_on);
    return 0;
}

/* A write from before the instant, of which the fault thread has read and which somebody else has
 * answered, is none after it. */
static void test_wrote_before(RigKind kind)
{
    Rig *r = rig_new(kind, WP, 0);
    Scene sc = {.r = r, .page = 1};
    uint64_t n;

    if (!r) {
        return;
    }
    rig_populate(r);
    g_assert_cmpint(ff_protect_new(r->s, 4 * r->page_size, &sc.p), ==, 0);
    g_assert_cmpint(ff_protect_prepare(sc.p, &(FfRun){0, 0, r->n_pages}, &n), ==, 0);
    if (rig_at("faults-read", let_go_and_arm, &sc)) {
        sc.writer = g_thread_new("writer", other_writes, &sc);
        rig_start(r);
        wait_for(r, &sc.went_on, 1);
        wait_for(r, &sc.armed, 1);
        g_thread_join(sc.other);
        rig_stop(r); /* when it has answered */
        g_assert_cmpuint(ff_protect_spoilt(sc.p), ==, 0);
        g_assert_cmpuint(ff_protect_left(sc.p), ==, r->n_pages);
    }
    close_scene(&sc);
}

/* ---- what is lifted late --------------------------------------------------------------------- */

#define GIVEN 4 /* pages from here on are given back */

static void give_back(const Rig *r, unsigned page, unsigned n)
{
    g_assert_cmpint(
        madvise(rig_page(r, page), n * r->page_size, r->fd < 0 ? MADV_DONTNEED : MADV_REMOVE), ==,
        0);
}

static gpointer other_gives_back(gpointer p)
{
    Scene *sc = p;

    give_back(sc->r, GIVEN, 2);
    return NULL;
}

/* Fault thread: from now on an event waits to be read, so nothing can be lifted; and the end comes.
 */
static void stop_in_a_change(Scene *sc)
{
    struct pollfd pfd = {.fd = sc->r->uffd, .events = POLLIN};

    __atomic_store_n(&sc->other, g_thread_new("gives", other_gives_back, sc),
                     __ATOMIC_RELEASE); /* observer: the thread that joins */
    g_assert_cmpint(poll(&pfd, 1, -1), ==, 1);
    ff_faults_stop(sc->r->s);
}

static int on_kept(void *opaque)
{
    stop_in_a_change(opaque);
    return 0;
}

/* The fault thread ends while it cannot lift: it does so before. */
static void test_stop(RigKind kind)
{
    Scene sc;

    if (!open_scene(&sc, kind, CHANGES, 4)) {
        return;
    }
    if (rig_at("protect-kept", on_kept, &sc)) {
        rig_start(sc.r);
        write_page(sc.r, 1);
        g_thread_join(__atomic_load_n(&sc.other, __ATOMIC_ACQUIRE));
        rig_stop(sc.r);
        write_page(sc.r, 1);
        take_pattern(&sc, 1);
        g_assert_cmpuint(ff_protect_lost(sc.p), ==, 2);
    }
    close_scene(&sc);
}

/* Without a buffer: every second page, one by one. */
static void lift_many(FfPager *p, const FfRun *run)
{
    Rig *r = (Rig *)p;
    Scene *sc = r->opaque;

    if (!sc->other) {
        stop_in_a_change(sc);
        for (unsigned i = 1; i < r->n_pages; i += 2) {
            g_assert_cmpint(ff_protect_lift(r->s, &(FfRun){0, i, 1}), ==, 0);
        }
    }
}

static void test_stop_many(RigKind kind)
{
    Rig *r = rig_new(kind, WP, CHANGES);
    Scene sc = {.r = r};

    if (!r) {
        return;
    }
    rig_populate(r);
    r->pager.written = lift_many;
    r->opaque = &sc;
    g_assert_cmpint(ff_uffd_protect(r->uffd, (uintptr_t)r->map, r->len), ==, 0);
    rig_start(r);
    write_page(r, 1);
    g_thread_join(__atomic_load_n(&sc.other, __ATOMIC_ACQUIRE));
    rig_stop(r);
    for (unsigned i = 1; i < r->n_pages; i += 2) {
        write_page(r, i); /* nobody would answer */
    }
    rig_free(r);
}

/* ---- what is given back, moved, cannot be read ----------------------------------------------- */

static int gives_back(void *opaque)
{
    Scene *sc = opaque;

    give_back(sc->r, sc->page, 1);
    return 0;
}

/* A page is given back when a saver's thread is about to keep it for a writer: it is lost, and what
 * it is now is not taken for what it was. */
static void test_give_back(RigKind kind)
{
    Scene sc;
    const void *data;
    unsigned slot;
    FfRun run;

    if (!open_scene(&sc, kind, CHANGES, 1)) {
        return;
    }
    rig_start(sc.r);
    write_page(sc.r, 0);
    sc.page = 1;
    GThread *writer = g_thread_new("writer", other_writes, &sc);
    wait_for(sc.r, &sc.r->full, 1);
    if (rig_at("protect-claimed", gives_back, &sc)) {
        take_pattern(&sc, 0);
        g_assert_cmpuint(ff_protect_lost(sc.p), ==, 1);
        g_assert_cmpuint(ff_protect_left(sc.p), ==, sc.r->n_pages - 2);
        g_assert_false(ff_protect_take(sc.p, &slot, &run, &data));
    } else {
        take_pattern(&sc, 0);
    }
    g_thread_join(writer);
    close_scene(&sc);
}

static int fail(void *opaque)
{
    return EIO;
}

/* One page cannot be read: the others that wait are served, and it can be had again. */
static void test_unreadable(RigKind kind)
{
    GThread *writers[2];
    Scene sc, other;
    FfRun run = {0};

    if (!open_scene(&sc, kind, 0, 1)) {
        return;
    }
    rig_start(sc.r);
    write_page(sc.r, 0);
    other = sc;
    sc.page = 1;
    other.page = 2;
    writers[0] = g_thread_new("writer", other_writes, &sc);
    wait_for(sc.r, &sc.r->full, 1);
    writers[1] = g_thread_new("writer", other_writes, &other);
    wait_for(sc.r, &sc.r->full, 2);
    bool can = rig_at("backing-read", fail, NULL);
    take_pattern(&sc, 0);
    if (can) {
        wait_for(sc.r, &sc.r->written, 2);
        g_thread_join(writers[1]);
        take_pattern(&sc, 2);
        g_assert_cmpint(sc.r->failed, ==, -EIO);
        sc.r->failed = 0;
        run.n = ff_protect_claim(sc.p, 0, 0, 1, &run.first);
        g_assert_cmpuint(run.n, ==, 1);
        g_assert_cmpuint(run.first, ==, 1);
        g_assert_cmpint(ff_protect_done(sc.p, &run), ==, 0);
    } else {
        take_pattern(&sc, 1);
        g_thread_join(writers[1]);
    }
    g_thread_join(writers[0]);
    close_scene(&sc);
}

static gpointer other_moves(gpointer p)
{
    Scene *sc = p;
    uint64_t ps = sc->r->page_size;

    g_assert_true(mremap(rig_page(sc->r, sc->page), ps, ps, MREMAP_MAYMOVE | MREMAP_FIXED,
                         sc->room) == sc->room);
    return NULL;
}

/* The page moves, and something else is at its address before the event was read. */
static int moves(void *opaque)
{
    Scene *sc = opaque;
    struct pollfd pfd = {.fd = sc->r->uffd, .events = POLLIN};
    char *at = rig_page(sc->r, sc->page);

    __atomic_store_n(&sc->other, g_thread_new("moves", other_moves, sc),
                     __ATOMIC_RELEASE); /* observer: the thread that joins */
    g_assert_cmpint(poll(&pfd, 1, -1), ==, 1);
    g_assert_true(mmap(at, sc->r->page_size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
    memset(at, 0x55, sc->r->page_size);
    return 0;
}

/* The same in a saver, which is not in the way of the event. */
static int has_moved(void *opaque)
{
    Scene *sc = opaque;
    char *at = rig_page(sc->r, sc->page);

    g_thread_join(g_thread_new("moves", other_moves, sc));
    g_assert_true(mmap(at, sc->r->page_size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
    memset(at, 0x55, sc->r->page_size);
    return 0;
}

/* A writer that is told again after a change has no wait left from before it: they would grow in
 * number with each time, and all of them be tried at each fault. */
static void expect_no_waits(const Scene *sc)
{
    unsigned block;
    uint64_t page;

    for (uint32_t i = 0; i < sc->p->waits.high; i++) {
        g_assert_false(ff_waits_get(&sc->p->waits, i, &block, &page));
    }
}

static void claim_and_check(Scene *sc, unsigned page)
{
    g_autofree char *buf = g_malloc(sc->r->page_size);
    FfRun run = {0};

    run.n = ff_protect_claim(sc->p, 0, page, 1, &run.first);
    g_assert_cmpuint(run.n, ==, 1);
    g_assert_cmpuint(run.first, ==, page);
    g_assert_cmpint(ff_protect_read(sc->p, &run, buf), ==, 0);
    g_assert_true(rig_is_pattern(sc->r, page, buf));
    g_assert_cmpint(ff_protect_done(sc->p, &run), ==, 0);
}

/* Private memory moves while it is read for a writer, or by a saver: what is at the old address is
 * not taken for it. */
static void test_move(RigKind kind)
{
    for (unsigned round = 0; round < 2; round++) {
        Scene sc;
        if (!open_scene(&sc, kind, CHANGES, 4)) {
            return;
        }
        sc.page = 1;
        sc.room = mmap(NULL, sc.r->page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        rig_start(sc.r);
        bool can = round == 0 ? rig_at("protect-read", moves, &sc)
                              : rig_at("protect-read-claimed", has_moved, &sc);
        if (can) {
            if (round == 0) {
                write_page(sc.r, 1); /* what is there now */
                expect_no_waits(&sc);
                const void *data;
                unsigned slot;
                FfRun run;
                g_assert_false(ff_protect_take(sc.p, &slot, &run, &data));
            }
            claim_and_check(&sc, 1);
            GThread *other = __atomic_load_n(&sc.other, __ATOMIC_ACQUIRE);
            if (other) {
                g_thread_join(other);
            }
            g_assert_true(rig_is_pattern(sc.r, 1, sc.room));
        }
        munmap(rig_page(sc.r, 1), sc.r->page_size);
        close_scene(&sc);
    }
}

/* ---- what callers are about to give back ----------------------------------------------------- */

/* An FfCallers that knows of one caller, which gives N pages from FIRST on back. */
typedef struct {
    FfCallers callers; /* first */
    Rig *r;
    unsigned first, n;
} Known;

static unsigned each_known(FfCallers *c, bool is_first, FfCallersRange *fn, void *opaque)
{
    Known *k = (Known *)(void *)c;
    uint64_t start = (uintptr_t)rig_page(k->r, k->first);

    fn(start, start + k->n * k->r->page_size, opaque);
    return 0;
}

static bool open_known(Scene *sc, Known *k, RigKind kind, unsigned slots)
{
    bool opened = open_scene(sc, kind, CHANGES, slots);

    if (opened) {
        *k = (Known){{each_known}, sc->r, 0, 4};
        sc->r->s->cfg.callers = &k->callers;
    }
    return opened;
}

/* Its old content is kept, also of a page that a saver has claimed, and of one whose writer waits
 * for room. */
static void test_keep_given(RigKind kind)
{
    Scene sc;
    Known k;
    FfRun run = {0};

    if (!open_known(&sc, &k, kind, 4)) {
        return;
    }
    run.n = ff_protect_claim(sc.p, 0, 0, 2, &run.first);
    g_assert_cmpuint(run.n, ==, 2);
    g_assert_true(ff_protect_own(sc.p, 0, 0)); /* it has been read */
    rig_start(sc.r);
    give_back(sc.r, 0, 4);
    g_assert_cmpuint(ff_protect_lost(sc.p), ==, 0);
    g_assert_false(ff_protect_own(sc.p, 0, 1));
    g_assert_cmpint(ff_protect_done(sc.p, &run), ==, 0);
    for (unsigned i = 0; i < 4; i++) {
        write_page(sc.r, i);
    }
    rig_stop(sc.r); /* no change is under way any more */
    for (unsigned i = 1; i < 4; i++) {
        take_pattern(&sc, i);
    }
    g_assert_cmpuint(ff_protect_left(sc.p), ==, sc.r->n_pages - 4);
    close_scene(&sc);
}

/* As where there are many threads: the first look takes long, and the caller was running then. */
static unsigned each_known_late(FfCallers *c, bool is_first, FfCallersRange *fn, void *opaque)
{
    if (is_first) {
        g_usleep(3000);
        return 1;
    }
    return each_known(c, is_first, fn, opaque);
}

static void test_long_look(RigKind kind)
{
    Scene sc;
    Known k;

    if (!open_known(&sc, &k, kind, 4)) {
        return;
    }
    k.callers.each = each_known_late;
    ff_protect_stir(sc.p, true);
    rig_start(sc.r);
    give_back(sc.r, 0, 4);
    g_assert_cmpuint(ff_protect_lost(sc.p), ==, 0);
    close_scene(&sc);
}

/* All or nothing. */
static void test_no_room_for_given(RigKind kind)
{
    unsigned n_free;
    Scene sc;
    Known k;

    if (!open_known(&sc, &k, kind, 3)) {
        return;
    }
    rig_start(sc.r);
    give_back(sc.r, 0, 4);
    g_assert_cmpuint(ff_protect_lost(sc.p), ==, 4);
    ff_protect_slots(sc.p, &n_free);
    g_assert_cmpuint(n_free, ==, 3);
    close_scene(&sc);
}

/* Something else is at the address by then, and the event that says so comes later. */
static void test_moved_given(RigKind kind)
{
    const void *data;
    unsigned slot;
    FfRun run;
    Scene sc;
    Known k;

    if (!open_known(&sc, &k, kind, 4)) {
        return;
    }
    sc.page = 1;
    sc.room = mmap(NULL, sc.r->page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    moves(&sc);
    rig_start(sc.r);
    g_thread_join(__atomic_load_n(&sc.other, __ATOMIC_ACQUIRE));
    g_assert_cmpuint(ff_protect_lost(sc.p), ==, 1);
    rig_stop(sc.r);
    while (ff_protect_take(sc.p, &slot, &run, &data)) {
        g_assert_cmpuint(run.first, !=, 1);
        g_assert_true(rig_is_pattern(sc.r, run.first, data));
        ff_protect_release(sc.p, slot);
    }
    munmap(rig_page(sc.r, 1), sc.r->page_size);
    close_scene(&sc);
}

/* ---- given up -------------------------------------------------------------------------------- */

/* A thread that waits for a page that a saver has continues, as does one that comes later, while
 * what is protected is still being lifted. */
static void test_give_up(RigKind kind)
{
    Scene sc;
    FfRun run = {0};

    if (!open_scene(&sc, kind, 0, 0)) {
        return;
    }
    rig_start(sc.r);
    run.n = ff_protect_claim(sc.p, 0, 0, 1, &run.first);
    g_assert_cmpuint(run.n, ==, 1);
    GThread *writer = g_thread_new("writer", other_writes, &sc);
    wait_for(sc.r, &sc.r->full, 1);
    ff_protect_give_up(sc.p);
    g_thread_join(writer);
    write_page(sc.r, sc.r->n_pages - 1);
    g_assert_cmpuint(ff_protect_lost(sc.p), ==, 2);
    ff_protect_lift_all(sc.p);
    g_assert_cmpuint(ff_protect_left(sc.p), ==, 0);
    g_assert_cmpuint(ff_protect_lost(sc.p), ==, sc.r->n_pages);
    g_assert_cmpint(ff_protect_done(sc.p, &run), ==, 0);
    g_assert_cmpuint(ff_protect_left(sc.p), ==, 0);
    close_scene(&sc);
}

/* ---- loans ----------------------------------------------------------------------------------- */

/* Fault thread: it has found that somebody has the page. */
static int lend_taken(void *opaque)
{
    Scene *sc = opaque;

    g_assert_cmpint(ff_protect_lend(sc->p, &(FfRun){0, 0, 1}), ==, 0);
    return 0;
}

/* It has looked once more. */
static int expect_written(void *opaque)
{
    Scene *sc = opaque;

    g_assert_cmpuint(rig_written(sc->r), ==, 1);
    return 0;
}

/* What is lent when its writer has found it taken is kept all the same. */
static void test_lent_between(RigKind kind)
{
    uint64_t first;
    Scene sc;

    if (!open_scene(&sc, kind, 0, 4)) {
        return;
    }
    if (rig_at("protect-taken", lend_taken, &sc) && rig_at("protect-behind", expect_written, &sc)) {
        g_assert_cmpuint(ff_protect_claim(sc.p, 0, 0, 1, &first), ==, 1);
        rig_start(sc.r);
        write_page(sc.r, 0);
        take_pattern(&sc, 0);
    }
    close_scene(&sc);
}

/* The thread that serves has the only slot, for page 1: that is taken from it, and page 0 lent. */
static int lend_other(void *opaque)
{
    Scene *sc = opaque;
    uint64_t first;

    g_assert_cmpuint(ff_protect_claim(sc->p, 0, 1, 1, &first), ==, 1);
    g_assert_cmpuint(first, ==, 1);
    g_assert_cmpint(ff_protect_lend(sc->p, &(FfRun){0, 0, 1}), ==, 0);
    return 0;
}

/* A saver that lends when another one has the last slot in its hand finds none: that one looks
 * again. */
static void test_lent_without_slot(RigKind kind)
{
    uint64_t first;
    Scene sc;

    if (!open_scene(&sc, kind, 0, 1)) {
        return;
    }
    if (rig_at("protect-serves", lend_other, &sc)) {
        g_assert_cmpuint(ff_protect_claim(sc.p, 0, 0, 1, &first), ==, 1);
        rig_start(sc.r);
        write_page(sc.r, 2);
        sc.writer = g_thread_new("first", other_writes, &sc); /* page 0 */
        wait_for(sc.r, &sc.r->full, 1);
        Scene second = {.r = sc.r, .page = 1};
        sc.other = g_thread_new("second", other_writes, &second);
        wait_for(sc.r, &sc.r->full, 2);
        take_pattern(&sc, 2);
        g_assert_cmpuint(rig_written(sc.r), ==, 2);
        g_thread_join(sc.writer);
        take_pattern(&sc, 0);
        g_assert_cmpint(ff_protect_done(sc.p, &(FfRun){0, 1, 1}), ==, 0);
        g_thread_join(sc.other);
    }
    close_scene(&sc);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_add("/protect-moments/left", RIG_ALL, test_left);
    rig_add("/protect-moments/arm-again", RIG_ALL, test_arm_again);
    rig_add("/protect-moments/wrote-before", RIG_ALL, test_wrote_before);
    rig_add("/protect-moments/stop", RIG_ALL, test_stop);
    rig_add("/protect-moments/stop-many", RIG_ALL, test_stop_many);
    rig_add("/protect-moments/give-back", RIG_ALL, test_give_back);
    rig_add("/protect-moments/keep-given", RIG_ALL, test_keep_given);
    rig_add("/protect-moments/long-look", RIG_ALL, test_long_look);
    rig_add("/protect-moments/no-room-for-given", RIG_ALL, test_no_room_for_given);
    rig_add("/protect-moments/moved-given", RIG_BIT(RIG_ANON), test_moved_given);
    rig_add("/protect-moments/unreadable", RIG_ALL, test_unreadable);
    rig_add("/protect-moments/give-up", RIG_ALL, test_give_up);
    rig_add("/protect-moments/lent-between", RIG_ALL, test_lent_between);
    rig_add("/protect-moments/lent-without-slot", RIG_ALL, test_lent_without_slot);
    /* files are not read by address */
    rig_add("/protect-moments/move", RIG_BIT(RIG_ANON), test_move);
    return g_test_run();
}
