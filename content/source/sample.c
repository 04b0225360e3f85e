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

#include "content/image/xxh64.h"
#include "content/source/backend.h"

#define PARTS 8u
#define SAMPLES 16u /* of each */
/* Any odd number: places that are not a program's. */
#define STEP 0x9e3779b97f4a7c15ull

typedef struct {
    uint64_t at[PARTS * SAMPLES];
    bool good[PARTS * SAMPLES];
    unsigned n;
    uint8_t *pages;
} Sample;

/* One in each N-th of the content. */
static void choose_places(Sample *s, uint64_t pages)
{
    s->n = (unsigned)MIN((uint64_t)PARTS * SAMPLES, pages);
    for (uint64_t i = 0; i < s->n; i++) {
        uint64_t first = pages * i / s->n, end = pages * (i + 1) / s->n;
        s->at[i] = (first + (i + 1) * STEP % (end - first)) * FF_CONTENT_PAGE;
    }
}

static bool read_places(FfContentReader *r, Sample *s, GError **error)
{
    const FfContentOps *ops = r->content->ops;

    if (ops->fill_pages) {
        return ops->fill_pages(r, s->at, s->n, s->pages, s->good, error);
    }
    for (unsigned i = 0; i < s->n; i++) {
        s->good[i] =
            ops->fill(r, s->at[i], s->pages + i * FF_CONTENT_PAGE, FF_CONTENT_PAGE, 0, NULL);
    }
    return true;
}

/* Never 0; 0: some of it cannot be read. */
static uint8_t digest_part(const Sample *s, unsigned part, uint64_t size)
{
    uint64_t sum = size;

    for (unsigned i = s->n * part / PARTS; i < s->n * (part + 1) / PARTS; i++) {
        if (!s->good[i]) {
            return 0;
        }
        sum = ff_xxh64(s->pages + i * FF_CONTENT_PAGE, FF_CONTENT_PAGE, sum);
    }
    return sum & 0xff ? sum & 0xff : 1;
}

/* FALSE: the connection has failed. */
static bool take_sample(FfContentReader *r, uint64_t *digest, GError **error)
{
    const FfContent *c = r->content;
    g_autofree Sample *s = g_new0(Sample, 1);

    choose_places(s, c->size / FF_CONTENT_PAGE);
    g_autofree uint8_t *pages = s->pages = g_malloc((gsize)s->n * FF_CONTENT_PAGE);
    *digest = 0;
    if (!read_places(r, s, error)) {
        return false;
    }
    for (unsigned i = 0; i < PARTS; i++) {
        *digest |= (uint64_t)digest_part(s, i, c->size) << 8 * i;
    }
    return true;
}

uint64_t ff_content_sample(FfContentReader *r)
{
    uint64_t digest;

    return take_sample(r, &digest, NULL) ? digest : 0;
}

/* Of parts that could be read both times. */
static bool samples_differ(uint64_t a, uint64_t b)
{
    for (unsigned i = 0; i < PARTS; i++) {
        uint64_t mask = 0xffull << 8 * i;
        if (a & mask && b & mask && (a ^ b) & mask) {
            return true;
        }
    }
    return false;
}

/* A page that cannot be read is the error of those who want it, and none of the connection. */
bool ff_content_has_sample(FfContent *c, FfContentReader *r, GError **error)
{
    uint64_t digest;

    if (!take_sample(r, &digest, error)) {
        return false;
    }
    if (!samples_differ(digest, c->id.digest)) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                "%s: it has other content than it had: serve that very file, or end the clients, "
                "which have a part of it",
                c->name);
    return false;
}
