/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Somebody else has a space's memory mapped, and waits for it in a userfaultfd of his own: content
 * comes, holes are zeros, who came before he was known is told again, and in the end nobody waits.
 * Here he is this process, with another mapping.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/hugepages.h"
#include "tests/uffd/rig.h"
#include "uffd/sharers.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING

typedef struct {
    char *map;
    int uffd;
} Other;

/* With a mapping that is registered. */
static Other other_new(const Rig *r, bool registers)
{
    Other o = {.uffd = (int)syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK)};

    o.map = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
    g_assert_true(o.map != MAP_FAILED);
    g_assert_cmpint(ff_uffd_init(o.uffd, 0, NULL), ==, 0);
    if (registers) {
        g_assert_cmpint(ff_uffd_register(o.uffd, (uintptr_t)o.map, r->len, MISSING), ==, 0);
    }
    return o;
}

/* As two ranges, of which the second one begins in the middle. */
static int add(Rig *r, const Other *o)
{
    uint64_t half = r->len / 2;
    const FfSharerRange ranges[] = {{(uintptr_t)o->map, half, 0, 0},
                                    {(uintptr_t)o->map + half, half, 0, half}};

    return ff_space_add_sharer(r->s, fcntl(o->uffd, F_DUPFD_CLOEXEC, 0), ranges, 2);
}

static void other_free(const Rig *r, Other *o)
{
    munmap(o->map, r->len);
    close(o->uffd);
}

static const char *page_of(const Rig *r, const Other *o, unsigned page)
{
    return o->map + page * r->page_size;
}

/* Somebody waits there; that is read, and told to nobody. */
static void await_fault(const Other *o)
{
    struct pollfd pfd = {.fd = o->uffd, .events = POLLIN};
    struct uffd_msg msg;

    g_assert_cmpint(poll(&pfd, 1, -1), ==, 1);
    g_assert_cmpint(ff_uffd_read(o->uffd, &msg, 1), ==, 1);
}

typedef struct {
    Rig *r;
    Other *o;
    unsigned first, n;
} Reader;

static gpointer read_pages(gpointer p)
{
    Reader *x = p;

    for (unsigned i = x->first; i < x->first + x->n; i++) {
        rig_check(x->r, i, page_of(x->r, x->o, i));
    }
    return NULL;
}

static void test_content(gconstpointer kind)
{
    Rig *r = rig_new(GPOINTER_TO_UINT(kind), MISSING, UFFD_FEATURE_THREAD_ID);

    if (!r) {
        return;
    }
    Other o = other_new(r, true);
    Reader x = {r, &o, 0, r->n_pages};

    rig_start(r);
    g_assert_cmpint(add(r, &o), ==, 0);
    read_pages(&x);
    rig_stop(r);
    g_assert_cmpuint(ff_space_missing(r->s), ==, 0);
    g_assert_cmpuint(r->asked_all, ==, r->n_pages);
    g_assert_cmpuint(r->began, ==, r->ended);
    other_free(r, &o);
    rig_free(r);
}

/* Both want the same pages at the same time, from both ends: each is asked for once. */
static void test_both(gconstpointer kind)
{
    Rig *r = rig_new(GPOINTER_TO_UINT(kind), MISSING, 0);
    GThread *threads[4];

    if (!r) {
        return;
    }
    Other o = other_new(r, true), own = {.map = r->map};
    Reader x[4] = {{r, &o, 0, r->n_pages},
                   {r, &own, 0, r->n_pages},
                   {r, &o, r->n_pages / 2, r->n_pages / 2},
                   {r, &own, r->n_pages / 2, r->n_pages / 2}};

    rig_start(r);
    g_assert_cmpint(add(r, &o), ==, 0);
    for (unsigned i = 0; i < 4; i++) {
        threads[i] = g_thread_new("reader", read_pages, &x[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, r->n_pages);
    other_free(r, &o);
    rig_free(r);
}

/* What the one before had read of his is told again to the next one. */
static void test_late(gconstpointer kind)
{
    Rig *r = rig_new(GPOINTER_TO_UINT(kind), MISSING, 0);

    if (!r) {
        return;
    }
    Other o = other_new(r, true);
    Reader x = {r, &o, 3, 1};
    GThread *reader = g_thread_new("reader", read_pages, &x);

    await_fault(&o);
    rig_start(r);
    g_assert_cmpint(add(r, &o), ==, 0);
    g_thread_join(reader);
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, 1);
    other_free(r, &o);
    rig_free(r);
}

/* Nobody is asked for what is zeros, and in no file: left as a hole, or given back since. */
static void test_holes(gconstpointer kind)
{
    Rig *r = rig_new(GPOINTER_TO_UINT(kind), MISSING, 0);
    unsigned half;

    if (!r) {
        return;
    }
    Other o = other_new(r, true);
    half = r->n_pages / 2;
    FfRun hole = {0, 0, half};

    rig_start(r);
    g_assert_cmpint(add(r, &o), ==, 0);
    g_assert_cmpint(ff_place_hole(r->s, &hole), ==, 0);
    rig_check(r, half, rig_page(r, half));
    rig_drop(r, half, 1);
    rig_check_zero(r, page_of(r, &o, 0));
    rig_check_zero(r, page_of(r, &o, half - 1));
    rig_check_zero(r, page_of(r, &o, half));
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, 1);
    other_free(r, &o);
    rig_free(r);
}

