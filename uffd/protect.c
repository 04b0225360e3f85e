/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Write protection with a bounded buffer; see protect.h for the threads.
 *
 * Locks: that of the space, and under it those of pieces of memory: written by who arms a piece,
 * read by who lifts what is not armed there. So a lift that comes late never takes away a
 * protection that was set again. Each is held for one ioctl, and the fault thread meets only who
 * arms just there.
 *
 * A page has three states, in two bitmaps: armed and free (nobody has it yet), armed and not free
 * (somebody reads its old content), not armed (it may be written). Who clears its bit in `free` has
 * it, nobody else. Then: the content is read, the bit in `armed` is cleared, and the protection is
 * lifted, which wakes its writers. A fault that is read late finds the page not armed, and lifts it
 * again.
 *
 * A writer for whom there is no slot is noted, and then a slot is looked for again; who gives a
 * slot back looks for a writer afterwards. Both are sequentially consistent: one of the two sees
 * the other.
 *
 * System calls: ioctl(UFFDIO_*), mmap, munmap.
 */
#include "uffd/protect.h"

#include <errno.h>
#include <sys/mman.h>

#include "fault/fault.h"
#include "uffd/space-internal.h"
#include "uffd/uffd.h"

/* The process's mmap lock is held for so many bytes at most. */
#define PIECE (2ull << 20)
#define LOCKS 64

typedef struct {
    FfBitmap armed, free, lent;
    uint32_t *slot_of; /* by page: where it was kept last, + 1; atomic, and to be checked */
} Block;

struct FfProtect {
    FfSpace *s;
    Block *blocks; /* as in the space */
    uint8_t *buffer;
    size_t slot_size, buffer_len;
    unsigned n_slots;
    FfRun *slots;         /* what is kept there; written by who has it, before its bit in `kept` */
    FfBitmap empty, kept; /* slots */
    FfWaits waits;        /* of writers without a slot */
    pthread_rwlock_t locks[LOCKS];
    uint64_t left, lost, waited; /* atomic; left: armed and not saved, wherever its content is */
};

/* ---- making ------------------------------------------------------------------------------------
 */

static bool make_buffer(FfProtect *p, uint64_t bytes)
{
    p->slot_size = 4096;
    for (unsigned i = 0; i < p->s->n_blocks; i++) {
        p->slot_size = MAX(p->slot_size, p->s->blocks[i].backing.page_size);
    }
    p->n_slots = bytes / p->slot_size;
    p->buffer_len = p->n_slots * p->slot_size;
    p->slots = g_new0(FfRun, p->n_slots);
    ff_bitmap_init(&p->empty, p->n_slots, true);
    ff_bitmap_init(&p->kept, p->n_slots, false);
    if (!p->n_slots) {
        return true;
    }
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

int ff_protect_new(FfSpace *s, uint64_t buffer, FfProtect **result)
{
    if (has_unseen_writers(s)) {
        return -ENOTSUP;
    }
    g_autoptr(FfProtect) p = g_new0(FfProtect, 1);
    p->s = s;
    for (unsigned i = 0; i < G_N_ELEMENTS(p->locks); i++) {
        pthread_rwlock_init(&p->locks[i], NULL);
    }
    p->blocks = g_new0(Block, s->n_blocks);
    for (unsigned i = 0; i < s->n_blocks; i++) {
        ff_bitmap_init(&p->blocks[i].armed, s->blocks[i].n_pages, false);
        ff_bitmap_init(&p->blocks[i].free, s->blocks[i].n_pages, false);
        ff_bitmap_init(&p->blocks[i].lent, s->blocks[i].n_pages, false);
        p->blocks[i].slot_of = g_new0(uint32_t, s->blocks[i].n_pages);
    }
    if (!make_buffer(p, buffer)) {
        return -ENOMEM;
    }
    s->protect = p;
    *result = g_steal_pointer(&p);
    return 0;
}

/* ---- the kernel --------------------------------------------------------------------------------
 */

/* Of a part of memory that one ioctl does. Neighbours have different ones. */
static pthread_rwlock_t *lock_of(FfProtect *p, const FfRun *run)
{
    uint64_t piece = run->first * p->s->blocks[run->block].backing.page_size / PIECE;

    return &p->locks[(piece + run->block) % G_N_ELEMENTS(p->locks)];
}

/* RUN at ADDR can be written, and who waits there goes on. */
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
        rc = is_armed ? ff_uffd_wake(p->s->cfg.uffd, addr + i * ps, n * ps)
                      : let_go(p->s, &part, addr + i * ps);
    }
    return rc;
}

