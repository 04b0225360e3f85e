/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages of another process were written: PAGEMAP_SCAN over its /proc/PID/pagemap, on ranges
 * that are registered with a userfaultfd for asynchronous write protection (uffd.h).
 *
 * A page counts as written from the moment a writer could map it writable, also a writer that
 * has it pinned for DMA, until a scan with PROTECT has reported it. The kernel may report pages
 * that nobody wrote (it lost the page table entry); some leave out pages whose whole page table was
 * lost. Any thread.
 */
#ifndef FF_UFFD_PAGEMAP_H
#define FF_UFFD_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>

/* The target's mmap lock is held for no more than so many bytes of address space at a time: some
 * milliseconds, in which it can take no new mapping. */
#define FF_PAGEMAP_PIECE (32ull << 20)

/* A run of written pages: ADDR in the target, LEN in bytes. */
typedef void (*FfPagemapFunc)(uint64_t addr, uint64_t len, void *opaque);

/*
 * Calls FN for each run of pages in [ADDR, ADDR + LEN) that was written, in order of address.
 * PROTECT: write-protects what it reports, atomically with the report: what is written later is
 * seen by the next scan. Returns 0 or -errno: -EPERM if the range is not registered for
 * asynchronous write protection, -ENOTTY or -EINVAL if the kernel has no PAGEMAP_SCAN (before
 * Linux 6.7), -ESRCH if the process has ended.
 */
int ff_pagemap_scan(int pagemap_fd, uint64_t addr, uint64_t len, bool protect, FfPagemapFunc fn,
                    void *opaque);
/* hugetlb: calls FN for pages that were protected once and have been given back since, of which the
 * scan above says nothing, whether they were written before or not. It comes after that scan and
 * protects nothing (the kernel protects only what it reports as written): ff_uffd_protect() does,
 * before what FN was told is used. */
int ff_pagemap_scan_gone(int pagemap_fd, uint64_t addr, uint64_t len, FfPagemapFunc fn,
                         void *opaque);
/* The same for runs that are mapped by huge pages just now, transparent or hugetlb. */
int ff_pagemap_scan_huge(int pagemap_fd, uint64_t addr, uint64_t len, FfPagemapFunc fn,
                         void *opaque);
/* 1: the page at ADDR is write-protected for tracking, whether it is there or not; 0: it is not, or
 * there is no page table. -errno. */
int ff_pagemap_protected(int pagemap_fd, uint64_t addr);

/* Calls FN for the runs of LEN bytes at ADDR, 2 MiB at most, of which that says 0. 0 or -errno. */
int ff_pagemap_unprotected(int pagemap_fd, uint64_t addr, uint64_t len, FfPagemapFunc fn,
                           void *opaque);

/* 1: a page is mapped at ADDR, or swapped out; 0: none, though the file may have it. -errno. */
int ff_pagemap_mapped(int pagemap_fd, uint64_t addr);
/* 1: a page is mapped at ADDR; 0: none is, though it may be swapped out, or a marker of protection
 * is left there. -errno. */
int ff_pagemap_present(int pagemap_fd, uint64_t addr);
/* Calls FN for the runs of LEN bytes at ADDR, 2 MiB at most, of which that says 1. 0 or -errno. */
int ff_pagemap_each_mapped(int pagemap_fd, uint64_t addr, uint64_t len, FfPagemapFunc fn,
                           void *opaque);
/* 1: every page of the LEN bytes at ADDR is, 2 MiB at most. */
int ff_pagemap_all_mapped(int pagemap_fd, uint64_t addr, uint64_t len);

#endif
