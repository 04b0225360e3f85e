/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Write protection: arming and lifting. What is kept before is in protect-keep.c. See protect.h for
 * the threads, and protect-internal.h for the states of a page.
 *
 * Locks: that of the space, and under it those of pieces of memory: written by a thread that arms
 * a piece, read by one that lifts what is not armed there. So a lift that comes late never takes
 * away a protection that was set again. Each is held for one ioctl, and the fault thread meets only
 * a thread that arms just there.
 *
 * A fault that is read late finds the page not armed, and lifts it again. Before it is armed a page
 * can be ready: protected, and lifted by the first write. Arming it costs no ioctl then.
 *
 * System calls: ioctl(UFFDIO_*), mmap, munmap.
 */
#include "uffd/protect-internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/failpoints.h"
#include "uffd/uffd.h"

/* The process's mmap lock is held for so many bytes at most. */
#define PIECE (2ull << 20)
/* Protecting so many single pages takes as long as a whole piece, of which most are protected
 * already: 1.6 us each, 0.15 to 0.25 us for a page of a piece. */
#define MANY_ROWS 48

/* ---- making ---------------------------------------------------------------------------------- */

static bool make_buffer(FfProtect *p, uint64_t bytes)
{
    p->slot_size = 4096;
    for (unsigned i = 0; i < p->s->n_blocks; i++) {
        p->slot_size = MAX(p->slot_size, p->s->blocks[i].backing.page_size);
    }
    uint64_t n = bytes / p->slot_size;
    if (!n) {
        return true;
    }
    p->slots = g_try_new0(FfRun, n);
    if (!p->slots || !ff_bitmap_try_init(&p->empty, n, true) ||
        !ff_bitmap_try_init(&p->kept, n, false) || !ff_bitmap_try_init(&p->doubted, n, false)) {
        return false;
    }
    p->n_slots = n;
    p->buffer_len = n * p->slot_size;
    /* With its pages: the fault thread must not wait for one. */
    p->buffer = mmap(NULL, p->buffer_len, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p->buffer == MAP_FAILED) {
        p->buffer = NULL;
    }
    return p->buffer;
}

/* A child that writes to shared memory is not asked. */
static bool has_unseen_writers(const FfSpace *s)
{
    bool shared = false;

    for (unsigned i = 0; i < s->n_blocks; i++) {
        shared |= s->blocks[i].backing.kind != FF_BACKING_PRIVATE;
    }
    return shared && s->cfg.features & UFFD_FEATURE_EVENT_FORK;
}

/* What is set in the stop has its memory before: a first touch of each page of the bitmaps would be
 * a fault of our own there. */
static bool init_touched(FfBitmap *bm, uint64_t n_pages)
{
    if (!ff_bitmap_try_init(bm, n_pages, false)) {
        return false;
    }
    memset(bm->words, 0, ff_bitmap_words(n_pages) * sizeof(*bm->words));
    return true;
}

/* FALSE: there is no memory. */
static bool init_block(FfProtectBlock *p, const FfSpaceBlock *b, bool changes)
{
    p->slot_of = g_try_new0(uint32_t, b->n_pages);
    return p->slot_of && init_touched(&p->armed, b->n_pages) &&
           init_touched(&p->free, b->n_pages) && ff_bitmap_try_init(&p->lent, b->n_pages, false) &&
           ff_bitmap_try_init(&p->ready, b->n_pages, false) &&
           ff_bitmap_try_init(&p->given, changes ? b->n_pages : 0, false) &&
           ff_bitmap_try_init(&p->gaps, b->n_pages, false);
}

