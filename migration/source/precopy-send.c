/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sends the windows of a precopy round, over the main connection and, where the link is not the
 * limit, the additional ones; and keeps the versions of a page in order.
 *
 * Within a round each page is claimed once, so it does not matter which connection carries it, nor
 * in what order. The next version of it is claimed in a later round. So a round ends when
 * everything that the additional connections carried of it has been placed: a ROUND on each, after
 * its pages, is answered by its reader at the destination. What the main connection carried is in
 * front of all that comes on it later, STALE and PREPARE too; only the additional ones must not
 * overtake it: they take no part in a round before the main one's ROUND of the round before is
 * answered. So a link that is the limit never stands idle for an answer.
 *
 * A window is open while the coordinator sends of it. An additional sender claims and sends a run
 * only inside of an open one, and counts as busy meanwhile; the last window of a round is closed
 * when nobody is.
 *
 * Threads: the coordinator; a sender for each additional connection; the main reader brings
 * answers. FfControl.lock guards what it is said of; no I/O under it.
 */
#include "migration/source/precopy-send.h"

#include <errno.h>
#include <string.h>

#include "base/failpoints.h"
#include "base/priority.h"
#include "migration/source/bulk.h"
#include "migration/source/link.h"
#include "migration/source/send.h"

/* After so many runs it is known whether the link is the limit. */
#define TRIAL_RUNS 32
/* Nothing is sent or awaited any more. */
#define ENDED (FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL)

struct FfRounds {
    const FfPiece *pieces;
    bool (*over)(FfSource *s);
    unsigned n_senders;     /* on additional connections; 0: the main one carries all */
    unsigned runs;          /* coordinator; that it has sent ... */
    uint64_t bytes;         /* ... bytes on the main connection, and saved there ... */
    int64_t us;             /* ... and the time that it took, without waits for the rate limit */
    FfCompressing packing;  /* coordinator */
    uint64_t saved;         /* atomic; by compression */
    FfPace pace;            /* of all senders */
    unsigned first, end;    /* lock; the pieces of the window that is open; equal: none */
    unsigned window;        /* lock; counts them */
    unsigned busy;          /* lock; senders that have claimed, or are about to */
    bool link_bound;        /* lock; the link is the limit, or that is not known yet */
    bool quit;              /* lock; the senders must end */
    bool used[FF_MAX_BULK]; /* lock; carried pages of this round */
};

typedef struct {
    FfSource *s;
    FfRounds *r;
    FfChannel *ch;
    unsigned number;    /* among the additional ones, from 0 on */
    unsigned window;    /* in which it has set out */
    unsigned exhausted; /* window in which nothing is left for it; 0: none */
    unsigned first, n;  /* its pieces */
    unsigned at;        /* the search continues in this one of them ... */
    uint64_t page;      /* ... at this page of it */
    unsigned looked;    /* pieces looked through since it set out */
    FfCompressing packing;
} Sender;

/* ---- the rate limit -------------------------------------------------------------------------- */

/* The switch, too, lets a sender continue. */
static void wait_for_rate(FfSource *s)
{
    ff_pace_wait(&s->rounds->pace, ENDED | FF_EV_WANT_POSTCOPY);
}

FfPace *ff_rounds_pace(FfSource *s)
{
    return &s->rounds->pace;
}

uint64_t ff_rounds_bytes(const FfSource *s)
{
    uint64_t bytes = ff_channel_bytes(s->conn->main);

    for (unsigned i = 0; i < s->conn->n_bulk; i++) {
        bytes += ff_channel_bytes(s->conn->bulk[i].ch);
    }
    return bytes;
}

uint64_t ff_rounds_saved(const FfSource *s)
{
    return ff_counted(s->rounds->saved);
}

uint64_t ff_rounds_main(const FfSource *s, int64_t *us)
{
    *us = s->rounds->us;
    return s->rounds->bytes;
}

