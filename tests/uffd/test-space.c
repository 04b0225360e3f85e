/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A space whose memory stays where it is, of each kind: faults are counted, content is placed in
 * each way that there is, and page states go both ways. The measure is that of the kernel's own
 * tests: as many missing faults as pages, exactly half of the pages poisoned.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/uffd/rig.h"
#include "uffd/pagemap.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define MINOR UFFDIO_REGISTER_MODE_MINOR

static void assert_all_done(Rig *r, unsigned times)
{
    rig_stop(r);
    g_assert_cmpuint(ff_space_missing(r->s), ==, 0);
    g_assert_cmpuint(r->completed, ==, times);
}

/* ---- missing --------------------------------------------------------------------------------- */

static void test_missing(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, UFFD_FEATURE_THREAD_ID);

    if (!r) {
        return;
    }
    rig_start(r);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check(r, i, rig_page(r, i));
    }
    assert_all_done(r, 1);
    g_assert_cmpuint(ff_space_counts(r->s).missing, ==, r->n_pages);
    g_assert_cmpuint(r->asked_all, ==, r->n_pages);
    g_assert_cmpuint(r->present, ==, r->n_pages);
    /* Each wait has begun and ended once, and is that of this thread. */
    g_assert_cmpuint(r->began, ==, r->n_pages);
    g_assert_cmpuint(r->ended, ==, r->n_pages);
    for (unsigned i = 0; i < MIN(r->n_pages, RIG_WAITS); i++) {
        g_assert_cmpint(r->waits[i].tid, ==, gettid());
        g_assert_cmpuint(r->waits[i].ended, ==, 1);
    }
    rig_free(r);
}

typedef struct {
    Rig *r;
    unsigned step;
} Toucher;

static gpointer touch_all(gpointer p)
{
    Toucher *t = p;

    for (unsigned i = 0; i < t->r->n_pages; i++) {
        unsigned page = i * t->step % t->r->n_pages;
        rig_check(t->r, page, rig_page(t->r, page));
    }
    return NULL;
}

/* Several that wait for one page make one request. */
static void test_many_waiters(RigKind kind)
{
    static const unsigned steps[] = {1, 1, 3, 5};
    Rig *r = rig_new(kind, MISSING, 0);
    GThread *threads[G_N_ELEMENTS(steps)];
    Toucher t[G_N_ELEMENTS(steps)];

    if (!r) {
        return;
    }
    rig_start(r);
    for (guint i = 0; i < G_N_ELEMENTS(steps); i++) {
        t[i] = (Toucher){r, steps[i]};
        threads[i] = g_thread_new("toucher", touch_all, &t[i]);
    }
    for (guint i = 0; i < G_N_ELEMENTS(steps); i++) {
        g_thread_join(threads[i]);
    }
    assert_all_done(r, 1);
    for (unsigned i = 0; i < r->n_pages; i++) {
        g_assert_cmpuint(r->asked[i], ==, 1);
    }
    g_assert_cmpuint(r->present, ==, r->n_pages);
    rig_free(r);
}

static gpointer read_first(gpointer p)
{
    Rig *r = p;

    rig_check(r, 0, rig_page(r, 0));
    return NULL;
}

static void lose_request(Rig *r, const FfRun *run)
{
}

/* The pager has lost its requests, and is asked again; a thread that waited has waited since
 * then. */
static void test_again(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    r->fill = lose_request;
    rig_start(r);
    GThread *waits = g_thread_new("waits", read_first, r);
    rig_wait_asked(r, 1);
    for (unsigned times = 2; times < 5; times++) {
        rig_stop_faults(r);
        rig_start_faults_again(r);
        rig_wait_asked(r, times);
    }
    rig_fill_pattern(r, &(FfRun){0, 0, 1});
    g_thread_join(waits);
    rig_stop(r);
    g_assert_cmpuint(r->began, ==, 1);
    g_assert_cmpuint(r->ended, ==, 1);
    rig_free(r);
}

/* A fault thread that is to end before it has begun ends, and the next one does not. */
static void test_stopped_early(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    ff_faults_stop(r->s);
    ff_faults_run(r->s);
    ff_faults_again(r->s);
    rig_start(r);
    rig_check(r, 0, rig_page(r, 0));
    rig_free(r);
}

static gpointer read_second(gpointer p)
{
    Rig *r = p;

    rig_check(r, 1, rig_page(r, 1));
    return NULL;
}

