/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's bulk thread: everything that nobody has asked for, over the main channel and the
 * additional ones.
 *
 * Holes of the memfd go first, as runs of zero pages (some frames for most of an idle guest's
 * RAM; precopy has sent them already). Then data: around the newest stream of requests that goes
 * page by page (the pivot), since pages that belong together are likely to be wanted next; what the
 * guest wrote just before the stop; the rest. A run is claimed only when the socket takes it at
 * once and the rate allows it: what is claimed cannot be asked for any more, so it must not lie
 * around.
 *
 * System calls: lseek(SEEK_DATA, SEEK_HOLE).
 */
#include "migration/source/bulk.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/priority.h"
#include "base/trace-mark.h"
#include "migration/source/link.h"
#include "migration/source/send.h"
#include "uffd/holes.h"

/* Around a request so much is sent before bulk returns to its order. */
#define NEAR_BYTES (2ull << 20)
/* So many runs of hot pages are kept, 24 bytes each. */
#define HOT_RUNS (1u << 20)
/* After so many runs it is known whether the link is the limit. */
#define TRIAL_RUNS 32

/* While the link is the limit a run is what it carries in so long, but not less than so much. */
#define RUN_US 250
#define RUN_MIN_BYTES (32u * 1024)
/* So much of a hole that may be none is read, and sent, at once. */
#define HOLE_BYTES (256ull << 20)
/* Holes with such borders a destination can leave as they are (migration/destination/place.c). */
#define HUGE_PAGE (2ull << 20)

typedef struct {
    FfSource *s;
    FfChannel *ch;
    unsigned index;  /* of this sender among all of them, 0: the main channel's */
    uint64_t near;   /* bytes that are still sent around the last request */
    int hot;         /* which of s->hot this sender has taken; -1: none */
    uint64_t hot_at; /* in it: the page where the search continues */
    unsigned block;  /* where the search continues */
    uint64_t page;
    bool prompt;   /* ff_priority_link() holds */
    unsigned runs; /* sent so far */
    FfCompressing packing;
} Bulk;

/* Waits until the rate limit allows more. FALSE if the migration cannot continue. */
static bool wait_for_rate(Bulk *k)
{
    FfSource *s = k->s;
    unsigned ends = FF_EV_DEAD | FF_EV_QUIT;

    /* The rest of a plain precopy is sent with the guest stopped: as fast as it goes. */
    return s->conn->complete_at_grant ? !(ff_control_events(s->control) & ends)
                                      : ff_pace_wait(&s->bulk_pace, ends);
}

static void charge_rate(FfSource *s, uint64_t bytes)
{
    if (!s->conn->complete_at_grant) {
        ff_pace_charge(&s->bulk_pace, bytes);
    }
}

/* In one place: perf takes one of a name only. */
static G_GNUC_NO_INLINE void mark_claim(unsigned block, uint64_t page, uint64_t n, unsigned channel)
{
    FF_MARK4(bulk_claimed, block, page, n, channel);
}

/* Sends what is left of the hole [FIRST, END) of BLOCK. */
static int send_hole(FfSource *s, unsigned block, uint64_t first, uint64_t end)
{
    uint64_t run, n;

    while ((n = ff_bitmap_claim_run(&s->ram->blocks[block].bitmap, first, end, UINT32_MAX, &run))) {
        mark_claim(block, run, n, 0);
        int rc = ff_source_send_zero(s, s->conn->main, block, run, n);
        if (rc < 0) {
            return rc;
        }
        first = run + n;
    }
    return 0;
}

/* Data begins at AT. */
static void note_data(FfBlock *b, uint64_t at)
{
    off_t hole = ff_holes_end_of_data(b->info.memfd, (off_t)at, (off_t)b->info.size);

    b->data_first = at;
    b->data_end = hole < 0 ? b->info.size : (uint64_t)hole;
}

/* Where the hole at or after AT begins: END, or more, if there is none before. A search reads all
 * that comes before it, so one that has gone far serves the calls that follow. */
static uint64_t next_hole(FfBlock *b, uint64_t at, uint64_t end)
{
    if (at < b->data_first || at >= b->data_end) {
        off_t hole = lseek(b->info.memfd, at, SEEK_HOLE);
        b->data_first = at;
        b->data_end = hole < 0 ? end : (uint64_t)hole;
    }
    return b->data_end;
}

/* Where the hole at AT is read, as it may be none, or was by then. */
static uint64_t end_of_doubt(const FfBlock *b, uint64_t at, uint64_t end, bool *known)
{
    uint64_t ps = b->info.page_size;
    uint64_t until = MIN(end, (at + HOLE_BYTES) / HUGE_PAGE * HUGE_PAGE);

    *known = !ff_bitmap_count_run(&b->bitmap, at / ps, (until - at + ps - 1) / ps);
    return until;
}

