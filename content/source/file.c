/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content: the bytes of a file of this host. Holes are zeros.
 *
 * A file that was changed since it was opened for the first time has another size by then, or
 * another time of its last change: looked at after each read.
 *
 * No system calls of its own (content/image/input.c).
 */
#include <gio/gio.h>
#include <string.h>

#include "content/source/backend.h"

typedef struct {
    FfContentReader base;
    FfInput *in;
} Reader;

/* Not ctime: nobody could put that back, and a rename or a hard link is no change of the content.
 */
static bool is_unchanged(const FfContent *c, const FfInput *in, GError **error)
{
    const FfInputStamp *was = &c->id.stamp;
    FfInputStamp now;
    bool asked = ff_input_stamp(in, &now);

    if (asked && memcmp(&now, was, sizeof(now)) == 0) {
        return true;
    }
    if (asked && (now.dev != was->dev || now.ino != was->ino)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: another file has its name by now; put the very file back there, not a "
                    "copy",
                    c->name);
        return false;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                "%s: it was changed while it was in use (it had %" G_GUINT64_FORMAT
                " bytes, and the time @%" G_GINT64_FORMAT ".%09" G_GINT64_FORMAT
                "); put it back as it was, with that time (touch -d)",
                c->name, was->size, was->sec, was->nsec);
    return false;
}

static FfContentReader *open_reader(FfContent *c, GError **error)
{
    g_autoptr(FfInput) in = ff_input_open_plain(c->name, error);

    if (!in || !is_unchanged(c, in, error)) {
        return NULL;
    }
    Reader *r = g_new0(Reader, 1);
    r->base.content = c;
    r->in = g_steal_pointer(&in);
    return &r->base;
}

static void close_reader(FfContentReader *base)
{
    Reader *r = (Reader *)base;

    ff_input_free(r->in);
    g_free(r);
}

/* Where it has a hole only the file system knows, which may have to look: such a page is not
 * known without a wait. */
static bool find_extent(FfContentReader *base, uint64_t at, uint64_t *len, unsigned flags,
                        bool *zero, GError **error)
{
    uint64_t data = flags & FF_CONTENT_NOWAIT ? at : ff_input_next_data(((Reader *)base)->in, at);

    *zero = data > at;
    if (*zero) {
        *len = MIN(*len, data - at);
    }
    return true;
}

static bool fill_file(FfContentReader *base, uint64_t at, void *buf, uint64_t len, unsigned flags,
                      GError **error)
{
    Reader *r = (Reader *)base;

    return flags & FF_CONTENT_NOWAIT ? ff_input_read_cached(r->in, at, buf, len)
                                     : ff_input_read(r->in, at, buf, len, error);
}

static bool check_file(FfContentReader *base, GError **error)
{
    return is_unchanged(base->content, ((Reader *)base)->in, error);
}

static bool can_nowait(FfContentReader *base)
{
    return ff_input_can_read_cached(((Reader *)base)->in);
}

static const FfContentOps file_ops = {
    .reader = open_reader,
    .reader_close = close_reader,
    .extent = find_extent,
    .fill = fill_file,
    .check = check_file,
    .can_nowait = can_nowait,
};

FfContent *ff_content_open_file(const char *path, const FfContentIdentity *known, GError **error)
{
    g_autoptr(FfInput) in = ff_input_open_plain(path, error);

    if (!in) {
        return NULL;
    }
    g_autoptr(FfContent) c = g_new0(FfContent, 1);
    c->ops = &file_ops;
    c->name = g_strdup(path);
    c->where = FF_CONTENT_FILE;
    c->size = ff_input_size(in);
    if (known) {
        c->id = *known;
    } else {
        ff_input_stamp(in, &c->id.stamp);
    }
    return is_unchanged(c, in, error) ? g_steal_pointer(&c) : NULL;
}
