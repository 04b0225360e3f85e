/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the process is about to give back is kept first (callers.h), as after a first write, if the
 * buffer has room for it. While the event is unread nothing can be lifted and no saver can
 * continue, so nobody waits for room here.
 *
 * A thread that waits for its event to be read is asleep, and can be seen. But each read wakes all
 * of them for a moment: after an event, until there was a moment without any change, a look counts
 * only when nobody may be one of those.
 *
 * A saver that has a page that was claimed has it no more: it finds that by ff_protect_own().
 *
 * What was at a page's address may have been something else, if another thread was moving memory
 * there at the same time: the events of that come later. So copies of private memory are in doubt
 * until no change is under way, and are lost if one was told of meanwhile that moves or unmaps
 * them.
 *
 * Threads: the fault thread; the space is locked, so nobody else keeps. System calls: nanosleep.
 */
#include <time.h>

#include "uffd/callers.h"
#include "uffd/protect-internal.h"
#include "uffd/uffd.h"

/* A thread that was woken by somebody else's event is in its wait again after so long at most. */
#define STIR_US 1000
#define LOOK_AGAIN_NS 20000 /* they need the processor */

/* ---- keeping --------------------------------------------------------------------------------- */

static void count_armed(FfSpace *s, const FfRun *run, void *opaque)
{
    *(uint64_t *)opaque +=
        ff_bitmap_count_run(&s->protect->blocks[run->block].armed, run->first, run->n);
}

/* FALSE: it stays as it is, and is lost when it goes. */
static bool keep_page(FfProtect *p, const FfRun *run)
{
    FfProtectBlock *b = &p->blocks[run->block];
    uint64_t slot;

    if (!ff_bitmap_test(&b->armed, run->first) || !ff_protect_take_slot(p, &slot)) {
        return false;
    }
    int rc = ff_protect_copy_page(p->s, run, p->buffer + slot * p->slot_size);
    /* The thread that clears this bit has the content: a saver may just have read it. */
    if (rc < 0 || !ff_bitmap_claim(&b->armed, run->first)) {
        ff_protect_leave_slot(p, slot);
        return false;
    }
    ff_bitmap_clear_run(&b->free, run->first, 1);
    ff_bitmap_clear_run(&b->lent, run->first, 1);
    p->slots[slot] = *run;
    if (p->s->blocks[run->block].backing.kind == FF_BACKING_PRIVATE) {
        ff_bitmap_set(&p->doubted, slot);
        p->n_doubted++;
    } else {
        ff_protect_set_kept(p, slot);
    }
    ff_waits_end(&p->waits, run->block, run->first, 1, NULL, NULL);
    return true;
}

static void keep_run(FfSpace *s, const FfRun *run, void *opaque)
{
    unsigned n = 0;

    for (uint64_t i = 0; i < run->n; i++) {
        n += keep_page(s->protect, &(FfRun){run->block, run->first + i, 1});
    }
    if (n) {
        ff_space_lift_later(s, run);
        ff_protect_tell_written(s->protect, run);
    }
}

/* All of what one caller gives back, or nothing: a part would be kept for a snapshot that fails. */
static void keep_range(uint64_t start, uint64_t end, void *opaque)
{
    FfProtect *p = opaque;
    uint64_t n = 0;

    ff_space_each_run(p->s, start, end, count_armed, count_armed, &n);
    if (n && n <= ff_bitmap_count(&p->empty)) {
        ff_space_each_run(p->s, start, end, keep_run, keep_run, NULL);
    }
}

/* The first look may take longer than STIR_US, where there are many threads: the time counts from
 * its end. */
static void look_at_callers(FfProtect *p)
{
    FfCallers *c = p->s->cfg.callers;
    int64_t end = 0;

    for (bool is_first = true; c->each(c, is_first, keep_range, p) && p->stirred;
         is_first = false) {
        struct timespec soon = {0, LOOK_AGAIN_NS};
        int64_t now = g_get_monotonic_time();
        end = end ? end : now + STIR_US;
        if (now >= end) {
            break;
        }
        nanosleep(&soon, NULL);
    }
}

bool ff_protect_keep_given(FfProtect *p, bool is_readable)
{
    FfCallers *c = p->s->cfg.callers;

    if (!c || !__atomic_load_n(&p->left, __ATOMIC_SEQ_CST) ||
        __atomic_load_n(&p->given_up, __ATOMIC_ACQUIRE)) {
        p->awaits = false; /* what was put off is told at once */
        return false;
    }
    p->awaits = ff_uffd_is_changing(p->s->cfg.uffd);
    if (!p->awaits) {
        p->stirred = false; /* nobody waits */
    } else if (is_readable && ff_uffd_pending(p->s->cfg.uffd) <= 0) {
        look_at_callers(p);
    }
    return true;
}

bool ff_protect_awaits_event(const FfProtect *p)
{
    return p->awaits && ff_uffd_is_changing(p->s->cfg.uffd);
}

void ff_protect_stir(FfProtect *p, bool gives_back)
{
    p->awaits = false;
    p->gives |= gives_back;
    p->stirred = p->gives;
}

/* ---- what is in doubt ------------------------------------------------------------------------ */

bool ff_protect_has_doubts(const FfProtect *p)
{
    return p->n_doubted;
}

void ff_protect_end_doubts(FfProtect *p)
{
    FfRun run;
    uint64_t slot;

    if (!p->n_doubted || ff_uffd_is_changing(p->s->cfg.uffd)) {
        return;
    }
    for (uint64_t at = 0; ff_bitmap_claim_run(&p->doubted, at, p->n_slots, 1, &slot); at = slot) {
        run = p->slots[slot]; /* it may be another one's as soon as it is kept */
        p->n_doubted--;
        ff_protect_set_kept(p, slot);
    }
    ff_protect_tell_written(p, &run);
}

void ff_protect_drop_doubted(FfProtect *p, const FfRun *run)
{
    uint64_t slot;

    for (uint64_t at = 0; p->n_doubted && ff_bitmap_next_run(&p->doubted, at, true, &slot);
         at = slot + 1) {
        const FfRun *page = &p->slots[slot];
        if (page->block != run->block || page->first - run->first >= run->n) {
            continue;
        }
        ff_bitmap_clear_run(&p->doubted, slot, 1);
        p->n_doubted--;
        __atomic_sub_fetch(&p->left, 1, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&p->lost, 1, __ATOMIC_RELAXED);
        ff_protect_leave_slot(p, slot);
        ff_protect_tell_written(p, run); /* the saver may wait for nothing else */
    }
}
