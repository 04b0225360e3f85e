/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * PAGEMAP_SCAN; see pagemap.h. No state, any thread.
 *
 * The masks are exactly those (WRITTEN in category and in return mask, nothing else) for which the
 * kernel takes its path for userfaultfd: it then reports every entry of a page table that is not
 * write-protected, an empty one too. That matters: an entry that was written and then lost
 * (reclaim, MADV_DONTNEED) is empty, and with other masks it would count as clean. Where the page
 * table itself is lost (CONFIG_PT_RECLAIM, Linux 6.14) some kernels report nothing:
 * "fs/proc/task_mmu: fix PAGEMAP_SCAN written state for PMD holes", 2026. ff_pagemap_protected()
 * tells then.
 *
 * Of hugetlb the scan for WRITTEN passes over empty entries (pagemap_hugetlb_category() in 6.18). A
 * protected entry is never empty, it has a marker at least; only giving the page back empties it.
 * So what is neither present nor a marker ("swapped") was given back, and may have been written
 * before.
 *
 * System calls: ioctl(PAGEMAP_SCAN), pread.
 */
#include "uffd/pagemap.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* linux/fs.h since 6.7; the headers of the build may be older than the kernel. */
typedef struct {
    uint64_t start, end, categories;
} PageRegion;

typedef struct {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
} ScanArg;
static_assert(sizeof(ScanArg) == 96, "struct pm_scan_arg of the kernel");

#define SCAN_IOCTL _IOWR('f', 16, ScanArg)
#define SCAN_WP_MATCHING (1u << 0)
#define SCAN_CHECK_WPASYNC (1u << 1)
#define IS_WRITTEN (1u << 1)
#define IS_PRESENT (1u << 3)
#define IS_SWAPPED (1u << 4)
#define IS_HUGE (1u << 6)

#define MAX_REGIONS 1024
/* An entry of the file itself (Documentation/admin-guide/mm/pagemap.rst). */
#define ENTRY_UFFD_WP (1ull << 57)
#define ENTRY_SWAPPED (1ull << 62)
#define ENTRY_PRESENT (1ull << 63)

static int scan_piece(int fd, ScanArg *arg, FfPagemapFunc fn, void *opaque)
{
    PageRegion regions[MAX_REGIONS];
    uint64_t end = arg->end;

    while (arg->start < end) {
        arg->vec = (uintptr_t)regions;
        arg->vec_len = MAX_REGIONS;
        arg->walk_end = 0;
        int n = ioctl(fd, SCAN_IOCTL, arg);
        if (n < 0) {
            if (errno == EINTR) {
                continue; /* nothing was reported, hence nothing protected */
            }
            return -errno;
        }
        for (int i = 0; i < n; i++) {
            fn(regions[i].start, regions[i].end - regions[i].start, opaque);
        }
        if (arg->walk_end <= arg->start && n == 0) {
            /* Ends without progress only when the target's memory is gone. */
            return -ESRCH;
        }
        arg->start = arg->walk_end;
    }
    return 0;
}