/* More that wait than there is room for: those that are not noted are reached all the same. */
static void test_overflow(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);
    GThread *waits[FF_MAX_WAITS + 1];

    if (!r) {
        return;
    }
    r->fill = lose_request;
    rig_start(r);
    for (unsigned i = 0; i < FF_MAX_WAITS; i++) {
        waits[i] = g_thread_new("waits", read_first, r);
    }
    rig_wait_began(r, FF_MAX_WAITS);
    waits[FF_MAX_WAITS] = g_thread_new("waits", read_second, r);
    rig_wait_asked(r, 2);
    rig_stop_faults(r);
    rig_start_faults_again(r);
    rig_wait_asked(r, 4);
    rig_fill_pattern(r, &(FfRun){0, 0, 2});
    for (unsigned i = 0; i < G_N_ELEMENTS(waits); i++) {
        g_thread_join(waits[i]);
    }
    rig_stop(r);
    g_assert_cmpuint(r->asked[0], ==, 2);
    g_assert_cmpuint(r->asked[1], ==, 2);
    g_assert_cmpuint(r->ended, ==, r->began);
    rig_free(r);
}

/* ---- placing --------------------------------------------------------------------------------- */

/* Nobody answers here: a thread that would miss a page would wait for ever. */
static void test_zero(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    FfRun all = {0, 0, r->n_pages};
    g_assert_cmpint(ff_place_zero(r->s, &all), ==, 0);
    assert_all_done(r, 1);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check_zero(r, rig_page(r, i));
        rig_pattern(r, i, rig_page(r, i));
    }
    g_assert_cmpint(ff_place_zero(r->s, &all), ==, 0);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check(r, i, rig_page(r, i));
    }
    g_assert_cmpuint(r->present_as[FF_PRESENT_ZEROS], ==, r->n_pages);
    g_assert_cmpuint(r->duplicate, ==, r->n_pages);
    rig_free(r);
}

static void test_copy(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    FfRun all = {0, 0, r->n_pages};
    rig_fill_pattern(r, &all);
    assert_all_done(r, 1);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check(r, i, rig_page(r, i));
        memset(rig_page(r, i), 0x5a, 8);
    }
    rig_fill_pattern(r, &all); /* an old content */
    for (unsigned i = 0; i < r->n_pages; i++) {
        g_assert_cmpint(rig_page(r, i)[0], ==, 0x5a);
    }
    g_assert_cmpuint(r->present_as[FF_PRESENT_CONTENT], ==, r->n_pages);
    g_assert_cmpuint(r->duplicate, ==, r->n_pages);
    rig_free(r);
}

/* Somebody else has placed pages in the middle, of which the space does not know: the kernel does a
 * part, then says EEXIST. */
static void test_partial(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    g_autofree char *other = g_malloc(r->page_size);
    memset(other, 0x77, r->page_size);
    for (unsigned i = 2; i < r->n_pages; i += 3) {
        uint64_t done;
        g_assert_cmpint(ff_uffd_try(r->uffd, FF_UFFD_COPY, (uintptr_t)rig_page(r, i), other,
                                    r->page_size, &done),
                        ==, 0);
    }
    rig_fill_pattern(r, &(FfRun){0, 0, r->n_pages});
    assert_all_done(r, 1);
    g_assert_cmpuint(r->present, ==, r->n_pages);
    g_assert_cmpuint(r->duplicate, ==, r->n_pages / 3);
    for (unsigned i = 0; i < r->n_pages; i++) {
        if (i % 3 == 2) {
            g_assert_cmpint(memcmp(rig_page(r, i), other, r->page_size), ==, 0);
        } else {
            rig_check(r, i, rig_page(r, i));
        }
    }
    rig_free(r);
}

/* The kernel says EEXIST of a huge page also if it has none to give. */
static void test_no_memory(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    FfRun first = {0, 0, 2}, rest = {0, 2, r->n_pages - 2};
    g_autofree char *data = g_malloc0(r->len);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_pattern(r, i, data + i * r->page_size);
    }
    g_assert_cmpint(ff_place_copy(r->s, &first, data), ==, 0);
    hugepages_take(r->pool);
    g_assert_cmpint(ff_place_copy(r->s, &rest, data + 2 * r->page_size), ==, -ENOMEM);
    g_assert_cmpint(ff_place_zero(r->s, &rest), ==, -ENOMEM);
    g_assert_cmpuint(ff_space_missing(r->s), ==, r->n_pages - 2);
    hugepages_give(r->pool);
    g_assert_cmpint(ff_place_copy(r->s, &rest, data + 2 * r->page_size), ==, 0);
    assert_all_done(r, 1);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check(r, i, rig_page(r, i));
    }
    rig_free(r);
}

