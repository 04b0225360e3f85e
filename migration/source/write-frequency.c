/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages the guest writes most often. Each page has a byte: bit 0 is the last look, bit 1 the
 * one before. So a new look shifts all bytes, and of two bytes with as many bits the one of
 * later looks is the one with the lower bits. No lock: the coordinator fills it, then the bulk
 * thread asks for the order.
 */
#include "migration/source/write-frequency.h"

#include <stdlib.h>
#include <string.h>

struct FfFrequency {
    unsigned n_blocks;
    uint64_t *n_pages;
    uint8_t **looks; /* of each page of each block */
};

#define HEATS 256 /* values of a byte; 0: cold */

FfFrequency *ff_frequency_new(const uint64_t *n_pages, unsigned n_blocks)
{
    FfFrequency *h = g_new0(FfFrequency, 1);

    h->n_blocks = n_blocks;
    h->n_pages = g_memdup2(n_pages, n_blocks * sizeof(*n_pages));
    h->looks = g_new0(uint8_t *, n_blocks);
    for (unsigned i = 0; i < n_blocks; i++) {
        /* A multiple of 8: they are looked through by words. */
        h->looks[i] = g_malloc0((n_pages[i] + 7) & ~7ull);
    }
    return h;
}

void ff_frequency_free(FfFrequency *h)
{
    for (unsigned i = 0; h && i < h->n_blocks; i++) {
        g_free(h->looks[i]);
    }
    if (h) {
        g_free(h->looks);
        g_free(h->n_pages);
        g_free(h);
    }
}

static uint64_t load_word(const uint8_t *at)
{
    uint64_t word;

    memcpy(&word, at, sizeof(word));
    return word;
}

void ff_frequency_look(FfFrequency *h)
{
    for (unsigned i = 0; i < h->n_blocks; i++) {
        for (uint64_t p = 0; p < h->n_pages[i]; p += 8) {
            uint64_t word = load_word(h->looks[i] + p);

            if (word) {
                word = (word << 1) & 0xfefefefefefefefeull;
                memcpy(h->looks[i] + p, &word, sizeof(word));
            }
        }
    }
}

void ff_frequency_note(FfFrequency *h, unsigned block, uint64_t first, uint64_t n)
{
    for (uint64_t p = first; p < first + n; p++) {
        h->looks[block][p] |= 1;
    }
}

/* The hotter the lower. */
static unsigned rank_page(unsigned looks)
{
    unsigned late = 0;

    for (unsigned bit = 0; bit < FF_HEAT_LOOKS; bit++) {
        late = late << 1 | (looks >> bit & 1);
    }
    return (FF_HEAT_LOOKS - (unsigned)__builtin_popcount(looks)) * HEATS + (HEATS - 1 - late);
}

static int by_rank(gconstpointer a, gconstpointer b)
{
    return (int)rank_page(*(const uint8_t *)a) - (int)rank_page(*(const uint8_t *)b);
}

/* The next run of pages of BLOCK at or after AT that were written in the same looks. 0: none. */
static uint64_t next_run(const FfFrequency *h, unsigned block, uint64_t at, uint64_t *first)
{
    const uint8_t *looks = h->looks[block];
    uint64_t end = h->n_pages[block], n = 0;

    while (at < end && !looks[at]) {
        at += at % 8 == 0 && !load_word(looks + at) ? 8 : 1;
    }
    while (at + n < end && looks[at + n] == looks[at]) {
        n++;
    }
    *first = at;
    return n;
}

GArray *ff_frequency_order(const FfFrequency *h, guint max)
{
    uint8_t heats[HEATS];
    guint count[HEATS] = {0}, at[HEATS] = {0}, total = 0;
    uint64_t first, n;

    for (unsigned b = 0; b < h->n_blocks; b++) {
        for (uint64_t p = 0; (n = next_run(h, b, p, &first)); p = first + n) {
            count[h->looks[b][first]]++;
        }
    }
    for (unsigned i = 0; i < HEATS; i++) {
        heats[i] = (uint8_t)i;
    }
    qsort(heats, HEATS, sizeof(heats[0]), by_rank);
    /* Where the runs of each kind begin; what does not fit any more has no place. */
    for (unsigned i = 0; i < HEATS; i++) {
        guint fits = MIN(count[heats[i]], max - total);

        at[heats[i]] = total;
        total += count[heats[i]] = fits;
    }
    GArray *order = g_array_sized_new(FALSE, FALSE, sizeof(FfRun), total);

    g_array_set_size(order, total);
    for (unsigned b = 0; b < h->n_blocks; b++) {
        for (uint64_t p = 0; (n = next_run(h, b, p, &first)); p = first + n) {
            uint8_t heat = h->looks[b][first];

            if (count[heat]) {
                count[heat]--;
                g_array_index(order, FfRun, at[heat]++) = (FfRun){b, first, n};
            }
        }
    }
    return order;
}
