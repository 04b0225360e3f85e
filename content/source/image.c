/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content: what is in a file of a saved guest (mapped-ram), or in a compressed file, whatever
 * backend has the file.
 *
 * Of a file the size and the time say whether it is still what was opened. What has no time has a
 * digest, of its table of pages or of some pages (sample.c), compared for each connection.
 *
 * No system calls of its own.
 */
#include <gio/gio.h>
#include <string.h>

#include "content/image/completeness.h"
#include "content/image/digest.h"
#include "content/image/mapped.h"
#include "content/image/records.h"
#include "content/image/saved.h"
#include "content/source/backend.h"

/* For so long the table of a compressed file on a server is waited for. */
#define OPEN_US (30 * G_USEC_PER_SEC)

typedef FfContentExtent Extent;

typedef struct {
    FfContent base;
    FfContent *under;
    bool wants_saved; /* what is no saved guest is another content than this one */
    int64_t offset;   /* with that: for ff_saved_open() */
} Image;

typedef struct {
    FfContentReader base;
    FfContentReader *under;
    FfInput *in; /* of a compressed file; it reads `under` */
} Reader;

static Image *image_of(const FfContent *c)
{
    return (Image *)c;
}

/* ---- the file under it ----------------------------------------------------------------------- */

/* FfInputRead, of bytes at any place: a server has blocks. */
static bool read_under(void *opaque, uint64_t at, void *to, size_t n, GError **error)
{
    FfContentReader *r = opaque;
    const FfContent *c = r->content;
    uint64_t begin = at - at % FF_CONTENT_PAGE;
    uint64_t end = MIN((at + n + FF_CONTENT_PAGE - 1) / FF_CONTENT_PAGE * FF_CONTENT_PAGE, c->size);

    if (c->where == FF_CONTENT_FILE || (begin == at && end == at + n)) {
        return c->ops->fill(r, at, to, n, 0, error);
    }
    g_autofree char *buf = g_malloc(end - begin);
    if (!c->ops->fill(r, begin, buf, end - begin, 0, error)) {
        return false;
    }
    memcpy(to, buf + (at - begin), n);
    return true;
}

static FfInput *input_over(FfContentReader *r, GError **error)
{
    return ff_input_new_reads(r->content->name, r->content->size, read_under, r, error);
}

/* QEMU's magic, or that of libvirt's header before it, as a raw memory file does not begin (of a
 * guest's first page, the vectors). FALSE and ERROR: it is not known, or a disk image, of which no
 * page is where it is in a raw file either. OFFSET: for ff_saved_open(). */
static bool look_whether_saved(FfInput *in, const char *name, int64_t *offset, bool *saved,
                               GError **error)
{
    char magic[8];

    *offset = 0;
    *saved = false;
    if (ff_input_size(in) <= sizeof(magic)) {
        return true;
    }
    if (!ff_input_read(in, 0, magic, sizeof(magic), error)) {
        return false;
    }
    bool libvirt = memcmp(magic, "LibvirtQ", sizeof(magic)) == 0;
    *offset = libvirt ? FF_SAVED_OFFSET_LOOK : 0;
    *saved = libvirt || memcmp(magic, "QEVM", 4) == 0;
    if (memcmp(magic, "QFI\xfb", 4) == 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s: a qcow2 image: what is in it is served by qemu-nbd -r -t -e 8 -f qcow2 -k "
                    "SOCKET %s, and has the URI nbd+unix:///?socket=SOCKET",
                    name, name);
        return false;
    }
    return true;
}

/* IN is taken. */
static FfSaved *open_saved(FfInput *in, int64_t offset, const char *name, GError **error)
{
    g_autoptr(GError) damage = NULL;
    g_autoptr(FfSaved) saved = ff_saved_open(in, offset, &damage);

    if (!saved || damage) {
        g_propagate_error(error, g_steal_pointer(&damage));
        return NULL;
    }
    if (saved->form != FF_SAVED_MAPPED) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s: its pages are not where they can be looked up: farfault convert makes a "
                    "mapped-ram file of it",
                    name);
        return NULL;
    }
    return g_steal_pointer(&saved);
}

static bool make_digest(FfSaved *saved, uint64_t *digest, GError **error)
{
    static const FfPageSink nobody = {0}; /* mapped-ram has no pages among its records */

    return ff_records_walk(saved, &nobody, NULL, error) && ff_tail_check(saved, error) &&
           ff_saved_digest(saved, digest, error);
}

