/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who waits for which page of a pager over a file, and what is being read for them.
 *
 * A request goes into a ring (one for pages with data, one for zeros, which have a thread of their
 * own that never reads), and its page's bit into a bitmap. Where the ring is full only the bit is
 * there, and a thread that finds the ring empty looks through the bitmaps: no request is ever lost,
 * and none waits for room.
 *
 * A read may not come back. It costs one of the few threads that read for faults, and no request
 * beside it costs another one: a page that a fault's read brings already is parked, until that read
 * ends. So is one that may have to wait for the same read of the disk or of the network: in the
 * piece that FfFilePagerConfig.read reads as a whole, or in one that the fill reads just now (the
 * kernel makes one read of it, and a thread that reads a part waits for all).
 *
 * Threads: the fault thread of a space, those of the pager. Lock: `ring_lock`, a leaf; nobody reads
 * under it, and the fill takes it at its end alone. System calls: none.
 */
#include "content/pagers/file.h"

#include <string.h>

#include "content/pagers/file-internal.h"

static FfFileQueue *queue_of(FfFilePager *p, unsigned block, uint64_t page)
{
    return ff_file_has_data(&p->blocks[block], page) ? &p->data : &p->zeros;
}

static void push_locked(FfFilePager *p, unsigned block, uint64_t page)
{
    FfFileQueue *q = queue_of(p, block, page);

    if (q->n < RING) {
        q->ring[(q->head + q->n++) % RING] = (Request){block, page};
    } else {
        q->overflow = true;
    }
    ff_cond_broadcast(&q->asked);
}

/* ---- requests -------------------------------------------------------------------------------- */

static void record_locked(FfFilePager *p, unsigned block, uint64_t page)
{
    const FfFilePagerBlock *b = &p->blocks[block];

    if (p->n_record < p->n_places && b->per_page == 1 && ff_bitmap_test(&b->data, page)) {
        p->record[p->n_record++] = b->file.at + page * FF_FILE_PAGE;
    }
}

uint64_t *ff_file_pager_take_record(FfFilePager *p, uint64_t *n)
{
    ff_mutex_lock(&p->ring_lock);
    uint64_t *record = g_steal_pointer(&p->record);
    *n = p->n_record;
    p->n_record = p->n_places = 0;
    ff_mutex_unlock(&p->ring_lock);
    return record;
}

int ff_file_request(FfPager *pager, const FfRun *runs, unsigned n)
{
    FfFilePager *p = (FfFilePager *)pager;

    ff_mutex_lock(&p->ring_lock);
    for (unsigned i = 0; i < n; i++) {
        for (uint64_t page = runs[i].first; page < runs[i].first + runs[i].n; page++) {
            if (ff_bitmap_set(&p->blocks[runs[i].block].wanted, page)) {
                record_locked(p, runs[i].block, page);
                push_locked(p, runs[i].block, page);
            } /* else it is on its way to a thread */
        }
    }
    ff_mutex_unlock(&p->ring_lock);
    return 0;
}

/* ---- what is being read ---------------------------------------------------------------------- */

uint64_t ff_file_fill_pages(const FfFilePager *p, unsigned block)
{
    return MAX(1, p->fill_bytes / FF_FILE_PAGE / p->blocks[block].per_page);
}

void ff_file_fill_begins(FfFileWorker *w, const FfRun *run)
{
    uint64_t piece = run->first / ff_file_fill_pages(w->p, run->block);

    __atomic_store_n(w->filling, ff_run_key(run->block, piece), __ATOMIC_SEQ_CST);
}

static bool is_filled_now(const FfFilePager *p, unsigned block, uint64_t piece)
{
    for (unsigned i = 0; i < FILL_THREADS; i++) {
        if (__atomic_load_n(&p->filling[i], __ATOMIC_SEQ_CST) == ff_run_key(block, piece)) {
            return true;
        }
    }
    return false;
}

