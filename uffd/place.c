/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placing pages; see place.h for the threads and space-internal.h for the lock.
 *
 * All four ioctls are atomic towards faults and never overwrite. The order for each page is:
 * placed, then woken (by the same ioctl), then marked, then woken again if a waiter had been noted
 * for it. The fault thread notes a waiter and then looks at the mark, so one of the two sees the
 * other.
 *
 * EEXIST is believed where it can be: the page is there, its waiters are woken. Of a huge page the
 * kernel says EEXIST also where there is no page, if it has none to give (Linux 6.18:
 * hugetlb_mfill_atomic_pte() makes it of a failed allocation where the page table is there). There
 * the file is asked, by UFFDIO_CONTINUE, which says EFAULT of a page that the file lacks.
 *
 * System calls: ioctl(UFFDIO_*).
 */
#include "uffd/place.h"

#include <errno.h>

#include "base/failpoints.h"
#include "uffd/pagemap.h"
#include "uffd/space-internal.h"
#include "uffd/uffd.h"

#define SMALL_PAGE 4096
#define HUGE_PAGE (2ull << 20) /* of shared memory */
/* Placed by one ioctl (bytes): the process's mmap lock is held meanwhile, and the space's. */
#define CHUNK (2ull << 20)
/* So often in a row the same page is found to be there by the thread that was told that it is
 * missing. */
#define IN_VAIN_MAX 10000

/* ---- marks ----------------------------------------------------------------------------------- */

/* Marks N pages, which are at ADDR, and adds those that were missing to P. */
static void mark_placed(FfSpace *s, unsigned block, uint64_t page, uint64_t n, uint64_t addr,
                        FfPresent *p)
{
    FfSpaceBlock *b = &s->blocks[block];
    FF_FAULT_AT("place-placed");
    uint64_t fresh = ff_bitmap_set_run(&b->placed, page, n);

    FF_FAULT_AT("place-marked");
    bool noted = ff_space_end_waits(s, block, page, n);
    if (noted || __atomic_load_n(&s->waits.overflow, __ATOMIC_SEQ_CST)) {
        /* A thread that waits, noted or not (there may have been no room), may have come after the
         * ioctl that woke the others: the process has given the page back in between. It is told
         * again, and the mark is found. */
        ff_uffd_wake(s->cfg.uffd, addr, n * b->backing.page_size);
        ff_sharers_wake(&s->sharers, block, page, n);
    }
    p->pages += fresh;
    p->bytes += fresh * b->backing.page_size;
}

void ff_place_tell(FfSpace *s, const FfPresent *p)
{
    const FfSpaceOps *ops = s->cfg.ops;

    if (!p->pages && !p->duplicate) {
        return;
    }
    /* Told in this order: the one that is told that all are present knows of each of them. */
    if (ops && ops->present) {
        ops->present(p, s->cfg.opaque);
    }
    bool all = p->pages &&
               __atomic_add_fetch(&s->done_pages, p->pages, __ATOMIC_ACQ_REL) == s->total_pages;
    if (all && ops && ops->complete) {
        ops->complete(s->cfg.opaque);
    }
}

uint64_t ff_place_unwanted(FfSpace *s, const FfRun *run)
{
    uint64_t fresh = ff_bitmap_set_run(&s->blocks[run->block].placed, run->first, run->n);

    /* A thread that waits for them is woken by the caller, which knows where. */
    ff_space_end_waits(s, run->block, run->first, run->n);
    return fresh;
}

static void wake_run(FfSpace *s, const FfRun *run)
{
    uint64_t ps = s->blocks[run->block].backing.page_size;

    ff_space_enter(s);
    for (uint64_t i = 0, bytes; i < run->n; i += bytes / ps) {
        uint64_t addr = ff_space_find_addr(s, run->block, run->first + i, &bytes);
        bytes = addr ? MIN(bytes, (run->n - i) * ps) : ps;
        if (addr) {
            ff_uffd_wake(s->cfg.uffd, addr, bytes);
        }
    }
    ff_space_leave(s);
}

