/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Deltas against a base of pages; see delta.h.
 *
 * After a page that was found the next one is looked for first, and those after that, where they
 * would be if some had changed: QEMU's stream has the pages of a block in order, a header of a few
 * bytes in front of each. Else the encoder goes through the piece byte by byte. A page is found by
 * two of its words then: a bit in a filter, a table of all pages, a comparison. A page in which
 * they are the same is not looked for so: patterns, zeros above all, would make of each byte a
 * comparison.
 *
 * A guest stands still for this, and may hold what is dear to search and in vain. So where nothing
 * was found for long, it is looked at now and then only; and what is compared in vain is counted.
 */
#include "net/delta.h"

#include <errno.h>
#include <string.h>

#define WORD sizeof(uint32_t)
/* Where in a page the second word is that tells it from others. */
#define SECOND 2560
#define FILTER_BITS 18
/* Pages that are compared at one place, at most: pages of one pattern are many. */
#define TRIES 4
/* Bytes after a page in which the next one is looked for; the header of QEMU's stream that most
 * pages have; pages that may have changed in between. */
#define HEADERS 16
#define HEADER 8
#define AHEAD 32
/* After so many bytes without a page only the first WINDOW of each STRIDE are searched, in which a
 * page begins where pages follow each other. */
#define PATIENCE (1u << 20)
#define STRIDE (64u << 10)
#define WINDOW (FF_DELTA_PAGE + HEADERS)
/* Comparisons in vain, in one piece, after which it is not searched any further. */
#define FAILURES 256

struct FfDelta {
    uint8_t *base; /* [size], allocated in powers of two */
    size_t size, allocated;
    /* Of ff_delta_index(). */
    uint64_t *filter;
    int32_t *first, *next; /* page by hash, page by page; -1: none */
    unsigned bits;         /* of FIRST */
    uint32_t expected;     /* the page after the last one that was found */
    size_t behind;         /* bytes of earlier pieces that came after that one */
    unsigned failures;     /* comparisons in vain in this piece */
};

FfDelta *ff_delta_new(void)
{
    return g_new0(FfDelta, 1);
}

static void wipe_data(uint8_t *data, size_t n)
{
    if (data) {
        explicit_bzero(data, n);
    }
    g_free(data);
}

void ff_delta_free(FfDelta *d)
{
    if (d) {
        wipe_data(d->base, d->size);
        g_free(d->filter);
        g_free(d->first);
        g_free(d->next);
        g_free(d);
    }
}

const uint8_t *ff_delta_data(const FfDelta *d)
{
    return d->base;
}

size_t ff_delta_size(const FfDelta *d)
{
    return d->size;
}

bool ff_delta_add(FfDelta *d, const void *data, size_t n)
{
    if (n % FF_DELTA_PAGE || n > FF_DELTA_BASE_MAX - d->size) {
        return false;
    }
    if (d->allocated - d->size < n) {
        size_t want = MAX(d->allocated, 1u << 16);
        while (want - d->size < n) {
            want *= 2;
        }
        uint8_t *base = g_try_malloc(want);
        if (!base) {
            return false;
        }
        if (d->size) {
            memcpy(base, d->base, d->size);
        }
        wipe_data(d->base, d->size);
        d->base = base;
        d->allocated = want;
    }
    memcpy(d->base + d->size, data, n);
    d->size += n;
    return true;
}

/* Of what may be a page that begins at P. FALSE: it is not looked for by this. */
static bool hash_page(const uint8_t *p, uint64_t *h)
{
    uint64_t a, b;

    memcpy(&a, p, sizeof(a));
    memcpy(&b, p + SECOND, sizeof(b));
    /* 2^64 by the golden ratio: Knuth's multiplicative hashing */
    *h = (a ^ (b << 23 | b >> 41)) * 0x9e3779b97f4a7c15u;
    return a != b;
}

bool ff_delta_index(FfDelta *d)
{
    uint32_t n = d->size / FF_DELTA_PAGE;

    g_clear_pointer(&d->filter, g_free);
    g_clear_pointer(&d->first, g_free);
    g_clear_pointer(&d->next, g_free);
    d->bits = MAX(g_bit_storage(n), 4);
    d->filter = g_try_malloc0((1u << FILTER_BITS) / 8);
    d->first = g_try_new(int32_t, 1u << d->bits);
    d->next = g_try_new(int32_t, MAX(n, 1));
    if (!d->filter || !d->first || !d->next) {
        return false;
    }
    memset(d->first, 0xff, sizeof(*d->first) << d->bits);
    for (uint32_t page = n; page-- > 0;) {
        uint64_t h;
        if (!hash_page(d->base + (size_t)page * FF_DELTA_PAGE, &h)) {
            continue;
        }
        uint32_t bit = h >> (64 - FILTER_BITS);
        int32_t *head = &d->first[h >> (64 - d->bits)];
        d->filter[bit / 64] |= 1ull << bit % 64;
        d->next[page] = *head;
        *head = (int32_t)page;
    }
    return true;
}