static bool is_in(uint64_t page, const FfRun *run)
{
    return page >= run->first && page - run->first < run->n;
}

/* The pieces of the fill in which RUN is. */
static FfRun pieces_of(const FfFilePager *p, const FfRun *run)
{
    uint64_t most = ff_file_fill_pages(p, run->block), first = run->first / most * most;
    uint64_t end =
        MIN(((run->first + run->n - 1) / most + 1) * most, p->blocks[run->block].n_pages);

    return (FfRun){run->block, first, end - first};
}

/* A thread that would read PAGE might have to wait for a fault's read. */
static bool is_held_locked(const FfFilePager *p, unsigned block, uint64_t page)
{
    for (unsigned i = 0; i < FAULT_THREADS; i++) {
        const FfRun *run = &p->reading[i];

        if (!run->n || run->block != block) {
            continue;
        }
        FfRun pieces = pieces_of(p, run);
        if (is_in(page, run) ||
            (is_in(page, &pieces) &&
             (p->cfg.fill || is_filled_now(p, block, page / ff_file_fill_pages(p, block))))) {
            return true;
        }
    }
    return false;
}

static void unpark_locked(FfFilePager *p, const FfRun *run)
{
    FfBitmap *parked = &p->blocks[run->block].parked;
    uint64_t page;

    while (ff_bitmap_claim_run(parked, run->first, run->first + run->n, 1, &page)) {
        push_locked(p, run->block, page);
    }
}

/* What W reads from now on. */
static void reads_locked(FfFileWorker *w, const FfRun *run)
{
    FfRun before = *w->reading;

    *w->reading = *run;
    if (before.n) {
        FfRun pieces = pieces_of(w->p, &before);
        unpark_locked(w->p, &pieces);
    }
}

void ff_file_reads(FfFileWorker *w, const FfRun *run)
{
    ff_mutex_lock(&w->p->ring_lock);
    reads_locked(w, run);
    ff_mutex_unlock(&w->p->ring_lock);
}

void ff_file_fill_ends(FfFileWorker *w)
{
    FfFilePager *p = w->p;

    __atomic_store_n(w->filling, 0, __ATOMIC_SEQ_CST);
    ff_mutex_lock(&p->ring_lock);
    for (unsigned i = 0; i < p->cfg.n_blocks; i++) {
        unpark_locked(p, &(FfRun){i, 0, p->blocks[i].n_pages});
    }
    ff_mutex_unlock(&p->ring_lock);
}

/* ---- who answers ----------------------------------------------------------------------------- */

/* FALSE: R was taken already, while the ring was empty, or it is parked. */
static bool claim_locked(FfFilePager *p, const Request *r)
{
    FfFilePagerBlock *b = &p->blocks[r->block];

    if (!ff_bitmap_test(&b->wanted, r->page)) {
        return false;
    }
    if (ff_file_has_data(b, r->page) && is_held_locked(p, r->block, r->page)) {
        ff_bitmap_set(&b->parked, r->page);
        return false;
    }
    ff_bitmap_claim(&b->parked, r->page);
    return ff_bitmap_claim(&b->wanted, r->page);
}

/* One that is in the bitmaps alone. */
static bool take_overflow_locked(FfFilePager *p, FfFileQueue *q, Request *r)
{
    for (r->block = 0; r->block < p->cfg.n_blocks; r->block++) {
        const FfBitmap *wanted = &p->blocks[r->block].wanted;

        for (uint64_t at = 0; ff_bitmap_next_run(wanted, at, true, &r->page); at = r->page + 1) {
            if (queue_of(p, r->block, r->page) == q && claim_locked(p, r)) {
                return true;
            }
        }
    }
    q->overflow = false;
    return false;
}

static bool take_locked(FfFilePager *p, FfFileQueue *q, Request *r)
{
    while (q->n) {
        *r = q->ring[q->head];
        q->head = (q->head + 1) % RING;
        q->n--;
        if (claim_locked(p, r)) {
            return true;
        }
    }
    return q->overflow && take_overflow_locked(p, q, r);
}

