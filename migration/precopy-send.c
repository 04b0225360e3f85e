/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sends the windows of a precopy round, over the main connection and, where the link is not the
 * limit, the further ones; and keeps the versions of a page in order.
 *
 * Within a round each page is claimed once, so it does not matter which connection carries it, nor
 * in what order. The next version of it is claimed in a later round. So a round ends when
 * everything that the further connections carried of it has been placed: a ROUND on each, behind
 * its pages, is answered by its reader at the destination. What the main connection carried is in
 * front of all that comes on it later, STALE and PREPARE too; only the further ones must not
 * overtake it: they take no part in a round before the main one's ROUND of the round before is
 * answered. So a link that is the limit never stands idle for an answer.
 *
 * A window is open while the coordinator sends of it. A further sender claims and sends a run only
 * inside of an open one, and counts as busy meanwhile; the last window of a round is closed when
 * nobody is.
 *
 * Threads: the coordinator; a sender for each further connection; the main reader brings answers.
 * FfMigration.lock guards what it is said of; no I/O under it.
 */
#include "migration/precopy-send.h"

#include <errno.h>
#include <string.h>

/* After so many runs (4 MiB) the round trip tells whether the link is the limit. */
#define TRIAL_RUNS 32
/* Nothing is sent or awaited any more. */
#define ENDED (FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL)

struct FfRounds {
    const FfPiece *pieces;
    bool (*over)(FfMigration *m);
    unsigned n_senders;      /* on further connections; 0: the main one carries all */
    unsigned runs;           /* coordinator; that it has sent ... */
    uint64_t bytes;          /* ... bytes on the main connection, and saved there ... */
    int64_t us;              /* ... and the time that it took, without waits for the rate limit */
    FfPacking packing;       /* coordinator */
    uint64_t saved;          /* atomic; by compression */
    int64_t next_us;         /* lock; nothing is sent before, by the rate limit */
    unsigned first, end;     /* lock; the pieces of the window that is open; equal: none */
    unsigned window;         /* lock; counts them */
    unsigned busy;           /* lock; senders that have claimed, or are about to */
    bool narrow;             /* lock; the link is the limit, or that is not known yet */
    bool quit;               /* lock; the senders are to end */
    bool used[FF_MAX_EXTRA]; /* lock; carried pages of this round */
};

typedef struct {
    FfMigration *m;
    FfRounds *r;
    FfChannel *ch;
    unsigned number;    /* among the further ones, from 0 on */
    unsigned window;    /* in which it has set out */
    unsigned exhausted; /* window in which nothing is left for it; 0: none */
    unsigned first, n;  /* its pieces */
    unsigned at;        /* the search goes on in this one of them ... */
    uint64_t page;      /* ... at this page of it */
    unsigned looked;    /* pieces looked through since it set out */
    FfPacking packing;
} Sender;

/* ---- the rate limit ----------------------------------------------------------------------- */

/* A new limit counts at once. */
void ff_rounds_pace(FfMigration *m)
{
    FfRounds *r = m->rounds;

    ff_mutex_lock(&m->lock);
    uint64_t limit = m->cfg.max_bandwidth;
    while (limit && !r->quit && r->next_us > g_get_monotonic_time() &&
           !(m->events & (ENDED | FF_EV_WANT_POSTCOPY))) {
        ff_cond_wait_until(&m->changed, &m->lock, r->next_us);
        if (m->cfg.max_bandwidth != limit) {
            r->next_us = 0;
            limit = m->cfg.max_bandwidth;
        }
    }
    ff_mutex_unlock(&m->lock);
}

void ff_rounds_charge(FfMigration *m, uint64_t bytes)
{
    FfRounds *r = m->rounds;

    ff_mutex_lock(&m->lock);
    if (m->cfg.max_bandwidth) {
        int64_t now = g_get_monotonic_time();
        r->next_us = MAX(r->next_us, now) + bytes * G_USEC_PER_SEC / m->cfg.max_bandwidth;
    }
    ff_mutex_unlock(&m->lock);
}