static void arm_bits(FfProtect *p, const FfRun *run)
{
    Block *b = &p->blocks[run->block];

    /* Before the bits: who finishes a page takes it off. */
    __atomic_add_fetch(&p->left, run->n, __ATOMIC_SEQ_CST);
    uint64_t fresh = ff_bitmap_set_run(&b->armed, run->first, run->n);
    __atomic_sub_fetch(&p->left, run->n - fresh, __ATOMIC_SEQ_CST);
    ff_bitmap_set_run(&b->free, run->first, run->n);
}

/* RUN, which is in one piece, at ADDR (0: it has none) is armed and protected. In this order: a
 * fault comes only after the protection, and finds the page armed. */
static int arm_piece(FfSpace *s, const FfRun *run, uint64_t addr)
{
    uint64_t bytes = run->n * s->blocks[run->block].backing.page_size;
    int rc = 0;

    pthread_rwlock_wrlock(lock_of(s->protect, run));
    arm_bits(s->protect, run);
    if (addr) {
        rc = ff_space_check(s, ff_uffd_try_protect(s->cfg.uffd, addr, bytes, true));
    }
    pthread_rwlock_unlock(lock_of(s->protect, run));
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
        rc = fn(s, &part, addr);
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

int ff_protect_arm(FfProtect *p, const FfRun *run)
{
    return each_piece(p->s, run, arm_piece);
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

static void lift_all(FfProtect *p)
{
    int rc = 0;

    for (unsigned i = 0; i < p->s->n_blocks; i++) {
        FfRun run = {.block = i};
        for (uint64_t at = 0; (run.n = ff_bitmap_claim_run(&p->blocks[i].armed, at, UINT64_MAX,
                                                           UINT64_MAX, &run.first));
             at = run.first + run.n) {
            int one = ff_protect_lift(p->s, &run);
            rc = rc ? rc : one;
        }
    }
    if (rc < 0 && rc != -ESRCH) {
        /* An event that nobody reads any more is in the way. Of this it is not. */
        ff_space_unregister(p->s);
    }
    /* Also who was told of and not answered. */
    ff_space_wake_all(p->s);
}

void ff_protect_free(FfProtect *p)
{
    if (!p) {
        return;
    }
    lift_all(p);
    for (unsigned i = 0; i < p->s->n_blocks; i++) {
        ff_bitmap_clear(&p->blocks[i].armed);
        ff_bitmap_clear(&p->blocks[i].free);
        ff_bitmap_clear(&p->blocks[i].lent);
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
    p->s->protect = NULL;
    g_free(p->slots);
    g_free(p->blocks);
    g_free(p);
}

/* ---- slots -------------------------------------------------------------------------------------
 */

static bool take_slot(FfProtect *p, uint64_t *slot)
{
    return ff_bitmap_claim_run(&p->empty, 0, p->n_slots, 1, slot) == 1;
}

/* The content of the page RUN, entered or fault thread. -EAGAIN: the process is moving memory. Then
 * what was read may be of something else that is at the same address by now: the event comes after
 * the change. What is in a file does not move there. */
static int read_page(FfSpace *s, const FfRun *run, void *buf)
{
    const FfBacking *b = &s->blocks[run->block].backing;
    uint64_t bytes;
    uint64_t addr = ff_space_find_addr(s, run->block, run->first, &bytes);

    FF_FAULT_AT("protect-read");
    int rc = ff_backing_read(b, run->first * b->page_size, addr, buf, b->page_size);
    bool may_move = s->changes && b->kind == FF_BACKING_PRIVATE;
    return may_move && ff_uffd_is_changing(s->cfg.uffd) ? -EAGAIN : rc;
}

/* Keeps the page RUN, which is the caller's, in SLOT. 1; 0: it has been given back since; -errno.
 */
static int try_keep(FfProtect *p, uint64_t slot, const FfRun *run, uint64_t *seen)
{
    Block *b = &p->blocks[run->block];
    int rc = 0;

    /* Until it is kept it cannot be given back. */
    *seen = ff_space_enter(p->s);
    bool is_armed = ff_bitmap_test(&b->armed, run->first);
    if (is_armed) {
        rc = read_page(p->s, run, p->buffer + slot * p->slot_size);
    }
    if (is_armed && rc == 0) {
        p->slots[slot] = *run;
        __atomic_store_n(&b->slot_of[run->first], slot + 1, __ATOMIC_RELAXED);
        ff_bitmap_clear_run(&b->armed, run->first, 1);
        FF_FAULT_AT("protect-kept");
        /* Observer: the saver that takes it, which sees slot and content. */
        ff_bitmap_set(&p->kept, slot);
    }
    ff_space_leave(p->s);
    return rc < 0 ? rc : is_armed;
}

/* The same when no change is in the way any more; fault thread: -EAGAIN. */
static int keep_content(FfProtect *p, uint64_t slot, const FfRun *run)
{
    uint64_t seen;
    int rc;

    do {
        rc = try_keep(p, slot, run, &seen);
    } while (rc == -EAGAIN && (rc = ff_space_wait_change(p->s, seen)) == 0);
    return rc;
}

/* The page RUN, which could not be kept, is anybody's again. So is one that was lent: who had it
 * finds it taken back. */
static void leave_page(FfProtect *p, const FfRun *run)
{
    ff_space_enter(p->s);
    if (ff_bitmap_test(&p->blocks[run->block].armed, run->first)) {
        ff_bitmap_set(&p->blocks[run->block].free, run->first);
    }
    ff_space_leave(p->s);
}

/* Keeps PAGE in SLOT, which is the caller's, and lets its writers go on. FALSE: the slot is not
 * used: somebody else has the page, who will let them go on; or *RC says why not. */
static bool keep(FfProtect *p, uint64_t slot, unsigned block, uint64_t page, int *rc)
{
    FfRun run = {block, page, 1};

    *rc = 0;
    if (!ff_bitmap_claim(&p->blocks[block].free, page) &&
        !ff_bitmap_claim(&p->blocks[block].lent, page)) {
        return false;
    }
    FF_FAULT_AT("protect-claimed");
    int kept = keep_content(p, slot, &run);
    if (kept < 0) {
        leave_page(p, &run);
        if (kept == -EAGAIN) { /* fault thread: the writer is told again, after the event */
            ff_space_lift_later(p->s, &run);
        } else {
            *rc = kept;
        }
        if (p->s->cfg.pager && p->s->cfg.pager->full) {
            p->s->cfg.pager->full(p->s->cfg.pager, &run); /* the saver has to fetch it */
        }
    }
    if (kept != 1) {
        return false;
    }
    *rc = ff_protect_lift(p->s, &run);
    if (p->s->cfg.pager && p->s->cfg.pager->written) {
        p->s->cfg.pager->written(p->s->cfg.pager, &run);
    }
    return true;
}

/* The next writer that waits for a slot gets one. FALSE: there is none, or no slot. *RC: 0, or
 * what failed first. */
static bool serve_one(FfProtect *p, int *rc)
{
    uint32_t high = __atomic_load_n(&p->waits.high, __ATOMIC_SEQ_CST);
    uint64_t slot, page;
    unsigned block;

    for (uint32_t i = 0; i < high; i++) {
        if (!ff_waits_get(&p->waits, i, &block, &page)) {
            continue;
        }
        if (!take_slot(p, &slot)) {
            return false; /* whoever gives the next one back goes on here */
        }
        ff_waits_end(&p->waits, block, page, 1, NULL, NULL);
        int one;
        if (!keep(p, slot, block, page, &one)) {
            ff_bitmap_set_run(&p->empty, slot, 1);
        }
        *rc = *rc ? *rc : one;
        return true;
    }
    return false;
}

/* A slot is free, for writers that wait for one. */
static int give_slot(FfProtect *p, uint64_t slot)
{
    int rc = 0;

    ff_bitmap_set_run(&p->empty, slot, 1);
    while (serve_one(p, &rc)) { /* each ends a wait */
    }
    if (__atomic_exchange_n(&p->waits.overflow, 0, __ATOMIC_SEQ_CST)) {
        ff_space_wake_all(p->s); /* they are told again */
    }
    return rc;
}

static void tell_full(FfProtect *p, const FfRun *run)
{
    FfPager *pager = p->s->cfg.pager;

    __atomic_fetch_add(&p->waited, 1, __ATOMIC_RELAXED);
    if (pager && pager->full) {
        pager->full(pager, run);
    }
}

int ff_protect_fault(FfProtect *p, unsigned block, uint64_t page)
{
    FfRun run = {block, page, 1};
    uint64_t slot;
    int rc;

    if (!ff_bitmap_test(&p->blocks[block].armed, page)) {
        return ff_protect_lift(p->s, &run);
    }
    if (!take_slot(p, &slot)) {
        FfWait *wait = ff_waits_free_slot(&p->waits);
        if (wait) {
            ff_waits_begin(&p->waits, wait, block, page, 0, 0);
        }
        if (!take_slot(p, &slot)) {
            tell_full(p, &run);
            return 0;
        }
        ff_waits_end(&p->waits, block, page, 1, NULL, NULL);
    }
    if (keep(p, slot, block, page, &rc)) {
        return rc;
    }
    int given = give_slot(p, slot);
    return rc < 0 ? rc : given;
}

/* ---- the saver ---------------------------------------------------------------------------------
 */

int ff_protect_read(FfProtect *p, const FfRun *run, void *buf)
{
    uint64_t ps = p->s->blocks[run->block].backing.page_size;
    int rc = 0;

    for (uint64_t i = 0; i < run->n && rc == 0;) {
        uint64_t seen = ff_space_enter(p->s);
        rc = read_page(p->s, &(FfRun){run->block, run->first + i, 1}, (char *)buf + i * ps);
        ff_space_leave(p->s);
        if (rc == -EAGAIN) {
            rc = ff_space_wait_change(p->s, seen);
        } else {
            i++;
        }
    }
    return rc;
}

uint64_t ff_protect_claim(FfProtect *p, unsigned block, uint64_t from, uint64_t max,
                          uint64_t *first)
{
    FfBitmap *free = &p->blocks[block].free;

    return ff_bitmap_claim_run(free, from, free->n_pages, max, first);
}

bool ff_protect_wanted(FfProtect *p, FfRun *run)
{
    uint32_t high = __atomic_load_n(&p->waits.high, __ATOMIC_SEQ_CST);

    for (uint32_t i = 0; i < high; i++) {
        FfRun one = {.n = 1};
        if (ff_waits_get(&p->waits, i, &one.block, &one.first) &&
            ff_bitmap_claim(&p->blocks[one.block].free, one.first)) {
            *run = one;
            return true;
        }
    }
    return false;
}

void ff_protect_lend(FfProtect *p, const FfRun *run)
{
    /* Observer: keep(). Who was told of before this and found the page taken waits in vain for the
     * buffer, and goes on at the end of the loan. */
    ff_bitmap_set_run(&p->blocks[run->block].lent, run->first, run->n);
}

int ff_protect_end_loan(FfProtect *p, const FfRun *run, uint64_t *again)
{
    uint64_t end = run->first + run->n, at = run->first;
    FfRun part = {.block = run->block};
    int rc = 0;

    *again = run->n;
    while (
        (part.n = ff_bitmap_claim_run(&p->blocks[run->block].lent, at, end, run->n, &part.first))) {
        int one = ff_protect_done(p, &part);
        rc = rc ? rc : one;
        *again -= part.n;
        at = part.first + part.n;
    }
    return rc;
}

/* PAGE, if it is in the buffer and nobody has it. */
static bool gather_kept(FfProtect *p, unsigned block, uint64_t page, FfProtectPage *got)
{
    uint32_t slot = __atomic_load_n(&p->blocks[block].slot_of[page], __ATOMIC_RELAXED);

    if (!slot || !ff_bitmap_claim(&p->kept, slot - 1)) {
        return false;
    }
    slot--;
    if (p->slots[slot].block != block || p->slots[slot].first != page) {
        ff_bitmap_set(&p->kept, slot); /* of another page, since */
        return false;
    }
    *got = (FfProtectPage){FF_PROTECT_KEPT, slot, p->buffer + slot * p->slot_size};
    return true;
}

uint64_t ff_protect_gather(FfProtect *p, const FfRun *run, FfProtectPage *pages)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < run->n; i++) {
        pages[i] = (FfProtectPage){FF_PROTECT_OTHERS, 0, NULL};
        if (ff_bitmap_claim(&p->blocks[run->block].free, run->first + i)) {
            pages[i].where = FF_PROTECT_CLAIMED;
        } else {
            gather_kept(p, run->block, run->first + i, &pages[i]);
        }
        n += pages[i].where != FF_PROTECT_OTHERS;
    }
    return n;
}

bool ff_protect_peek_wanted(const FfProtect *p, FfRun *run)
{
    uint32_t high = __atomic_load_n(&p->waits.high, __ATOMIC_SEQ_CST);

    for (uint32_t i = 0; i < high; i++) {
        FfRun one = {.n = 1};
        if (ff_waits_get(&p->waits, i, &one.block, &one.first) &&
            ff_bitmap_test(&p->blocks[one.block].free, one.first)) {
            *run = one;
            return true;
        }
    }
    return false;
}

bool ff_protect_peek_kept(const FfProtect *p, unsigned *slot, FfRun *run)
{
    for (uint64_t i = *slot; i < p->n_slots; i++) {
        if (ff_bitmap_test(&p->kept, i)) {
            *slot = i;
            *run = p->slots[i]; /* of a slot that others take it may be another one by now */
            return true;
        }
    }
    return false;
}

bool ff_protect_peek_free(const FfProtect *p, FfRun *run)
{
    const FfBitmap *free = &p->blocks[run->block].free;

    /* That others clear bits meanwhile makes only the length wrong. */
    ff_bitmap_next_run(free, run->first, true, &run->first);
    run->n = 1;
    return run->first < free->n_pages;
}

unsigned ff_protect_slots(const FfProtect *p, unsigned *n_free)
{
    *n_free = ff_bitmap_count(&p->empty);
    return p->n_slots;
}

bool ff_protect_take(FfProtect *p, unsigned *slot, FfRun *run, const void **data)
{
    uint64_t i;

    if (ff_bitmap_claim_run(&p->kept, 0, p->n_slots, 1, &i) != 1) {
        return false;
    }
    *slot = i;
    *run = p->slots[i];
    *data = p->buffer + i * p->slot_size;
    return true;
}

void ff_protect_release(FfProtect *p, unsigned slot)
{
    __atomic_sub_fetch(&p->left, 1, __ATOMIC_SEQ_CST);
    int rc = give_slot(p, slot);
    const FfSpaceOps *ops = p->s->cfg.ops;

    if (rc < 0 && ops && ops->failed) {
        ops->failed(NULL, rc, p->s->cfg.opaque);
    }
}

void ff_protect_removed(FfProtect *p, const FfRun *run)
{
    Block *b = &p->blocks[run->block];
    uint64_t lost = ff_bitmap_clear_run(&b->armed, run->first, run->n);

    ff_bitmap_clear_run(&b->free, run->first, run->n);
    ff_bitmap_clear_run(&b->lent, run->first, run->n);
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
    /* Whoever gave something back goes on as soon as that was read, and before it was counted; the
     * space is locked between the two. */
    ff_space_enter(p->s);
    uint64_t lost = __atomic_load_n(&p->lost, __ATOMIC_RELAXED);
    ff_space_leave(p->s);
    return lost;
}

uint64_t ff_protect_waited(const FfProtect *p)
{
    return __atomic_load_n(&p->waited, __ATOMIC_RELAXED);
}
