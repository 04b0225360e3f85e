/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who waits for which page: a table of fixed size, without lock and without allocation, as the
 * fault path writes it. One thread begins waits (the fault thread); any thread ends them, each wait
 * exactly once.
 *
 * The fault thread notes a wait and then looks at a bitmap of pages; a thread that places marks
 * the bitmap and then looks here. All of it is sequentially consistent, so one of the two sees the
 * other.
 */
#ifndef FF_UFFD_WAITS_H
#define FF_UFFD_WAITS_H

#include <stdbool.h>
#include <stdint.h>

#define FF_MAX_WAITS 1024

/* One thread that waits for one page; free while key is 0. */
typedef struct {
    uint64_t key; /* block and page, never 0; taken out by exactly one compare-and-swap */
    int64_t since_us;
    int32_t who; /* the caller's */
} FfWait;

typedef struct {
    FfWait wait[FF_MAX_WAITS];
    uint32_t high; /* slots ever used; the search ends there */
    /* There were more waiters than slots once: some are not in the table. Observer: the thread
     * that must reach all of them, and wakes everybody then, for the kernel to tell it again. */
    uint32_t overflow;
} FfWaits;

/* A wait by WHO since SINCE_US has ended. */
typedef void (*FfWaitEnded)(int32_t who, int64_t since_us, void *opaque);

/* A free slot, which stays free until ff_waits_begin(); NULL: none, and overflow is set. */
FfWait *ff_waits_free_slot(FfWaits *w);
/* Notes in SLOT that WHO waits for PAGE of BLOCK. */
void ff_waits_begin(FfWaits *w, FfWait *slot, unsigned block, uint64_t page, int32_t who,
                    int64_t now_us);
/* Ends every wait for N pages of BLOCK from PAGE on, and calls FN (can be NULL) for each. TRUE:
 * there was one. Any thread. */
bool ff_waits_end(FfWaits *w, unsigned block, uint64_t page, uint64_t n, FfWaitEnded fn,
                  void *opaque);
/* Slot I, below `high`: TRUE and what is waited for, FALSE if it is free. Any thread. */
bool ff_waits_get(const FfWaits *w, uint32_t i, unsigned *block, uint64_t *page);

#endif
