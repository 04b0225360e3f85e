/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's urgent thread: answers requests at once, over the second socket (or, when there
 * is none, in front of bulk on the main one), and while no request is there sends what the guest
 * is likely to want next: where requests make a stream (prefetch.h), pages ahead of it. Requests
 * that came together are answered by one write, in order of their pages, neighbours as one run.
 *
 * A page that was asked for is a frame of its own, so it does not wait for those ahead. Those go
 * in small pieces, only while the socket has next to nothing unsent, and a request that comes in
 * between is answered first.
 *
 * It is started after stop's reply: before that a page could still change. It is on the fault path:
 * no allocation, no log, no lock but its own channel's writer lock. What it works with is Urgent,
 * which has no way to any other.
 */
#include "migration/source/urgent.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/priority.h"
#include "base/trace-mark.h"
#include "migration/source/send.h"
#include "uffd/prefetch.h"

#define BATCH 64
/* Streams with pages to be sent ahead; one more takes the place of the oldest. */
#define AHEAD 16
/* Pages of one piece of them. */
#define PIECE 8

/* All that the fault path has. Nothing in it leads to a lock but the channel's. */
typedef struct {
    FfSender sender; /* over the urgent channel, or the main one */
    FfBlock *blocks;
    const FfFrameBlock *frame_blocks;
    unsigned n_blocks;
    uint64_t total_bytes; /* of all blocks */
    FfStats *stats;
    FfChannel *in;   /* requests are read here; NULL: they are fed */
    FfFeed *feed;    /* NULL: they are read */
    int wake;        /* eventfd: the end */
    uint64_t *pivot; /* atomic. Observer: the bulk thread */
    FfFrame frames[BATCH];
    size_t have; /* bytes of them */
    FfPrefetch prefetch;
    FfAhead ahead[AHEAD]; /* a ring; served from its newest end: that stream waits now */
    unsigned newest, n_ahead;
} Urgent;

/* Waits for requests, or for room to send ahead. FALSE at the end. */
static bool wait_for_work(Urgent *u, bool *request)
{
    struct pollfd p[3] = {
        {.fd = u->in ? ff_channel_fd(u->in) : ff_feed_fd(u->feed), .events = POLLIN},
        {.fd = u->wake, .events = POLLIN},
        {.fd = -1, .events = POLLOUT}};

    if (u->n_ahead) {
        p[2].fd = ff_channel_fd(u->sender.ch);
    }
    /* Decrypted requests are looked at first; the end is seen with or without them. */
    bool pending = u->in && ff_channel_pending(u->in);
    while (poll(p, 3, pending ? 0 : -1) < 0) {
        if (errno != EINTR) {
            return false;
        }
    }
    *request = pending || p[0].revents;
    /* What was fed is answered before the end: nobody else has it. */
    return (*request && u->feed) || !(p[1].revents & POLLIN);
}

/* Claimed runs that go out in one write. */
typedef struct {
    Urgent *u;
    FfRun runs[FF_SEND_MAX_PAGES];
    unsigned n;
    uint64_t bytes;
} Claims;

static int send_claims(Claims *c)
{
    int rc = c->n ? ff_sender_urgent(&c->u->sender, c->runs, c->n) : 0;

    c->n = c->bytes = 0;
    return rc;
}

/* Claims what is left of a run, and sends when a write's worth is together. */
static int claim_page(Claims *c, unsigned block, uint64_t page, uint64_t end)
{
    FfBlock *b = &c->u->blocks[block];
    uint64_t ps = b->info.page_size, first, n;
    int rc = 0;

    while (rc == 0) {
        uint64_t room = MAX(1, (FF_RUN_MAX_BYTES - c->bytes) / ps);
        n = ff_bitmap_claim_run(&b->bitmap, page, end, room, &first);
        if (!n) {
            break; /* what is left is on its way */
        }
        c->runs[c->n++] = (FfRun){block, first, n};
        c->bytes += n * ps;
        page = first + n;
        if (c->bytes + ps > FF_RUN_MAX_BYTES) {
            rc = send_claims(c);
        }
    }
    return rc;
}

