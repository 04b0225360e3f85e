/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content from files, or from another host; see source.h for the threads. What is known to be zeros
 * is not read: holes of a raw file, clear bits of mapped-ram. What was read is looked at, as a page
 * of zeros costs a client no memory.
 *
 * No system calls of its own (snapshot/input.c).
 */
#include "server/source.h"

#include <gio/gio.h>
#include <string.h>

#include "snapshot/input.h"
#include "snapshot/mapped.h"
#include "snapshot/saved.h"
#include "snapshot/zero.h"

typedef FfSourceExtent Extent;

struct FfSource {
    char *path;
    FfInputStamp stamp;
    bool compressed;
    uint64_t size;
    GArray *extents;  /* Extent, by START: all data; NULL: a raw file */
    FfRemote *remote; /* then the rest is not needed, and the stamp is {size, identity}; or NULL */
    FfStore *store;   /* the same, without a stamp; or NULL */
    uint64_t first;   /* of `store` */
    const bool *cancel;
};

struct FfSourceReader {
    FfSource *s;
    FfInput *in;
    FfRemoteLink *link; /* of a remote source; there is no `in` then, nor of a store */
    bool urgent;
};

/* ---- mapped-ram ------------------------------------------------------------------------------ */

typedef struct {
    GArray *extents;
    uint64_t start, pages; /* of the block: in the source, in the file */
} Block;

static bool add_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    Block *b = opaque;
    Extent e = {b->start + first * FF_SAVED_PAGE, n * FF_SAVED_PAGE,
                b->pages + first * FF_SAVED_PAGE};

    g_array_append_val(b->extents, e);
    return true;
}

static bool read_blocks(FfSource *s, const FfSaved *saved, GError **error)
{
    s->extents = g_array_new(FALSE, FALSE, sizeof(Extent));
    for (guint i = 0; i < saved->blocks->len; i++) {
        const FfSavedBlock *b = ff_saved_block(saved, i);
        Block block = {s->extents, s->size, b->pages};
        if (ff_saved_block_is_outside(saved, b)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                        "%s: the memory of block %s is not in the file", s->path, b->name);
            return false;
        }
        if (!ff_mapped_runs(saved, b, add_run, &block, error)) {
            return false;
        }
        s->size += b->size;
    }
    return true;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* QEMU's magic, as a raw memory file does not begin (of a guest's first page, the vectors). */
static bool is_saved(FfInput *in)
{
    uint8_t magic[4];

    return ff_input_size(in) > sizeof(magic) && ff_input_read(in, 0, magic, sizeof(magic), NULL) &&
           memcmp(magic, "QEVM", sizeof(magic)) == 0;
}

static bool open_saved(FfSource *s, FfInput *in, GError **error)
{
    g_autoptr(GError) damage = NULL;
    g_autoptr(FfSaved) saved = ff_saved_open(in, 0, &damage);

    if (!saved || damage) {
        g_propagate_error(error, g_steal_pointer(&damage));
        return false;
    }
    if (saved->form != FF_SAVED_MAPPED) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s: its pages are not where they can be looked up: farfault convert makes a "
                    "mapped-ram file of it",
                    s->path);
        return false;
    }
    return read_blocks(s, saved, error);
}

/* After what was read of it: a process that changes a file has changed its size, or its time, by
 * then. Not ctime: nobody could put that back, and a rename or a hard link is no change of the
 * content. */
static bool is_unchanged(const FfSource *s, const FfInput *in, GError **error)
{
    FfInputStamp now;
    bool asked = ff_input_stamp(in, &now);

    if (asked && memcmp(&now, &s->stamp, sizeof(now)) == 0) {
        return true;
    }
    if (asked && (now.dev != s->stamp.dev || now.ino != s->stamp.ino)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: another file has its name by now; put the very file back there, not a "
                    "copy",
                    s->path);
        return false;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                "%s: it was changed while it was in use (it had %" G_GUINT64_FORMAT
                " bytes, and the time @%" G_GINT64_FORMAT ".%09" G_GINT64_FORMAT
                "); put it back as it was, with that time (touch -d)",
                s->path, s->stamp.size, s->stamp.sec, s->stamp.nsec);
    return false;
}

