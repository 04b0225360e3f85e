/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A space at the moments that decide: what is placed, given back, moved and made missing again just
 * when somebody asks for it. Order is made by named points (base/failpoints.h) and by events.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/uffd/rig.h"
#include "uffd/space-internal.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define CHANGES (FF_UFFD_EVENTS & ~UFFD_FEATURE_EVENT_FORK)

typedef struct {
    Rig *r;
    unsigned page, n;
    char *to;
    GThread *thread;
} Other;

static gpointer other_reads_zero(gpointer p)
{
    Other *o = p;

    rig_check_zero(o->r, rig_page(o->r, o->page));
    return NULL;
}

static gpointer other_reads(gpointer p)
{
    Other *o = p;

    rig_check(o->r, o->page, rig_page(o->r, o->page));
    return NULL;
}

static void never(Rig *r, const FfRun *run)
{
}

static void wait_until_failed(Rig *r, int rc)
{
    pthread_mutex_lock(&r->lock);
    while (!r->failed) {
        pthread_cond_wait(&r->changed, &r->lock);
    }
    g_assert_cmpint(r->failed, ==, rc);
    r->failed = 0;
    pthread_mutex_unlock(&r->lock);
}

/* ---- who is not noted ------------------------------------------------------------------------ */

/* The page is there and not marked yet; it is given back, and somebody waits for it. */
static int wait_before_mark(void *opaque)
{
    Other *o = opaque;

    rig_drop(o->r, o->page, 1);
    o->thread = g_thread_new("waits", other_reads_zero, o);
    rig_wait_asked(o->r, 2);
    return 0;
}

/* More wait than can be noted. */
static void test_overflow(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);
    Other o = {r, 1, 1};

    if (!r) {
        return;
    }
    for (unsigned i = 0; i < FF_MAX_WAITS; i++) {
        FfWait *w = ff_waits_free_slot(&r->s->waits);
        ff_waits_begin(&r->s->waits, w, 0, r->n_pages - 1, 1, 0); /* asked for at the start */
    }
    r->fill = never;
    if (rig_at("place-placed", wait_before_mark, &o)) {
        rig_start(r);
        rig_wait_asked(r, 1);
        rig_fill_pattern(r, &(FfRun){0, 1, 1});
        g_thread_join(o.thread);
    }
    rig_free(r);
}

/* ---- missing again --------------------------------------------------------------------------- */

static int forget(void *opaque)
{
    Other *o = opaque;

    ff_place_forget(o->r->s, &(FfRun){0, o->page, 1});
    rig_drop(o->r, o->page, 1);
    return 0;
}

/* A page is found placed, though not there: zeros. Before they are placed it is made missing. */
static void test_forget(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, 0);
    Other o = {r, 1, 1};

    if (!r) {
        return;
    }
    rig_fill_pattern(r, &(FfRun){0, 1, 1});
    rig_drop(r, 1, 1);
    if (rig_at("place-again", forget, &o)) {
        rig_start(r);
        other_reads(&o);
        g_assert_cmpuint(rig_asked(r), ==, 1);
    }
    rig_free(r);
}

/* ---- REMAP, UNMAP ---------------------------------------------------------------------------- */

static gpointer other_moves(gpointer p)
{
    Other *o = p;
    uint64_t len = o->n * o->r->page_size;

    g_assert_true(mremap(rig_page(o->r, o->page), len, len, MREMAP_MAYMOVE | MREMAP_FIXED, o->to) ==
                  o->to);
    return NULL;
}

/* One part moves away, another one to where it was, and only then are the events read: of the first
 * move comes an UNMAP after both. */
static void test_move_after(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};

    if (!r) {
        return;
    }
    unsigned quarter = r->n_pages / 4;
    char *area = mmap(NULL, r->len + HUGEPAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *room = (char *)(((uintptr_t)area + HUGEPAGE - 1) & ~(HUGEPAGE - 1));
    Other first = {r, 0, quarter, room}, second = {r, 2 * quarter, quarter, r->map};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    g_assert_cmpint(epoll_ctl(epoll, EPOLL_CTL_ADD, r->uffd, &event), ==, 0);
    GThread *a = g_thread_new("first", other_moves, &first);
    g_assert_cmpint(epoll_wait(epoll, &event, 1, -1), ==, 1);
    GThread *b = g_thread_new("second", other_moves, &second);
    g_assert_cmpint(epoll_wait(epoll, &event, 1, -1), ==, 1);
    close(epoll);
    rig_start(r);
    g_thread_join(a);
    g_thread_join(b);
    for (unsigned i = 0; i < r->n_pages; i++) {
        char *at = i < quarter                           ? room + i * r->page_size
                   : i >= 2 * quarter && i < 3 * quarter ? rig_page(r, i - 2 * quarter)
                                                         : rig_page(r, i);
        g_assert_cmpuint(ff_space_addr(r->s, 0, i), ==, (uintptr_t)at);
        rig_check(r, i, at);
    }
    rig_stop(r);
    g_assert_cmpuint(r->removed[FF_REMOVED_UNMAPPED], ==, 0);
    g_assert_cmpuint(r->asked_all, ==, r->n_pages);
    rig_free(r);
}