/* Bulk continues where streams are; single requests do not draw it from its order. */
static void lead_bulk(const Urgent *u, const FfAhead *a)
{
    int64_t last = (int64_t)u->blocks[a->block].n_pages - 1;
    int64_t page = a->first + (a->step > 0 ? a->step * a->n : -FF_PREFETCH_MAX_STRIDE);

    if (ABS(a->step) == 1) {
        __atomic_store_n(u->pivot, ff_run_key(a->block, (uint64_t)CLAMP(page, 0, last)),
                         __ATOMIC_RELEASE);
    }
}

static void look_ahead(Urgent *u, const FfFrame *f)
{
    FfAhead a;

    if (!ff_prefetch_request(&u->prefetch, f->block, f->page, &a) || !a.n) {
        return;
    }
    lead_bulk(u, &a);
    if (u->in && u->blocks[f->block].info.page_size <= 4096) {
        u->newest = (u->newest + 1) % AHEAD;
        u->ahead[u->newest] = a;
        u->n_ahead = MIN(u->n_ahead + 1, AHEAD);
    }
}

/* One piece of the newest. */
static int send_ahead(Urgent *u)
{
    FfAhead *a = &u->ahead[u->newest];
    int64_t n_pages = u->blocks[a->block].n_pages;
    unsigned n = ABS(a->step) == 1 ? MIN(a->n, PIECE) : 1;
    int64_t last = a->first + (int64_t)(n - 1) * a->step;
    int64_t low = MAX(0, MIN(a->first, last)), high = MIN(n_pages - 1, MAX(a->first, last));
    Claims c = {.u = u};

    a->first = last + a->step;
    a->n -= n;
    if (!a->n) {
        u->newest = (u->newest + AHEAD - 1) % AHEAD;
        u->n_ahead--;
    }
    int rc = low <= high ? claim_page(&c, a->block, low, high + 1) : 0;
    return rc < 0 ? rc : send_claims(&c);
}

static int check_request(const Urgent *u, FfFrame *f, const char **why)
{
    int rc = ff_frame_decode(f, why);

    if (rc == 0 && f->type == FF_FRAME_ALIVE) {
        return 0;
    }
    if (rc == 0 && f->type != FF_FRAME_REQUEST) {
        *why = "something else than a request on the urgent channel";
        rc = -EBADMSG;
    }
    if (rc == 0 && f->epoch != u->sender.epoch) {
        *why = "a request that belongs to an earlier connection";
        rc = -EBADMSG;
    }
    return rc < 0 ? rc : ff_frame_check_run(f, u->frame_blocks, u->n_blocks, why);
}

static int by_place(const FfRun *a, const FfRun *b)
{
    return a->block != b->block ? (a->block > b->block) - (a->block < b->block)
                                : (a->first > b->first) - (a->first < b->first);
}

/* Sorted, so that neighbours become one run: they are few, and nearly always one. */
static unsigned collect_requests(const Urgent *u, unsigned n, FfRun *runs)
{
    unsigned have = 0, merged = 0;

    for (unsigned i = 0; i < n; i++) {
        const FfFrame *f = &u->frames[i];
        FfRun run = {f->block, f->page, f->n_pages};
        unsigned at = have;
        if (f->type != FF_FRAME_REQUEST) {
            continue;
        }
        for (; at > 0 && by_place(&runs[at - 1], &run) > 0; at--) {
            runs[at] = runs[at - 1];
        }
        runs[at] = run;
        have++;
    }
    for (unsigned i = 0; i < have; i++) {
        FfRun *last = merged ? &runs[merged - 1] : NULL;
        if (last && last->block == runs[i].block && last->first + last->n == runs[i].first) {
            last->n += runs[i].n;
        } else {
            runs[merged++] = runs[i];
        }
    }
    return merged;
}

