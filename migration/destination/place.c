/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placing pages in the destination's guest RAM (place.h says how), which holes leave the
 * userfaultfd instead, and the account of it all: pages, bytes, and who waited how long.
 *
 * Threads: main reader, urgent reader, bulk readers, fault thread, all at once; no lock. No system
 * calls of its own.
 */
#include "migration/destination/place.h"

#include "uffd/place.h"

/* Taking a range out of the userfaultfd splits QEMU's mapping, and QEMU has 65530 of them at most
 * (trap in the design): only big ranges, and few. */
#define HUGE_PAGE (2ull << 20) /* of shared memory */
#define UNREGISTER_MAX_RANGES 1000

/* ---- accounting ------------------------------------------------------------------------------ */

static void on_present(const FfPresent *x, void *opaque)
{
    FfPlacer *p = opaque;

    if (x->duplicate) {
        ff_count(p->stats->pages_duplicate, x->duplicate);
    }
    if (!x->pages) {
        return;
    }
    if (x->as == FF_PRESENT_ZEROS) {
        ff_count(p->stats->pages_zero, x->pages);
    } else if (x->as == FF_PRESENT_CONTENT) {
        ff_count(p->stats->pages_normal, x->pages);
        ff_count(p->stats->content_bytes, x->bytes);
    }
    if (x->run.n) {
        ff_pieces_placed(__atomic_load_n(&p->pieces, __ATOMIC_SEQ_CST), &x->run);
    }
    ff_ram_done(p->ram, x->pages, x->bytes);
}

static void on_complete(void *opaque)
{
    FfPlacer *p = opaque;

    p->all(p->side);
}

static int32_t on_wait_began(int32_t tid, int64_t now_us, void *opaque)
{
    return ff_stats_wait_begin(((FfPlacer *)opaque)->stats, tid, now_us);
}

static void on_wait_ended(int32_t vcpu, int64_t since_us, void *opaque)
{
    ff_stats_wait_end(((FfPlacer *)opaque)->stats, vcpu, since_us, g_get_monotonic_time());
}

static void on_failed(const FfRun *run, int rc, void *opaque)
{
    FfPlacer *p = opaque;

    p->failed(run, rc, p->side);
}

const FfSpaceOps ff_placer_ops = {
    .present = on_present,
    .complete = on_complete,
    .wait_began = on_wait_began,
    .wait_ended = on_wait_ended,
    .failed = on_failed,
};

/* ---- placing --------------------------------------------------------------------------------- */

int ff_placer_copy(FfPlacer *p, const FfRun *run, const void *data)
{
    return ff_place_copy(p->space, run, data);
}

/* The large part of RUN, of which nothing was received, becomes ordinary memory: no page is
 * allocated for it. FALSE: there is none, or it cannot be. */
static bool leave_hole(FfPlacer *p, const FfRun *run, FfRun *hole)
{
    const FfBlock *b = &p->ram->blocks[run->block];
    uint64_t per_huge = MAX(1, HUGE_PAGE / b->info.page_size);

    hole->block = run->block;
    hole->first = (run->first + per_huge - 1) / per_huge * per_huge;
    uint64_t end = (run->first + run->n) / per_huge * per_huge;
    if (end <= hole->first || ff_bitmap_count_run(&b->bitmap, run->first, run->n)) {
        return false;
    }
    hole->n = end - hole->first;
    /* One that continues where the last one ended splits nothing. */
    uint64_t before = __atomic_load_n(&p->hole_end, __ATOMIC_RELAXED);
    bool splits = before != ff_run_key(hole->block, hole->first);
    if ((splits && __atomic_load_n(&p->unregistered, __ATOMIC_RELAXED) >= UNREGISTER_MAX_RANGES) ||
        ff_place_hole(p->space, hole) < 0) {
        return false;
    }
    __atomic_fetch_add(&p->unregistered, splits, __ATOMIC_RELAXED);
    __atomic_store_n(&p->hole_end, ff_run_key(hole->block, end), __ATOMIC_RELAXED);
    return true;
}

int ff_placer_zero(FfPlacer *p, const FfRun *run)
{
    FfRun hole;

    if (!leave_hole(p, run, &hole)) {
        return ff_place_zero(p->space, run);
    }
    FfRun before = {run->block, run->first, hole.first - run->first};
    FfRun after = {run->block, hole.first + hole.n, run->first + run->n - (hole.first + hole.n)};
    int rc = ff_place_zero(p->space, &before);
    return rc < 0 ? rc : ff_place_zero(p->space, &after);
}
