/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content: the bytes of a file of this host. Holes are zeros.
 *
 * A file that was changed since it was opened for the first time has another size by then, or
 * another time of its last change: looked at after each read.
 *
 * System calls: fadvise64, close.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <unistd.h>

#include "content/source/backend.h"

typedef struct {
    FfContent base;
    int fd; /* -1: by its name, and each reader has a description of its own */
} File;

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
        g_set_error(error, G_IO_ERROR, FF_CONTENT_CHANGED,
                    "%s: another file has its name by now; put the very file back there, not a "
                    "copy",
                    c->name);
        return false;
    }
    g_set_error(error, G_IO_ERROR, FF_CONTENT_CHANGED,
                "%s: it was changed while it was in use (it had %" G_GUINT64_FORMAT
                " bytes, and the time @%" G_GINT64_FORMAT ".%09" G_GINT64_FORMAT
                "); put it back as it was, with that time (touch -d)",
                c->name, was->size, was->sec, was->nsec);
    return false;
}

static FfInput *open_input(const FfContent *c, GError **error)
{
    const File *f = (const File *)c;
    int fd = f->fd < 0 ? -1 : fcntl(f->fd, F_DUPFD_CLOEXEC, 3);

    if (f->fd >= 0 && fd < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s", c->name,
                    g_strerror(errno));
        return NULL;
    }
    return fd < 0 ? ff_input_open_plain(c->name, error)
                  : ff_input_open_plain_fd(fd, c->name, error);
}

static FfContentReader *open_reader(FfContent *c, GError **error)
{
    g_autoptr(FfInput) in = open_input(c, error);

    /* By its name it may be another one; else it is looked at after each read. */
    if (!in || (((File *)c)->fd < 0 && !is_unchanged(c, in, error))) {
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

static void close_file(FfContent *c)
{
    File *f = (File *)c;

    if (f->fd >= 0) {
        close(f->fd);
    }
    g_free(f);
}

static const FfContentOps file_ops = {
    .close = close_file,
    .reader = open_reader,
    .reader_close = close_reader,
    .extent = find_extent,
    .fill = fill_file,
    .check = check_file,
    .can_nowait = can_nowait,
};

/* FD (taken) can be -1. */
static FfContent *open_file(const char *path, int fd, const FfContentIdentity *known,
                            GError **error)
{
    File *f = g_new0(File, 1);
    g_autoptr(FfContent) c = &f->base;

    f->fd = fd;
    c->ops = &file_ops;
    c->name = g_strdup(path);
    g_autoptr(FfInput) in = open_input(c, error);
    if (!in) {
        return NULL;
    }
    c->where = FF_CONTENT_FILE;
    c->size = ff_input_size(in);
    if (known) {
        c->id = *known;
    } else {
        ff_input_stamp(in, &c->id.stamp);
    }
    return is_unchanged(c, in, error) ? g_steal_pointer(&c) : NULL;
}

FfContent *ff_content_open_file(const char *path, const FfContentIdentity *known, GError **error)
{
    return open_file(path, -1, known, error);
}

FfContent *ff_content_open_fd(int fd, const char *path, const FfContentIdentity *known,
                              GError **error)
{
    /* The kernel reads no more than is asked for. A hint: what it says does not matter. */
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    return open_file(path, fd, known, error);
}