static int send_run(FfSource *s, FfChannel *ch, FfCompressing *pk, unsigned block, uint64_t first,
                    uint64_t n)
{
    uint64_t before = ff_channel_bytes(ch);

    ff_source_decide_compressing(s, ch, pk);
    int rc = ff_source_send_run(s, ch, pk, block, first, n);
    ff_pace_charge(&s->rounds->pace, ff_channel_bytes(ch) - before);
    ff_count(s->rounds->saved, pk->saved);
    return rc;
}

static uint64_t longest_run(const FfBlock *b)
{
    return MAX(1, FF_RUN_MAX_BYTES / b->info.page_size);
}

/* ---- the additional connections -------------------------------------------------------------- */

static bool may_send_locked(const Sender *k)
{
    const FfRounds *r = k->r;

    return r->first < r->end && r->window != k->exhausted && !r->link_bound &&
           k->s->answered[FF_INDEX_MAIN] == k->s->asked[FF_INDEX_MAIN];
}

/* FALSE: there will be none any more. */
static bool await_window(Sender *k)
{
    FfSource *s = k->s;
    bool ended;

    ff_mutex_lock(&s->control->lock);
    while (!(ended = k->r->quit || s->control->events & ENDED) && !may_send_locked(k)) {
        ff_cond_wait(&s->control->changed, &s->control->lock);
    }
    ff_mutex_unlock(&s->control->lock);
    return !ended;
}

/* Each begins in a part of its own; the coordinator has the first one. */
static void set_out_locked(Sender *k)
{
    const FfRounds *r = k->r;
    uint64_t bytes = 0;

    k->window = r->window;
    k->first = r->first;
    k->n = r->end - r->first;
    for (unsigned i = r->first; i < r->end; i++) {
        bytes += r->pieces[i].len;
    }
    bytes = bytes / (r->n_senders + 1) * (k->number + 1);
    for (k->at = 0; bytes >= r->pieces[k->first + k->at].len; k->at++) {
        bytes -= r->pieces[k->first + k->at].len;
    }
    const FfPiece *piece = &r->pieces[k->first + k->at];
    k->page = bytes / k->s->ram->blocks[piece->file].info.page_size;
    k->looked = 0;
}

/* FALSE: the window was closed meanwhile. */
static bool enter_window(Sender *k)
{
    FfSource *s = k->s;

    ff_mutex_lock(&s->control->lock);
    bool open = !k->r->quit && may_send_locked(k);
    if (open) {
        k->r->busy++;
        if (k->window != k->r->window) {
            set_out_locked(k);
        }
    }
    ff_mutex_unlock(&s->control->lock);
    return open;
}

/* SENT: something went over its connection. */
static void leave_window(Sender *k, bool sent)
{
    FfSource *s = k->s;

    ff_mutex_lock(&s->control->lock);
    k->r->used[k->number] |= sent;
    if (--k->r->busy == 0 && k->r->first == k->r->end) {
        ff_cond_broadcast(&s->control->changed);
    }
    ff_mutex_unlock(&s->control->lock);
}

/* The next run, around to where it set out. 0: nothing is left. */
static uint64_t claim_run(Sender *k, unsigned *block, uint64_t *first)
{
    for (; k->looked <= k->n; k->looked++) {
        const FfPiece *piece = &k->r->pieces[k->first + k->at];
        FfBlock *b = &k->s->ram->blocks[piece->file];
        uint64_t ps = b->info.page_size, begin = piece->offset / ps;
        uint64_t n = ff_bitmap_claim_run(&b->bitmap, begin + k->page, begin + piece->len / ps,
                                         longest_run(b), first);
        if (n) {
            *block = piece->file;
            k->page = *first + n - begin;
            return n;
        }
        k->at = (k->at + 1) % k->n;
        k->page = 0;
    }
    return 0;
}

static int send_next(Sender *k, bool *sent)
{
    unsigned block;
    uint64_t first;
    uint64_t n = claim_run(k, &block, &first);

    *sent = n > 0;
    if (!n) {
        k->exhausted = k->window;
        return 0;
    }
    return send_run(k->s, k->ch, &k->packing, block, first, n);
}

