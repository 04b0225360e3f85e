/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page bitmaps with atomic claims of whole runs: the source's dirty/sent bitmap (a set bit is a
 * page that must still be sent) and the destination's received and requested bitmaps.
 *
 * Threads: any number at once on one bitmap. A claim is a compare-and-swap of a word: a page is
 * claimed by exactly one caller, and there is no moment at which a page that nobody will send
 * has a clear bit.
 */
#ifndef FF_UFFD_BITMAP_H
#define FF_UFFD_BITMAP_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t *words;
    uint64_t n_pages;
    bool owned; /* words are freed with the bitmap */
} FfBitmap;

/* Words that N_PAGES need. */
static inline uint64_t ff_bitmap_words(uint64_t n_pages)
{
    return (n_pages + 63) / 64;
}

/* A bitmap of its own memory; all bits SET or clear. The process ends if there is none. */
void ff_bitmap_init(FfBitmap *bm, uint64_t n_pages, bool set);
/* The same for a library: FALSE if there is no memory, and BM has none. */
bool ff_bitmap_try_init(FfBitmap *bm, uint64_t n_pages, bool set);
/* A bitmap over WORDS (ff_bitmap_words() of them), which it does not own or change. */
void ff_bitmap_init_over(FfBitmap *bm, uint64_t *words, uint64_t n_pages);
void ff_bitmap_clear(FfBitmap *bm);

bool ff_bitmap_test(const FfBitmap *bm, uint64_t page);
/* Whether PAGE was unclaimed at the end of what the caller has read before. A load alone may be
 * answered before the reads that stand in front of it; this is a read-modify-write with release
 * order, so a thread that claims PAGE after it does so after those reads. */
bool ff_bitmap_test_behind(FfBitmap *bm, uint64_t page);
/* Number of set bits; exact only while nobody changes it. */
uint64_t ff_bitmap_count(const FfBitmap *bm);
/* The same of N pages from FIRST on. */
uint64_t ff_bitmap_count_run(const FfBitmap *bm, uint64_t first, uint64_t n);

/*
 * Claims the next run at or after FROM, before END, at most MAX pages: the bits were set and
 * are now clear, by this call alone. Returns its length in pages and *FIRST, or 0 if no bit is
 * set in [FROM, END).
 */
uint64_t ff_bitmap_claim_run(FfBitmap *bm, uint64_t from, uint64_t end, uint64_t max,
                             uint64_t *first);
/* Claims PAGE. Returns FALSE if its bit was clear. */
bool ff_bitmap_claim(FfBitmap *bm, uint64_t page);

/* Sets one bit; returns TRUE if it was clear. */
bool ff_bitmap_set(FfBitmap *bm, uint64_t page);
/* Sets a run; returns how many of its bits were clear. Release order: a thread that sees a bit set
 * sees what was done before. */
uint64_t ff_bitmap_set_run(FfBitmap *bm, uint64_t first, uint64_t n);
/* Clears a run; returns how many of its bits were set. */
uint64_t ff_bitmap_clear_run(FfBitmap *bm, uint64_t first, uint64_t n);
/* The next run of bits that are SET (or clear) at or after FROM: its length in pages and *FIRST, 0
 * if there is none. Only while nobody changes the bitmap. */
uint64_t ff_bitmap_next_run(const FfBitmap *bm, uint64_t from, bool set, uint64_t *first);
/* The same of what is before END; looks at nothing else. */
uint64_t ff_bitmap_next_run_in(const FfBitmap *bm, uint64_t from, uint64_t end, bool set,
                               uint64_t *first);

#endif