/* What has all of CATEGORY; NONE: what has nothing of it. */
static int scan_pieces(int fd, uint64_t addr, uint64_t len, uint64_t flags, uint64_t category,
                       bool none, FfPagemapFunc fn, void *opaque)
{
    for (uint64_t at = addr, n; at < addr + len; at += n) {
        n = addr + len - at < FF_PAGEMAP_PIECE ? addr + len - at : FF_PAGEMAP_PIECE;
        ScanArg arg = {.size = sizeof(arg),
                       .flags = flags,
                       .start = at,
                       .end = at + n,
                       .category_inverted = none ? category : 0,
                       .category_mask = category,
                       .return_mask = category};
        int rc = scan_piece(fd, &arg, fn, opaque);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int ff_pagemap_scan(int pagemap_fd, uint64_t addr, uint64_t len, bool protect, FfPagemapFunc fn,
                    void *opaque)
{
    return scan_pieces(pagemap_fd, addr, len, SCAN_CHECK_WPASYNC | (protect ? SCAN_WP_MATCHING : 0),
                       IS_WRITTEN, false, fn, opaque);
}

int ff_pagemap_scan_gone(int pagemap_fd, uint64_t addr, uint64_t len, FfPagemapFunc fn,
                         void *opaque)
{
    return scan_pieces(pagemap_fd, addr, len, SCAN_CHECK_WPASYNC, IS_PRESENT | IS_SWAPPED, true, fn,
                       opaque);
}

/* 1: the entry of the page at ADDR has one of BITS. */
static int has_bits(int pagemap_fd, uint64_t addr, uint64_t bits)
{
    uint64_t entry;
    ssize_t n;

    do {
        n = pread(pagemap_fd, &entry, sizeof(entry), (off_t)(addr / 4096 * sizeof(entry)));
    } while (n < 0 && errno == EINTR);
    if (n != sizeof(entry)) {
        return n < 0 ? -errno : -ESRCH;
    }
    return entry & bits ? 1 : 0;
}

int ff_pagemap_protected(int pagemap_fd, uint64_t addr)
{
    return has_bits(pagemap_fd, addr, ENTRY_UFFD_WP);
}

int ff_pagemap_mapped(int pagemap_fd, uint64_t addr)
{
    return has_bits(pagemap_fd, addr, ENTRY_PRESENT | ENTRY_SWAPPED);
}

int ff_pagemap_present(int pagemap_fd, uint64_t addr)
{
    return has_bits(pagemap_fd, addr, ENTRY_PRESENT);
}

#define MAX_ENTRIES 512

/* Of LEN bytes at ADDR. */
static int read_entries(int pagemap_fd, uint64_t addr, uint64_t len, uint64_t *entries)
{
    size_t want = len / 4096 * sizeof(*entries);
    ssize_t n;

    if (len / 4096 > MAX_ENTRIES) {
        return -EINVAL;
    }
    do {
        n = pread(pagemap_fd, entries, want, (off_t)(addr / 4096 * sizeof(*entries)));
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)want ? 0 : n < 0 ? -errno : -ESRCH;
}

int ff_pagemap_all_mapped(int pagemap_fd, uint64_t addr, uint64_t len)
{
    uint64_t entries[MAX_ENTRIES];
    int rc = read_entries(pagemap_fd, addr, len, entries);

    for (size_t i = 0; i < len / 4096 && rc == 0; i++) {
        if (!(entries[i] & (ENTRY_PRESENT | ENTRY_SWAPPED))) {
            return 0;
        }
    }
    return rc < 0 ? rc : 1;
}

/* Calls FN for the runs of entries that have one of the BITS (HAS), or none of them. */
static int each_run(int pagemap_fd, uint64_t addr, uint64_t len, uint64_t bits, bool has,
                    FfPagemapFunc fn, void *opaque)
{
    uint64_t entries[MAX_ENTRIES];
    int rc = read_entries(pagemap_fd, addr, len, entries);

    for (size_t i = 0, n; i < len / 4096 && rc == 0; i += n) {
        bool set = entries[i] & bits;
        for (n = 1; i + n < len / 4096 && !(entries[i + n] & bits) == !set; n++) {
        }
        if (set == has) {
            fn(addr + i * 4096, n * 4096, opaque);
        }
    }
    return rc;
}

int ff_pagemap_unprotected(int pagemap_fd, uint64_t addr, uint64_t len, FfPagemapFunc fn,
                           void *opaque)
{
    return each_run(pagemap_fd, addr, len, ENTRY_UFFD_WP, false, fn, opaque);
}

int ff_pagemap_each_mapped(int pagemap_fd, uint64_t addr, uint64_t len, FfPagemapFunc fn,
                           void *opaque)
{
    return each_run(pagemap_fd, addr, len, ENTRY_PRESENT | ENTRY_SWAPPED, true, fn, opaque);
}

int ff_pagemap_scan_huge(int pagemap_fd, uint64_t addr, uint64_t len, FfPagemapFunc fn,
                         void *opaque)
{
    return scan_pieces(pagemap_fd, addr, len, 0, IS_HUGE, false, fn, opaque);
}