static bool is_page(const FfDelta *d, uint32_t page, const uint8_t *p)
{
    return page < d->size / FF_DELTA_PAGE &&
           memcmp(d->base + (size_t)page * FF_DELTA_PAGE, p, FF_DELTA_PAGE) == 0;
}

/* The page of the base that stands at P, -1: none. */
static int64_t find_in_base(FfDelta *d, const uint8_t *p)
{
    uint64_t h;
    int tries = TRIES;

    if (!hash_page(p, &h)) {
        return -1;
    }
    uint32_t bit = h >> (64 - FILTER_BITS);
    if (!(d->filter[bit / 64] >> bit % 64 & 1)) {
        return -1;
    }
    for (int32_t page = d->first[h >> (64 - d->bits)]; page >= 0 && tries-- > 0;
         page = d->next[page]) {
        if (is_page(d, page, p)) {
            return page;
        }
        d->failures++;
    }
    return -1;
}

typedef struct {
    uint8_t *out;
    size_t len, room; /* room: a delta must be shorter than what it is of */
} Out;

static bool put_word(Out *o, uint32_t word, const void *data, size_t n)
{
    word = GUINT32_TO_LE(word);
    if (o->room - o->len <= WORD || o->room - o->len - WORD <= n) {
        return false;
    }
    memcpy(o->out + o->len, &word, WORD);
    if (n) {
        memcpy(o->out + o->len + WORD, data, n);
    }
    o->len += WORD + n;
    return true;
}

static bool put_rest(Out *o, const uint8_t *from, const uint8_t *to)
{
    return from == to || put_word(o, to - from, from, to - from);
}

/* Where the next page of the base begins in [P, LAST], and which it is. NULL: nowhere. A page that
 * the last piece ended in is none, but those after it are where they would be. */
static const uint8_t *next_page(FfDelta *d, const uint8_t *p, const uint8_t *last, uint32_t *page)
{
    size_t n = last - p + 1;

    for (unsigned i = 0; i < AHEAD * HEADERS; i++) {
        size_t at = i / HEADERS * (FF_DELTA_PAGE + HEADER) + i % HEADERS;
        if (at >= d->behind && at - d->behind <= (size_t)(last - p) &&
            is_page(d, d->expected + i / HEADERS, p + at - d->behind)) {
            *page = d->expected + i / HEADERS;
            return p + at - d->behind;
        }
    }
    for (size_t i = 0; i < n && d->failures < FAILURES; i++) {
        size_t gone = d->behind + i;
        if (gone >= PATIENCE && gone % STRIDE >= WINDOW) {
            i += STRIDE - gone % STRIDE - 1;
            continue;
        }
        int64_t found = find_in_base(d, p + i);
        if (found >= 0) {
            *page = found;
            return p + i;
        }
    }
    return NULL;
}

size_t ff_delta_encode(FfDelta *d, const void *in, size_t n, void *out)
{
    Out o = {out, 0, n};
    const uint8_t *p = in, *end = p + n, *at;
    bool shorter = d->filter && n >= FF_DELTA_PAGE;
    uint32_t page;

    d->failures = 0;
    while (shorter && end - p >= (ptrdiff_t)FF_DELTA_PAGE &&
           (at = next_page(d, p, end - FF_DELTA_PAGE, &page))) {
        shorter = put_rest(&o, p, at) && put_word(&o, FF_DELTA_COPY | page, NULL, 0);
        d->expected = page + 1;
        d->behind = 0;
        p = at + FF_DELTA_PAGE;
    }
    d->behind += end - p;
    return shorter && put_rest(&o, p, end) ? o.len : 0;
}

int ff_delta_decode(const FfDelta *d, const void *delta, size_t len, void *out, size_t n,
                    const char **why)
{
    const uint8_t *p = delta, *end = p + len;
    uint8_t *o = out, *o_end = o + n;

    while (p < end) {
        uint32_t word;
        if ((size_t)(end - p) < WORD) {
            *why = "a delta that ends within an instruction";
            return -EBADMSG;
        }
        memcpy(&word, p, WORD);
        word = GUINT32_FROM_LE(word);
        p += WORD;
        bool copy = word & FF_DELTA_COPY;
        uint32_t page = word & ~FF_DELTA_COPY;
        size_t bytes = copy ? FF_DELTA_PAGE : word;
        if (copy ? page >= d->size / FF_DELTA_PAGE : !word || word > (size_t)(end - p)) {
            *why = "a delta with an instruction that it cannot have";
            return -EBADMSG;
        }
        if (bytes > (size_t)(o_end - o)) {
            *why = "a delta of more than was said";
            return -EBADMSG;
        }
        memcpy(o, copy ? d->base + (size_t)page * FF_DELTA_PAGE : p, bytes);
        o += bytes;
        p += copy ? 0 : bytes;
    }
    if (o != o_end) {
        *why = "a delta of less than was said";
        return -EBADMSG;
    }
    return 0;
}