static void count_request(Urgent *u, const FfFrame *f, uint64_t us)
{
    uint64_t at = f->page * u->blocks[f->block].info.page_size;

    for (unsigned i = 0; i < f->block; i++) {
        at += u->blocks[i].info.size;
    }
    ff_count(u->stats->requests, 1);
    ff_stats_latency(u->stats, us);
    ff_stats_place(u->stats, at, u->total_bytes);
}

static int answer_requests(Urgent *u, unsigned n)
{
    int64_t begin = g_get_monotonic_time();
    Claims c = {.u = u};
    FfRun runs[BATCH];
    int rc = 0;

    unsigned n_runs = collect_requests(u, n, runs);
    for (unsigned i = 0; rc == 0 && i < n_runs; i++) {
        rc = claim_page(&c, runs[i].block, runs[i].first, runs[i].first + runs[i].n);
    }
    rc = rc < 0 ? rc : send_claims(&c);
    int64_t took = g_get_monotonic_time() - begin;
    FF_MARK2(pages_answered, n, took);
    for (unsigned i = 0; rc == 0 && i < n; i++) {
        if (u->frames[i].type == FF_FRAME_REQUEST) {
            count_request(u, &u->frames[i], took);
        }
    }
    return rc;
}

static int answer_batch(Urgent *u, unsigned n, const char **why)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < n; i++) {
        rc = check_request(u, &u->frames[i], why);
    }
    if (rc == 0) {
        rc = answer_requests(u, n);
    }
    for (unsigned i = 0; rc == 0 && i < n; i++) {
        if (u->frames[i].type == FF_FRAME_REQUEST) {
            look_ahead(u, &u->frames[i]);
        }
    }
    return rc;
}

static int take_fed(Urgent *u, const char **why)
{
    unsigned n;
    int rc = 0;

    while (rc == 0 && (n = ff_feed_take(u->feed, u->frames, BATCH))) {
        rc = answer_batch(u, n, why);
    }
    return rc;
}

static int take_requests(Urgent *u, const char **why)
{
    size_t got;

    if (!u->in) {
        return take_fed(u, why);
    }
    FfIo io =
        ff_channel_read(u->in, (char *)u->frames + u->have, sizeof(u->frames) - u->have, &got);
    if (io != FF_IO_DONE) {
        return io == FF_IO_AGAIN ? 0 : -EPIPE;
    }
    u->have += got;
    unsigned whole = u->have / sizeof(FfFrame);
    int rc = answer_batch(u, whole, why);
    u->have -= whole * sizeof(FfFrame);
    memmove(u->frames, u->frames + whole, u->have);
    return rc;
}

static int answer_all(Urgent *u, const char **why)
{
    bool request;
    int rc = 0;

    while (rc == 0 && wait_for_work(u, &request)) {
        rc = request ? take_requests(u, why) : send_ahead(u);
    }
    return rc;
}

gpointer ff_source_urgent(gpointer p)
{
    FfSource *s = p;
    Urgent u = {.sender = ff_source_sender(s, ff_conn_urgent(s->conn)),
                .blocks = s->ram->blocks,
                .frame_blocks = s->ram->frame_blocks,
                .n_blocks = s->ram->n_blocks,
                .total_bytes = s->ram->total_bytes,
                .stats = s->stats,
                .in = s->conn->urgent,
                .feed = s->feed,
                .wake = s->urgent_wake,
                .pivot = &s->pivot};
    const char *why = NULL;

    ff_priority_urgent();
    int rc = answer_all(&u, &why);
    /* The end of it: from here on locks do not matter. */
    if (why) {
        ff_control_dead(s->control, "the destination sent %s: protocol error", why);
    } else if (rc < 0) {
        ff_conn_lost(s->conn, ff_conn_urgent(s->conn), rc);
    }
    return NULL;
}