/* The next one that is missing still. FALSE: the end. */
static bool await_locked(FfFilePager *p, FfFileQueue *q, Request *r)
{
    while (!p->ends) {
        if (!take_locked(p, q, r)) {
            ff_cond_wait(&q->asked, &p->ring_lock);
        } else if (!ff_space_is_placed(p->cfg.space, r->block, r->page)) {
            return true;
        } /* else that woke the thread that waited */
    }
    return false;
}

static bool is_wanted_locked(const FfFilePager *p, unsigned block, uint64_t page)
{
    return !ff_space_is_placed(p->cfg.space, block, page) &&
           ff_file_has_data(&p->blocks[block], page) && !is_held_locked(p, block, page);
}

/* The pages around R's that are missing and stand in the file, as far as they are next to it. */
static FfRun window_locked(const FfFilePager *p, const Request *r)
{
    const FfFilePagerBlock *b = &p->blocks[r->block];
    uint64_t size = MAX(1, p->cfg.window / b->per_page), from = r->page / size * size;
    uint64_t end = MIN(from + size, b->n_pages), first = r->page, last = r->page + 1;

    while (first > from && is_wanted_locked(p, r->block, first - 1)) {
        first--;
    }
    while (last < end && is_wanted_locked(p, r->block, last)) {
        last++;
    }
    return (FfRun){r->block, first, last - first};
}

bool ff_file_take(FfFileWorker *w, FfRun *window, FfRun *alone)
{
    FfFilePager *p = w->p;
    Request r;

    ff_mutex_lock(&p->ring_lock);
    reads_locked(w, &(FfRun){0});
    bool some = await_locked(p, &p->data, &r);
    if (some) {
        *alone = (FfRun){r.block, r.page, 1};
        *window = *w->reading = window_locked(p, &r);
    }
    ff_mutex_unlock(&p->ring_lock);
    return some;
}

bool ff_file_take_zeros(FfFilePager *p, FfRun *page)
{
    Request r;

    ff_mutex_lock(&p->ring_lock);
    bool some = await_locked(p, &p->zeros, &r);
    if (some) {
        *page = (FfRun){r.block, r.page, 1};
    }
    ff_mutex_unlock(&p->ring_lock);
    return some;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

void ff_file_queues_init(FfFilePager *p)
{
    ff_mutex_init(&p->ring_lock);
    ff_cond_init(&p->data.asked);
    ff_cond_init(&p->zeros.asked);
}

void ff_file_queues_end(FfFilePager *p)
{
    ff_mutex_lock(&p->ring_lock);
    g_atomic_int_set(&p->ends, 1);
    ff_cond_broadcast(&p->data.asked);
    ff_cond_broadcast(&p->zeros.asked);
    ff_mutex_unlock(&p->ring_lock);
}

void ff_file_queues_empty(FfFilePager *p)
{
    ff_mutex_lock(&p->ring_lock);
    p->data.n = p->zeros.n = 0;
    p->data.overflow = p->zeros.overflow = false;
    for (unsigned i = 0; i < p->cfg.n_blocks; i++) {
        FfFilePagerBlock *b = &p->blocks[i];

        ff_bitmap_clear_run(&b->wanted, 0, b->n_pages);
        ff_bitmap_clear_run(&b->parked, 0, b->n_pages);
    }
    memset(p->reading, 0, sizeof(p->reading));
    memset(p->filling, 0, sizeof(p->filling));
    p->n_reading = p->n_filling = 0;
    ff_mutex_unlock(&p->ring_lock);
}

void ff_file_queues_clear(FfFilePager *p)
{
    ff_cond_clear(&p->data.asked);
    ff_cond_clear(&p->zeros.asked);
    ff_mutex_clear(&p->ring_lock);
}
