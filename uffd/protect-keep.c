/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bounded buffer of protect.h: what the fault thread keeps, and how savers get it.
 *
 * A writer for which there is no slot is noted, and then a slot is looked for again; a saver that
 * gives a slot back looks for a writer afterwards. Both are sequentially consistent: one of the two
 * sees the other. So it is with a writer whose page somebody has and lends.
 *
 * Threads: the fault thread keeps; savers, which give slots back, may keep for a writer that waits.
 * Lock: that of the space, while a page is read and becomes kept. System calls: poll.
 */
#include "uffd/protect-internal.h"

#include <errno.h>
#include <poll.h>

#include "base/failpoints.h"
#include "uffd/uffd.h"

/* ---- slots ----------------------------------------------------------------------------------- */

bool ff_protect_take_slot(FfProtect *p, uint64_t *slot)
{
    bool taken = ff_bitmap_claim_run(&p->empty, 0, p->n_slots, 1, slot) == 1;

    if (taken) {
        __atomic_fetch_add(&p->used, 1, __ATOMIC_RELAXED);
    }
    return taken;
}

void ff_protect_leave_slot(FfProtect *p, uint64_t slot)
{
    __atomic_fetch_sub(&p->used, 1, __ATOMIC_RELAXED);
    ff_bitmap_set_run(&p->empty, slot, 1);
}

void ff_protect_set_kept(FfProtect *p, uint64_t slot)
{
    const FfRun *run = &p->slots[slot];

    __atomic_store_n(&p->blocks[run->block].slot_of[run->first], slot + 1, __ATOMIC_RELAXED);
    /* Observer: the saver that takes it, which sees slot and content. */
    ff_bitmap_set(&p->kept, slot);
}

void ff_protect_tell_written(FfProtect *p, const FfRun *run)
{
    FfPager *pager = p->s->cfg.pager;

    if (pager && pager->written) {
        pager->written(pager, run);
    }
}

int ff_protect_copy_page(FfSpace *s, const FfRun *run, void *buf)
{
    const FfBacking *b = &s->blocks[run->block].backing;
    uint64_t bytes;
    uint64_t addr = ff_space_find_addr(s, run->block, run->first, &bytes);

    if (addr && bytes < b->page_size) {
        return -ENOTSUP; /* a part of it was moved or unmapped alone */
    }
    FF_FAULT_AT("protect-read");
    return ff_backing_read(b, run->first * b->page_size, addr, buf, b->page_size);
}

/* The same; -EAGAIN: the process is moving memory. Then what was read may be of something else that
 * is at the same address by now: the event comes after the change. What is in a file does not move
 * there. */
static int read_page(FfSpace *s, const FfRun *run, void *buf)
{
    int rc = ff_protect_copy_page(s, run, buf);
    bool may_move = s->changes && s->blocks[run->block].backing.kind == FF_BACKING_PRIVATE;

    return may_move && rc != -ENOTSUP && ff_uffd_is_changing(s->cfg.uffd) ? -EAGAIN : rc;
}

/* Keeps the page RUN, which is the caller's, in SLOT. 1; 0: it has been given back since; -errno.
 */