static gpointer send_further(gpointer p)
{
    FfBulkChannel *x = p;
    FfSource *s = x->side;
    Sender k = {.s = s, .r = s->rounds, .ch = x->ch, .number = x->index - FF_INDEX_URGENT - 1};
    int rc = 0;

    ff_priority_bulk();
    while (rc == 0 && await_window(&k)) {
        wait_for_rate(s);
        rc = ff_channel_wait_writable(k.ch);
        if (rc == 0 && enter_window(&k)) {
            bool sent;
            rc = send_next(&k, &sent);
            leave_window(&k, sent);
        }
    }
    if (rc < 0) {
        ff_conn_lost(s->conn, k.ch, rc);
    }
    ff_compressing_clear(&k.packing);
    return NULL;
}

/* ---- a window: the coordinator --------------------------------------------------------------- */

static void set_window(FfSource *s, unsigned first, unsigned end)
{
    FfRounds *r = s->rounds;

    ff_mutex_lock(&s->control->lock);
    r->first = first;
    r->end = end;
    r->window += first < end;
    ff_cond_broadcast(&s->control->changed);
    ff_mutex_unlock(&s->control->lock);
}

/* The main connection finds out what the limit is. While it is the link, additional connections
 * would carry nothing more: they wait. */
static void look_at_link(FfSource *s)
{
    FfRounds *r = s->rounds;
    bool link_bound = r->runs < TRIAL_RUNS || ff_source_link_bound(s);

    ff_mutex_lock(&s->control->lock);
    if (r->link_bound != link_bound) {
        r->link_bound = link_bound;
        ff_cond_broadcast(&s->control->changed);
    }
    ff_mutex_unlock(&s->control->lock);
}

static int send_piece(FfSource *s, const FfPiece *piece, bool *over)
{
    FfRounds *r = s->rounds;
    FfBlock *b = &s->ram->blocks[piece->file];
    uint64_t ps = b->info.page_size, page = piece->offset / ps, end = page + piece->len / ps;
    uint64_t first, n;

    while (!(*over = r->over(s))) {
        wait_for_rate(s);
        int64_t begin = g_get_monotonic_time();
        uint64_t before = ff_channel_bytes(s->conn->main);
        int rc = ff_control_events(s->control) & ENDED ? -ECANCELED
                                                       : ff_channel_wait_writable(s->conn->main);
        if (rc < 0) {
            return rc;
        }
        look_at_link(s);
        n = ff_bitmap_claim_run(&b->bitmap, page, end, longest_run(b), &first);
        if (!n) {
            return 0;
        }
        rc = send_run(s, s->conn->main, &r->packing, piece->file, first, n);
        if (rc < 0) {
            return rc;
        }
        r->runs++;
        r->bytes += ff_channel_bytes(s->conn->main) - before + r->packing.saved;
        r->us += g_get_monotonic_time() - begin;
        page = first + n;
    }
    return 0;
}

/* Before anybody looks at a page, which would fill a hole. */
static int send_holes(FfSource *s, unsigned first, unsigned end, bool *over)
{
    int rc = 0;

    for (unsigned i = first; i < end && rc == 0 && !(*over = s->rounds->over(s)); i++) {
        const FfPiece *piece = &s->rounds->pieces[i];
        uint64_t ps = s->ram->blocks[piece->file].info.page_size;
        rc = ff_source_send_holes_of(s, piece->file, piece->offset / ps, piece->len / ps);
    }
    return rc;
}

int ff_rounds_send(FfSource *s, unsigned first, unsigned end, bool *over)
{
    int rc = s->holes_sent ? 0 : send_holes(s, first, end, over);

    if (rc < 0 || *over) {
        return rc;
    }
    set_window(s, first, end);
    for (unsigned i = first; i < end && rc == 0 && !*over; i++) {
        rc = send_piece(s, &s->rounds->pieces[i], over);
    }
    set_window(s, 0, 0);
    return rc;
}

/* ---- the end of a round ---------------------------------------------------------------------- */

static int say_round(FfSource *s, FfChannel *ch, unsigned index)
{
    FfFrame f = ff_frame(FF_FRAME_ROUND, 0);

    ff_mutex_lock(&s->control->lock);
    f.page = ++s->asked[index];
    ff_mutex_unlock(&s->control->lock);
    f.epoch = s->conn->epoch;
    int rc = ff_channel_send(ch, f, NULL, false);
    if (rc < 0) {
        ff_conn_lost(s->conn, ch, rc);
    }
    return rc;
}