/* After a move without an unmap (MREMAP_DONTUNMAP) the next UNMAP of that range is a real one. */
static void test_dont_unmap(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    rig_start(r);
    char *to = mremap(r->map, r->len, r->len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    g_assert_true(to != MAP_FAILED);
    for (unsigned i = 0; i < r->n_pages / 2; i++) {
        rig_check(r, i, to + i * r->page_size);
    }
    /* The first event has been handled when the second one has. */
    g_assert_cmpint(munmap(to, r->page_size), ==, 0);
    g_assert_cmpuint(ff_space_addr(r->s, 0, 0), ==, 0);
    g_assert_true(mremap(to + r->page_size, r->len - r->page_size, r->len - r->page_size,
                         MREMAP_MAYMOVE | MREMAP_FIXED, r->map) == r->map);
    g_assert_cmpint(munmap(r->map, r->len), ==, 0);
    for (unsigned i = 0; i < r->n_pages; i++) {
        g_assert_cmpuint(ff_space_addr(r->s, 0, i), ==, 0);
    }
    rig_stop(r);
    g_assert_cmpuint(r->removed[FF_REMOVED_UNMAPPED], ==, r->n_pages);
    rig_free(r);
}

/* ---- REMOVE ---------------------------------------------------------------------------------- */

/* From the middle of one huge page to the end of the next: only the second one is not wanted any
 * more. Of the first one nobody can place what is right. */
static void test_remove_part(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    uint64_t half = r->page_size / 2;
    rig_start(r);
    g_assert_cmpint(madvise(r->map + half, r->page_size + half, MADV_REMOVE), ==, 0);
    wait_until_failed(r, -ENOTSUP);
    rig_check(r, 0, rig_page(r, 0));
    rig_check_zero(r, rig_page(r, 1));
    g_assert_cmpuint(rig_asked(r), ==, 1);
    g_assert_cmpuint(r->removed[FF_REMOVED_GIVEN_BACK], ==, 1);
    /* The kernel does it where the page is there. */
    g_assert_cmpint(madvise(r->map, half, MADV_REMOVE), ==, 0);
    g_assert_cmpint(*(volatile char *)r->map, ==, 0);
    g_assert_cmpint(*(volatile uint64_t *)(r->map + half), ==, rig_word(0, half / 8));
    rig_free(r);
}

/* MADV_DONTNEED of shared memory: the file has what it had, and lacks what it lacked. */
static void test_dontneed(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    r->s->cfg.shared_remove = FF_SHARED_REMOVE_UNMAPS;
    rig_fill_pattern(r, &(FfRun){0, 0, 2});
    rig_start(r);
    g_assert_cmpint(madvise(r->map, 4 * r->page_size, MADV_DONTNEED), ==, 0);
    for (unsigned i = 0; i < 4; i++) {
        rig_check(r, i, rig_page(r, i));
    }
    rig_stop(r);
    g_assert_cmpuint(rig_asked(r), ==, 2);
    g_assert_cmpuint(r->removed[FF_REMOVED_GIVEN_BACK], ==, 0);
    rig_free(r);
}

/* Nobody has said which it is: it matters where a page is missing. */
static void test_remove_unknown(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    r->s->cfg.shared_remove = FF_SHARED_REMOVE_UNKNOWN;
    rig_fill_pattern(r, &(FfRun){0, 0, 2});
    rig_start(r);
    g_assert_cmpint(madvise(r->map, r->page_size, MADV_REMOVE), ==, 0);
    g_assert_cmpint(madvise(rig_page(r, 1), r->page_size, MADV_DONTNEED), ==, 0);
    rig_check_zero(r, rig_page(r, 0));
    rig_check(r, 1, rig_page(r, 1));
    g_assert_cmpint(madvise(rig_page(r, 1), 2 * r->page_size, MADV_DONTNEED), ==, 0);
    wait_until_failed(r, -ENOTSUP);
    rig_check(r, 2, rig_page(r, 2));
    rig_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_add("/moments/overflow", RIG_ALL, test_overflow);
    rig_add("/moments/forget", RIG_ALL, test_forget);
    rig_add("/moments/move-after", RIG_ALL, test_move_after);
    /* not of hugetlb */
    rig_add("/moments/dont-unmap", RIG_ALL & ~RIG_BIT(RIG_HUGETLB), test_dont_unmap);
    rig_add("/moments/remove-part", RIG_BIT(RIG_HUGETLB), test_remove_part);
    rig_add("/moments/dontneed", RIG_FILES, test_dontneed);
    rig_add("/moments/remove-unknown", RIG_FILES, test_remove_unknown);
    return g_test_run();
}