static FfInput *open_known(FfSource *s, const char *path, const FfInputStamp *known, GError **error)
{
    g_autoptr(FfInput) in = ff_input_open(path, error);

    s->path = g_strdup(path);
    if (!in) {
        return NULL;
    }
    s->compressed = ff_input_is_compressed(in);
    if (known) {
        s->stamp = *known;
    } else {
        ff_input_stamp(in, &s->stamp);
    }
    return is_unchanged(s, in, error) ? g_steal_pointer(&in) : NULL;
}

FfSource *ff_source_open_extents(const char *path, GArray *extents, uint64_t size,
                                 const FfInputStamp *known, GError **error)
{
    g_autoptr(FfSource) s = g_new0(FfSource, 1);

    s->extents = extents;
    s->size = size;
    g_autoptr(FfInput) in = open_known(s, path, known, error);
    return in ? g_steal_pointer(&s) : NULL;
}

FfSource *ff_source_open(const char *path, const FfInputStamp *known, GError **error)
{
    g_autoptr(FfSource) s = g_new0(FfSource, 1);
    g_autoptr(FfInput) in = open_known(s, path, known, error);

    if (!in) {
        return NULL;
    }
    if (is_saved(in)) {
        if (!open_saved(s, g_steal_pointer(&in), error)) {
            return NULL;
        }
    } else {
        s->size = ff_input_size(in);
    }
    if (s->size % FF_SAVED_PAGE) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: it is not whole pages; give the file with the memory, not that with the "
                    "state of the devices",
                    path);
        return NULL;
    }
    if (!s->size) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: there is nothing in it", path);
        return NULL;
    }
    return g_steal_pointer(&s);
}

void ff_source_free(FfSource *s)
{
    if (s) {
        if (s->extents) {
            g_array_unref(s->extents);
        }
        ff_remote_free(s->remote);
        g_free(s->path);
        g_free(s);
    }
}

const FfInputStamp *ff_source_stamp(const FfSource *s)
{
    return &s->stamp;
}

uint64_t ff_source_size(const FfSource *s)
{
    return s->size;
}

bool ff_source_is_file(const FfSource *s)
{
    return !s->remote && !s->store;
}

bool ff_source_is_remote(const FfSource *s)
{
    return s->remote;
}

bool ff_source_is_compressed(const FfSource *s)
{
    return s->compressed;
}

const char *ff_source_path(const FfSource *s)
{
    return s->path;
}

/* A link to what it was when it was opened for the first time. */
static FfRemoteLink *connect_known(FfSource *s, GError **error)
{
    g_autoptr(FfRemoteLink) l = ff_remote_connect(s->remote, error);

    if (l &&
        (ff_remote_size(l) != s->stamp.size || ff_remote_identity(l) != (uint64_t)s->stamp.sec)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: it gives another file than it gave, or one of which anything was changed "
                    "(content, time, name, mode): give that very file, or end the clients, which "
                    "have a part of it",
                    s->path);
        return NULL;
    }
    return g_steal_pointer(&l);
}

FfSource *ff_source_open_remote(FfRemote *remote, const FfInputStamp *known, GError **error)
{
    g_autoptr(FfSource) s = g_new0(FfSource, 1);

    s->remote = remote;
    s->path = g_strdup(ff_remote_uri(remote));
    if (known) {
        s->stamp = *known;
    } else {
        g_autoptr(FfRemoteLink) l = ff_remote_connect(remote, error);
        if (!l) {
            return NULL;
        }
        s->stamp = (FfInputStamp){.size = ff_remote_size(l), .sec = (int64_t)ff_remote_identity(l)};
    }
    s->size = s->stamp.size;
    return g_steal_pointer(&s);
}