int ff_source_send_holes_of(FfSource *s, unsigned block, uint64_t first, uint64_t n)
{
    FfBlock *b = &s->ram->blocks[block];
    uint64_t ps = b->info.page_size, at = first * ps, end = (first + n) * ps;
    bool are_true = ff_holes_are_true(), known = false;

    while ((at = next_hole(b, at, end)) < end &&
           !(ff_control_events(s->control) & (FF_EV_DEAD | FF_EV_QUIT))) {
        uint64_t until = are_true ? end : end_of_doubt(b, at, end, &known);
        if (known) {
            at = until; /* the peer has all of it */
            continue;
        }
        off_t data = ff_holes_next_data(b->info.memfd, (off_t)at, (off_t)until);
        if (data < 0 && errno != ENXIO) {
            return 0; /* no holes told: zero pages are found by reading */
        }
        if (data >= 0) {
            until = (uint64_t)data;
            note_data(b, until);
        }
        /* A page that is a hole only in part has data: huge pages are never split here. */
        int rc = send_hole(s, block, (at + ps - 1) / ps, until / ps);
        if (rc < 0) {
            return rc;
        }
        at = until;
    }
    return 0;
}

static int send_holes(FfSource *s)
{
    int rc = 0;

    for (unsigned i = 0; i < s->ram->n_blocks && rc == 0; i++) {
        rc = ff_source_send_holes_of(s, i, 0, s->ram->blocks[i].n_pages);
    }
    s->holes_sent = true;
    return rc;
}

static void follow_pivot(Bulk *k)
{
    uint64_t pivot = __atomic_exchange_n(&k->s->pivot, 0, __ATOMIC_ACQ_REL);

    if (pivot) {
        k->block = ff_run_key_block(pivot);
        k->page = ff_run_key_page(pivot);
        k->near = NEAR_BYTES;
    }
}

/* Pages of a run. Its first one is placed with its last one, and nobody can ask for either
 * meanwhile: 1 Gbit/s takes a millisecond for 128 KiB. */
static uint64_t longest_run(const Bulk *k, const FfBlock *b)
{
    uint64_t bytes = FF_RUN_MAX_BYTES;

    if (k->prompt) {
        uint64_t in_time = ff_channel_rate(k->ch) * RUN_US / G_USEC_PER_SEC;

        bytes = CLAMP(in_time, RUN_MIN_BYTES, bytes);
    }
    return MAX(1, bytes / b->info.page_size);
}

/*
 * The next run of what the guest writes most often. Such pages lie scattered. Where the link is the
 * limit each goes alone: what comes with it would stand in front of the next one. Where the
 * processor is the limit a full run costs little more than a page, so what follows comes along.
 */
static uint64_t claim_hot(Bulk *k, unsigned *block, uint64_t *first)
{
    FfSource *s = k->s;
    int n_hot = s->hot ? (int)s->hot->len : 0;

    while (n_hot) {
        if (k->hot < 0) {
            k->hot = g_atomic_int_add(&s->next_hot, 1);
            k->hot_at = 0;
        }
        if (k->hot >= n_hot) {
            break;
        }
        const FfRun *r = &g_array_index(s->hot, FfRun, k->hot);
        FfBlock *b = &s->ram->blocks[r->block];
        uint64_t max = longest_run(k, b), end = r->first + (k->prompt ? r->n : MAX(r->n, max));
        uint64_t n = ff_bitmap_claim_run(&b->bitmap, MAX(r->first, k->hot_at), MIN(end, b->n_pages),
                                         max, first);
        if (n) {
            k->hot_at = *first + n;
            *block = r->block;
            return n;
        }
        k->hot = -1;
    }
    return 0;
}

/* Claims the next run at or after the cursor, around the end if need be. 0: nothing is left. */
static uint64_t claim_here(Bulk *k, uint64_t *first)
{
    FfSource *s = k->s;

    for (unsigned i = 0; i <= s->ram->n_blocks; i++) {
        FfBlock *b = &s->ram->blocks[k->block];
        uint64_t max = longest_run(k, b);
        uint64_t n = ff_bitmap_claim_run(&b->bitmap, k->page, b->n_pages, max, first);
        if (n) {
            k->page = *first + n;
            return n;
        }
        k->block = (k->block + 1) % s->ram->n_blocks;
        k->page = 0;
    }
    return 0;
}

static uint64_t claim_next(Bulk *k, unsigned *block, uint64_t *first)
{
    uint64_t n = k->near ? 0 : claim_hot(k, block, first);

    if (n) {
        return n;
    }
    n = claim_here(k, first);
    *block = k->block;
    k->near -= MIN(k->near, n * k->s->ram->blocks[*block].info.page_size);
    return n;
}

