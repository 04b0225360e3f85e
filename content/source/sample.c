/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which content raw bytes on a server are, by a digest of some of their pages: NBD has no time of
 * the last change. Of two contents that differ in one page of twenty one pair in 700 is taken for
 * the same; what differs in a few pages alone is not noticed.
 *
 * Each byte of the digest is of a part of the pages, and 0 if one of them could not be read: what
 * is bad in one place must not hide what is elsewhere.
 *
 * No system calls.
 */
#include <gio/gio.h>

#include "content/source/backend.h"
#include "snapshot/xxh64.h"

#define PARTS 8u
#define SAMPLES 16u /* of each */
/* Any odd number: places that are not a program's. */
#define STEP 0x9e3779b97f4a7c15ull
/* A server that does not answer is not asked for more. */
#define PATIENCE_US (5 * G_USEC_PER_SEC)

/* Never 0; 0: some of it cannot be read. */
static uint8_t sample_part(FfContentReader *r, unsigned part, void *page)
{
    const FfContent *c = r->content;
    uint64_t pages = c->size / FF_CONTENT_PAGE, sum = c->size;
    uint64_t n = MIN((uint64_t)PARTS * SAMPLES, pages);

    for (uint64_t i = n * part / PARTS; i < n * (part + 1) / PARTS; i++) {
        /* One in each N-th of it. */
        uint64_t first = pages * i / n, end = pages * (i + 1) / n;
        uint64_t at = first + (i + 1) * STEP % (end - first);
        if (!c->ops->fill(r, at * FF_CONTENT_PAGE, page, FF_CONTENT_PAGE, 0, NULL)) {
            return 0;
        }
        sum = ff_xxh64(page, FF_CONTENT_PAGE, sum);
    }
    return sum & 0xff ? sum & 0xff : 1;
}

uint64_t ff_content_sample(FfContentReader *r)
{
    g_autofree char *page = g_malloc(FF_CONTENT_PAGE);
    int64_t since = g_get_monotonic_time();
    uint64_t digest = 0;

    for (unsigned i = 0; i < PARTS; i++) {
        uint64_t part = sample_part(r, i, page);
        if (!part && g_get_monotonic_time() - since > PATIENCE_US) {
            break;
        }
        digest |= part << 8 * i;
    }
    return digest;
}

/* Of parts that could be read both times. */
static bool differ(uint64_t a, uint64_t b)
{
    for (unsigned i = 0; i < PARTS; i++) {
        uint64_t mask = 0xffull << 8 * i;
        if (a & mask && b & mask && (a ^ b) & mask) {
            return true;
        }
    }
    return false;
}

/* What cannot be read is the error of those who want it, and none of the connection. */
bool ff_content_has_sample(FfContent *c, FfContentReader *r, GError **error)
{
    if (!differ(ff_content_sample(r), c->id.digest)) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                "%s: it has other content than it had: serve that very file, or end the clients, "
                "which have a part of it",
                c->name);
    return false;
}
