/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Other processes that have blocks of a space mapped as well, and wait for missing pages in
 * userfaultfds of their own, in which they register their mappings (a vhost-user back-end). The
 * space's fault thread reads those, too. A page that is placed through the space's userfaultfd is
 * in the file for all of them; who waits for it elsewhere is woken there. Blocks of shared memory
 * and of hugetlb, and no space with events.
 */
#ifndef FF_UFFD_SHARERS_H
#define FF_UFFD_SHARERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define FF_MAX_SHARERS 32 /* of a space, those that have gone among them */
#define FF_MAX_SHARER_RANGES 8

/* LEN bytes at ADDR of that process are BLOCK, from OFFSET on; whole pages. */
typedef struct {
    uint64_t addr, len;
    unsigned block;
    uint64_t offset;
    uint64_t page_size; /* the block's: ff_space_add_sharer() knows it */
} FfSharerRange;

/* Filled once. */
typedef struct {
    int uffd;
    bool broken; /* fault thread: it is none, or none any more */
    unsigned n_ranges;
    FfSharerRange ranges[FF_MAX_SHARER_RANGES];
} FfSharer;

typedef struct {
    FfSharer all[FF_MAX_SHARERS];
    unsigned n;           /* atomic */
    int changed_fd;       /* has the fault thread look at them; -1: there can be none */
    pthread_mutex_t lock; /* of those that add; a leaf */
    bool closed;          /* lock */
} FfSharers;

/* CHANGED_FD, an eventfd, is taken. */
void ff_sharers_init(FfSharers *t, int changed_fd);
void ff_sharers_clear(FfSharers *t);

/* UFFD (taken; O_NONBLOCK, after UFFDIO_API) is read from now on, and everybody who waits there is
 * told again. Returns its number; -errno: -ENOSPC (too many), -ESHUTDOWN (nothing is missing any
 * more), -ENOTSUP (huge pages, before Linux 5.13). Any thread. */
int ff_sharers_add(FfSharers *t, int uffd, const FfSharerRange *ranges, unsigned n);
/* 0: what it was added with is registered. -ENOENT: it is not, so a touch there would make a page.
 * -ESHUTDOWN: nothing is missing any more. Another -errno: that is not known. Any thread. */
int ff_sharers_check(FfSharers *t, int sharer);
/* For good: nothing is registered any more, everybody is woken, and nobody is added. -ENOMEM: some
 * is, as there was no memory; it can be called again. */
int ff_sharers_unregister(FfSharers *t);

/* Wakes whoever waits for N pages of BLOCK from PAGE on; all. Any thread. */
void ff_sharers_wake(FfSharers *t, unsigned block, uint64_t page, uint64_t n);
void ff_sharers_wake_all(FfSharers *t);

/* ADDR of its process -> page, and where it begins there; FALSE: in no range. */
bool ff_sharer_find(const FfSharer *sharer, uint64_t addr, unsigned *block, uint64_t *page,
                    uint64_t *start);
/*
 * A page of PAGE_SIZE at START, which is zeros or there: 0 if it was made there; -EEXIST: it is
 * there, and who waits must be woken; -ENOMEM: no huge page is free. ZEROS: of that size; of small
 * pages it can be NULL. Another -errno of UFFDIO_ZEROPAGE, COPY or CONTINUE.
 */
int ff_sharer_place_zeros(const FfSharer *sharer, uint64_t start, uint64_t page_size,
                          const void *zeros);

#endif