void ff_place_forget(FfSpace *s, const FfRun *run)
{
    FfSpaceBlock *b = &s->blocks[run->block];

    /* Not while the fault thread fills a page with zeros that it found placed: what is dropped from
     * now on must not come back as zeros. */
    pthread_mutex_lock(&s->again_lock);
    /* In this order: a fault that comes in between finds the page asked for and waits, so it must
     * be told again. */
    uint64_t had = ff_bitmap_clear_run(&b->placed, run->first, run->n);
    __atomic_sub_fetch(&s->done_pages, had, __ATOMIC_ACQ_REL);
    ff_bitmap_clear_run(&b->requested, run->first, run->n);
    pthread_mutex_unlock(&s->again_lock);
    wake_run(s, run);
}

void ff_place_ask_again(FfSpace *s, const FfRun *run)
{
    ff_bitmap_clear_run(&s->blocks[run->block].requested, run->first, run->n);
    wake_run(s, run);
}

/* ---- placing --------------------------------------------------------------------------------- */

static const FfPresentAs present_as[] = {
    [FF_UFFD_COPY] = FF_PRESENT_CONTENT,
    [FF_UFFD_ZERO] = FF_PRESENT_ZEROS,
    [FF_UFFD_CONTINUE] = FF_PRESENT_CONTENT,
    [FF_UFFD_POISON] = FF_PRESENT_NOTHING,
};

/* RC, which placing the page at ADDR came to, or what EEXIST stands for. */
static int trust_result(const FfSpace *s, FfUffdOp op, int rc, uint64_t addr, uint64_t ps)
{
    if (rc != -EEXIST || ps <= SMALL_PAGE || op == FF_UFFD_CONTINUE) {
        return rc;
    }
    /* Once: EAGAIN ends only when the fault thread has read the event, for which the caller must
     * leave the space. */
    uint64_t done = 0;
    int there =
        ff_space_check(s, ff_uffd_try(s->cfg.uffd, FF_UFFD_CONTINUE, addr, NULL, ps, &done));
    if (there == -EINVAL && s->cfg.pagemap_fd >= 0) {
        /* A page that only the file has cannot be told from none here. */
        there = ff_pagemap_mapped(s->cfg.pagemap_fd, addr);
    } else if (there == -EFAULT) {
        there = 0;
    } else if (there == 0 || there == -EEXIST || there == -EIO) {
        there = 1;
    }
    return there == 0 ? -ENOMEM : there < 0 ? there : -EEXIST;
}

/* One ioctl at ADDR, of LEN bytes at most. */
static int try_at(FfSpace *s, FfUffdOp op, uint64_t ps, uint64_t addr, uint64_t len,
                  const void *data, uint64_t *done)
{
    int rc;

    if (op == FF_UFFD_ZERO && s->zeros && ps > SMALL_PAGE) {
        rc = ff_uffd_try(s->cfg.uffd, FF_UFFD_COPY, addr, s->zeros, ps, done);
    } else {
        rc = ff_uffd_try(s->cfg.uffd, op, addr, data, MIN(len, MAX(CHUNK, ps)), done);
    }
    return trust_result(s, op, ff_space_check(s, rc), addr, ps);
}

/* How many pages of N from PAGE on are all missing, or all placed (*MISSING). */
static uint64_t same_state(const FfSpaceBlock *b, uint64_t page, uint64_t n, bool *missing)
{
    uint64_t i = 1;

    if (ff_bitmap_count_run(&b->placed, page, n) == 0) {
        *missing = true; /* nearly always */
        return n;
    }
    *missing = !ff_bitmap_test(&b->placed, page);
    while (i < n && *missing == !ff_bitmap_test(&b->placed, page + i)) {
        i++;
    }
    return i;
}

/* ff_place_hole() has taken it out and not marked it yet: it is zeros. Content belongs in no hole,
 * so of that it is an error. Where mappings change the range may have moved or gone. */
static bool is_in_hole(const FfSpace *s, FfUffdOp op, int rc)
{
    return rc == -ENOENT && op == FF_UFFD_ZERO && !s->changes;
}

/* As much as one ioctl does of the first pages of RUN, which are missing. *DONE need nothing any
 * more; P says what has become of them. */