uint64_t ff_rounds_bytes(const FfMigration *m)
{
    uint64_t bytes = ff_channel_bytes(m->main);

    for (unsigned i = 0; i < m->n_extra; i++) {
        bytes += ff_channel_bytes(m->extra[i].ch);
    }
    return bytes;
}

uint64_t ff_rounds_saved(const FfMigration *m)
{
    return ff_counted(m->rounds->saved);
}

uint64_t ff_rounds_main(const FfMigration *m, int64_t *us)
{
    *us = m->rounds->us;
    return m->rounds->bytes;
}

static int send_run(FfMigration *m, FfChannel *ch, FfPacking *pk, unsigned block, uint64_t first,
                    uint64_t n)
{
    uint64_t before = ff_channel_bytes(ch);

    ff_source_decide_packing(m, ch, pk);
    int rc = ff_source_send_run(m, ch, pk, block, first, n, false);
    ff_rounds_charge(m, ff_channel_bytes(ch) - before);
    ff_count(m->rounds->saved, pk->saved);
    return rc;
}

static uint64_t longest(const FfBlock *b)
{
    return MAX(1, FF_RUN_MAX_BYTES / b->info.page_size);
}

/* ---- the further connections ------------------------------------------------------------------
 */

static bool may_send_locked(const Sender *k)
{
    const FfRounds *r = k->r;

    return r->first < r->end && r->window != k->exhausted && !r->narrow &&
           k->m->settled[FF_INDEX_MAIN] == k->m->asked[FF_INDEX_MAIN];
}

/* FALSE: there will be none any more. */
static bool await_window(Sender *k)
{
    FfMigration *m = k->m;
    bool ended;

    ff_mutex_lock(&m->lock);
    while (!(ended = k->r->quit || m->events & ENDED) && !may_send_locked(k)) {
        ff_cond_wait(&m->changed, &m->lock);
    }
    ff_mutex_unlock(&m->lock);
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
    k->page = bytes / k->m->blocks[piece->file].info.page_size;
    k->looked = 0;
}

/* FALSE: the window was closed meanwhile. */
static bool enter(Sender *k)
{
    FfMigration *m = k->m;

    ff_mutex_lock(&m->lock);
    bool open = !k->r->quit && may_send_locked(k);
    if (open) {
        k->r->busy++;
        if (k->window != k->r->window) {
            set_out_locked(k);
        }
    }
    ff_mutex_unlock(&m->lock);
    return open;
}

/* SENT: something went over its connection. */
static void leave(Sender *k, bool sent)
{
    FfMigration *m = k->m;

    ff_mutex_lock(&m->lock);
    k->r->used[k->number] |= sent;
    if (--k->r->busy == 0 && k->r->first == k->r->end) {
        ff_cond_broadcast(&m->changed);
    }
    ff_mutex_unlock(&m->lock);
}