FfSource *ff_source_open_store(FfStore *store, const FfStorePart *part, const bool *cancel)
{
    FfSource *s = g_new0(FfSource, 1);

    *s = (FfSource){.path = g_strdup("pages of another host"),
                    .size = part->pages * FF_STORE_PAGE,
                    .store = store,
                    .first = part->first,
                    .cancel = cancel};
    return s;
}

static FfSourceReader *new_reader(FfSource *s)
{
    FfSourceReader *r = g_new0(FfSourceReader, 1);

    r->s = s;
    return r;
}

FfSourceReader *ff_source_reader(FfSource *s, GError **error)
{
    if (s->store) {
        return new_reader(s);
    }
    if (s->remote) {
        g_autoptr(FfRemoteLink) link = connect_known(s, error);
        FfSourceReader *r = link ? g_new0(FfSourceReader, 1) : NULL;
        if (r) {
            *r = (FfSourceReader){.s = s, .link = g_steal_pointer(&link)};
        }
        return r;
    }
    g_autoptr(FfInput) in = ff_input_open(s->path, error);

    if (!in || !is_unchanged(s, in, error)) {
        return NULL;
    }
    FfSourceReader *r = new_reader(s);
    r->in = g_steal_pointer(&in);
    return r;
}

FfSourceReader *ff_source_cached_reader(FfSource *s)
{
    g_autoptr(FfSourceReader) r = ff_source_is_file(s) ? ff_source_reader(s, NULL) : NULL;

    return r && ff_input_can_read_cached(r->in) ? g_steal_pointer(&r) : NULL;
}

void ff_source_reader_hurry(FfSourceReader *r)
{
    r->urgent = true;
}

void ff_source_reader_free(FfSourceReader *r)
{
    if (r) {
        g_clear_pointer(&r->in, ff_input_free);
        g_clear_pointer(&r->link, ff_remote_link_free);
        g_free(r);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

/* What is there AT: the place in the file, or zeros (TRUE), of *LEN bytes at most. */
static bool find_raw(FfSourceReader *r, uint64_t at, uint64_t *file, uint64_t *len)
{
    uint64_t data = ff_input_next_data(r->in, at);

    *file = at;
    if (data > at) {
        *len = MIN(*len, data - at);
        return true;
    }
    return false;
}

static bool find_extent(FfSourceReader *r, uint64_t at, uint64_t *file, uint64_t *len)
{
    const GArray *all = r->s->extents;
    guint lo = 0, hi = all->len;

    /* The first one that ends after AT. */
    while (lo < hi) {
        guint mid = (lo + hi) / 2;
        const Extent *e = &g_array_index(all, Extent, mid);
        if (e->start + e->len <= at) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    const Extent *e = lo < all->len ? &g_array_index(all, Extent, lo) : NULL;
    if (!e || e->start > at) {
        *len = e ? MIN(*len, e->start - at) : *len;
        return true;
    }
    *file = e->file + (at - e->start);
    *len = MIN(*len, e->start + e->len - at);
    return false;
}

/* One page, of which parts are in different places (a huge page). */
static bool read_parts(FfSourceReader *r, uint64_t at, char *buf, uint64_t len, GError **error)
{
    for (uint64_t done = 0, some; done < len; done += some) {
        uint64_t file;
        some = len - done;
        bool zero = r->s->extents ? find_extent(r, at + done, &file, &some)
                                  : find_raw(r, at + done, &file, &some);
        if (zero) {
            memset(buf + done, 0, some);
        } else if (!ff_input_read(r->in, file, buf + done, some, error)) {
            return false;
        }
    }
    return true;
}

static bool read_store(FfSourceReader *r, uint64_t at, void *buf, uint64_t *len, bool *zero,
                       GError **error)
{
    uint64_t n = *len / FF_STORE_PAGE;

    if (!ff_store_read(r->s->store, r->s->first + at / FF_STORE_PAGE, &n, buf, r->urgent,
                       r->s->cancel)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "%s: not needed any more", r->s->path);
        return false;
    }
    *len = n * FF_STORE_PAGE;
    *zero = ff_saved_is_zero(buf, *len);
    return true;
}

bool ff_source_read(FfSourceReader *r, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                    bool *zero, GError **error)
{
    uint64_t file, some = *len;

    if (at > r->s->size || *len > r->s->size - at) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "%s: it ends before",
                    r->s->path);
        return false;
    }
    if (r->s->store) {
        return read_store(r, at, buf, len, zero, error);
    }
    if (r->link) {
        return ff_remote_read(r->link, at, buf, len, piece, zero, error);
    }
    *zero = r->s->extents ? find_extent(r, at, &file, &some) : find_raw(r, at, &file, &some);
    some -= some % piece;
    if (!some) {
        *len = piece;
        *zero = false;
        if (!read_parts(r, at, buf, piece, error)) {
            return false;
        }
    } else {
        *len = some;
        if (!*zero && !ff_input_read(r->in, file, buf, some, error)) {
            return false;
        }
    }
    *zero = *zero || ff_saved_is_zero(buf, *len);
    return is_unchanged(r->s, r->in, error);
}

