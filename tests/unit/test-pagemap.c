/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Write tracking on real memory of this process: which pages a scan reports, for each kind of
 * backing, each kind of writer, and after the kernel lost a page table entry.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/falloc.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/hugepages.h"
#include "uffd/pagemap.h"
#include "uffd/uffd.h"

#define PAGES 600 /* more than one page table */
#define THP ((uintptr_t)2 << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

typedef struct {
    const char *name;
    unsigned flags; /* of memfd_create */
    size_t page;
    bool thp;
} Backing;

static const Backing backings[] = {
    {"shmem", 0, 4096},
    {"shmem-thp", 0, 4096, .thp = true},
    {"hugetlb", MFD_HUGETLB, 2 << 20},
};

typedef struct {
    HugePages *pool; /* hugetlb; NULL otherwise */
    int fd, uffd, pagemap;
    char *map;
    size_t page, len;
    unsigned n;
    uint8_t *seen; /* [n] */
} Ram;

/* Maps R where the kernel can map huge pages, and has it make them. */
static bool map_huge(Ram *r)
{
    char *area = mmap(NULL, r->len + THP, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *start = (char *)(((uintptr_t)area + THP - 1) & ~(THP - 1));

    g_assert_true(area != MAP_FAILED);
    munmap(r->map, r->len);
    munmap(area, r->len + THP);
    r->map =
        mmap(start, r->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, r->fd, 0);
    g_assert_true(r->map == start);
    memset(r->map, 0, r->len);
    return madvise(r->map, r->len / THP * THP, MADV_COLLAPSE) == 0;
}

static Ram *ram_new(const Backing *b)
{
    Ram *r = g_new0(Ram, 1);

    r->page = b->page;
    r->n = b->page > 4096 ? 4 : 2 * PAGES;
    r->len = r->page * r->n;
    const char *why = NULL;
    r->pool = b->page > 4096 ? hugepages_try(r->n, &why) : NULL;
    r->fd = memfd_create("ram", MFD_CLOEXEC | b->flags);
    r->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    r->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(r->pagemap, >=, 0);
    if (why || r->fd < 0 || ftruncate(r->fd, r->len) < 0 || r->uffd < 0 ||
        (r->map = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0)) == MAP_FAILED) {
        r->map = NULL;
        g_test_skip(r->uffd < 0 ? "no permission for userfaultfd" : why ? why : "no memory");
    } else if (ff_uffd_init(r->uffd, FF_UFFD_TRACKING, NULL) < 0) {
        g_test_skip("no asynchronous write protection: Linux before 6.7");
        munmap(r->map, r->len);
        r->map = NULL;
    } else if (b->thp && !map_huge(r)) {
        g_test_skip("no transparent huge pages of shared memory: Linux before 6.1");
        munmap(r->map, r->len);
        r->map = NULL;
    }
    r->seen = g_new0(uint8_t, r->n);
    return r;
}

static void ram_free(Ram *r)
{
    if (r->map) {
        munmap(r->map, r->len);
    }
    close(r->fd);
    close(r->uffd);
    close(r->pagemap);
    hugepages_free(r->pool);
    g_free(r->seen);
    g_free(r);
}

static void see(uint64_t addr, uint64_t len, void *opaque)
{
    Ram *r = opaque;
    uint64_t first = (addr - (uintptr_t)r->map) / r->page;

    g_assert_cmpuint(addr, >=, (uintptr_t)r->map);
    g_assert_cmpuint(addr + len, <=, (uintptr_t)r->map + r->len);
    memset(r->seen + first, 1, len / r->page);
}

static void see_gone(uint64_t addr, uint64_t len, void *opaque)
{
    Ram *r = opaque;

    g_assert_cmpint(ff_uffd_protect(r->uffd, addr, len), ==, 0);
    see(addr, len, r);
}

static unsigned scan(Ram *r, bool protect)
{
    unsigned n = 0;

    memset(r->seen, 0, r->n);
    g_assert_cmpint(ff_pagemap_scan(r->pagemap, (uintptr_t)r->map, r->len, protect, see, r), ==, 0);
    if (r->page > 4096) {
        g_assert_cmpint(ff_pagemap_scan_gone(r->pagemap, (uintptr_t)r->map, r->len,
                                             protect ? see_gone : see, r),
                        ==, 0);
    }
    for (unsigned i = 0; i < r->n; i++) {
        n += r->seen[i];
    }
    return n;
}

static bool track(Ram *r)
{
    int rc = ff_uffd_register_wp(r->uffd, (uintptr_t)r->map, r->len);

    g_assert_cmpint(rc, ==, 0);
    g_assert_cmpint(ff_uffd_protect(r->uffd, (uintptr_t)r->map, r->len), ==, 0);
    return true;
}

/* Huge pages that cannot be had are told by a signal at the first touch; fallocate tells before. */
static bool can_fill(Ram *r)
{
    if (r->page > 4096 && fallocate(r->fd, 0, 0, r->len) < 0) {
        g_test_skip("no huge pages are free");
        return false;
    }
    return true;
}