static bool refuse_other(const FfContent *c, GError **error)
{
    g_set_error(error, G_IO_ERROR, FF_CONTENT_CHANGED,
                "%s: it is another guest's memory than it was (its table of pages has changed): "
                "serve that very file, or end the clients, which have a part of it",
                c->name);
    return false;
}

/* FfContent.greet */
static bool is_same(FfContent *c, FfContentReader *under, GError **error)
{
    g_autoptr(FfInput) in = input_over(under, error);
    uint64_t digest = 0;
    int64_t offset;
    bool is_saved;

    if (!in || !look_whether_saved(in, c->name, &offset, &is_saved, error)) {
        return false;
    }
    if (image_of(c)->wants_saved) {
        is_saved = true;
        offset = image_of(c)->offset;
    }
    if (is_saved) {
        g_autoptr(FfSaved) saved = open_saved(g_steal_pointer(&in), offset, c->name, error);
        if (!saved || !make_digest(saved, &digest, error)) {
            return false;
        }
    }
    return digest == c->id.digest || refuse_other(c, error);
}

/* ---- readers --------------------------------------------------------------------------------- */

static void close_reader(FfContentReader *base)
{
    Reader *r = (Reader *)base;

    g_clear_pointer(&r->in, ff_input_free);
    ff_content_reader_free(r->under);
    g_free(r);
}

static FfContentReader *open_reader(FfContent *c, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(FfContentReader) under = ff_content_reader(image_of(c)->under, error);

    if (!under) {
        return NULL;
    }
    /* Whoever opens it may be a thread that somebody waits for. */
    ff_content_reader_hurry(under);
    ff_content_reader_until(under, g_get_monotonic_time() + OPEN_US);
    g_autoptr(FfInput) in = c->compressed ? input_over(under, &local) : NULL;
    if (c->compressed && !in) {
        /* What was changed is perhaps damaged, too. */
        if (ff_content_check(under, error)) {
            g_propagate_error(error, g_steal_pointer(&local));
        }
        return NULL;
    }
    Reader *r = g_new0(Reader, 1);
    r->base.content = c;
    r->under = g_steal_pointer(&under);
    r->in = g_steal_pointer(&in);
    return &r->base;
}

/* The first extent that ends after AT; NULL: none. */
static const Extent *extent_after(const GArray *map, uint64_t at)
{
    guint lo = 0, hi = map->len;

    while (lo < hi) {
        guint mid = (lo + hi) / 2;
        const Extent *e = &g_array_index(map, Extent, mid);
        if (e->start + e->len <= at) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < map->len ? &g_array_index(map, Extent, lo) : NULL;
}

/* Where what is AT is stored, *LEN bytes at most. FALSE: nowhere, they are zeros. */
static bool find_stored(const FfContent *c, uint64_t at, uint64_t *file, uint64_t *len)
{
    *file = at;
    if (!c->map) {
        return true;
    }
    const Extent *e = extent_after(c->map, at);
    if (!e || e->start > at) {
        *len = e ? MIN(*len, e->start - at) : *len;
        return false;
    }
    *file = e->file + (at - e->start);
    *len = MIN(*len, e->start + e->len - at);
    return true;
}

static bool find_extent(FfContentReader *r, uint64_t at, uint64_t *len, unsigned flags, bool *zero,
                        GError **error)
{
    uint64_t file;

    *zero = !find_stored(r->content, at, &file, len);
    return true;
}

static bool fill_image(FfContentReader *base, uint64_t at, void *buf, uint64_t len, unsigned flags,
                       GError **error)
{
    Reader *r = (Reader *)base;
    uint64_t file;

    find_stored(base->content, at, &file, &len);
    r->under->hurry = base->hurry;
    r->under->until = base->until;
    if (r->in) {
        bool done = !(flags & FF_CONTENT_NOWAIT) && ff_input_read(r->in, file, buf, len, error);
        if (!done) {
            ff_input_forget(r->in); /* it may be of a file that was changed */
        }
        return done;
    }
    if (base->content->where == FF_CONTENT_FAR && !(flags & FF_CONTENT_NOWAIT)) {
        return read_under(r->under, file, buf, len, error); /* the file need not be in blocks */
    }
    return r->under->content->ops->fill(r->under, file, buf, len, flags, error);
}

static bool check_image(FfContentReader *base, GError **error)
{
    Reader *r = (Reader *)base;
    FfContentReader *under = r->under;
    bool same = !under->content->ops->check || under->content->ops->check(under, error);

    if (!same && r->in) {
        ff_input_forget(r->in); /* the file may be put back */
    }
    return same;
}

static bool can_nowait(FfContentReader *base)
{
    Reader *r = (Reader *)base;

    return !r->in && r->under->content->ops->can_nowait &&
           r->under->content->ops->can_nowait(r->under);
}

static void close_image(FfContent *c)
{
    ff_content_free(image_of(c)->under);
    g_free(c);
}

static void rest(FfContent *c)
{
    ff_content_rest(image_of(c)->under);
}

static const FfContentOps image_ops = {
    .rest = rest,
    .close = close_image,
    .reader = open_reader,
    .reader_close = close_reader,
    .extent = find_extent,
    .fill = fill_image,
    .check = check_image,
    .can_nowait = can_nowait,
};

/* ---- opening --------------------------------------------------------------------------------- */

FfContent *ff_content_new_map(FfContent *under, GArray *map, uint64_t size)
{
    Image *i = g_new0(Image, 1);

    i->base = (FfContent){.ops = &image_ops,
                          .name = g_strdup(under->name),
                          .id = under->id,
                          .size = size,
                          .where = under->where,
                          .map = map};
    i->under = under;
    return &i->base;
}

typedef struct {
    GArray *map;
    uint64_t start, pages; /* of the block: in the content, in the file */
} Block;

static bool add_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    Block *b = opaque;
    Extent e = {b->start + first * FF_SAVED_PAGE, n * FF_SAVED_PAGE,
                b->pages + first * FF_SAVED_PAGE};

    g_array_append_val(b->map, e);
    return true;
}

