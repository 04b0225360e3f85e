/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest RAM of huge pages while somebody else takes every one that is free: what the kernel says of
 * such a page, and migrations between two sides in one process. Whatever could not be placed is
 * neither lost nor taken for zeros, and comes when there are huge pages again.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "migration/source/zero.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/pair.h"
#include "uffd/pagemap.h"
#include "uffd/uffd.h"

#define PAGES 8u

static void punch(int fd, uint64_t page, uint64_t n)
{
    g_assert_cmpint(
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page * HUGEPAGE, n * HUGEPAGE),
        ==, 0);
}

/* ---- what the kernel says -------------------------------------------------------------------- */

typedef struct {
    Side *side; /* for its memory and its userfaultfd */
    uint64_t addr;
    void *data; /* a huge page of 0x5a */
} Kernel;

static uint64_t at(const Kernel *k, unsigned page)
{
    return k->addr + page * HUGEPAGE;
}

static int copy(const Kernel *k, unsigned page)
{
    uint64_t done;

    return ff_uffd_try(k->side->uffds[FF_KIND_MISSING], FF_UFFD_COPY, at(k, page), k->data,
                       HUGEPAGE, &done);
}

static int present(const Kernel *k, unsigned page)
{
    uint64_t done;
    int rc = ff_uffd_try(k->side->uffds[FF_KIND_MISSING], FF_UFFD_CONTINUE, at(k, page), NULL,
                         HUGEPAGE, &done);

    return rc == 0 || rc == -EEXIST ? 1 : rc == -EFAULT ? 0 : rc;
}

static int mapped(const Kernel *k, unsigned page)
{
    return ff_pagemap_mapped(k->side->pagemap_fd, at(k, page));
}

/* Page 0 was never there, 1 is punched, 2 is only in the file, 3 is mapped. With an empty pool the
 * first two cannot be placed, whatever that is called, and must not be taken for the others. */
static void test_kernel(void)
{
    g_autofree char *data = g_malloc(HUGEPAGE);
    HugePages *pool = side_possible() ? hugepages_new(PAGES) : NULL;

    if (!pool) {
        return;
    }
    Kernel k = {.side = side_new_huge(FF_ROLE_DESTINATION, PAGES, false), .data = data};
    int fd = ((FfRamBlock *)k.side->blocks->pdata[0])->memfd, uffd = k.side->uffds[FF_KIND_MISSING];
    k.addr = (uintptr_t)k.side->map[0];
    memset(data, 0x5a, HUGEPAGE);
    g_assert_cmpint(ff_uffd_init(uffd, UFFD_FEATURE_MISSING_HUGETLBFS, NULL), ==, 0);
    g_assert_cmpint(ff_uffd_register(uffd, k.addr, PAGES * HUGEPAGE, UFFDIO_REGISTER_MODE_MISSING),
                    ==, 0);
    g_assert_cmpint(copy(&k, 1), ==, 0);
    g_assert_cmpint(copy(&k, 3), ==, 0);
    g_assert_cmpint(fallocate(fd, 0, 2 * HUGEPAGE, HUGEPAGE), ==, 0);
    punch(fd, 1, 1);
    hugepages_take(pool);
    for (unsigned page = 0; page < 2; page++) {
        int rc = copy(&k, page);
        g_test_message("of a missing page, the pool being empty: %s", g_strerror(-rc));
        g_assert_true(rc == -EEXIST || rc == -ENOMEM);
        g_assert_cmpint(present(&k, page), ==, 0);
        g_assert_cmpint(mapped(&k, page), ==, 0);
    }
    g_assert_cmpint(copy(&k, 2), ==, -EEXIST);
    g_assert_cmpint(mapped(&k, 2), ==, 0);
    g_assert_cmpint(present(&k, 2), ==, 1);
    g_assert_cmpint(mapped(&k, 2), ==, 1);
    g_assert_cmpint(copy(&k, 3), ==, -EEXIST);
    g_assert_cmpint(mapped(&k, 3), ==, 1);
    g_assert_cmpint(present(&k, 3), ==, 1);
    g_assert_cmpint(k.side->map[0][3 * HUGEPAGE], ==, 0x5a);
    hugepages_give(pool);
    g_assert_cmpint(copy(&k, 0), ==, 0);
    g_assert_cmpint(present(&k, 0), ==, 1);
    side_free(k.side);
    hugepages_free(pool);
}