static void test_written(gconstpointer data)
{
    Ram *r = ram_new(data);

    if (!r->map || !can_fill(r)) {
        ram_free(r);
        return;
    }
    unsigned last = r->n - 1;
    memset(r->map, 1, r->len / 2); /* the other half is not mapped yet */
    track(r);
    g_assert_cmpuint(scan(r, true), ==, 0);
    r->map[0] = 2;
    r->map[last * r->page] = 2;
    g_assert_cmpuint(scan(r, false), ==, 2); /* does not protect: is seen again */
    g_assert_cmpuint(scan(r, true), ==, 2);
    g_assert_true(r->seen[0] && r->seen[last]);
    g_assert_cmpuint(scan(r, true), ==, 0);
    /* Reading maps pages, and is no write. */
    for (unsigned i = 0; i < r->n; i++) {
        g_assert_cmpint(((volatile char *)r->map)[i * r->page], >=, 0);
    }
    g_assert_cmpuint(scan(r, true), ==, 0);
    r->map[r->page * (r->n / 2)] = 3;
    g_assert_cmpuint(scan(r, true), ==, 1);
    g_assert_cmpint(ff_uffd_unregister(r->uffd, (uintptr_t)r->map, r->len), ==, 0);
    g_assert_cmpint(ff_pagemap_scan(r->pagemap, (uintptr_t)r->map, r->len, true, see, r), ==,
                    -EPERM);
    ram_free(r);
}

/* A page table entry that is lost after the write (reclaim does that, MADV_DONTNEED here) must
 * not look clean; one that was protected may look as it likes. */
static void test_lost_entry(gconstpointer data)
{
    Ram *r = ram_new(data);

    if (!r->map || !can_fill(r)) {
        ram_free(r);
        return;
    }
    memset(r->map, 1, r->len);
    track(r);
    g_assert_cmpuint(scan(r, true), ==, 0);
    r->map[0] = 2;
    r->map[r->page] = 2;
    g_assert_cmpint(madvise(r->map, r->page, MADV_DONTNEED), ==, 0);
    g_assert_cmpuint(scan(r, true), ==, 2);
    g_assert_true(r->seen[0] && r->seen[1]);
    g_assert_cmpint(r->map[0], ==, 2); /* shared memory keeps its content */
    g_assert_cmpuint(scan(r, true), ==, 0);
    ram_free(r);
}

/* What the guest gives back (balloon), as QEMU drops it: what was written before, since the last
 * scan, or after is reported; what was protected may look as it likes. */
static void test_given_back(gconstpointer data)
{
    Ram *r = ram_new(data);

    if (!r->map || !can_fill(r)) {
        ram_free(r);
        return;
    }
    memset(r->map, 1, 3 * r->page);
    track(r);
    g_assert_cmpuint(scan(r, true), ==, 0);
    r->map[0] = 2;
    g_assert_cmpint(fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 * r->page),
                    ==, 0);
    g_assert_cmpint(madvise(r->map, 2 * r->page, MADV_DONTNEED), ==, 0);
    scan(r, true);
    g_assert_true(r->seen[0]);
    g_assert_false(r->seen[2]);
    g_assert_cmpuint(scan(r, true), ==, 0);
    r->map[r->page] = 3;
    g_assert_cmpuint(scan(r, true), ==, 1);
    g_assert_true(r->seen[1]);
    g_assert_cmpint(r->map[0] | r->map[r->page + 1], ==, 0);
    ram_free(r);
}

typedef struct {
    int uffd;
    uint64_t addr, len;
} Tracked;

/* A process that tracks memory of its own and ends; its descriptors are ours. */
static bool track_elsewhere(Tracked *t)
{
    int ends[2];

    g_assert_cmpint(pipe(ends), ==, 0);
    pid_t child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
        Ram *r = ram_new(&backings[0]);
        *t = (Tracked){r->uffd, (uintptr_t)r->map, r->len};
        if (!r->map || !track(r) || write(ends[1], t, sizeof(*t)) != sizeof(*t)) {
            _exit(1);
        }
        _exit(0);
    }
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    close(ends[1]);
    bool good = read(ends[0], t, sizeof(*t)) == sizeof(*t);
    close(ends[0]);
    return good;
}

/* The kernel's word for it differs from call to call; ours does not. */
static void test_gone(void)
{
    Tracked t;

    if (!track_elsewhere(&t)) {
        g_test_skip("no write tracking here");
        return;
    }
    g_assert_cmpint(ff_uffd_protect(t.uffd, t.addr, t.len), ==, -ESRCH);
    g_assert_cmpint(ff_uffd_unregister(t.uffd, t.addr, t.len), ==, -ESRCH);
    close(t.uffd);
}

/* The same range again, by an engine that came after: the uffd is used already. */
static void test_again(gconstpointer data)
{
    Ram *r = ram_new(data);

    if (!r->map || !can_fill(r)) {
        ram_free(r);
        return;
    }
    track(r);
    g_assert_cmpint(ff_uffd_init(r->uffd, FF_UFFD_TRACKING, NULL), ==, -EINVAL);
    track(r);
    memset(r->map, 1, r->page);
    g_assert_cmpuint(scan(r, true), ==, 1);
    ram_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(backings); i++) {
        const Backing *b = &backings[i];
        g_autofree char *written = g_strdup_printf("/pagemap/%s/written", b->name);
        g_autofree char *lost = g_strdup_printf("/pagemap/%s/lost-entry", b->name);
        g_autofree char *again = g_strdup_printf("/pagemap/%s/again", b->name);
        g_autofree char *given_back = g_strdup_printf("/pagemap/%s/given-back", b->name);
        g_test_add_data_func(written, b, test_written);
        g_test_add_data_func(lost, b, test_lost_entry);
        g_test_add_data_func(given_back, b, test_given_back);
        g_test_add_data_func(again, b, test_again);
    }
    g_test_add_func("/pagemap/gone", test_gone);
    return g_test_run();
}
