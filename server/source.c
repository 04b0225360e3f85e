/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager's own backends of content; see source.h. No system calls of its own.
 */
#include "server/source.h"

#include <gio/gio.h>

#include "content/source/backend.h"
#include "server/remote.h"
#include "snapshot/zero.h"

/* ---- another pager --------------------------------------------------------------------------- */

typedef struct {
    FfContent base;
    FfRemote *remote;
} Far;

typedef struct {
    FfContentReader base;
    FfRemoteLink *link; /* NULL: it has failed */
} FarReader;

/* A link to what it was when it was opened for the first time. */
static FfRemoteLink *connect_known(FfContent *c, GError **error)
{
    g_autoptr(FfRemoteLink) l = ff_remote_connect(((Far *)c)->remote, error);

    if (l && (ff_remote_size(l) != c->size || ff_remote_identity(l) != c->id.digest)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: it gives another file than it gave, or one of which anything was changed "
                    "(content, time, name, mode): give that very file, or end the clients, which "
                    "have a part of it",
                    c->name);
        return NULL;
    }
    return g_steal_pointer(&l);
}

static FfContentReader *open_link(FfContent *c, GError **error)
{
    g_autoptr(FfRemoteLink) link = connect_known(c, error);

    if (!link) {
        return NULL;
    }
    FarReader *r = g_new0(FarReader, 1);
    r->base.content = c;
    r->link = g_steal_pointer(&link);
    return &r->base;
}

static void close_link(FfContentReader *base)
{
    ff_remote_link_free(((FarReader *)base)->link);
    g_free(base);
}

static bool read_link(FarReader *r, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                      bool *zero, GError **error)
{
    if (r->link && ff_remote_read(r->link, at, buf, len, piece, zero, error)) {
        return true;
    }
    g_clear_pointer(&r->link, ff_remote_link_free);
    return false;
}

/* A link that has died since it was used last is not a failure yet. */
static bool read_far(FfContentReader *base, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                     bool *zero, GError **error)
{
    FarReader *r = (FarReader *)base;
    uint64_t all = *len;

    if (read_link(r, at, buf, len, piece, zero, NULL)) {
        return true;
    }
    *len = all;
    r->link = connect_known(base->content, error);
    return r->link && read_link(r, at, buf, len, piece, zero, error);
}

static void close_far(FfContent *c)
{
    ff_remote_free(((Far *)c)->remote);
    g_free(c);
}

static const FfContentOps far_ops = {
    .close = close_far, .reader = open_link, .reader_close = close_link, .read = read_far};

static FfContent *open_far(const char *uri, const FfContentIdentity *known,
                           const FfContentAccess *access, GError **error)
{
    g_autoptr(FfRemote) remote = ff_remote_new(uri, access->tls_creds, access->tls_hostname, error);
    FfContentIdentity id = {0};

    if (!remote) {
        return NULL;
    }
    if (known) {
        id = *known; /* it need not be there now */
    } else {
        g_autoptr(FfRemoteLink) l = ff_remote_connect(remote, error);
        if (!l) {
            return NULL;
        }
        id.stamp.size = ff_remote_size(l);
        id.digest = ff_remote_identity(l);
    }
    Far *f = g_new0(Far, 1);
    f->base = (FfContent){.ops = &far_ops,
                          .name = g_strdup(uri),
                          .id = id,
                          .size = id.stamp.size,
                          .where = FF_CONTENT_FAR};
    f->remote = g_steal_pointer(&remote);
    return &f->base;
}

bool ff_source_is_far(const char *uri)
{
    return ff_remote_is_uri(uri) || ff_content_is_uri(uri);
}

FfContent *ff_source_open(const char *uri, const FfContentIdentity *known,
                          const FfContentAccess *access, GError **error)
{
    return ff_remote_is_uri(uri) ? open_far(uri, known, access, error)
                                 : ff_content_open(uri, known, access, error);
}

/* ---- a store --------------------------------------------------------------------------------- */

typedef struct {
    FfContent base;
    FfStore *store;
    uint64_t first;
    const bool *cancel;
} Stored;

static bool read_store(FfContentReader *r, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                       bool *zero, GError **error)
{
    const Stored *s = (const Stored *)r->content;
    uint64_t n = *len / FF_STORE_PAGE;

    if (!ff_store_read(s->store, s->first + at / FF_STORE_PAGE, &n, buf, r->hurry, s->cancel)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "%s: not needed any more",
                    s->base.name);
        return false;
    }
    *len = n * FF_STORE_PAGE;
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

FfContent *ff_source_open_store(FfStore *store, const FfStorePart *part, const bool *cancel)
{
    Stored *s = g_new0(Stored, 1);

    *s = (Stored){.base = {.ops = &stored_ops,
                           .name = g_strdup("pages of another host"),
                           .size = part->pages * FF_STORE_PAGE,
                           .where = FF_CONTENT_COMING},
                  .store = store,
                  .first = part->first,
                  .cancel = cancel};
    return &s->base;
}