/* ---- migrations ------------------------------------------------------------------------------ */

static HugePages *taken; /* by whom the callbacks take pages */

static void take_all(Side *s)
{
    hugepages_take(taken);
}

/* RESUMING: what the destination does right before its guest starts; can be NULL. */
static Pair huge_pair(unsigned n_touchers, bool reserved, void (*resuming)(Side *s))
{
    Pair p = {side_new_huge(FF_ROLE_SOURCE, PAGES, reserved),
              side_new_huge(FF_ROLE_DESTINATION, PAGES, reserved)};

    p.d->n_touchers = n_touchers;
    p.d->resuming = resuming;
    side_fill(p.s);
    side_start(p.d, "tcp:127.0.0.1:0", -1);
    return p;
}

static void join_touchers(Pair *p)
{
    for (unsigned i = 0; i < p->d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(p->d->touchers[i])), ==, 0);
    }
}

static void check_moved(Pair *p)
{
    side_run_until(pair_over(p->s) && pair_over(p->d));
    g_assert_cmpint(p->s->status, ==, FF_STATUS_COMPLETED);
    g_assert_cmpint(p->d->status, ==, FF_STATUS_COMPLETED);
    join_touchers(p);
    g_assert_cmpint(memcmp(p->s->map[0], p->d->map[0], PAGES * HUGEPAGE), ==, 0);
}