/* Each begins in a part of its own. */
static void set_out(Bulk *k)
{
    const FfSource *s = k->s;

    k->page = s->ram->total_pages / (1 + s->conn->n_bulk) * k->index;
    while (k->page >= s->ram->blocks[k->block].n_pages) {
        k->page -= s->ram->blocks[k->block++].n_pages;
    }
}

/* A link that is the limit runs dry when its short queue is not filled in time, and then costs
 * this thread little. Where the processor is the limit, bulk is the one to wait. */
static void set_priority(Bulk *k)
{
    /* The additional ones send only where it is not. */
    bool prompt = k->ch == k->s->conn->main && ff_source_link_bound(k->s);

    if (prompt != k->prompt) {
        k->prompt = prompt;
        if (prompt) {
            ff_priority_link();
        } else {
            ff_priority_bulk();
        }
    }
}

static void set_link_bound(FfSource *s, bool link_bound)
{
    ff_mutex_lock(&s->control->lock);
    if (s->link_bound != link_bound) {
        s->link_bound = link_bound;
        ff_cond_broadcast(&s->control->changed);
    }
    ff_mutex_unlock(&s->control->lock);
}

/* The main connection finds out what the limit is. While it is the link, additional connections
 * would only queue more in front of urgent packets: they wait. FALSE if the migration cannot
 * continue. */
static bool take_part(Bulk *k)
{
    FfSource *s = k->s;

    if (k->ch == s->conn->main) {
        set_link_bound(s, k->prompt || k->runs < TRIAL_RUNS);
        return true;
    }
    ff_mutex_lock(&s->control->lock);
    while (s->link_bound && !(s->control->events & (FF_EV_DEAD | FF_EV_QUIT))) {
        ff_cond_wait(&s->control->changed, &s->control->lock);
    }
    bool ok = !(s->control->events & (FF_EV_DEAD | FF_EV_QUIT));
    ff_mutex_unlock(&s->control->lock);
    return ok;
}

static int send_all(Bulk *k)
{
    FfSource *s = k->s;
    int rc = 0;

    set_out(k);
    for (;;) {
        uint64_t first;
        unsigned block;
        set_priority(k);
        if (!take_part(k) || !wait_for_rate(k)) {
            return -ECANCELED;
        }
        rc = ff_channel_wait_writable(k->ch);
        if (rc < 0) {
            return rc;
        }
        follow_pivot(k);
        uint64_t n = claim_next(k, &block, &first);
        if (!n) {
            return 0;
        }
        mark_claim(block, first, n, k->index);
        ff_source_decide_compressing(s, k->ch, &k->packing);
        rc = ff_source_send_run(s, k->ch, &k->packing, block, first, n);
        if (rc < 0) {
            return rc;
        }
        charge_rate(s, n * s->ram->blocks[block].info.page_size - k->packing.saved);
        k->runs++;
    }
}

static void send_bulk(Bulk *k)
{
    ff_priority_bulk();
    int rc = send_all(k);

    ff_compressing_clear(&k->packing);
    if (rc == 0) {
        rc = ff_channel_send(k->ch, ff_frame(FF_FRAME_END, 0), NULL, false);
    }
    if (rc < 0 && rc != -ECANCELED) {
        ff_conn_lost(k->s->conn, k->ch, rc);
    }
}

static gpointer send_extra(gpointer p)
{
    FfBulkChannel *x = p;
    Bulk k = {.s = x->side, .ch = x->ch, .index = x->index - FF_INDEX_URGENT, .hot = -1};

    send_bulk(&k);
    return NULL;
}

/* Not earlier: it reads a byte for each page, and the guest would stand still meanwhile. On a new
 * connection they are looked through once more: which of them were lost is not known. */
static void begin_with_hot(FfSource *s)
{
    if (s->heat && !s->hot) {
        s->hot = ff_frequency_order(s->heat, HOT_RUNS);
    }
    g_clear_pointer(&s->heat, ff_frequency_free);
    g_atomic_int_set(&s->next_hot, 0);
}

gpointer ff_source_bulk(gpointer p)
{
    FfSource *s = p;
    Bulk k = {.s = s, .ch = s->conn->main, .hot = -1};

    ff_priority_bulk();
    ff_channel_settle(k.ch); /* the guest asks for most in the first moments */
    int rc = s->holes_sent ? 0 : send_holes(s);

    if (rc < 0) {
        ff_conn_lost(s->conn, s->conn->main, rc);
        return NULL;
    }
    begin_with_hot(s);
    /* Not before the holes are claimed: looking at one fills it. */
    if (!s->conn->complete_at_grant) {
        set_link_bound(s, true);
        ff_conn_start_bulk(s->conn, send_extra);
    }
    send_bulk(&k);
    set_link_bound(s, false); /* nothing is left for them, and they say so */
    return NULL;
}