static void test_check(gconstpointer kind)
{
    Rig *r = rig_new(GPOINTER_TO_UINT(kind), MISSING, 0);

    if (!r) {
        return;
    }
    Other o = other_new(r, true), bare = other_new(r, false);
    int good = add(r, &o), bad = add(r, &bare);

    g_assert_cmpint(ff_sharers_check(ff_space_sharers(r->s), good), ==, 0);
    g_assert_cmpint(ff_sharers_check(ff_space_sharers(r->s), bad), ==, -ENOENT);
    /* Half of it is. */
    g_assert_cmpint(ff_uffd_register(bare.uffd, (uintptr_t)bare.map, r->len / 2, MISSING), ==, 0);
    g_assert_cmpint(ff_sharers_check(ff_space_sharers(r->s), bad), ==, -ENOENT);
    /* Whether a page is there makes no difference. */
    rig_populate(r);
    g_assert_cmpint(ff_sharers_check(ff_space_sharers(r->s), good), ==, 0);
    other_free(r, &bare);
    other_free(r, &o);
    rig_free(r);
}

static gpointer touch(gpointer p)
{
    return GINT_TO_POINTER(*(volatile const char *)p);
}

/* When nothing is registered any more nobody waits, and nobody else is taken. */
static void test_end(gconstpointer kind)
{
    Rig *r = rig_new(GPOINTER_TO_UINT(kind), MISSING, 0);

    if (!r) {
        return;
    }
    Other o = other_new(r, true), late = other_new(r, true);
    GThread *reader = g_thread_new("reader", touch, o.map);

    await_fault(&o);
    g_assert_cmpint(add(r, &o), ==, 0);
    g_assert_cmpint(ff_space_unregister(r->s), ==, 0);
    g_thread_join(reader);
    rig_check_zero(r, page_of(r, &o, 7));
    g_assert_cmpint(add(r, &late), ==, -ESHUTDOWN);
    /* Nor is it good that something is registered, where nobody answers any more. */
    g_assert_cmpint(ff_uffd_register(o.uffd, (uintptr_t)o.map, r->len, MISSING), ==, 0);
    g_assert_cmpint(ff_sharers_check(ff_space_sharers(r->s), 0), ==, -ESHUTDOWN);
    other_free(r, &late);
    other_free(r, &o);
    rig_free(r);
}

/* He has unmapped it, and what is there now is somebody else's: that is left alone. Linux from 6.17
 * on would do so by itself. */
static void test_anothers(void)
{
    Rig *r = rig_new(RIG_MEMFD, MISSING, 0);

    if (!r) {
        return;
    }
    Other o = other_new(r, true);
    int uffd = (int)syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    g_assert_cmpint(add(r, &o), ==, 0);
    g_assert_true(mmap(o.map, r->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->fd, 0) ==
                  o.map);
    g_assert_cmpint(ff_uffd_init(uffd, 0, NULL), ==, 0);
    g_assert_cmpint(ff_uffd_register(uffd, (uintptr_t)o.map, r->len, MISSING), ==, 0);
    g_assert_cmpint(ff_space_unregister(r->s), ==, 0);
    g_assert_cmpint(ff_uffd_is_registered(uffd, (uintptr_t)o.map, r->page_size), ==, 0);
    close(uffd);
    other_free(r, &o);
    rig_free(r);
}

static int read_given_back(void *opaque)
{
    Rig *r = opaque;

    rig_drop(r, 0, 1);
    g_thread_join(g_thread_new("owner", touch, rig_page(r, 0)));
    return 0;
}

