/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * FARFAULT_DEBUG_HASH=1: does a stopped source's RAM stay as it is? A hash of every page is noted
 * when the last scan is over, and compared when every page is at the destination. A device, a
 * vCPU or a client that wrote in between wrote to a guest that has moved: those bytes are lost.
 *
 * Threads: the coordinator.
 */
#include "migration/source/fingerprint.h"

#include <string.h>
#include <unistd.h>

#include "migration/source/zero.h"

static bool is_wanted(const FfSource *s)
{
    const char *value = g_getenv("FARFAULT_DEBUG_HASH");

    /* Pages that are released are holes at the end. */
    return value && *value && strcmp(value, "0") && !s->cfg->release_ram;
}

/* Each word counts with its place, zeros count nothing: a hole and a zero page are the same. */
static uint64_t hash_page(const FfBlock *b, uint64_t page)
{
    uint64_t n = b->info.page_size / sizeof(uint64_t), h = 0;
    const uint64_t *p = (const uint64_t *)b->map + page * n;

    if (b->info.page_size > 4096 &&
        ff_is_zero_file(b->info.memfd, page * b->info.page_size, b->info.page_size)) {
        return 0;
    }
    for (uint64_t w = 0; w < n; w++) {
        h ^= (p[w] * 0x9E3779B97F4A7C15ull) * (2 * w + 1);
    }
    return h;
}

/* The hashes of all pages (g_free). Holes are not touched. */
static uint64_t *hash_block(const FfBlock *b)
{
    uint64_t *hashes = g_new0(uint64_t, b->n_pages);
    off_t data, hole = 0;

    while (hole < (off_t)b->info.size && (data = lseek(b->info.memfd, hole, SEEK_DATA)) >= 0) {
        hole = lseek(b->info.memfd, data, SEEK_HOLE);
        for (uint64_t page = data / b->info.page_size; page * b->info.page_size < (uint64_t)hole;
             page++) {
            hashes[page] = hash_page(b, page);
        }
    }
    return hashes;
}

void ff_fingerprint_take(FfSource *s)
{
    for (unsigned i = 0; is_wanted(s) && i < s->ram->n_blocks; i++) {
        FfBlock *b = &s->ram->blocks[i];
        if (!b->fingerprint) {
            b->fingerprint = hash_block(b);
        }
    }
}

/* How many pages of B have changed, and the first of them. */
static uint64_t count_changed(const FfBlock *b, uint64_t *first)
{
    g_autofree uint64_t *now = hash_block(b);
    uint64_t n = 0;

    for (uint64_t page = b->n_pages; page-- > 0;) {
        if (now[page] != b->fingerprint[page]) {
            *first = page;
            n++;
        }
    }
    return n;
}

void ff_fingerprint_check(FfSource *s)
{
    bool equal = true;

    if (!is_wanted(s)) {
        return;
    }
    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        const FfBlock *b = &s->ram->blocks[i];
        uint64_t first = 0, n = count_changed(b, &first);
        if (n) {
            g_message("RAM at stop and at the end: DIFFERENT: %" G_GUINT64_FORMAT
                      " pages of block '%s', the first at 0x%" G_GINT64_MODIFIER "x",
                      n, b->info.id, first * b->info.page_size);
            equal = false;
        }
    }
    if (equal) {
        g_message("RAM at stop and at the end: equal");
    }
}
