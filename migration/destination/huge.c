/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Huge pages for a guest that comes page by page. See huge.h.
 *
 * Postcopy needs small pages: each missing one is a hole. A piece of 2 MiB that is whole has none,
 * and gets none any more from here: stale pages are dropped before the guest may run, and
 * what the guest gives back reads as zeros, which is what is right for it. So as soon as a piece is
 * whole the kernel is asked for a huge page of it (uffd/huge.h), through a mapping of the engine's
 * own: no user needs a right for it.
 *
 * Soon, and not when all is over: a page that KVM has mapped is taken from the guest by itself, 512
 * times in a piece, and a guest that touches all of its memory finds the piece locked meanwhile.
 * Of a piece that has just come it has touched a few pages; and from then on one fault of the guest
 * maps all of it, in place of 512 (tests/bench/results/decisions.md).
 *
 * Placers find the whole pieces (pieces.h). What the thread has left when the migration is over the
 * coordinator does. The next migration, snapshot or restore frees this one first, and so ends it:
 * before anything is registered for write protection. So does a relay that waits for this engine's
 * end, because another one is to take its place.
 *
 * Threads: huge, then the coordinator.
 */
#include "migration/destination/huge.h"

#include "base/failpoints.h"
#include "base/priority.h"
#include "uffd/holes.h"
#include "uffd/huge.h"

/* While memory comes: no pauses, since what waits is mapped by the guest meanwhile, and costs ten
 * times as much then. But where the last N_MEAN pieces took longer than COLD_US each, the host has
 * no memory at hand, and it is the guest's pages that need it: the rest is left for the end. At the
 * end: a piece that takes longer than QUICK_US is one that the guest waits for: PAUSE times as long
 * nothing is done then, but LONGEST_MS at most (so much is a busy host). */
enum { N_MEAN = 16, COLD_US = 6000, QUICK_US = 2000, PAUSE = 20, LONGEST_MS = 1000 };

struct FfDestHuge {
    FfControl *control;
    FfPieces *pieces;
    unsigned n_maps;
    FfHugeMap **maps; /* of each block; NULL: it has no pieces, or cannot be mapped */
    gint end;         /* atomic. Observer: the thread */
    bool failed;      /* thread, then coordinator: the kernel makes none */
    bool left;        /* before the end of the migration: there may be something to finish */
    int64_t n_made;
    GThread *thread;
};

/* Microseconds that one piece took. -1: there is none to be done just now. */
static int64_t make_one(FfDestHuge *h)
{
    unsigned block;
    uint64_t piece;

    if (h->failed || !ff_pieces_take(h->pieces, &block, &piece)) {
        return -1;
    }
    int64_t began = g_get_monotonic_time();
    int rc = h->maps[block] ? ff_huge_map_collapse(h->maps[block], piece) : 0;

    h->failed = rc < 0;
    h->n_made += rc > 0;
    return g_get_monotonic_time() - began;
}

static gpointer make_pieces(gpointer p)
{
    FfDestHuge *h = p;
    int64_t mean_us = 0;

    /* What this thread locks in the kernel the guest waits for. */
    ff_priority_urgent();
    while (!g_atomic_int_get(&h->end) && mean_us < COLD_US) {
        int64_t took_us = make_one(h);

        if (took_us < 0) {
            ff_pieces_wait(h->pieces);
        } else {
            mean_us += (took_us - mean_us) / N_MEAN;
        }
    }
    return NULL;
}

void ff_dest_huge_begin(FfDestination *d)
{
    FfPieces *pieces = NULL;

    if (!d->huge && d->control->ops.parted && ff_huge_is_allowed()) {
        pieces = ff_pieces_new(d->ram);
    }
    if (!pieces) {
        return;
    }
    FfDestHuge *h = d->huge = g_new0(FfDestHuge, 1);
    h->control = d->control;
    h->pieces = pieces;
    h->n_maps = d->ram->n_blocks;
    h->maps = g_new0(FfHugeMap *, h->n_maps);
    for (unsigned i = 0; i < h->n_maps; i++) {
        const FfRamBlock *info = &d->ram->blocks[i].info;
        h->maps[i] = ff_pieces_in(pieces, i) ? ff_huge_map_new(info->memfd, info->size) : NULL;
    }
    if (ff_holes_bear_collapse()) {
        __atomic_store_n(&d->placer.pieces, pieces, __ATOMIC_SEQ_CST);
        ff_pieces_check_all(pieces);
        h->thread = g_thread_new("ff-huge", make_pieces, h);
    }
}

void ff_dest_huge_end(FfDestination *d)
{
    FfDestHuge *h = d->huge;

    if (!h) {
        return;
    }
    /* The thread may be in the kernel, which can wait for all processors: the end of the migration
     * does not. */
    g_atomic_int_set(&h->end, 1);
    ff_pieces_wake(h->pieces);
    if (!h->thread) {
        ff_pieces_check_all(h->pieces);
    }
    h->left = ff_control_events(d->control) & FF_EV_ALL;
}

bool ff_dest_huge_is_left(const FfDestination *d)
{
    return d->huge && d->huge->left;
}

void ff_dest_huge_finish(FfDestination *d)
{
    int64_t took_us, pause_us = 0;

    ff_control_join(&d->huge->thread);
    ff_priority_urgent();
    while (!ff_control_wait_until(d->control, FF_EV_FREED, g_get_monotonic_time() + pause_us) &&
           (took_us = make_one(d->huge)) >= 0) {
        pause_us = took_us < QUICK_US ? 0 : MIN(took_us * PAUSE, LONGEST_MS * 1000);
    }
    FF_FAULT_AT("huge");
    g_debug("%" G_GINT64_FORMAT " huge pages", d->huge->n_made);
}

void ff_dest_huge_clear(FfDestination *d)
{
    FfDestHuge *h = g_steal_pointer(&d->huge);

    d->placer.pieces = NULL;
    if (h) {
        ff_control_join(&h->thread);
    }
    for (unsigned i = 0; h && i < h->n_maps; i++) {
        ff_huge_map_free(h->maps[i]);
    }
    if (h) {
        ff_pieces_free(h->pieces);
        g_free(h->maps);
        g_free(h);
    }
}
