/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page bitmaps with atomic claims of runs; see bitmap.h. No locks, no system calls.
 */
#include "uffd/bitmap.h"

#include <string.h>

void ff_bitmap_init(FfBitmap *bm, uint64_t n_pages, bool set)
{
    if (!ff_bitmap_try_init(bm, n_pages, set)) {
        g_error("no memory for a bitmap of %" G_GUINT64_FORMAT " pages", n_pages);
    }
}

bool ff_bitmap_try_init(FfBitmap *bm, uint64_t n_pages, bool set)
{
    uint64_t n = ff_bitmap_words(n_pages);

    *bm = (FfBitmap){.words = g_try_new0(uint64_t, n)};
    if (n && !bm->words) {
        return false;
    }
    bm->n_pages = n_pages;
    bm->owned = true;
    if (set && n) {
        memset(bm->words, 0xff, n * sizeof(uint64_t));
        if (n_pages % 64) {
            bm->words[n - 1] = (1ull << (n_pages % 64)) - 1;
        }
    }
    return true;
}

void ff_bitmap_init_over(FfBitmap *bm, uint64_t *words, uint64_t n_pages)
{
    *bm = (FfBitmap){.words = words, .n_pages = n_pages};
}

void ff_bitmap_clear(FfBitmap *bm)
{
    if (bm->owned) {
        g_free(bm->words);
    }
    *bm = (FfBitmap){0};
}

/* Sequentially consistent for protect.c: a writer is noted in a table before a slot is looked for.
 */
static uint64_t load_word(const FfBitmap *bm, uint64_t word)
{
    return __atomic_load_n(&bm->words[word], __ATOMIC_SEQ_CST);
}

bool ff_bitmap_test(const FfBitmap *bm, uint64_t page)
{
    return __atomic_load_n(&bm->words[page / 64], __ATOMIC_SEQ_CST) >> (page % 64) & 1;
}

bool ff_bitmap_test_behind(FfBitmap *bm, uint64_t page)
{
    /* Observer: ff_bitmap_claim(). */
    return __atomic_fetch_or(&bm->words[page / 64], 0, __ATOMIC_ACQ_REL) >> (page % 64) & 1;
}

/* Bits [from, to) of a word, 0 <= from < to <= 64. */
static uint64_t span_mask(unsigned from, unsigned to)
{
    return (~0ull << from) & (~0ull >> (64 - to));
}

uint64_t ff_bitmap_count_run(const FfBitmap *bm, uint64_t first, uint64_t n)
{
    uint64_t count = 0;

    while (n) {
        unsigned lo = first % 64;
        unsigned len = MIN(64 - lo, n);
        count += __builtin_popcountll(load_word(bm, first / 64) & span_mask(lo, lo + len));
        first += len;
        n -= len;
    }
    return count;
}

uint64_t ff_bitmap_count(const FfBitmap *bm)
{
    return ff_bitmap_count_run(bm, 0, bm->n_pages);
}

/*
 * Claims, in word W, the lowest run inside of [FROM, TO); if ANCHORED only one that begins at
 * FROM. Returns its mask, 0 if there is none.
 */
static uint64_t claim_in_word(FfBitmap *bm, uint64_t w, unsigned from, unsigned to, unsigned max,
                              bool anchored)
{
    uint64_t old = load_word(bm, w);

    for (;;) {
        uint64_t candidates = old & span_mask(from, to);
        if (!candidates) {
            return 0;
        }
        unsigned lo = __builtin_ctzll(candidates);
        if (anchored && lo != from) {
            return 0;
        }
        uint64_t above = ~(candidates >> lo);
        unsigned len = above ? __builtin_ctzll(above) : 64;
        len = MIN(len, max);
        uint64_t run = span_mask(lo, lo + len);
        if (__atomic_compare_exchange_n(&bm->words[w], &old, old & ~run, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            return run;
        }
    }
}

uint64_t ff_bitmap_claim_run(FfBitmap *bm, uint64_t from, uint64_t end, uint64_t max,
                             uint64_t *first)
{
    uint64_t got = 0;

    end = MIN(end, bm->n_pages);
    while (from < end && got < max) {
        uint64_t w = from / 64;
        unsigned to = MIN(64, end - w * 64);
        uint64_t run = claim_in_word(bm, w, from % 64, to, MIN(64, max - got), got > 0);
        if (run) {
            unsigned lo = __builtin_ctzll(run);
            unsigned len = __builtin_popcountll(run);
            if (!got) {
                *first = w * 64 + lo;
            }
            got += len;
            from = w * 64 + lo + len;
            if (from % 64) {
                break; /* the run ended inside of the word */
            }
        } else if (got) {
            break;
        } else {
            from = (w + 1) * 64;
        }
    }
    return got;
}

bool ff_bitmap_claim(FfBitmap *bm, uint64_t page)
{
    uint64_t bit = 1ull << (page % 64);

    return __atomic_fetch_and(&bm->words[page / 64], ~bit, __ATOMIC_ACQ_REL) & bit;
}

bool ff_bitmap_set(FfBitmap *bm, uint64_t page)
{
    uint64_t bit = 1ull << (page % 64);

    return !(__atomic_fetch_or(&bm->words[page / 64], bit, __ATOMIC_ACQ_REL) & bit);
}

uint64_t ff_bitmap_set_run(FfBitmap *bm, uint64_t first, uint64_t n)
{
    uint64_t fresh = 0;

    while (n) {
        unsigned lo = first % 64;
        unsigned len = MIN(64 - lo, n);
        uint64_t mask = span_mask(lo, lo + len);
        uint64_t *word = &bm->words[first / 64];
        /* A whole word: one instruction, where what was there could need a loop. */
        uint64_t old = len == 64 ? __atomic_exchange_n(word, mask, __ATOMIC_SEQ_CST)
                                 : __atomic_fetch_or(word, mask, __ATOMIC_SEQ_CST);
        fresh += __builtin_popcountll(mask & ~old);
        first += len;
        n -= len;
    }
    return fresh;
}

uint64_t ff_bitmap_clear_run(FfBitmap *bm, uint64_t first, uint64_t n)
{
    uint64_t had = 0;

    while (n) {
        unsigned lo = first % 64;
        unsigned len = MIN(64 - lo, n);
        uint64_t mask = span_mask(lo, lo + len);
        uint64_t *word = &bm->words[first / 64];
        uint64_t old = len == 64 ? __atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST)
                                 : __atomic_fetch_and(word, ~mask, __ATOMIC_SEQ_CST);
        had += __builtin_popcountll(mask & old);
        first += len;
        n -= len;
    }
    return had;
}

/* The first page at or after FROM whose bit is SET; END, or FROM if that is later, if there is none
 * before that. */
static uint64_t find_page(const FfBitmap *bm, uint64_t from, uint64_t end, bool set)
{
    for (uint64_t at = from; at < end; at = (at / 64 + 1) * 64) {
        uint64_t word = load_word(bm, at / 64);
        uint64_t candidates = (set ? word : ~word) & (~0ull << (at % 64));
        if (candidates) {
            return MIN(end, at / 64 * 64 + __builtin_ctzll(candidates));
        }
    }
    return MAX(from, end);
}

uint64_t ff_bitmap_next_run(const FfBitmap *bm, uint64_t from, bool set, uint64_t *first)
{
    return ff_bitmap_next_run_in(bm, from, bm->n_pages, set, first);
}

uint64_t ff_bitmap_next_run_in(const FfBitmap *bm, uint64_t from, uint64_t end, bool set,
                               uint64_t *first)
{
    *first = find_page(bm, from, end, set);
    return find_page(bm, *first, end, !set) - *first;
}