/* The next run, around to where it set out. 0: nothing is left. */
static uint64_t claim(Sender *k, unsigned *block, uint64_t *first)
{
    for (; k->looked <= k->n; k->looked++) {
        const FfPiece *piece = &k->r->pieces[k->first + k->at];
        FfBlock *b = &k->m->blocks[piece->file];
        uint64_t ps = b->info.page_size, begin = piece->offset / ps;
        uint64_t n = ff_bitmap_claim_run(&b->bitmap, begin + k->page, begin + piece->len / ps,
                                         longest(b), first);
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
    uint64_t n = claim(k, &block, &first);

    *sent = n > 0;
    if (!n) {
        k->exhausted = k->window;
        return 0;
    }
    return send_run(k->m, k->ch, &k->packing, block, first, n);
}

static gpointer send_further(gpointer p)
{
    FfExtra *x = p;
    FfMigration *m = x->m;
    Sender k = {.m = m, .r = m->rounds, .ch = x->ch, .number = x->index - FF_INDEX_URGENT - 1};
    int rc = 0;

    ff_priority_bulk();
    while (rc == 0 && await_window(&k)) {
        ff_rounds_pace(m);
        rc = ff_channel_wait_writable(k.ch);
        if (rc == 0 && enter(&k)) {
            bool sent;
            rc = send_next(&k, &sent);
            leave(&k, sent);
        }
    }
    if (rc < 0) {
        ff_m_lost(m, k.ch, rc);
    }
    ff_packing_clear(&k.packing);
    return NULL;
}

/* ---- a window: the coordinator ---------------------------------------------------------------
 */

static void set_window(FfMigration *m, unsigned first, unsigned end)
{
    FfRounds *r = m->rounds;

    ff_mutex_lock(&m->lock);
    r->first = first;
    r->end = end;
    r->window += first < end;
    ff_cond_broadcast(&m->changed);
    ff_mutex_unlock(&m->lock);
}

/* The main connection finds out what the limit is. While it is the link, further connections would
 * carry nothing more: they wait. */
static void look_at_link(FfMigration *m)
{
    FfRounds *r = m->rounds;
    bool narrow = r->runs < TRIAL_RUNS || ff_channel_bounded(m->main);

    ff_mutex_lock(&m->lock);
    if (r->narrow != narrow) {
        r->narrow = narrow;
        ff_cond_broadcast(&m->changed);
    }
    ff_mutex_unlock(&m->lock);
}

static int send_piece(FfMigration *m, const FfPiece *piece, bool *over)
{
    FfRounds *r = m->rounds;
    FfBlock *b = &m->blocks[piece->file];
    uint64_t ps = b->info.page_size, page = piece->offset / ps, end = page + piece->len / ps;
    uint64_t first, n;

    while (!(*over = r->over(m))) {
        ff_rounds_pace(m);
        int64_t begin = g_get_monotonic_time();
        uint64_t before = ff_channel_bytes(m->main);
        int rc = ff_m_events(m) & ENDED ? -ECANCELED : ff_channel_wait_writable(m->main);
        if (rc < 0) {
            return rc;
        }
        look_at_link(m);
        n = ff_bitmap_claim_run(&b->bitmap, page, end, longest(b), &first);
        if (!n) {
            return 0;
        }
        rc = send_run(m, m->main, &r->packing, piece->file, first, n);
        if (rc < 0) {
            return rc;
        }
        r->runs++;
        r->bytes += ff_channel_bytes(m->main) - before + r->packing.saved;
        r->us += g_get_monotonic_time() - begin;
        page = first + n;
    }
    return 0;
}

/* Before anybody looks at a page, which would fill a hole. */
static int send_holes(FfMigration *m, unsigned first, unsigned end, bool *over)
{
    int rc = 0;

    for (unsigned i = first; i < end && rc == 0 && !(*over = m->rounds->over(m)); i++) {
        const FfPiece *piece = &m->rounds->pieces[i];
        uint64_t ps = m->blocks[piece->file].info.page_size;
        rc = ff_source_send_holes_of(m, piece->file, piece->offset / ps, piece->len / ps);
    }
    return rc;
}

int ff_rounds_send(FfMigration *m, unsigned first, unsigned end, bool *over)
{
    int rc = m->holes_sent ? 0 : send_holes(m, first, end, over);

    if (rc < 0 || *over) {
        return rc;
    }
    set_window(m, first, end);
    for (unsigned i = first; i < end && rc == 0 && !*over; i++) {
        rc = send_piece(m, &m->rounds->pieces[i], over);
    }
    set_window(m, 0, 0);
    return rc;
}

/* ---- the end of a round ------------------------------------------------------------------------
 */

static int say_round(FfMigration *m, FfChannel *ch, unsigned index)
{
    FfFrame f = ff_frame(FF_FRAME_ROUND, 0);

    ff_mutex_lock(&m->lock);
    f.page = ++m->asked[index];
    ff_mutex_unlock(&m->lock);
    f.epoch = m->epoch;
    int rc = ff_channel_send(ch, f, NULL, false);
    if (rc < 0) {
        ff_m_lost(m, ch, rc);
    }
    return rc;
}

bool ff_source_settled(FfMigration *m, const FfFrame *f)
{
    unsigned index = f->flags;

    ff_mutex_lock(&m->lock);
    bool ok = index < 2 + m->n_extra && f->page > m->settled[index] && f->page <= m->asked[index];
    if (ok) {
        m->settled[index] = f->page;
        ff_cond_broadcast(&m->changed);
    }
    ff_mutex_unlock(&m->lock);
    return ok;
}

static bool settled_locked(const FfMigration *m)
{
    const FfRounds *r = m->rounds;

    for (unsigned i = 0; i < r->n_senders; i++) {
        unsigned index = m->extra[i].index;
        if (r->used[i] && m->settled[index] != m->asked[index]) {
            return false;
        }
    }
    return true;
}

/* Until all that was sent has its ROUND behind it; no sender is busy then. */
static void await_senders(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    while (m->rounds->busy && !(m->events & ENDED)) {
        ff_cond_wait(&m->changed, &m->lock);
    }
    ff_mutex_unlock(&m->lock);
}

static bool await_settled(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    while (!settled_locked(m) && !(m->events & ENDED)) {
        ff_cond_wait(&m->changed, &m->lock);
    }
    bool ended = m->events & ENDED;
    ff_mutex_unlock(&m->lock);
    return !ended;
}

static bool was_used(FfMigration *m, unsigned i)
{
    ff_mutex_lock(&m->lock);
    bool used = m->rounds->used[i];
    ff_mutex_unlock(&m->lock);
    return used;
}

bool ff_rounds_settle(FfMigration *m, GError **error)
{
    FfRounds *r = m->rounds;

    if (!r->n_senders) {
        return true;
    }
    await_senders(m);
    int rc = say_round(m, m->main, FF_INDEX_MAIN);
    for (unsigned i = 0; i < r->n_senders && rc == 0; i++) {
        rc = was_used(m, i) ? say_round(m, m->extra[i].ch, m->extra[i].index) : 0;
    }
    bool ok = rc == 0 && FF_FAULT_STEP("settle", await_settled(m));
    ff_mutex_lock(&m->lock);
    memset(r->used, 0, sizeof(r->used));
    ff_mutex_unlock(&m->lock);
    return ok || ff_m_await(m, 0, error);
}

/* ---- beginning and end -------------------------------------------------------------------------
 */

bool ff_rounds_begin(FfMigration *m, const FfPiece *pieces, bool (*over)(FfMigration *m),
                     GError **error)
{
    FfRounds *r = g_new0(FfRounds, 1);

    r->pieces = pieces;
    r->over = over;
    r->narrow = true;
    r->n_senders = m->peer_features & FF_FEATURE_ROUNDS ? m->n_extra : 0;
    m->rounds = r;
    if (!r->n_senders) {
        return true;
    }
    /* Its answer lets the further ones in. */
    if (say_round(m, m->main, FF_INDEX_MAIN) < 0) {
        return ff_m_await(m, 0, error);
    }
    ff_extra_start(m, send_further);
    return true;
}

void ff_rounds_end(FfMigration *m, bool settled)
{
    FfRounds *r = m->rounds;

    ff_mutex_lock(&m->lock);
    r->quit = true;
    ff_cond_broadcast(&m->changed);
    ff_mutex_unlock(&m->lock);
    if (settled) {
        ff_extra_join(m);
    }
}

void ff_rounds_free(FfMigration *m)
{
    if (m->rounds) {
        ff_packing_clear(&m->rounds->packing);
        g_clear_pointer(&m->rounds, g_free);
    }
}