static int place_missing(FfSpace *s, FfUffdOp op, const FfRun *run, const void *data,
                         uint64_t *done, FfPresent *p)
{
    uint64_t ps = s->blocks[run->block].backing.page_size, len, bytes;
    uint64_t addr = ff_space_find_addr(s, run->block, run->first, &len);

    if (!addr) {
        *done = 1; /* unmapped since */
        return 0;
    }
    int rc = try_at(s, op, ps, addr, MIN(run->n * ps, len), data, &bytes);
    if (is_in_hole(s, op, rc) && run->n > 1) {
        rc = try_at(s, op, ps, addr, ps, data, &bytes); /* some of the others may be, and not it */
    }
    *done = bytes / ps;
    if (*done) {
        FF_FAULT_AT("placed");
    }
    if (rc == -EEXIST || is_in_hole(s, op, rc)) {
        ff_uffd_wake(s->cfg.uffd, addr, ps);
        p->duplicate = rc == -EEXIST; /* of a hole that is said by the one that made it */
        *done = 1;
        rc = 0;
    }
    if (*done) {
        mark_placed(s, run->block, run->first, *done, addr, p);
    }
    return rc;
}

/* The same of pages in any state. They are looked at in here: until then they can become unwanted.
 */
static int place_some(FfSpace *s, FfUffdOp op, FfRun run, const void *data, uint64_t *done)
{
    FfPresent p = {.as = present_as[op]};
    bool missing;
    int rc = 0;

    uint64_t seen = ff_space_enter(s);
    run.n = *done = same_state(&s->blocks[run.block], run.first, run.n, &missing);
    if (missing) {
        rc = place_missing(s, op, &run, data, done, &p);
        p.run = (FfRun){run.block, run.first, *done};
    } else {
        p.duplicate = run.n;
    }
    ff_space_leave(s);
    ff_place_tell(s, &p);
    return rc == -EAGAIN ? ff_space_wait_change(s, seen) : rc;
}

static int place_run(FfSpace *s, FfUffdOp op, const FfRun *run, const uint8_t *data)
{
    uint64_t ps = s->blocks[run->block].backing.page_size;
    int rc = 0;

    for (uint64_t i = 0, done; i < run->n && rc == 0; i += done) {
        FfRun some = {run->block, run->first + i, MIN(run->n - i, MAX(1, CHUNK / ps))};
        rc = place_some(s, op, some, data ? data + i * ps : NULL, &done);
    }
    return rc;
}

int ff_place_copy(FfSpace *s, const FfRun *run, const void *data)
{
    return place_run(s, FF_UFFD_COPY, run, data);
}

int ff_place_zero(FfSpace *s, const FfRun *run)
{
    return place_run(s, FF_UFFD_ZERO, run, NULL);
}

int ff_place_continue(FfSpace *s, const FfRun *run)
{
    return place_run(s, FF_UFFD_CONTINUE, run, NULL);
}

int ff_place_poison(FfSpace *s, const FfRun *run)
{
    return place_run(s, FF_UFFD_POISON, run, NULL);
}

int ff_place_at_once(FfSpace *s, const FfRun *run, const void *data)
{
    FfUffdOp op = data ? FF_UFFD_COPY : FF_UFFD_ZERO;
    FfPresent p = {.as = present_as[op]};
    uint64_t done = 0;
    bool missing;
    int rc = 0;

    if (!ff_space_begin_answers(s)) {
        return -EAGAIN;
    }
    uint64_t n = same_state(&s->blocks[run->block], run->first, run->n, &missing);
    if (n < run->n) {
        rc = -EAGAIN; /* a part has come meanwhile */
    } else if (missing) {
        rc = place_missing(s, op, run, data, &done, &p);
        p.run = (FfRun){run->block, run->first, done};
    }
    ff_space_end_answers(s);
    ff_place_tell(s, &p);
    return rc == 0 && missing && done < run->n ? -EAGAIN : rc;
}