static bool read_blocks(FfContent *c, const FfSaved *saved, GError **error)
{
    c->map = g_array_new(FALSE, FALSE, sizeof(Extent));
    c->size = 0;
    for (guint i = 0; i < saved->blocks->len; i++) {
        const FfSavedBlock *b = ff_saved_block(saved, i);
        Block block = {c->map, c->size, b->pages};
        if (ff_saved_block_is_outside(saved, b)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                        "%s: the memory of block %s is not in the file", c->name, b->name);
            return false;
        }
        if (!ff_mapped_runs(saved, b, add_run, &block, error)) {
            return false;
        }
        c->size += b->size;
    }
    return true;
}

/* What is in IN (taken), which reads C's file. */
static bool read_file(FfContent *c, FfInput *in, GError **error)
{
    g_autoptr(FfInput) own = in;
    int64_t offset;
    bool is_saved;

    c->compressed = ff_input_is_compressed(in);
    c->size = ff_input_size(in);
    if (!look_whether_saved(in, c->name, &offset, &is_saved, error)) {
        return false;
    }
    if (!is_saved) {
        return true;
    }
    g_autoptr(FfSaved) saved = open_saved(g_steal_pointer(&own), offset, c->name, error);
    return saved && (c->where == FF_CONTENT_FILE || make_digest(saved, &c->id.digest, error)) &&
           read_blocks(c, saved, error);
}

static bool is_pages(const FfContent *c, GError **error)
{
    if (c->size % FF_SAVED_PAGE) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: it is not whole pages; give the file with the memory, not that with the "
                    "state of the devices",
                    c->name);
        return false;
    }
    if (!c->size) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: there is nothing in it",
                    c->name);
    }
    return c->size;
}

/* C is nothing but what it stands on. */
static FfContent *take_under(FfContent *c)
{
    FfContent *under = image_of(c)->under;

    image_of(c)->under = NULL;
    return under;
}

/* A page of the sample that cannot be read now must not keep anybody from the others. */
static bool open_far_raw(FfContent *c, FfContentReader *r, const FfContentIdentity *known,
                         GError **error)
{
    c->id.digest = known ? known->digest : ff_content_sample(r);
    if (!c->id.digest) {
        return true; /* it cannot be known again */
    }
    c->upper = c;
    c->greet = ff_content_has_sample;
    return !known || ff_content_has_sample(c, r, error);
}