/* Nobody else may have been told that the pages are there. */
static void check_paused(Pair *p)
{
    side_run_until(pair_over(p->s) && pair_over(p->d));
    g_assert_cmpint(p->s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_assert_cmpint(p->d->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p->d->m);
    g_test_message("%s", info->error_desc);
    g_assert_nonnull(strstr(info->error_desc, "hugepages"));
    g_assert_cmpuint(info->ram_remaining, >, 0);
}

/* The guest has just moved when there is no huge page any more. DATA: so many vCPUs wait for pages;
 * with none only the bulk runs cannot be placed. Recovered too early it is paused again, and
 * nothing is lost by it. */
static void test_empty_pool(gconstpointer data)
{
    unsigned touchers = GPOINTER_TO_UINT(data);

    taken = side_possible() ? hugepages_new(2 * PAGES) : NULL;
    if (!taken) {
        return;
    }
    Pair p = huge_pair(touchers, false, take_all);
    g_autofree char *to = pair_address(p.d);
    side_start(p.s, to, -1);
    if (touchers) {
        ff_migration_set_bandwidth(p.s->m, 0, 65536);
    }
    ff_migration_start_postcopy(p.s->m, NULL);
    check_paused(&p);
    pair_resume_at(&p, to);
    check_paused(&p);
    hugepages_give(taken);
    ff_migration_set_bandwidth(p.s->m, 0, 0);
    pair_resume_at(&p, to);
    check_moved(&p);
    pair_free(&p);
    hugepages_free(taken);
}

/* Touches a page that has come, gives it back, and touches it again when there is no huge page: its
 * zeros must wait, too. */
static gpointer give_back(Side *s, unsigned index)
{
    volatile uint64_t *w = (uint64_t *)s->map[0];
    uint64_t first = *w;

    punch(((FfRamBlock *)s->blocks->pdata[0])->memfd, 0, 1);
    hugepages_take(taken);
    return GSIZE_TO_POINTER(first != side_word(0, 0) || *w != 0);
}

static void test_given_back(void)
{
    taken = side_possible() ? hugepages_new(2 * PAGES) : NULL;
    if (!taken) {
        return;
    }
    Pair p = huge_pair(1, false, NULL);
    g_autofree char *to = pair_address(p.d);
    p.d->touch = give_back;
    side_start(p.s, to, -1);
    ff_migration_set_bandwidth(p.s->m, 0, 65536);
    ff_migration_start_postcopy(p.s->m, NULL);
    check_paused(&p);
    hugepages_give(taken);
    ff_migration_set_bandwidth(p.s->m, 0, 0);
    pair_resume_at(&p, to);
    side_run_until(p.s->done && p.d->done);
    join_touchers(&p);
    g_assert_cmpint(memcmp(p.s->map[0] + HUGEPAGE, p.d->map[0] + HUGEPAGE, (PAGES - 1) * HUGEPAGE),
                    ==, 0);
    pair_free(&p);
    hugepages_free(taken);
}

/* ---- reservations ---------------------------------------------------------------------------- */

static unsigned allocated(const Side *s)
{
    struct stat st;

    g_assert_cmpint(fstat(((FfRamBlock *)s->blocks->pdata[0])->memfd, &st), ==, 0);
    return st.st_blocks * 512 / HUGEPAGE;
}

/* A guest that writes, in its fifth pass of precopy or over. */
static Pair busy_pair(void)
{
    Pair p = huge_pair(2, true, take_all);
    g_autofree char *to = pair_address(p.d);

    p.d->mirror = p.s;
    p.d->any = true;
    p.s->track = true;
    p.s->writes = 1;
    p.s->rest_us = 100;
    side_run(p.s);
    side_start(p.s, to, -1);
    side_run_until(p.s->passes >= 5 || pair_over(p.s));
    return p;
}

/* Precopy has brought every page, the guest writes all of them again and again: each is dropped at
 * the switch, or overwritten with zeros before it. Somebody takes every huge page that is not
 * reserved right after the switch; the destination's are. */
static void test_reserved(void)
{
    taken = side_possible() ? hugepages_new(2 * PAGES + 2) : NULL;
    if (!taken) {
        return;
    }
    Pair p = busy_pair();
    ff_migration_start_postcopy(p.s->m, NULL);
    check_moved(&p);
    g_assert_null(strstr(p.d->history->str, "paused"));
    g_assert_cmpuint(hugepages_free_now(), ==, 0);
    pair_free(&p);
    hugepages_free(taken);
}

/* The guest writes between the protection of a window and its copy: what it writes must be sent
 * again, so that there is another window. */
static Side *writing;    /* the source */
static unsigned windows; /* how many were opened; the coordinator's */

/* Not instrumented: the engine reads guest memory while the guest writes, by design. */
__attribute__((no_sanitize("thread"))) static void write_page(Side *s)
{
    ((volatile char *)s->map[0])[HUGEPAGE] ^= 1;
}

static bool write_in_window(GError **error)
{
    write_page(writing);
    return true;
}

__attribute__((no_sanitize("thread"))) static void zero_page(Side *s)
{
    volatile uint64_t *w = (uint64_t *)s->map[0];

    for (size_t i = 0; i < HUGEPAGE / sizeof(*w); i++) {
        w[i] = 0;
    }
}

/* In the second one a page that was sent in the first is filled with zeros. */
static bool zero_in_window(GError **error)
{
    windows++;
    if (windows == 1) {
        write_page(writing);
    } else if (windows == 2) {
        zero_page(writing);
    }
    return true;
}

static Pair writing_pair(bool (*drain)(GError **error))
{
    Pair p = huge_pair(2, true, take_all);

    windows = 0;
    writing = p.s;
    p.d->mirror = p.s;
    p.d->any = true;
    p.s->track = true;
    p.s->drain = drain;
    return p;
}

/* A page of data that the destination has becomes zeros while the guest runs, and somebody takes
 * every huge page that is not reserved, when all of precopy has come. The destination's is. */
static void test_zeroed(void)
{
    taken = side_possible() ? hugepages_new(2 * PAGES + 2) : NULL;
    if (!taken) {
        return;
    }
    Pair p = writing_pair(zero_in_window);
    g_autofree char *to = pair_address(p.d);

    p.d->loading = take_all;
    side_start(p.s, to, -1);
    check_moved(&p);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p.d->m);
    g_assert_cmpuint(windows, ==, 3);
    g_assert_cmpuint(info->pages_normal, ==, PAGES + 1);
    g_assert_cmpuint(info->pages_zero, ==, 1);
    g_assert_null(strstr(p.d->history->str, "paused"));
    g_assert_cmpuint(hugepages_free_now(), ==, 0);
    g_assert_cmpuint(allocated(p.d), ==, PAGES);
    g_assert_true(ff_is_zero(p.d->map[0], HUGEPAGE));
    pair_free(&p);
    hugepages_free(taken);
}