/* ---- poison ---------------------------------------------------------------------------------- */

static sigjmp_buf on_bus;

static void bus(int sig)
{
    siglongjmp(on_bus, 1);
}

static void poison_even(Rig *r, const FfRun *run)
{
    if (run->first % 2) {
        rig_fill_pattern(r, run);
    } else {
        g_assert_cmpint(ff_place_poison(r->s, run), ==, 0);
    }
}

/* FALSE: it is poisoned. */
static bool try_page(Rig *r, unsigned page)
{
    if (sigsetjmp(on_bus, 1)) {
        return false;
    }
    rig_check(r, page, rig_page(r, page));
    return true;
}

static void test_poison(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, FF_UFFD_FEATURE_POISON);
    struct sigaction act = {.sa_handler = bus}, old;
    unsigned buses = 0;

    if (!r) {
        return;
    }
    r->fill = poison_even;
    sigaction(SIGBUS, &act, &old);
    rig_start(r);
    for (unsigned i = 0; i < r->n_pages; i++) {
        bool ok = try_page(r, i);
        g_assert_cmpint(ok, ==, i % 2);
        buses += !ok;
    }
    sigaction(SIGBUS, &old, NULL);
    g_assert_cmpuint(buses, ==, r->n_pages / 2);
    assert_all_done(r, 1);
    g_assert_cmpuint(ff_space_counts(r->s).missing, ==, r->n_pages);
    rig_free(r);
}

/* ---- minor ----------------------------------------------------------------------------------- */

/* The pager changes the content in the file before it is mapped: the reader must not come before.
 */
static void continue_flipped(Rig *r, const FfRun *run)
{
    uint64_t *words = (uint64_t *)(r->alias + run->first * r->page_size);

    for (unsigned i = 0; i < r->page_size / 8; i++) {
        words[i] = ~words[i];
    }
    g_assert_cmpint(ff_place_continue(r->s, run), ==, 0);
}

static void test_minor(RigKind kind)
{
    Rig *r = rig_new(kind, MINOR, 0);

    if (!r) {
        return;
    }
    r->fill = continue_flipped;
    rig_populate(r);
    for (uint64_t *w = (uint64_t *)r->alias; w < (uint64_t *)(r->alias + r->len); w++) {
        *w = ~*w;
    }
    rig_start(r);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check(r, i, rig_page(r, i));
    }
    assert_all_done(r, 1);
    FfSpaceCounts counts = ff_space_counts(r->s);
    g_assert_cmpuint(counts.missing, ==, 0);
    g_assert_cmpuint(counts.minor, ==, r->n_pages);
    rig_free(r);
}

/* A page that was placed is only not mapped any more: it is mapped again, and nobody is asked. */
static void test_minor_again(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING | MINOR, 0);

    if (!r) {
        return;
    }
    rig_fill_pattern(r, &(FfRun){0, 0, r->n_pages});
    if (kind == RIG_HUGETLB) { /* MADV_DONTNEED is of Linux 5.18 there */
        g_assert_true(madvise(r->map, r->len, MADV_DONTNEED) == 0 || errno == EINVAL);
    } else {
        g_assert_cmpint(madvise(r->map, r->len, MADV_DONTNEED), ==, 0);
    }
    rig_start(r);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check(r, i, rig_page(r, i));
    }
    rig_stop(r);
    g_assert_cmpuint(ff_space_counts(r->s).minor, ==, r->n_pages);
    g_assert_cmpuint(r->asked_all, ==, 0);
    rig_free(r);
}

/* ---- both ways ------------------------------------------------------------------------------- */

/* A placed page that is not there any more was given back: zeros, and nobody is asked. */
static void test_given_back(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    rig_fill_pattern(r, &(FfRun){0, 0, r->n_pages});
    rig_drop(r, 0, r->n_pages / 2);
    rig_start(r);
    for (unsigned i = 0; i < r->n_pages; i++) {
        if (i < r->n_pages / 2) {
            rig_check_zero(r, rig_page(r, i));
        } else {
            rig_check(r, i, rig_page(r, i));
        }
    }
    assert_all_done(r, 1);
    g_assert_cmpuint(ff_space_counts(r->s).missing, ==, r->n_pages / 2);
    g_assert_cmpuint(r->asked_all, ==, 0);
    g_assert_cmpuint(r->began, ==, r->n_pages / 2);
    g_assert_cmpuint(r->ended, ==, r->n_pages / 2);
    rig_free(r);
}