FfContent *ff_content_open_image(FfContent *under, const FfContentIdentity *known, GError **error)
{
    g_autoptr(FfContent) c = ff_content_new_map(under, NULL, 0);
    g_autoptr(FfContentReader) r = ff_content_reader(under, error);
    FfInput *in = r ? input_over(r, error) : NULL;

    if (!in || !read_file(c, in, error) || !is_pages(c, error)) {
        return NULL;
    }
    /* Its table was read of what was opened, also if that is put back later. */
    if (under->ops->check && !under->ops->check(r, error)) {
        return NULL;
    }
    if (!c->map && !c->compressed && c->where == FF_CONTENT_FAR) {
        return open_far_raw(under, r, known, error) ? take_under(c) : NULL;
    }
    if (known && known->digest != c->id.digest) {
        refuse_other(c, error);
        return NULL;
    }
    if (c->map || c->compressed) {
        under->upper = c;
        under->greet = c->id.digest ? is_same : NULL;
        /* After the digest the table was read: by the same connection, or by one to another file.
         */
        return !c->id.digest || is_same(c, r, error) ? g_steal_pointer(&c) : NULL;
    }
    return take_under(c);
}

/* The digest of the guest in what C is on, and that it is one. */
static bool know_saved(FfContent *c, FfInput *in, GError **error)
{
    g_autoptr(FfSaved) saved = open_saved(in, image_of(c)->offset, c->name, error);

    return saved && make_digest(saved, &c->id.digest, error);
}

FfContent *ff_content_open_saved(FfContent *under, int64_t offset, GError **error)
{
    g_autoptr(FfContent) c = ff_content_new_map(under, NULL, 0);
    g_autoptr(FfContentReader) r = ff_content_reader(under, error);
    FfInput *in = r ? input_over(r, error) : NULL;

    if (!in) {
        return NULL;
    }
    image_of(c)->wants_saved = true;
    image_of(c)->offset = offset;
    c->compressed = ff_input_is_compressed(in);
    c->size = ff_input_size(in);
    if (c->where != FF_CONTENT_FAR) {
        ff_input_free(in);
        return g_steal_pointer(&c); /* it has a time */
    }
    if (!know_saved(c, in, error)) {
        return NULL;
    }
    under->upper = c;
    under->greet = is_same;
    /* By a connection that was made before, or one to another file: once more. */
    return is_same(c, r, error) ? g_steal_pointer(&c) : NULL;
}

FfContent *ff_content_open_map(const char *path, GArray *map, uint64_t size,
                               const FfContentIdentity *known, GError **error)
{
    g_autoptr(GArray) own = map;
    FfContent *file = ff_content_open_file(path, known, error);

    return file ? ff_content_new_map(file, g_steal_pointer(&own), size) : NULL;
}

/* ---- places ---------------------------------------------------------------------------------- */

bool ff_content_place(FfContentReader *r, uint64_t at, uint64_t *file)
{
    const FfContent *c = r->content;
    uint64_t len = FF_SAVED_PAGE;
    bool zero = false;

    if (c->where != FF_CONTENT_FILE || at > c->size || len > c->size - at) {
        return false;
    }
    *file = at;
    if (!ff_content_extent(r, at, &len, 0, &zero, NULL) || zero || len < FF_SAVED_PAGE) {
        return false;
    }
    return !c->map || find_stored(c, at, file, &len);
}

bool ff_content_is_hole(FfContentReader *r, uint64_t at, uint64_t len)
{
    const FfContent *c = r->content;
    uint64_t some = len;
    bool zero = false;

    if (c->where != FF_CONTENT_FILE || at > c->size || len > c->size - at) {
        return false;
    }
    return ff_content_extent(r, at, &some, 0, &zero, NULL) && zero && some == len &&
           (!c->ops->check || c->ops->check(r, NULL));
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

bool ff_content_find(const FfContent *c, uint64_t *places, uint64_t n)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(Extent));

    if (c->map) {
        g_array_append_vals(all, c->map->data, c->map->len);
        g_array_sort(all, by_file);
    } else {
        Extent e = {0, c->size, 0};
        g_array_append_val(all, e);
    }
    for (uint64_t i = 0; i < n; i++) {
        if (!find_place(all, &places[i])) {
            return false;
        }
    }
    return true;
}