/* He waits; the page is placed and marked, and before he is woken the owner gives it back and
 * misses it, which ends all waits for it. */
static void test_given_back(gconstpointer kind)
{
    Rig *r = rig_new(GPOINTER_TO_UINT(kind), MISSING, 0);

    if (!r) {
        return;
    }
    Other o = other_new(r, true);

    if (rig_at("place-marked", read_given_back, r)) {
        rig_start(r);
        g_assert_cmpint(add(r, &o), ==, 0);
        g_assert_null(g_thread_join(g_thread_new("reader", touch, o.map)));
        rig_stop(r);
        g_assert_cmpuint(r->asked_all, ==, 1);
    }
    other_free(r, &o);
    rig_free(r);
}

/* What the kernel says of a page that is there it says as well where no huge page is free. */
static void test_pool(void)
{
    HugePages *pool = hugepages_new(2);

    if (!pool) {
        return;
    }
    FfSharer x = {.uffd = (int)syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK)};
    if (x.uffd < 0) {
        g_test_skip(g_strerror(errno));
        hugepages_free(pool);
        return;
    }
    int fd = memfd_create("pages", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
    g_autofree char *zeros = g_malloc0(HUGEPAGE);

    g_assert_cmpint(ftruncate(fd, HUGEPAGE), ==, 0);
    char *map = mmap(NULL, HUGEPAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    uint64_t at = (uintptr_t)map;

    g_assert_true(map != MAP_FAILED);
    g_assert_cmpint(ff_uffd_init(x.uffd, 0, NULL), ==, 0);
    g_assert_cmpint(ff_uffd_register(x.uffd, at, HUGEPAGE, MISSING), ==, 0);
    hugepages_take(pool);
    g_assert_cmpint(ff_sharer_place_zeros(&x, at, HUGEPAGE, zeros), ==, -ENOMEM);
    hugepages_give(pool);
    g_assert_cmpint(ff_sharer_place_zeros(&x, at, HUGEPAGE, zeros), ==, 0);
    g_assert_cmpint(ff_sharer_place_zeros(&x, at, HUGEPAGE, zeros), ==, -EEXIST);
    munmap(map, HUGEPAGE);
    close(fd);
    close(x.uffd);
    hugepages_free(pool);
}

static void test_refused(gconstpointer kind)
{
    Rig *r = rig_new(GPOINTER_TO_UINT(kind), MISSING, 0);

    if (!r) {
        return;
    }
    Other o = other_new(r, true);
    uint64_t at = (uintptr_t)o.map, ps = r->page_size;
    const FfSharerRange bad[] = {
        {at, ps, 1, 0},
        {at, ps / 2, 0, 0},
        {at + 1, ps, 0, 0},
        {at, ps, 0, 1},
        {at, 0, 0, 0},
        {at, r->len + ps, 0, 0},
        {at, ps, 0, r->len},
        {at, r->len, 0, ps},
        {UINT64_MAX - ps + 1, ps, 0, 0},
        {at, ps, 0, UINT64_MAX - ps + 1},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_cmpint(ff_space_add_sharer(r->s, dup(o.uffd), &bad[i], 1), ==, -EINVAL);
    }
    for (int i = 0; i < FF_MAX_SHARERS; i++) {
        g_assert_cmpint(add(r, &o), ==, i);
    }
    g_assert_cmpint(add(r, &o), ==, -ENOSPC);
    other_free(r, &o);
    rig_free(r);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        GTestDataFunc test;
    } of_each[] = {
        {"content", test_content},       {"both", test_both},       {"late", test_late},
        {"holes", test_holes},           {"check", test_check},     {"end", test_end},
        {"given-back", test_given_back}, {"refused", test_refused},
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(of_each); i++) {
        g_autofree char *small = g_strconcat("/sharers/", of_each[i].name, NULL);
        g_autofree char *huge = g_strconcat("/sharers/hugetlb/", of_each[i].name, NULL);

        g_test_add_data_func(small, GUINT_TO_POINTER(RIG_MEMFD), of_each[i].test);
        g_test_add_data_func(huge, GUINT_TO_POINTER(RIG_HUGETLB), of_each[i].test);
    }
    g_test_add_func("/sharers/anothers", test_anothers);
    g_test_add_func("/sharers/hugetlb/pool", test_pool);
    return g_test_run();
}