bool ff_rounds_answered(FfSource *s, const FfFrame *f)
{
    unsigned index = f->flags;

    ff_mutex_lock(&s->control->lock);
    bool ok =
        index < 2 + s->conn->n_bulk && f->page > s->answered[index] && f->page <= s->asked[index];
    if (ok) {
        s->answered[index] = f->page;
        ff_cond_broadcast(&s->control->changed);
    }
    ff_mutex_unlock(&s->control->lock);
    return ok;
}

static bool answered_locked(const FfSource *s)
{
    const FfRounds *r = s->rounds;

    for (unsigned i = 0; i < r->n_senders; i++) {
        unsigned index = s->conn->bulk[i].index;
        if (r->used[i] && s->answered[index] != s->asked[index]) {
            return false;
        }
    }
    return true;
}

void ff_rounds_settle(FfSource *s)
{
    ff_mutex_lock(&s->control->lock);
    while (s->rounds->busy && !(s->control->events & ENDED)) {
        ff_cond_wait(&s->control->changed, &s->control->lock);
    }
    ff_mutex_unlock(&s->control->lock);
}

static bool await_answers(FfSource *s)
{
    ff_mutex_lock(&s->control->lock);
    while (!answered_locked(s) && !(s->control->events & ENDED)) {
        ff_cond_wait(&s->control->changed, &s->control->lock);
    }
    bool ended = s->control->events & ENDED;
    ff_mutex_unlock(&s->control->lock);
    return !ended;
}

static bool was_used(FfSource *s, unsigned i)
{
    ff_mutex_lock(&s->control->lock);
    bool used = s->rounds->used[i];
    ff_mutex_unlock(&s->control->lock);
    return used;
}

bool ff_rounds_finish(FfSource *s, GError **error)
{
    FfRounds *r = s->rounds;

    if (!r->n_senders) {
        return true;
    }
    ff_rounds_settle(s);
    int rc = say_round(s, s->conn->main, FF_INDEX_MAIN);
    for (unsigned i = 0; i < r->n_senders && rc == 0; i++) {
        rc = was_used(s, i) ? say_round(s, s->conn->bulk[i].ch, s->conn->bulk[i].index) : 0;
    }
    bool ok = rc == 0 && FF_FAULT_STEP("settle", await_answers(s));
    ff_mutex_lock(&s->control->lock);
    memset(r->used, 0, sizeof(r->used));
    ff_mutex_unlock(&s->control->lock);
    return ok || ff_control_await(s->control, 0, error);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

bool ff_rounds_begin(FfSource *s, const FfPiece *pieces, bool (*over)(FfSource *s), GError **error)
{
    FfRounds *r = g_new0(FfRounds, 1);

    r->pieces = pieces;
    r->over = over;
    r->link_bound = true;
    r->pace = (FfPace){.control = s->control, .limit = &s->cfg->max_bandwidth};
    r->n_senders = s->conn->peer_features & FF_FEATURE_ROUNDS ? s->conn->n_bulk : 0;
    s->rounds = r;
    if (!r->n_senders) {
        return true;
    }
    /* Its answer lets the additional ones in. */
    if (say_round(s, s->conn->main, FF_INDEX_MAIN) < 0) {
        return ff_control_await(s->control, 0, error);
    }
    ff_conn_start_bulk(s->conn, send_further);
    return true;
}

void ff_rounds_end(FfSource *s, bool finished)
{
    FfRounds *r = s->rounds;

    ff_mutex_lock(&s->control->lock);
    r->quit = true;
    ff_pace_end_locked(&r->pace);
    ff_mutex_unlock(&s->control->lock);
    if (finished) {
        ff_conn_join_bulk(s->conn);
    }
}

void ff_rounds_free(FfSource *s)
{
    if (s->rounds) {
        ff_compressing_clear(&s->rounds->packing);
        g_clear_pointer(&s->rounds, g_free);
    }
}
