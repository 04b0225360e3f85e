/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tracking by pieces on real memory of this process: what is protected when, what is told, and what
 * becomes of huge mappings.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/hugepages.h"
#include "uffd/tracking.h"
#include "uffd/uffd.h"

#define PAGE 4096ull
#define HUGE_PAGE (2ull << 20)
#define PIECES 3
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

typedef struct {
    FfTrackedFile file;
    char *map;
    int uffd, pagemap, maps, pidfd;
    FfTracking *t;
    GArray *told; /* uint64_t, pages */
    HugePages *pool;
} Ram;

static char *map_aligned(int fd, uint64_t len)
{
    char *area = mmap(NULL, len + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *start = (char *)(((uintptr_t)area + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));

    g_assert_true(area != MAP_FAILED);
    munmap(area, len + HUGE_PAGE);
    char *map = mmap(start, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    g_assert_true(map == start);
    return map;
}

/* LEN bytes of shared memory, not tracked yet; HUGE: of hugetlb. NULL: skipped. */
static Ram *ram_new_of(uint64_t len, bool huge)
{
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (uffd < 0) {
        g_test_skip("no permission for userfaultfd");
        return NULL;
    }
    HugePages *pool = huge ? hugepages_new(len / HUGE_PAGE) : NULL;
    if (huge && !pool) {
        close(uffd);
        return NULL;
    }
    Ram *r = g_new0(Ram, 1);
    r->uffd = uffd;
    r->pool = pool;
    int fd = memfd_create("ram", MFD_CLOEXEC | (huge ? MFD_HUGETLB | 21u << MFD_HUGE_SHIFT : 0));
    r->file = (FfTrackedFile){fd, len, huge ? HUGE_PAGE : PAGE, "ram"};
    g_assert_cmpint(ftruncate(r->file.fd, len), ==, 0);
    r->map = map_aligned(r->file.fd, len);
    r->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    r->maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    r->pidfd = syscall(SYS_pidfd_open, getpid(), 0);
    g_assert_true(r->pagemap >= 0 && r->maps >= 0 && r->pidfd >= 0);
    r->told = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    return r;
}

static Ram *ram_new(uint64_t len)
{
    return ram_new_of(len, false);
}

static void ram_free(Ram *r)
{
    ff_tracking_free(r->t);
    munmap(r->map, r->file.size);
    close(r->file.fd);
    close(r->uffd);
    close(r->pagemap);
    close(r->maps);
    close(r->pidfd);
    hugepages_free(r->pool);
    g_array_unref(r->told);
    g_free(r);
}

static bool track(Ram *r)
{
    g_autoptr(GError) error = NULL;

    r->t = ff_tracking_new(&r->file, 1, r->maps, r->uffd, r->pagemap, r->pidfd, &error);
    if (!r->t) {
        g_assert_nonnull(strstr(error->message, "Linux 6.7"));
        g_test_skip(error->message);
    }
    return r->t != NULL;
}

static void on_written(unsigned file, uint64_t offset, uint64_t len, void *opaque)
{
    Ram *r = opaque;

    g_assert_cmpuint(file, ==, 0);
    g_assert_cmpuint(offset + len, <=, r->file.size);
    for (uint64_t at = offset; at < offset + len; at += PAGE) {
        uint64_t page = at / PAGE;
        g_array_append_val(r->told, page);
    }
}

static unsigned protect(Ram *r, unsigned piece)
{
    g_array_set_size(r->told, 0);
    g_assert_cmpint(ff_tracking_protect(r->t, piece, on_written, r), ==, 0);
    return r->told->len;
}

static unsigned scan(Ram *r, bool protects)
{
    g_array_set_size(r->told, 0);
    g_assert_cmpint(ff_tracking_scan(r->t, protects, on_written, r), ==, 0);
    return r->told->len;
}

static uint64_t told(const Ram *r, unsigned i)
{
    return g_array_index(r->told, uint64_t, i);
}

/* A piece is tracked from its own protection on, and the others are left alone. */
static void test_pieces(void)
{
    Ram *r = ram_new((PIECES - 1) * FF_PAGEMAP_PIECE + 5 * PAGE);
    const uint64_t page = FF_PAGEMAP_PIECE / PAGE + 3; /* in piece 1 */
    unsigned n;

    if (!r || !track(r)) {
        g_clear_pointer(&r, ram_free);
        return;
    }
    const FfPiece *piece = ff_tracking_pieces(r->t, &n);
    g_assert_cmpuint(n, ==, PIECES);
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint(piece[i].offset, ==, i * FF_PAGEMAP_PIECE);
        g_assert_cmpuint(piece[i].len, ==, i + 1 < n ? FF_PAGEMAP_PIECE : 5 * PAGE);
    }
    memset(r->map, 1, 10 * PAGE);
    g_assert_cmpuint(scan(r, false), ==, 0); /* nothing is protected: nothing is told */
    g_assert_cmpuint(protect(r, 1), ==, 0);
    r->map[0] = 2;
    r->map[page * PAGE] = 2;
    r->map[r->file.size - 1] = 2;
    g_assert_cmpuint(scan(r, false), ==, 1);
    g_assert_cmpuint(told(r, 0), ==, page);
    g_assert_cmpuint(scan(r, true), ==, 1);
    g_assert_cmpuint(scan(r, true), ==, 0);

    g_assert_cmpuint(protect(r, 2), ==, 0); /* the first time: all of it counts as written */
    r->map[page * PAGE] = 3;
    r->map[r->file.size - 1] = 3;
    g_assert_cmpuint(protect(r, 2), ==, 1); /* of this piece alone */
    g_assert_cmpuint(told(r, 0), ==, r->file.size / PAGE - 1);
    g_assert_cmpuint(scan(r, false), ==, 1); /* and the other one is not forgotten */
    g_assert_cmpuint(told(r, 0), ==, page);
    g_assert_cmpuint(protect(r, 1), ==, 1);
    g_assert_cmpuint(scan(r, false), ==, 0);

    ff_tracking_end(r->t);
    ff_tracking_end(r->t);
    g_assert_cmpint(ff_tracking_protect(r->t, 1, on_written, r), ==, -EPERM);
    ram_free(r);
}

/* A userfaultfd that cannot track asynchronously, as on an older kernel: every write would wait. */
static void test_refused(void)
{
    Ram *r = ram_new(10 * PAGE);
    g_autoptr(GError) error = NULL;

    if (!r) {
        return;
    }
    g_assert_cmpint(ff_uffd_init(r->uffd, 0, NULL), ==, 0);
    r->t = ff_tracking_new(&r->file, 1, r->maps, r->uffd, r->pagemap, -1, &error);
    g_assert_null(r->t);
    g_assert_nonnull(strstr(error->message, "'ram' cannot be tracked"));
    g_assert_nonnull(strstr(error->message, "Linux 6.7"));
    memset(r->map, 1, r->file.size); /* not registered any more: waits for nobody */
    ram_free(r);
}

static void add_len(uint64_t addr, uint64_t len, void *opaque)
{
    *(uint64_t *)opaque += len;
}

static uint64_t huge(const Ram *r, uint64_t len)
{
    uint64_t sum = 0;

    g_assert_cmpint(ff_pagemap_scan_huge(r->pagemap, (uintptr_t)r->map, len, add_len, &sum), ==, 0);
    return sum;
}

static uint64_t minor_faults(void)
{
    struct rusage usage;

    g_assert_cmpint(getrusage(RUSAGE_THREAD, &usage), ==, 0);
    return usage.ru_minflt;
}

/* Huge mappings are split by the protection of their own piece, and come back at the end; but what
 * was given back gets no memory by that. */
static void test_huge(void)
{
    const uint64_t len = FF_PAGEMAP_PIECE + 2 * HUGE_PAGE;
    Ram *r = ram_new(len);

    if (!r) {
        return;
    }
    memset(r->map, 1, len);
    if (madvise(r->map, len, MADV_COLLAPSE) < 0) {
        g_test_skip("no transparent huge pages of shared memory: Linux before 6.1");
        ram_free(r);
        return;
    }
    if (!track(r)) {
        ram_free(r);
        return;
    }
    g_assert_cmpuint(huge(r, len), ==, len); /* tracking alone splits nothing */
    protect(r, 1);
    g_assert_cmpuint(huge(r, len), ==, FF_PAGEMAP_PIECE);
    protect(r, 0);
    g_assert_cmpuint(huge(r, len), ==, 0);
    uint64_t faults = minor_faults();
    for (uint64_t at = 0; at < len; at += PAGE) {
        g_assert_cmpint(((volatile char *)r->map)[at], ==, 1);
    }
    faults = minor_faults() - faults;
    g_assert_cmpuint(faults, <, len / PAGE / 10); /* reading does not fault page by page */
    g_assert_cmpuint(scan(r, false), ==, 0);      /* and is no write */
    for (uint64_t at = 0; at < len; at += HUGE_PAGE) {
        r->map[at + PAGE] = 1;
    }
    g_assert_cmpuint(scan(r, true), ==, len / HUGE_PAGE);
    g_assert_cmpuint(told(r, 1), ==, (HUGE_PAGE + PAGE) / PAGE);
    g_assert_cmpuint(scan(r, true), ==, 0);
    g_assert_cmpint(fallocate(r->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, HUGE_PAGE),
                    ==, 0);
    memset(r->map + HUGE_PAGE, 2, HUGE_PAGE);
    ff_tracking_end(r->t);
    ff_tracking_restore(r->t, 60000);
    if (!huge(r, len)) {
        g_test_skip("huge mappings of a process cannot be made from outside here");
    } else {
        g_assert_cmpuint(huge(r, len), ==, len - HUGE_PAGE);
        g_assert_cmpuint(huge(r, HUGE_PAGE), ==, 0);
        off_t hole = lseek(r->file.fd, 0, SEEK_HOLE);
        g_assert_cmpint(hole, ==, 0);
    }
    for (uint64_t at = 0; at < len; at += PAGE) {
        g_assert_cmpint(r->map[at], ==, at < HUGE_PAGE ? 0 : at < 2 * HUGE_PAGE ? 2 : 1);
    }
    ram_free(r);
}

/* A guest writes what it frees (init_on_free), and gives it back at once (free page reporting), as
 * QEMU drops it. The kernel may free the page table with it (CONFIG_PT_RECLAIM, Linux 6.14), and
 * with that what it knew of the writes. What was neither written nor given back stays clean. */
static void test_given_back_whole(void)
{
    Ram *r = ram_new(4 * HUGE_PAGE);

    if (!r) {
        return;
    }
    memset(r->map, 1, r->file.size);
    if (!track(r)) {
        ram_free(r);
        return;
    }
    protect(r, 0);
    g_assert_cmpuint(scan(r, true), ==, 0);
    for (unsigned round = 0; round < 2; round++) {
        char *freed = r->map + HUGE_PAGE;
        uint64_t offset = freed - r->map, len = 2 * HUGE_PAGE;
        memset(freed, 0, len);
        g_assert_cmpint(
            fallocate(r->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len), ==, 0);
        g_assert_cmpint(madvise(freed, len, MADV_DONTNEED), ==, 0);
        g_assert_cmpuint(scan(r, false), ==, len / PAGE);
        g_assert_cmpuint(told(r, 0), ==, offset / PAGE);
        g_assert_cmpuint(round ? protect(r, 0) : scan(r, true), ==, len / PAGE);
        g_assert_cmpuint(scan(r, true), ==, 0); /* and it is protected again */
        freed[5 * PAGE] = 3;
        g_assert_cmpuint(scan(r, true), ==, 1);
        g_assert_cmpuint(told(r, 0), ==, offset / PAGE + 5);
    }
    ram_free(r);
}

/* The same of hugetlb, where a scan for written pages tells nothing of what was given back. */
static void test_given_back_hugetlb(void)
{
    const uint64_t len = FF_PAGEMAP_PIECE + 2 * HUGE_PAGE, per = HUGE_PAGE / PAGE;
    Ram *r = ram_new_of(len, true);

    if (!r) {
        return;
    }
    memset(r->map, 1, len / 2); /* the others are holes */
    if (!track(r)) {
        ram_free(r);
        return;
    }
    protect(r, 0);
    protect(r, 1);
    g_assert_cmpuint(scan(r, true), ==, 0);
    for (unsigned round = 0; round < 2; round++) {
        uint64_t offset = FF_PAGEMAP_PIECE - HUGE_PAGE; /* the last of a piece, the first of one */
        memset(r->map + offset, 0, 2 * HUGE_PAGE);
        g_assert_cmpint(fallocate(r->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                                  2 * HUGE_PAGE),
                        ==, 0);
        g_assert_cmpuint(scan(r, false), ==, 2 * per);
        g_assert_cmpuint(told(r, 0), ==, offset / PAGE);
        g_assert_cmpuint(round ? protect(r, 0) + protect(r, 1) : scan(r, true), ==, 2 * per);
        g_assert_cmpuint(scan(r, true), ==, 0);
        r->map[offset] = 3;
        g_assert_cmpuint(scan(r, true), ==, per);
        g_assert_cmpuint(told(r, 0), ==, offset / PAGE);
    }
    ram_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tracking/pieces", test_pieces);
    g_test_add_func("/tracking/refused", test_refused);
    g_test_add_func("/tracking/huge", test_huge);
    g_test_add_func("/tracking/given-back", test_given_back_whole);
    g_test_add_func("/tracking/given-back/hugetlb", test_given_back_hugetlb);
    return g_test_run();
}
