/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Streams in the sequence of requests; see prefetch.h.
 *
 * A stream is confirmed by two requests that are at most FF_PREFETCH_SLACK pages apart (it then
 * goes page by page: what lies between is wanted soon, or costs little), or by three with the same
 * step. Each additional request of it doubles its window: the guest has come to the end of what was
 * sent ahead, so it was too little. Guests that access at random make streams that are never
 * confirmed, and get single pages.
 */
#include "uffd/prefetch.h"

#include <stddef.h>
#include <stdlib.h>

/* So many requests back a second one can make a stream of it. */
#define FF_PREFETCH_SINGLES 8

static bool is_within(int64_t x, int64_t low, int64_t high)
{
    return x >= low && x <= high;
}

/* PAGE comes from the confirmed stream S: ahead of it, or on its way to where it is needed. */
static bool continues_stream(const FfPrefetchStream *s, int64_t page)
{
    int64_t slack = llabs(s->step) == 1 ? FF_PREFETCH_SLACK : 0;
    int64_t next = s->front + s->step;

    return s->step > 0 ? is_within(page, s->last - slack, next + slack)
                       : is_within(page, next - slack, s->last + slack);
}

/* The stream of BLOCK that PAGE belongs to, else the one that it may belong to (*SURE FALSE), else
 * NULL. */
static FfPrefetchStream *find_stream(FfPrefetch *p, unsigned block, int64_t page, bool *sure)
{
    FfPrefetchStream *near = NULL;

    for (FfPrefetchStream *s = p->stream; s < p->stream + FF_PREFETCH_STREAMS; s++) {
        if (!s->used || s->block != block) {
            continue;
        }
        if (s->window && continues_stream(s, page)) {
            *sure = true;
            return s;
        }
        int64_t delta = llabs(page - s->last);
        if (!s->window && delta && delta <= FF_PREFETCH_MAX_STRIDE &&
            (!near || delta < llabs(page - near->last))) {
            near = s;
        }
    }
    *sure = false;
    return near;
}

/* The slot for a new stream: the oldest of those that are not confirmed, so that many single
 * requests do not drive a stream out; but never one of the last few. */
static FfPrefetchStream *oldest_stream(FfPrefetch *p)
{
    FfPrefetchStream *old = p->stream, *single = NULL;
    unsigned singles = 0;

    for (FfPrefetchStream *s = p->stream; s < p->stream + FF_PREFETCH_STREAMS; s++) {
        if (s->used < old->used) {
            old = s;
        }
        if (!s->window) {
            singles++;
            single = !single || s->used < single->used ? s : single;
        }
    }
    return singles > FF_PREFETCH_SINGLES ? single : old;
}

/* Tells what lies between what was told before and WINDOW steps after PAGE. */
static void advance_stream(FfPrefetchStream *s, int64_t page, FfAhead *ahead)
{
    int64_t front = page + (int64_t)s->window * s->step;
    int64_t from = s->front;

    /* A request that has left out the rest of what was told begins again after itself. */
    if (s->step > 0 ? from < page : from > page) {
        from = page;
    }
    s->last = page;
    if (s->step > 0 ? front <= from : front >= from) {
        return;
    }
    ahead->first = from + s->step;
    ahead->n = (front - from) / s->step;
    s->front = from + ahead->n * s->step;
}

static bool may_confirm(FfPrefetchStream *s, int64_t page)
{
    int64_t delta = page - s->last;

    if (llabs(delta) <= FF_PREFETCH_SLACK) {
        s->step = delta > 0 ? 1 : -1;
    } else if (s->step != delta) {
        s->step = delta;
        s->last = s->front = page;
        return false;
    }
    s->window = FF_PREFETCH_FIRST;
    s->front = page;
    return true;
}

bool ff_prefetch_request(FfPrefetch *p, unsigned block, uint64_t page, FfAhead *ahead)
{
    bool sure;
    FfPrefetchStream *s = find_stream(p, block, page, &sure);

    *ahead = (FfAhead){.block = block};
    if (!s) {
        s = oldest_stream(p);
        *s = (FfPrefetchStream){.block = block, .last = page, .front = page, .used = ++p->clock};
        return false;
    }
    s->used = ++p->clock;
    if (sure) {
        s->window = s->window * 2 < FF_PREFETCH_MAX ? s->window * 2 : FF_PREFETCH_MAX;
    } else if (!may_confirm(s, page)) {
        return false;
    }
    ahead->step = s->step;
    advance_stream(s, page, ahead);
    return true;
}
