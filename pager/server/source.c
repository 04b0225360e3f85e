/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager's own backend of content; see source.h. No system calls of its own.
 */
#include "pager/server/source.h"

#include <gio/gio.h>

#include "content/image/zero.h"
#include "content/source/backend.h"

typedef struct {
    FfContent base;
    FfFetchedPages *fetched;
    uint64_t first;
    const bool *cancel;
} Stored;

static bool read_store(FfContentReader *r, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                       bool *zero, GError **error)
{
    const Stored *s = (const Stored *)r->content;
    uint64_t n = *len / FF_FETCHED_PAGE;

    if (!ff_fetched_read(s->fetched, s->first + at / FF_FETCHED_PAGE, &n, buf, r->hurry,
                         s->cancel)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "%s: not needed any more",
                    s->base.name);
        return false;
    }
    *len = n * FF_FETCHED_PAGE;
    *zero = ff_saved_is_zero(buf, *len);
    return true;
}

static FfContentReader *open_stored(FfContent *c, GError **error)
{
    FfContentReader *r = g_new0(FfContentReader, 1);

    r->content = c;
    return r;
}

static void close_reader(FfContentReader *r)
{
    g_free(r);
}

static void close_stored(FfContent *c)
{
    g_free(c);
}

static const FfContentOps stored_ops = {
    .close = close_stored, .reader = open_stored, .reader_close = close_reader, .read = read_store};

FfContent *ff_source_open_fetched(FfFetchedPages *fetched, const FfFetchedPart *part,
                                  const bool *cancel)
{
    Stored *s = g_new0(Stored, 1);

    *s = (Stored){.base = {.ops = &stored_ops,
                           .name = g_strdup("pages of another host"),
                           .size = part->pages * FF_FETCHED_PAGE,
                           .where = FF_CONTENT_COMING},
                  .fetched = fetched,
                  .first = part->first,
                  .cancel = cancel};
    return &s->base;
}
