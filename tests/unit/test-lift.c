/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an engine leaves that dies with guest memory protected: threads that wait, of which nothing
 * in the kernel's queue tells any more, as it had read of them. After ff_unprotect_all() they
 * have continued, nothing is registered, and the same userfaultfd serves again.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/memfd.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "tests/lib/hugepages.h"
#include "uffd/uffd.h"
#include "uffd/unprotect.h"

#define WRITERS 4
#define DEADLINE_MS 60000

typedef struct {
    FfLiftBlock block;
    uint64_t size; /* bytes */
    int uffd, maps;
    char *map;
    gint done; /* atomic: writers that have got past the memory; observer: the test */
} Rig;

typedef struct {
    Rig *rig;
    uint64_t at;
} Writer;

static bool rig_new(Rig *r, uint64_t size, bool huge)
{
    unsigned flags = MFD_CLOEXEC | (huge ? MFD_HUGETLB | 21u << MFD_HUGE_SHIFT : 0);

    *r = (Rig){.block = {.page_size = huge ? HUGEPAGE : 4096},
               .size = size,
               .uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)};
    if (r->uffd < 0 || ff_uffd_init(r->uffd, FF_UFFD_PROTECTION, NULL) < 0) {
        g_test_skip(r->uffd < 0 ? "no permission for userfaultfd" : "the kernel is too old");
        return false;
    }
    r->block.memfd = memfd_create("ram", flags);
    g_assert_cmpint(ftruncate(r->block.memfd, size), ==, 0);
    r->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, r->block.memfd, 0);
    g_assert_true(r->map != MAP_FAILED);
    memset(r->map, 1, size);
    r->maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(ff_uffd_register_wp(r->uffd, (uintptr_t)r->map, size), ==, 0);
    g_assert_cmpint(ff_uffd_protect(r->uffd, (uintptr_t)r->map, size), ==, 0);
    return true;
}

static void rig_end(Rig *r)
{
    munmap(r->map, r->size);
    close(r->block.memfd);
    close(r->maps);
    close(r->uffd);
}

static gpointer write_one(gpointer opaque)
{
    Writer *w = opaque;

    __atomic_store_n(&w->rig->map[w->at], 2, __ATOMIC_RELAXED); /* observer: the test, joined */
    g_atomic_int_inc(&w->rig->done);
    return NULL;
}

/* All of them wait, and have been read of. */
static void begin(Rig *r, Writer *writers, GThread **threads)
{
    for (unsigned i = 0; i < WRITERS; i++) {
        struct pollfd p = {.fd = r->uffd, .events = POLLIN};
        struct uffd_msg msg;

        writers[i] = (Writer){r, r->size / WRITERS * i + 123};
        threads[i] = g_thread_new("writer", write_one, &writers[i]);
        g_assert_cmpint(poll(&p, 1, DEADLINE_MS), ==, 1);
        g_assert_cmpint(ff_uffd_read(r->uffd, &msg, 1), ==, 1);
    }
    g_assert_cmpint(g_atomic_int_get(&r->done), ==, 0);
}

static void check_free(Rig *r)
{
    int other = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    memset(r->map, 3, r->size); /* nobody waits */
    g_assert_cmpint(ff_uffd_init(other, FF_UFFD_PROTECTION, NULL), ==, 0);
    /* Of what is registered elsewhere the kernel says EBUSY. */
    g_assert_cmpint(ff_uffd_register_wp(other, (uintptr_t)r->map, r->size), ==, 0);
    close(other);
    g_assert_cmpint(ff_uffd_register_wp(r->uffd, (uintptr_t)r->map, r->size), ==, 0);
}

static void lift(uint64_t size, bool huge)
{
    Writer writers[WRITERS];
    GThread *threads[WRITERS];
    g_autoptr(GError) error = NULL;
    Rig r;

    if (!rig_new(&r, size, huge)) {
        return;
    }
    begin(&r, writers, threads);
    int64_t start = g_get_monotonic_time();
    g_assert_true(ff_unprotect_all(r.uffd, r.maps, &r.block, 1, &error));
    g_assert_no_error(error);
    for (unsigned i = 0; i < WRITERS; i++) {
        g_thread_join(threads[i]);
        g_assert_cmpint(r.map[writers[i].at], ==, 2);
    }
    g_test_message("%" G_GUINT64_FORMAT " MiB in %" G_GINT64_FORMAT " us", size >> 20,
                   g_get_monotonic_time() - start);
    check_free(&r);
    rig_end(&r);
}

static void test_small(void)
{
    lift((16 << 20) + 64 * 4096, false); /* a piece, and a bit of one */
}

static void test_large(void)
{
    lift(512 << 20, false);
}

static void test_huge(void)
{
    HugePages *pool = hugepages_new(8);

    if (pool) {
        lift(8 * HUGEPAGE, true);
        hugepages_free(pool);
    }
}

#ifdef FF_FAULTS
static gint refused; /* atomic: pieces that are not unregistered */

static int refuse(const char *place, const char *name)
{
    bool refuses = !strcmp(name, "uffd-unregister") && g_atomic_int_add(&refused, -1) > 0;

    return refuses ? ENOMEM : 0;
}
#endif

/* A process that has as many mappings as it can have: none of them can be split. */
static void test_many_mappings(void)
{
#ifdef FF_FAULTS
    refused = 2; /* pieces */
    ff_fault_hook(refuse);
    lift((16 << 20) + 64 * 4096, false);
    ff_fault_hook(NULL);
    g_assert_cmpint(refused, <, 0);
#else
    g_test_skip("this build has no faults: meson setup -Dfaults=true");
#endif
}

/* What is not mapped, or cannot be looked at, keeps nobody in the rest; of the latter the caller is
 * told. */
static void lift_with(int other, bool lifts)
{
    Writer writers[WRITERS];
    GThread *threads[WRITERS];
    g_autoptr(GError) error = NULL;
    Rig r;

    if (!rig_new(&r, 1 << 20, false)) {
        return;
    }
    FfLiftBlock blocks[] = {{other, 4096}, r.block};
    begin(&r, writers, threads);
    g_assert_cmpint(ff_unprotect_all(r.uffd, r.maps, blocks, 2, &error), ==, lifts);
    g_assert_cmpint(!error, ==, lifts);
    for (unsigned i = 0; i < WRITERS; i++) {
        g_thread_join(threads[i]);
    }
    check_free(&r);
    rig_end(&r);
}

static void test_unmapped(void)
{
    int other = memfd_create("gone", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(other, 1 << 20), ==, 0);
    lift_with(other, true);
    close(other);
}

static void test_no_fd(void)
{
    lift_with(-1, false);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lift/small", test_small);
    g_test_add_func("/lift/large", test_large);
    g_test_add_func("/lift/huge", test_huge);
    g_test_add_func("/lift/many-mappings", test_many_mappings);
    g_test_add_func("/lift/unmapped", test_unmapped);
    g_test_add_func("/lift/no-fd", test_no_fd);
    return g_test_run();
}