static void mark_run(FfSpace *s, const FfRun *run, FfPresent *p)
{
    uint64_t ps = s->blocks[run->block].backing.page_size;

    for (uint64_t i = 0, bytes; i < run->n; i += bytes / ps) {
        uint64_t addr = ff_space_find_addr(s, run->block, run->first + i, &bytes);
        bytes = addr ? MIN(bytes, (run->n - i) * ps) : ps;
        if (addr) {
            mark_placed(s, run->block, run->first + i, bytes / ps, addr, p);
        }
    }
}

void ff_place_mark(FfSpace *s, const FfRun *run)
{
    FfPresent p = {.as = FF_PRESENT_NOTHING};

    ff_space_enter(s);
    mark_run(s, run, &p);
    ff_space_leave(s);
    ff_place_tell(s, &p);
}

void ff_place_mark_closed(FfSpace *s, const FfRun *run)
{
    FfPresent p = {.as = FF_PRESENT_NOTHING};

    pthread_rwlock_rdlock(&s->lock);
    mark_run(s, run, &p);
    pthread_rwlock_unlock(&s->lock);
    ff_place_tell(s, &p);
}

/* The kernel wakes the threads that wait there, and what they then find is a new page of zeros. A
 * page that is there stays. */
int ff_place_hole(FfSpace *s, const FfRun *run)
{
    const FfBacking *b = &s->blocks[run->block].backing;
    uint64_t piece = b->kind == FF_BACKING_SHARED ? HUGE_PAGE / b->page_size : 1, bytes;
    FfPresent p = {.as = FF_PRESENT_ZEROS};

    if (run->first % piece || run->n % piece) {
        return -EINVAL;
    }
    ff_space_enter(s);
    uint64_t addr = ff_space_find_addr(s, run->block, run->first, &bytes);
    int rc = addr && bytes / b->page_size >= run->n
                 ? ff_uffd_unregister(s->cfg.uffd, addr, run->n * b->page_size)
                 : -ERANGE;
    if (rc == 0) {
        mark_placed(s, run->block, run->first, run->n, addr, &p);
        p.duplicate = run->n - p.pages;
    }
    ff_space_leave(s);
    ff_place_tell(s, &p);
    return rc;
}

/* ---- what was placed before ------------------------------------------------------------------ */

/* The page is there, and the thread that waits was woken. It finds the page, so it does not come
 * back, unless something here is wrong; and then it must not go round for ever. Others may have
 * waited for the same page: as many as the process has threads. */
static int note_in_vain(FfSpace *s, unsigned block, uint64_t page)
{
    if (s->vain_block != block || s->vain_page != page) {
        s->vain_n = 0;
    }
    s->vain_block = block;
    s->vain_page = page;
    return ++s->vain_n > IN_VAIN_MAX ? -ELOOP : 0;
}

static int place_again(FfSpace *s, unsigned block, uint64_t page, bool minor)
{
    uint64_t ps = s->blocks[block].backing.page_size, run, bytes = 0;
    uint64_t addr = ff_space_find_addr(s, block, page, &run);
    int rc;

    do {
        rc = try_at(s, minor ? FF_UFFD_CONTINUE : FF_UFFD_ZERO, ps, addr, ps, NULL, &bytes);
    } while (rc == -EAGAIN && (rc = ff_space_wait_change(s, 0)) == 0);
    if (rc == -EEXIST) {
        rc = ff_uffd_wake(s->cfg.uffd, addr, ps);
        rc = rc < 0 ? rc : note_in_vain(s, block, page);
    } else {
        s->vain_n = 0;
    }
    /* ENOENT: taken out of the userfaultfd meanwhile, which woke everybody. ESRCH: the process is
     * gone. EFAULT: the file has lost a page that it had for a moment, so it is missing now. */
    if (rc == -EFAULT && minor) {
        return ff_uffd_wake(s->cfg.uffd, addr, ps);
    }
    return rc == -ENOENT || rc == -ESRCH ? 0 : rc;
}

int ff_place_again(FfSpace *s, unsigned block, uint64_t page, bool minor)
{
    int rc = -ENOENT;

    FF_FAULT_AT("place-again");
    pthread_mutex_lock(&s->again_lock);
    if (ff_bitmap_test(&s->blocks[block].placed, page)) {
        rc = place_again(s, block, page, minor);
    }
    pthread_mutex_unlock(&s->again_lock);
    return rc;
}