static gpointer read_zeros(gpointer p)
{
    Rig *r = p;

    rig_check_zero(r, rig_page(r, 0));
    return NULL;
}

/* There is no memory for the zeros of a page that was given back: a thread that waits for it waits
 * on, the owner is told which it is, and the one that comes next answers. */
static void test_given_back_no_memory(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    rig_fill_pattern(r, &(FfRun){0, 0, 2});
    rig_drop(r, 0, 1);
    hugepages_take(r->pool);
    rig_start(r);
    GThread *waits = g_thread_new("waits", read_zeros, r);
    g_assert_cmpint(rig_wait_failed(r), ==, -ENOMEM);
    g_assert_cmpint(r->failed_page, ==, 0);
    rig_stop_faults(r);
    hugepages_give(r->pool);
    rig_start_faults_again(r);
    g_thread_join(waits);
    rig_check(r, 1, rig_page(r, 1));
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, 0);
    g_assert_cmpuint(r->ended, ==, r->began);
    rig_free(r);
}

/* Zeros for a page that is there, again and again: an error in the end, and no endless round. The
 * first time they are placed. */
static void test_in_vain(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);
    unsigned n = 0;

    if (!r) {
        return;
    }
    ff_place_mark(r->s, &(FfRun){0, 3, 2});
    while (n < 100000 && ff_place_again(r->s, 0, 3, false) == 0) {
        n++;
    }
    g_test_message("an error after %u times", n);
    g_assert_cmpuint(n, >, 4096); /* as many may wait at once */
    g_assert_cmpuint(n, <, 100000);
    g_assert_cmpint(ff_place_again(r->s, 0, 4, false), ==, 0); /* of that page only */
    rig_free(r);
}

/* Somebody else has placed the first half, and a thread that waits for it was not woken. */
static void test_mark(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    unsigned half = r->n_pages / 2;
    r->fill = lose_request;
    rig_start(r);
    GThread *waits = g_thread_new("waits", read_first, r);
    rig_wait_asked(r, 1);
    g_autofree char *data = g_malloc(half * r->page_size);
    for (unsigned i = 0; i < half; i++) {
        rig_pattern(r, i, data + i * r->page_size);
    }
    struct uffdio_copy copy = {.dst = (uintptr_t)r->map,
                               .src = (uintptr_t)data,
                               .len = half * r->page_size,
                               .mode = UFFDIO_COPY_MODE_DONTWAKE};
    g_assert_cmpint(ioctl(r->uffd, UFFDIO_COPY, &copy), ==, 0);
    ff_place_mark(r->s, &(FfRun){0, 0, half});
    g_thread_join(waits);
    g_assert_cmpuint(ff_space_missing(r->s), ==, r->n_pages - half);
    g_assert_cmpuint(r->present_as[FF_PRESENT_NOTHING], ==, half);
    rig_fill_pattern(r, &(FfRun){0, 0, r->n_pages});
    assert_all_done(r, 1);
    g_assert_cmpuint(r->duplicate, ==, half);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check(r, i, rig_page(r, i));
    }
    rig_free(r);
}

static gpointer read_last(gpointer p)
{
    Rig *r = p;

    rig_check_zero(r, rig_page(r, r->n_pages - 1));
    return NULL;
}

/* The second half is a hole: zeros for those that wait and those that come, and nobody is told of
 * them. The first half is as before. */