static int try_keep(FfProtect *p, uint64_t slot, const FfRun *run, uint64_t *seen)
{
    FfProtectBlock *b = &p->blocks[run->block];
    int rc = 0;

    /* Until it is kept it cannot be given back. */
    *seen = ff_space_enter(p->s);
    bool is_armed = ff_bitmap_test(&b->armed, run->first);
    if (is_armed) {
        rc = read_page(p->s, run, p->buffer + slot * p->slot_size);
    }
    if (is_armed && rc == 0) {
        p->slots[slot] = *run;
        ff_bitmap_clear_run(&b->armed, run->first, 1);
        FF_FAULT_AT("protect-kept");
        ff_protect_set_kept(p, slot);
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

/* The page RUN, which could not be kept, is anybody's again. So is one that was lent: the saver
 * that had it finds it taken back. */
static void leave_page(FfProtect *p, const FfRun *run)
{
    ff_space_enter(p->s);
    if (ff_bitmap_test(&p->blocks[run->block].armed, run->first)) {
        ff_bitmap_set(&p->blocks[run->block].free, run->first);
    }
    ff_space_leave(p->s);
}

/* A test's: the page's writers continue before it is copied. */
static void lift_early(FfProtect *p, const FfRun *run)
{
    FfBitmap *armed = &p->blocks[run->block].armed;

    ff_bitmap_clear_run(armed, run->first, 1);
    ff_protect_lift(p->s, run);
    ff_bitmap_set(armed, run->first);
}

/* Keeps PAGE in SLOT, which is the caller's, and lets its writers continue. FALSE: the slot is
 * not used: somebody else has the page, and will let them continue; or *RC says why not. Fault
 * thread: -EAGAIN, a change is in the way, and the writers are told again after its event. */
static bool keep_page(FfProtect *p, uint64_t slot, unsigned block, uint64_t page, int *rc)
{
    FfRun run = {block, page, 1};

    *rc = 0;
    if (!ff_bitmap_claim(&p->blocks[block].free, page) &&
        !ff_bitmap_claim(&p->blocks[block].lent, page)) {
        return false;
    }
    FF_FAULT_AT("protect-claimed");
    if (FF_FAULT_STEP("protect-copies-first", false)) {
        lift_early(p, &run);
    }
    int kept = keep_content(p, slot, &run);
    if (kept < 0) {
        leave_page(p, &run);
        *rc = kept;
        if (kept == -EAGAIN) {
            ff_space_lift_later(p->s, &run);
        }
        if (p->s->cfg.pager && p->s->cfg.pager->full) {
            p->s->cfg.pager->full(p->s->cfg.pager, &run); /* the saver must fetch it */
        }
    }
    if (kept != 1) {
        return false;
    }
    *rc = ff_protect_lift(p->s, &run);
    ff_protect_tell_written(p, &run);
    return true;
}

/* Somebody has the page, and lets its writers continue, or lends it. */
static bool is_had(const FfProtect *p, unsigned block, uint64_t page)
{
    const FfProtectBlock *b = &p->blocks[block];

    return !ff_bitmap_test(&b->free, page) && !ff_bitmap_test(&b->lent, page) &&
           ff_bitmap_test(&b->armed, page);
}

/* The next writer that waits for a slot gets one. FALSE: there is none, or no slot. *RC: 0, or
 * what failed first. *LEFT: a slot was taken and not used. A wait is noted until it is over: the
 * saver that lends its page looks for it. */
static bool serve_one(FfProtect *p, int *rc, bool *left)
{
    uint32_t high = __atomic_load_n(&p->waits.high, __ATOMIC_SEQ_CST);
    uint64_t slot, page;
    unsigned block;

    for (uint32_t i = 0; i < high; i++) {
        if (!ff_waits_get(&p->waits, i, &block, &page) || is_had(p, block, page)) {
            continue;
        }
        if (!ff_protect_take_slot(p, &slot)) {
            return false; /* the saver that gives the next one back continues here */
        }
        FF_FAULT_AT("protect-serves");
        int one;
        bool kept = keep_page(p, slot, block, page, &one);
        if (!kept) {
            ff_protect_leave_slot(p, slot);
        }
        if (!kept && !one && ff_bitmap_test(&p->blocks[block].armed, page)) {
            *left = true;
            continue; /* somebody was faster */
        }
        /* A writer that is told again begins a new wait: else each time would add one. */
        ff_waits_end(&p->waits, block, page, 1, NULL, NULL);
        *rc = *rc || one == -EAGAIN ? *rc : one;
        return true;
    }
    return false;
}

static int serve_faults(FfProtect *p)
{
    bool left = false, again;
    int rc = 0;

    do {
        again = !left;
        while (serve_one(p, &rc, &left)) { /* each ends a wait */
        }
    } while (left && again); /* once more: a saver that lent meanwhile may have found no slot */
    return rc;
}

/* A slot is free, for writers that wait for one. */
static int give_slot(FfProtect *p, uint64_t slot)
{
    ff_protect_leave_slot(p, slot);
    int rc = serve_faults(p);
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

/* ---- around a fault -------------------------------------------------------------------------- */

void ff_protect_set_around(FfProtect *p, uint64_t bytes)
{
    p->around = bytes;
}

/* The pages around PAGE that are to be kept with it, which is among them. */
static FfRun keep_window(const FfProtect *p, unsigned block, uint64_t page)
{
    const FfBacking *b = &p->s->blocks[block].backing;
    uint64_t all = p->n_slots, used = __atomic_load_n(&p->used, __ATOMIC_RELAXED);
    uint64_t bytes = used * 4 < all ? p->around : used * 2 < all ? p->around / 4 : 0;
    uint64_t n = MAX(1, bytes / b->page_size);
    n = n * 4 > all ? 1 : n; /* a small buffer is for those that wait */
    FfRun run = {block, page / n * n, n};

    run.n = MIN(n, b->size / b->page_size - run.first);
    return run;
}

/* Keeps the page RUN for nobody in particular, without lifting it. FALSE: it stays as it is. */
static bool keep_quietly(FfProtect *p, const FfRun *run, int *rc)
{
    uint64_t slot, seen;

    if (!ff_bitmap_test(&p->blocks[run->block].free, run->first) ||
        !ff_protect_take_slot(p, &slot)) {
        return false;
    }
    if (!ff_bitmap_claim(&p->blocks[run->block].free, run->first)) {
        *rc = give_slot(p, slot);
        return false;
    }
    if (try_keep(p, slot, run, &seen) == 1) {
        return true;
    }
    leave_page(p, run);
    if (p->s->cfg.pager && p->s->cfg.pager->full) {
        p->s->cfg.pager->full(p->s->cfg.pager, run); /* the saver must fetch it */
    }
    *rc = give_slot(p, slot);
    return false;
}

/* Fault thread: somebody else waits. */
static bool is_awaited(const FfSpace *s)
{
    struct pollfd pfd = {.fd = s->cfg.uffd, .events = POLLIN};

    return poll(&pfd, 1, 0) > 0;
}

/* Those around PAGE, which has been kept: their writers need not wait, unless somebody else does
 * so already. */
static int keep_around(FfProtect *p, unsigned block, uint64_t page)
{
    FfRun all = keep_window(p, block, page);
    uint64_t i = all.first;
    unsigned n = 0;
    int rc = 0;

    for (; i < all.first + all.n && rc == 0 && !is_awaited(p->s); i++) {
        n += i != page && keep_quietly(p, &(FfRun){block, i, 1}, &rc);
    }
    all.n = i - all.first; /* a writer that waits in the rest has its own message */
    int lifted = n ? ff_protect_lift(p->s, &all) : 0;
    rc = rc ? rc : lifted;
    if (n) {
        ff_protect_tell_written(p, &all);
    }
    return rc;
}

/* A writer that began to wait for the fault thread at BEGIN continues. */
static void count_latency(FfProtect *p, int64_t begin)
{
    uint64_t us = (uint64_t)(g_get_monotonic_time() - begin);
    unsigned bucket = us < 2 ? 0 : MIN(63u - (unsigned)__builtin_clzll(us), FF_PROTECT_BUCKETS - 1);

    __atomic_fetch_add(&p->latency[bucket], 1, __ATOMIC_RELAXED);
    if (us < FF_PROTECT_EXACT) {
        __atomic_fetch_add(&p->exact[us], 1, __ATOMIC_RELAXED);
    }
}

uint64_t ff_protect_latency(const FfProtect *p, uint64_t latency[FF_PROTECT_BUCKETS])
{
    for (unsigned i = 0; i < FF_PROTECT_BUCKETS; i++) {
        latency[i] = __atomic_load_n(&p->latency[i], __ATOMIC_RELAXED);
    }
    return __atomic_load_n(&p->faults, __ATOMIC_RELAXED);
}

uint64_t ff_protect_latency_p99(const FfProtect *p)
{
    uint64_t latency[FF_PROTECT_BUCKETS], total = 0, seen = 0;

    ff_protect_latency(p, latency);
    for (unsigned i = 0; i < FF_PROTECT_BUCKETS; i++) {
        total += latency[i];
    }
    for (unsigned us = 0; us < FF_PROTECT_EXACT && total; us++) {
        seen += __atomic_load_n(&p->exact[us], __ATOMIC_RELAXED);
        if (seen * 100 >= total * 99) {
            return us + 1;
        }
    }
    seen = 0;
    for (unsigned i = 0; i < FF_PROTECT_BUCKETS && total; i++) {
        seen += latency[i];
        if (seen * 100 >= total * 99) {
            return 2ull << i;
        }
    }
    return 0;
}

/* Somebody writes to the page RUN, and nobody may: what it was is not worth keeping, as
 * something else has changed with it. FALSE: a saver has it. */
static bool spoil_page(FfProtect *p, const FfRun *run)
{
    FfProtectBlock *b = &p->blocks[run->block];

    if (!ff_bitmap_claim(&b->free, run->first)) {
        return false;
    }
    uint64_t had = ff_bitmap_clear_run(&b->armed, run->first, 1);
    __atomic_sub_fetch(&p->left, had, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&p->lost, had, __ATOMIC_RELAXED);
    /* Before it continues: a thread that hears from it sees this. */
    __atomic_fetch_add(&p->spoilt, had, __ATOMIC_RELEASE);
    return true;
}

/* The page RUN, whoever has it: nobody wants it any more. */
static void forgo_page(FfProtect *p, const FfRun *run)
{
    uint64_t had = ff_bitmap_clear_run(&p->blocks[run->block].armed, run->first, 1);

    __atomic_sub_fetch(&p->left, had, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&p->lost, had, __ATOMIC_RELAXED);
}

/* Of the page RUN, which somebody else has: if that lends it, the writer continues by the buffer.
 * SLOT, which is the caller's, is free. */
static int wait_behind(FfProtect *p, uint64_t slot, const FfRun *run)
{
    FF_FAULT_AT("protect-taken");
    /* Also where it was lent or left in between: give_slot() finds the wait then, or ends it. */
    bool wanted = ff_bitmap_test(&p->blocks[run->block].armed, run->first);
    FfWait *wait = wanted ? ff_waits_free_slot(&p->waits) : NULL;

    if (wait) {
        ff_waits_begin(&p->waits, wait, run->block, run->first, 0, 0);
    }
    int rc = give_slot(p, slot); /* and what was lent by now is kept */
    FF_FAULT_AT("protect-behind");
    return rc;
}

int ff_protect_fault(FfProtect *p, unsigned block, uint64_t page)
{
    FfRun run = {block, page, 1};
    int64_t begin = g_get_monotonic_time();
    uint64_t slot;
    int rc;

    if (!ff_bitmap_test(&p->blocks[block].armed, page)) {
        return ff_protect_lift(p->s, &run);
    }
    __atomic_fetch_add(&p->faults, 1, __ATOMIC_RELAXED);
    if (__atomic_load_n(&p->given_up, __ATOMIC_ACQUIRE)) {
        forgo_page(p, &run);
        return ff_protect_lift(p->s, &run);
    }
    if (__atomic_load_n(&p->still, __ATOMIC_ACQUIRE) && spoil_page(p, &run)) {
        return ff_protect_lift(p->s, &run);
    }
    if (!ff_protect_take_slot(p, &slot)) {
        FfWait *wait = ff_waits_free_slot(&p->waits);
        if (wait) {
            ff_waits_begin(&p->waits, wait, block, page, 0, 0);
        }
        bool taken = ff_protect_take_slot(p, &slot);
        if (!taken && ff_bitmap_test(&p->blocks[block].armed, page)) {
            tell_full(p, &run);
            return 0;
        }
        ff_waits_end(&p->waits, block, page, 1, NULL, NULL);
        if (!taken) { /* saved meanwhile: the saver that did it may not have seen the wait */
            return ff_protect_lift(p->s, &run);
        }
    }
    if (keep_page(p, slot, block, page, &rc)) {
        count_latency(p, begin);
        return rc < 0 ? rc : keep_around(p, block, page);
    }
    int given = rc < 0 ? give_slot(p, slot) : wait_behind(p, slot, &run);
    return rc < 0 && rc != -EAGAIN ? rc : given;
}

/* ---- the saver ------------------------------------------------------------------------------- */

/* As read_page(), of a saver. It holds the lock only to find the address and to see that nothing
 * has changed since: a saver that lost its processor in the middle would keep the fault thread, and
 * every writer, waiting for as long. */
static int read_claimed_page(FfSpace *s, const FfRun *run, void *buf, uint64_t *seen)
{
    const FfBacking *b = &s->blocks[run->block].backing;
    uint64_t bytes;

    *seen = ff_space_enter(s);
    uint64_t addr = ff_space_find_addr(s, run->block, run->first, &bytes);
    ff_space_leave(s);
    if (addr && bytes < b->page_size) {
        return -ENOTSUP;
    }
    FF_FAULT_AT("protect-read-claimed");
    int rc = ff_backing_read(b, run->first * b->page_size, addr, buf, b->page_size);
    if (!s->changes || b->kind != FF_BACKING_PRIVATE) {
        return rc;
    }
    bool is_same = ff_space_enter(s) == *seen && !ff_uffd_is_changing(s->cfg.uffd);
    ff_space_leave(s);
    return is_same ? rc : -EAGAIN;
}

int ff_protect_read(FfProtect *p, const FfRun *run, void *buf)
{
    uint64_t ps = p->s->blocks[run->block].backing.page_size;
    int rc = 0;

    for (uint64_t i = 0; i < run->n && rc == 0;) {
        FfRun page = {run->block, run->first + i, 1};
        uint64_t seen;
        rc = read_claimed_page(p->s, &page, (char *)buf + i * ps, &seen);
        if (rc == -EAGAIN) {
            rc = ff_space_wait_change(p->s, seen);
        } else {
            i++;
        }
    }
    return rc;
}

bool ff_protect_own(FfProtect *p, unsigned block, uint64_t page)
{
    bool is_own = ff_bitmap_claim(&p->blocks[block].armed, page);

    if (is_own) {
        __atomic_sub_fetch(&p->left, 1, __ATOMIC_SEQ_CST);
    }
    return is_own;
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

int ff_protect_lend(FfProtect *p, const FfRun *run)
{
    /* Observer: the fault thread, which notes that somebody waits and looks here again. */
    ff_bitmap_set_run(&p->blocks[run->block].lent, run->first, run->n);
    return serve_faults(p);
}

bool ff_protect_is_lent(FfProtect *p, unsigned block, uint64_t page)
{
    return ff_bitmap_test_behind(&p->blocks[block].lent, page);
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