bool ff_source_read_cached(FfSourceReader *r, uint64_t at, void *buf, uint64_t len, bool *zero)
{
    uint64_t file = at, some = len;

    if (!r->in || at > r->s->size || len > r->s->size - at) {
        return false;
    }
    /* Where a file without a map has a hole only the file system knows: such a page is not cached.
     */
    *zero = r->s->extents && find_extent(r, at, &file, &some);
    if (some < len || (!*zero && !ff_input_read_cached(r->in, file, buf, len))) {
        return false;
    }
    *zero = *zero || ff_saved_is_zero(buf, len);
    return is_unchanged(r->s, r->in, NULL);
}

/* ---- places ---------------------------------------------------------------------------------- */

bool ff_source_place(FfSourceReader *r, uint64_t at, uint64_t *file)
{
    uint64_t len = FF_SAVED_PAGE;

    if (r->s->store || at > r->s->size || len > r->s->size - at) {
        return false;
    }
    bool zero = r->s->extents ? find_extent(r, at, file, &len) : find_raw(r, at, file, &len);
    return !zero && len == FF_SAVED_PAGE;
}

bool ff_source_is_hole(FfSourceReader *r, uint64_t at, uint64_t len)
{
    uint64_t file, some = len;

    if (!r->in || at > r->s->size || len > r->s->size - at) {
        return false;
    }
    bool zero = r->s->extents ? find_extent(r, at, &file, &some) : find_raw(r, at, &file, &some);
    return zero && some == len && is_unchanged(r->s, r->in, NULL);
}

static gint by_file(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const Extent *)a)->file, y = ((const Extent *)b)->file;

    return x < y ? -1 : x > y;
}

/* ALL: by FILE. */
static bool find_place(const GArray *all, uint64_t *place)
{
    guint lo = 0, hi = all->len;

    while (lo < hi) {
        guint mid = (lo + hi) / 2;
        if (g_array_index(all, Extent, mid).file <= *place) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    const Extent *e = lo ? &g_array_index(all, Extent, lo - 1) : NULL;
    uint64_t into = e ? *place - e->file : 0;
    if (!e || into >= e->len || e->len - into < FF_SAVED_PAGE) {
        return false;
    }
    *place = e->start + into;
    return *place % FF_SAVED_PAGE == 0;
}

bool ff_source_find(const FfSource *s, uint64_t *places, uint64_t n)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(Extent));

    if (s->extents) {
        g_array_append_vals(all, s->extents->data, s->extents->len);
        g_array_sort(all, by_file);
    } else {
        Extent e = {0, s->size, 0};
        g_array_append_val(all, e);
    }
    for (uint64_t i = 0; i < n; i++) {
        if (!find_place(all, &places[i])) {
            return false;
        }
    }
    return true;
}