int ff_protect_new(FfSpace *s, uint64_t buffer, FfProtect **result)
{
    /* What another process has read of the userfaultfd is not waited for by settle_faults(). */
    g_assert(!s->cfg.messages);
    if (has_unseen_writers(s)) {
        return -ENOTSUP;
    }
    g_autoptr(FfProtect) p = g_new0(FfProtect, 1);
    p->s = s;
    for (unsigned i = 0; i < G_N_ELEMENTS(p->locks); i++) {
        pthread_rwlock_init(&p->locks[i], NULL);
    }
    p->blocks = g_new0(FfProtectBlock, s->n_blocks);
    for (unsigned i = 0; i < s->n_blocks; i++) {
        if (!init_block(&p->blocks[i], &s->blocks[i], s->changes)) {
            return -ENOMEM;
        }
    }
    if (!make_buffer(p, buffer)) {
        return -ENOMEM;
    }
    s->protect = p;
    *result = g_steal_pointer(&p);
    return 0;
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* Of a part of memory that one ioctl does. Neighbours have different ones. */
static pthread_rwlock_t *lock_of(FfProtect *p, const FfRun *run)
{
    uint64_t piece = run->first * p->s->blocks[run->block].backing.page_size / PIECE;

    return &p->locks[(piece + run->block) % G_N_ELEMENTS(p->locks)];
}

/* RUN at ADDR can be written, and a thread that waits there continues. */
static int let_go(FfSpace *s, const FfRun *run, uint64_t addr)
{
    uint64_t bytes = run->n * s->blocks[run->block].backing.page_size;
    int rc = ff_space_check(s, ff_uffd_try_protect(s->cfg.uffd, addr, bytes, false));

    /* ENOENT: taken out of the userfaultfd, which wakes no writers. */
    return rc == -ENOENT ? ff_uffd_wake(s->cfg.uffd, addr, bytes) : rc;
}

/* The same of what is not armed (any more, or again). Writers at the rest are told again. */
static int let_go_unarmed(FfProtect *p, const FfRun *run, uint64_t addr)
{
    uint64_t ps = p->s->blocks[run->block].backing.page_size;
    const FfBitmap *armed = &p->blocks[run->block].armed;
    int rc = 0;

    for (uint64_t i = 0, n; i < run->n && rc == 0; i += n) {
        bool is_armed = ff_bitmap_test(armed, run->first + i);
        for (n = 1; i + n < run->n && ff_bitmap_test(armed, run->first + i + n) == is_armed; n++) {
        }
        FfRun part = {run->block, run->first + i, n};
        if (!is_armed) { /* before: one that then finds it open is right, or protects it in vain */
            ff_bitmap_clear_run(&p->blocks[run->block].ready, part.first, part.n);
        }
        rc = is_armed ? ff_uffd_wake(p->s->cfg.uffd, addr + i * ps, n * ps)
                      : let_go(p->s, &part, addr + i * ps);
    }
    return rc;
}

static void arm_bits(FfProtect *p, const FfRun *run)
{
    FfProtectBlock *b = &p->blocks[run->block];

    /* Before the bits: the thread that finishes a page takes it off. */
    __atomic_add_fetch(&p->left, run->n, __ATOMIC_SEQ_CST);
    uint64_t fresh = ff_bitmap_set_run(&b->armed, run->first, run->n);
    __atomic_sub_fetch(&p->left, run->n - fresh, __ATOMIC_SEQ_CST);
    ff_bitmap_set_run(&b->free, run->first, run->n);
}

/* How many rows of pages of RUN are not ready, MAX at most. */
static unsigned count_rest(const FfBitmap *ready, const FfRun *run, unsigned max)
{
    uint64_t first, n;
    unsigned rows = 0;

    for (uint64_t at = run->first; rows < max; at = first + n) {
        n = ff_bitmap_next_run_in(ready, at, run->first + run->n, false, &first);
        if (!n) {
            break;
        }
        rows++;
    }
    return rows;
}

/* Protects what is not ready of RUN, which is in one piece, at ADDR (0: it has none). The piece is
 * locked. */
static int protect_rest(FfSpace *s, const FfRun *run, uint64_t addr)
{
    const FfBitmap *ready = &s->protect->blocks[run->block].ready;
    uint64_t ps = s->blocks[run->block].backing.page_size, end = run->first + run->n, first, n;
    int rc = 0;

    if (addr && count_rest(ready, run, MANY_ROWS) == MANY_ROWS) {
        return ff_space_check(s, ff_uffd_try_protect(s->cfg.uffd, addr, run->n * ps, true));
    }
    for (uint64_t at = run->first; addr && rc == 0; at = first + n) {
        n = ff_bitmap_next_run_in(ready, at, end, false, &first);
        if (!n) {
            break;
        }
        rc = ff_space_check(
            s, ff_uffd_try_protect(s->cfg.uffd, addr + (first - run->first) * ps, n * ps, true));
    }
    return rc;
}

/* Of RUN, which has just been protected, what stays so until it is armed. A page that is given back
 * is taken out some time after the event was read, and its protection with it: whether that was
 * before this or is to come nobody knows. When it is armed the process stands. */
static uint64_t set_ready(FfProtect *p, const FfRun *run)
{
    FfProtectBlock *b = &p->blocks[run->block];
    uint64_t n = ff_bitmap_set_run(&b->ready, run->first, run->n), first, len;

    for (uint64_t at = run->first; p->s->changes; at = first + len) {
        len = ff_bitmap_next_run_in(&b->given, at, run->first + run->n, true, &first);
        if (!len) {
            break;
        }
        ff_bitmap_clear_run(&b->ready, first, len);
    }
    return n;
}

static int prepare_piece(FfSpace *s, const FfRun *run, uint64_t addr)
{
    FfProtect *p = s->protect;

    pthread_rwlock_wrlock(lock_of(p, run));
    int rc = protect_rest(s, run, addr);
    if (addr && rc == 0) {
        p->prepared += set_ready(p, run);
    }
    pthread_rwlock_unlock(lock_of(p, run));
    return rc;
}

/* In this order: a fault comes only after the protection, and finds the page armed. */
static int arm_piece(FfSpace *s, const FfRun *run, uint64_t addr)
{
    FfProtect *p = s->protect;

    if (!addr && s->blocks[run->block].backing.kind == FF_BACKING_PRIVATE) {
        /* Unmapped since it was registered: it holds nothing. */
        ff_bitmap_set_run(&p->blocks[run->block].gaps, run->first, run->n);
        return 0;
    }
    pthread_rwlock_wrlock(lock_of(p, run));
    arm_bits(p, run);
    int rc = protect_rest(s, run, addr);
    if (rc == 0) {
        ff_bitmap_clear_run(&p->blocks[run->block].ready, run->first, run->n);
    }
    pthread_rwlock_unlock(lock_of(p, run));
    return rc;
}

static int lift_piece(FfSpace *s, const FfRun *run, uint64_t addr)
{
    if (!addr) {
        return 0;
    }
    if (!s->protect) {
        return let_go(s, run, addr);
    }
    FF_FAULT_AT("protect-lift");
    pthread_rwlock_rdlock(lock_of(s->protect, run));
    int rc = let_go_unarmed(s->protect, run, addr);
    pthread_rwlock_unlock(lock_of(s->protect, run));
    return rc;
}

typedef int (*PieceFunc)(FfSpace *s, const FfRun *run, uint64_t addr);

/* FN for RUN, piece by piece. The fault thread does not wait for changes: what it cannot lift just
 * now it lifts after them. */
static int each_piece(FfSpace *s, const FfRun *run, PieceFunc fn)
{
    uint64_t ps = s->blocks[run->block].backing.page_size, whole = MAX(PIECE, ps), bytes;
    int rc = 0;

    for (uint64_t i = 0; i < run->n && rc == 0;) {
        FfRun part = {run->block, run->first + i, run->n - i};
        uint64_t seen = ff_space_enter(s);
        uint64_t addr = ff_space_find_addr(s, part.block, part.first, &bytes);
        part.n = addr ? MIN(part.n, MIN(bytes, whole - part.first * ps % whole) / ps) : 1;
        /* 0: a part of a page of 2 MiB was moved or unmapped alone. */
        rc = part.n ? fn(s, &part, addr) : -ENOTSUP;
        ff_space_leave(s);
        if (rc != -EAGAIN) {
            i += part.n;
            continue;
        }
        rc = ff_space_wait_change(s, seen);
        if (rc == -EAGAIN) {
            ff_space_lift_later(s, &(FfRun){run->block, run->first + i, run->n - i});
            return 0;
        }
    }
    return rc;
}

int ff_protect_lift(FfSpace *s, const FfRun *run)
{
    return each_piece(s, run, lift_piece);
}

/* What was read of faults is answered when this returns. Of two writers that were told of the first
 * one's answer lets both go; the fault thread must not take the second one's for a new write. */
static void settle_faults(FfSpace *s)
{
    pthread_mutex_lock(&s->answering);
    pthread_mutex_unlock(&s->answering);
}

int ff_protect_arm(FfProtect *p, const FfRun *run)
{
    settle_faults(p->s);
    return each_piece(p->s, run, arm_piece);
}

int ff_protect_prepare(FfProtect *p, const FfRun *run, uint64_t *n)
{
    p->prepared = 0;
    int rc = each_piece(p->s, run, prepare_piece);
    *n = p->prepared;
    return rc;
}

int ff_protect_done(FfProtect *p, const FfRun *run)
{
    uint64_t had = ff_bitmap_clear_run(&p->blocks[run->block].armed, run->first, run->n);

    __atomic_sub_fetch(&p->left, had, __ATOMIC_SEQ_CST);
    ff_waits_end(&p->waits, run->block, run->first, run->n, NULL, NULL);
    return ff_protect_lift(p->s, run);
}

int ff_protect_lift_late(FfSpace *s)
{
    int rc = 0;

    s->has_late = false;
    for (unsigned i = 0; i < s->n_blocks; i++) {
        FfRun run = {.block = i};
        for (uint64_t at = 0; (run.n = ff_bitmap_claim_run(&s->blocks[i].late, at, UINT64_MAX,
                                                           UINT64_MAX, &run.first));
             at = run.first + run.n) {
            int one = ff_protect_lift(s, &run);
            rc = rc ? rc : one;
        }
    }
    return rc;
}

/* What is set in BM of BLOCK is lifted, and counted in *LIFTED. 0, or what failed first. */
static int lift_set(FfProtect *p, unsigned block, FfBitmap *bm, uint64_t *lifted)
{
    FfRun run = {.block = block};
    int rc = 0;

    for (uint64_t at = 0; (run.n = ff_bitmap_claim_run(bm, at, UINT64_MAX, UINT64_MAX, &run.first));
         at = run.first + run.n) {
        *lifted += run.n;
        int one = ff_protect_lift(p->s, &run);
        rc = rc ? rc : one;
    }
    return rc;
}

bool ff_protect_next_gap(const FfProtect *p, FfRun *run)
{
    run->n = ff_bitmap_next_run(&p->blocks[run->block].gaps, run->first, true, &run->first);
    return run->n;
}

void ff_protect_lift_all(FfProtect *p)
{
    for (unsigned i = 0; i < p->s->n_blocks; i++) {
        uint64_t n_armed = 0, n_ready = 0;
        int armed = lift_set(p, i, &p->blocks[i].armed, &n_armed);
        int ready = lift_set(p, i, &p->blocks[i].ready, &n_ready);
        __atomic_sub_fetch(&p->left, n_armed, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&p->lost, n_armed, __ATOMIC_RELAXED);
        int rc = armed ? armed : ready;
        if (rc < 0 && rc != -ESRCH) {
            __atomic_store_n(&p->stuck, true, __ATOMIC_RELEASE);
        }
    }
}

void ff_protect_give_up(FfProtect *p)
{
    /* Before the wake: a thread that was read of and not answered is told again, and the fault
     * thread sees this then. */
    __atomic_store_n(&p->given_up, true, __ATOMIC_RELEASE);
    ff_space_wake_all(p->s);
}

static void end_protection(FfProtect *p)
{
    ff_protect_lift_all(p);
    if (__atomic_load_n(&p->stuck, __ATOMIC_ACQUIRE)) {
        /* An event that nobody reads any more is in the way. Of this it is not. */
        ff_space_unregister(p->s);
    }
    /* Also threads that were told of and not answered. */
    ff_space_wake_all(p->s);
}

void ff_protect_free(FfProtect *p)
{
    if (!p) {
        return;
    }
    end_protection(p);
    for (unsigned i = 0; i < p->s->n_blocks; i++) {
        ff_bitmap_clear(&p->blocks[i].armed);
        ff_bitmap_clear(&p->blocks[i].free);
        ff_bitmap_clear(&p->blocks[i].lent);
        ff_bitmap_clear(&p->blocks[i].ready);
        ff_bitmap_clear(&p->blocks[i].given);
        ff_bitmap_clear(&p->blocks[i].gaps);
        g_free(p->blocks[i].slot_of);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(p->locks); i++) {
        pthread_rwlock_destroy(&p->locks[i]);
    }
    if (p->buffer) {
        munmap(p->buffer, p->buffer_len);
    }
    ff_bitmap_clear(&p->empty);
    ff_bitmap_clear(&p->kept);
    ff_bitmap_clear(&p->doubted);
    p->s->protect = NULL;
    g_free(p->slots);
    g_free(p->blocks);
    g_free(p);
}

/* ---- what is told, and asked ----------------------------------------------------------------- */

void ff_protect_removed(FfProtect *p, const FfRun *run)
{
    FfProtectBlock *b = &p->blocks[run->block];
    uint64_t lost = ff_bitmap_clear_run(&b->armed, run->first, run->n);

    ff_bitmap_clear_run(&b->free, run->first, run->n);
    ff_bitmap_clear_run(&b->lent, run->first, run->n);
    ff_bitmap_clear_run(&b->ready, run->first, run->n);
    if (p->s->changes) {
        ff_bitmap_set_run(&b->given, run->first, run->n);
    }
    ff_waits_end(&p->waits, run->block, run->first, run->n, NULL, NULL);
    __atomic_sub_fetch(&p->left, lost, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&p->lost, lost, __ATOMIC_RELAXED);
}

uint64_t ff_protect_left(const FfProtect *p)
{
    ff_space_enter(p->s); /* as below */
    uint64_t left = __atomic_load_n(&p->left, __ATOMIC_SEQ_CST);
    ff_space_leave(p->s);
    return left;
}

uint64_t ff_protect_lost(const FfProtect *p)
{
    /* A thread that gave something back continues as soon as that was read, and before it was
     * counted; the space is locked between the two. */
    ff_space_enter(p->s);
    uint64_t lost = __atomic_load_n(&p->lost, __ATOMIC_RELAXED);
    ff_space_leave(p->s);
    return lost;
}

uint64_t ff_protect_spoilt(const FfProtect *p)
{
    return __atomic_load_n(&p->spoilt, __ATOMIC_ACQUIRE);
}

void ff_protect_set_still(FfProtect *p, bool still)
{
    __atomic_store_n(&p->still, still, __ATOMIC_RELEASE);
}

uint64_t ff_protect_waited(const FfProtect *p)
{
    return __atomic_load_n(&p->waited, __ATOMIC_RELAXED);
}