/* A page is stale at the switch, and once more when the guest is stopped. */
static void unreservable(void)
{
    Pair p = writing_pair(write_in_window);
    g_autofree char *to = pair_address(p.d);

    p.s->stopped = write_page;
    side_start(p.s, to, -1);
    side_run_until(p.s->passes >= 5 || pair_over(p.s));
    if (!pair_over(p.s)) {
        ff_migration_start_postcopy(p.s->m, NULL);
    }
    side_run_until(pair_over(p.s) && pair_over(p.d));
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p.d->m);
    g_test_message("%s", info->error_desc);
    g_assert_nonnull(strstr(info->error_desc, "hugepages"));
    g_assert_cmpint(p.s->status, ==, FF_STATUS_FAILED);
    g_assert_cmpint(p.d->status, ==, FF_STATUS_FAILED);
    g_assert_true(g_atomic_int_get(&p.s->runs));
    g_assert_false(g_atomic_int_get(&p.d->runs));
    p.d->n_touchers = 0;
    pair_free(&p);
}

/* What was punched cannot be reserved again: before the first page (DATA "1"), at the switch, or
 * after the userfaultfd is armed. The guest stays where it is. */
static void test_unreservable(gconstpointer data)
{
    if (g_test_subprocess()) {
        unreservable();
        return;
    }
#ifndef FF_FAULTS
    g_test_skip("built without -Dfaults=true");
    return;
#endif
    HugePages *pool = side_possible() ? hugepages_new(2 * PAGES) : NULL;
    if (!pool) {
        return;
    }
    g_autofree char *dir = g_dir_make_tmp("ff-hugetlb-XXXXXX", NULL);
    g_autofree char *faults =
        g_strdup_printf("%s;*/*/call/reserve-ram#%s=ENOMEM", dir, (const char *)data);
    g_autofree char *file = g_build_filename(dir, "fault-0", NULL);
    g_setenv("FARFAULT_FAULTS", faults, TRUE);
    g_test_trap_subprocess(NULL, 0, 0);
    g_unsetenv("FARFAULT_FAULTS");
    bool happened = g_unlink(file) == 0;
    g_rmdir(dir);
    hugepages_free(pool);
    g_test_trap_assert_passed();
    g_assert_true(happened);
}

/* A hole of the source costs nothing: neither a huge page, nor the one that somebody else has. */
static void test_holes(void)
{
    taken = side_possible() ? hugepages_new(2 * PAGES) : NULL;
    if (!taken) {
        return;
    }
    Pair p = huge_pair(0, false, take_all);
    g_autofree char *to = pair_address(p.d);
    punch(((FfRamBlock *)p.s->blocks->pdata[0])->memfd, 2, PAGES - 2);
    p.d->any = true;
    side_start(p.s, to, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(pair_over(p.s) && pair_over(p.d));
    g_assert_cmpuint(allocated(p.s), ==, 2);
    if (p.s->status == FF_STATUS_POSTCOPY_PAUSED) {
        hugepages_give(taken);
        pair_resume_at(&p, to);
    }
    side_run_until(p.s->done && p.d->done);
    g_assert_cmpuint(allocated(p.s), ==, 2);
    g_assert_cmpint(memcmp(p.s->map[0], p.d->map[0], 2 * HUGEPAGE), ==, 0);
    pair_free(&p);
    hugepages_free(taken);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hugetlb/kernel", test_kernel);
    g_test_add_data_func("/hugetlb/empty-pool/bulk", GUINT_TO_POINTER(0), test_empty_pool);
    g_test_add_data_func("/hugetlb/empty-pool/urgent", GUINT_TO_POINTER(2), test_empty_pool);
    g_test_add_func("/hugetlb/empty-pool/given-back", test_given_back);
    g_test_add_func("/hugetlb/reserved", test_reserved);
    g_test_add_func("/hugetlb/zeroed", test_zeroed);
    g_test_add_data_func("/hugetlb/unreservable/first", "1", test_unreservable);
    g_test_add_data_func("/hugetlb/unreservable/switch", "2", test_unreservable);
    g_test_add_data_func("/hugetlb/unreservable/armed", "3", test_unreservable);
    g_test_add_func("/hugetlb/holes", test_holes);
    return g_test_run();
}