static void test_hole(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    unsigned half = r->n_pages / 2;
    r->fill = lose_request;
    rig_start(r);
    GThread *waits = g_thread_new("waits", read_last, r);
    rig_wait_asked(r, 1);
    g_assert_cmpint(ff_place_hole(r->s, &(FfRun){0, half, half + 1}), <, 0);
    g_assert_cmpint(ff_place_hole(r->s, &(FfRun){0, half, half}), ==, 0);
    g_thread_join(waits);
    for (unsigned i = half; i < r->n_pages; i++) {
        rig_check_zero(r, rig_page(r, i));
        rig_pattern(r, i, rig_page(r, i));
    }
    g_assert_cmpuint(ff_space_missing(r->s), ==, half);
    g_assert_cmpuint(r->present_as[FF_PRESENT_ZEROS], ==, half);
    g_assert_cmpuint(r->ended, ==, 1);
    rig_fill_pattern(r, &(FfRun){0, 0, half});
    assert_all_done(r, 1);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check(r, i, rig_page(r, i));
    }
    /* What comes late is not placed. */
    g_assert_cmpint(ff_place_zero(r->s, &(FfRun){0, half, half}), ==, 0);
    rig_check(r, half, rig_page(r, half));
    g_assert_cmpuint(ff_space_counts(r->s).missing, ==, 1);
    g_assert_cmpint(ff_space_unregister(r->s), ==, 0);
    rig_free(r);
}

/* The second half has left the userfaultfd, and nobody has heard of it. Zeros are there then, also
 * for a run of which only a part has left; content is nowhere. */
static int place_in_hole(void *opaque)
{
    Rig *r = opaque;
    unsigned half = r->n_pages / 2;
    g_autofree char *buf = g_malloc0(r->page_size);

    g_assert_cmpint(ff_place_copy(r->s, &(FfRun){0, half, 1}, buf), ==, -ENOENT);
    g_assert_cmpuint(ff_space_missing(r->s), ==, r->n_pages);
    g_assert_cmpint(ff_place_zero(r->s, &(FfRun){0, half + 1, 1}), ==, 0);
    g_assert_cmpint(ff_place_zero(r->s, &(FfRun){0, half - 2, 4}), ==, 0);
    g_assert_cmpuint(ff_space_missing(r->s), ==, r->n_pages - 4);
    g_assert_cmpuint(r->duplicate, ==, 1);
    return 0;
}

static void test_hole_meanwhile(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    unsigned half = r->n_pages / 2;
    if (rig_at("place-placed", place_in_hole, r)) {
        rig_start(r);
        g_assert_cmpint(ff_place_hole(r->s, &(FfRun){0, half, half}), ==, 0);
        g_assert_cmpuint(ff_space_missing(r->s), ==, half - 2);
        g_assert_cmpuint(r->present_as[FF_PRESENT_ZEROS], ==, half + 2);
        g_assert_cmpuint(r->duplicate, ==, 3);
        for (unsigned i = half - 2; i < r->n_pages; i++) {
            rig_check_zero(r, rig_page(r, i));
        }
        g_assert_cmpuint(rig_asked(r), ==, 0);
        g_assert_cmpint(ff_space_unregister(r->s), ==, 0);
        rig_stop(r);
    }
    rig_free(r);
}

static void test_forget(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);

    if (!r) {
        return;
    }
    unsigned half = r->n_pages / 2;
    rig_start(r);
    for (unsigned round = 1; round <= 3; round++) {
        for (unsigned i = 0; i < r->n_pages; i++) {
            rig_check(r, i, rig_page(r, i));
        }
        rig_wait_completed(r, round);
        g_assert_cmpuint(ff_space_missing(r->s), ==, 0);
        g_assert_cmpuint(rig_asked(r), ==, r->n_pages + (round - 1) * half);
        ff_place_forget(r->s, &(FfRun){0, 0, half});
        rig_drop(r, 0, half);
        g_assert_cmpuint(ff_space_missing(r->s), ==, half);
        g_assert_false(ff_space_is_placed(r->s, 0, 0));
        g_assert_true(ff_space_is_placed(r->s, 0, half));
    }
    rig_stop(r);
    g_assert_cmpuint(r->completed, ==, 3);
    rig_free(r);
}

/* ---- ranges ---------------------------------------------------------------------------------- */

