/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which content raw bytes on a server are, by a digest of some of their pages: NBD has no time of
 * the last change. Of two contents that differ in one page of twenty one pair in 700 is taken for
 * the same; what differs in a few pages alone is not noticed.
 *
 * No system calls.
 */
#include <gio/gio.h>

#include "content/source/backend.h"
#include "snapshot/xxh64.h"

#define SAMPLES 128u
/* Any odd number: places that are not a program's. */
#define STEP 0x9e3779b97f4a7c15ull

bool ff_content_sample(FfContentReader *r, uint64_t *digest)
{
    const FfContent *c = r->content;
    uint64_t pages = c->size / FF_CONTENT_PAGE, sum = c->size, n = MIN(SAMPLES, pages);
    g_autofree char *page = g_malloc(FF_CONTENT_PAGE);

    for (uint64_t i = 0; i < n; i++) {
        /* One in each N-th of it. */
        uint64_t first = pages / n * i;
        uint64_t at = first + (i + 1) * STEP % (pages / n);
        if (!c->ops->fill(r, at * FF_CONTENT_PAGE, page, FF_CONTENT_PAGE, 0, NULL)) {
            return false;
        }
        sum = ff_xxh64(page, FF_CONTENT_PAGE, sum);
    }
    *digest = sum ? sum : 1;
    return true;
}

/* What cannot be read is the error of those who want it, and none of the connection. */
bool ff_content_has_sample(FfContent *c, FfContentReader *r, GError **error)
{
    uint64_t digest;

    if (!ff_content_sample(r, &digest) || digest == c->id.digest) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                "%s: it has other content than it had: serve that very file, or end the clients, "
                "which have a part of it",
                c->name);
    return false;
}