static void test_ranges(RigKind kind)
{
    Rig *r = rig_new_memory(kind);

    if (!r) {
        return;
    }
    uint64_t ps = r->page_size, at = (uintptr_t)r->map;
    FfBacking b = r->fd >= 0 ? r->backing : ff_backing_private(-1, r->len);
    r->s = ff_space_new(&(FfSpaceConfig){.uffd = -1, .pagemap_fd = -1});
    g_assert_cmpuint(ff_space_add_block(r->s, &b, NULL), ==, 0);
    g_assert_cmpint(ff_space_add_range(r->s, at, 2 * ps, 1, 0), ==, -EINVAL);
    g_assert_cmpint(ff_space_add_range(r->s, at + 1, 2 * ps, 0, 0), ==, -EINVAL);
    g_assert_cmpint(ff_space_add_range(r->s, at, 2 * ps, 0, r->len - ps), ==, -EINVAL);
    g_assert_cmpint(ff_space_add_range(r->s, at, 2 * ps, 0, r->len + ps), ==, -EINVAL);
    g_assert_cmpint(ff_space_add_range(r->s, at, 0, 0, 0), ==, -EINVAL);
    g_assert_cmpint(ff_space_add_range(r->s, at, 2 * ps, 0, 2 * ps), ==, 0);
    g_assert_cmpint(ff_space_add_range(r->s, at + ps, ps, 0, 6 * ps), ==, -EEXIST);
    g_assert_cmpint(ff_space_add_range(r->s, at + 4 * ps, 2 * ps, 0, 3 * ps), ==, -EEXIST);
    g_assert_cmpint(ff_space_add_range(r->s, at + 4 * ps, 2 * ps, 0, 0), ==, 0);
    g_assert_cmpuint(ff_space_addr(r->s, 0, 0), ==, at + 4 * ps);
    g_assert_cmpuint(ff_space_addr(r->s, 0, 3), ==, at + ps);
    g_assert_cmpuint(ff_space_addr(r->s, 0, 4), ==, 0);
    rig_free(r);
}

static int no_memory(void *opaque)
{
    return ENOMEM;
}

static int fail_then_no_memory(void *opaque)
{
    rig_at("uffd-unregister", no_memory, NULL);
    return EIO;
}

/* One range cannot be unregistered, another one cannot for the moment: that it helps to call again
 * is what is told. */
static void test_unregister(RigKind kind)
{
    Rig *r = rig_new(kind, 0, 0);

    if (!r) {
        return;
    }
    uint64_t half = r->len / 2, at = (uintptr_t)r->map;
    g_autoptr(FfSpace) s = ff_space_new(&(FfSpaceConfig){.uffd = r->uffd, .pagemap_fd = -1});
    g_assert_cmpint(ff_space_add_block(s, &r->backing, NULL), ==, 0);
    g_assert_cmpint(ff_space_add_range(s, at, half, 0, 0), ==, 0);
    g_assert_cmpint(ff_space_add_range(s, at + half, half, 0, half), ==, 0);
    g_assert_cmpint(ff_space_register(s, MISSING, NULL), ==, 0);
    if (rig_at("uffd-unregister", fail_then_no_memory, NULL)) {
        g_assert_cmpint(ff_space_unregister(s), ==, -ENOMEM);
    }
    g_assert_cmpint(ff_space_unregister(s), ==, 0);
    rig_check_zero(r, rig_page(r, 0));
    rig_check_zero(r, rig_page(r, r->n_pages - 1));
    rig_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_add("/space/missing", RIG_ALL, test_missing);
    rig_add("/space/many-waiters", RIG_ALL, test_many_waiters);
    rig_add("/space/again", RIG_ALL, test_again);
    rig_add("/space/stopped-early", RIG_BIT(RIG_MEMFD), test_stopped_early);
    rig_add("/space/overflow", RIG_BIT(RIG_MEMFD), test_overflow);
    rig_add("/space/zero", RIG_ALL, test_zero);
    rig_add("/space/copy", RIG_ALL, test_copy);
    rig_add("/space/partial", RIG_ALL, test_partial);
    rig_add("/space/no-memory", RIG_BIT(RIG_HUGETLB), test_no_memory);
    rig_add("/space/poison", RIG_ALL, test_poison);
    /* Anonymous memory has no file in which it could be without being mapped. */
    rig_add("/space/minor", RIG_FILES, test_minor);
    rig_add("/space/minor-again", RIG_FILES, test_minor_again);
    rig_add("/space/given-back", RIG_ALL, test_given_back);
    rig_add("/space/given-back-no-memory", RIG_BIT(RIG_HUGETLB), test_given_back_no_memory);
    rig_add("/space/in-vain", RIG_ALL, test_in_vain);
    rig_add("/space/mark", RIG_ALL, test_mark);
    rig_add("/space/hole", RIG_ALL, test_hole);
    rig_add("/space/hole-meanwhile", RIG_ALL, test_hole_meanwhile);
    rig_add("/space/forget", RIG_ALL, test_forget);
    rig_add("/space/ranges", RIG_ALL, test_ranges);
    rig_add("/space/unregister", RIG_BIT(RIG_MEMFD), test_unregister);
    return g_test_run();
}
