/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CRIU's images; see criu.h. A file is two magic numbers, and then messages of protobuf, each after
 * its length (32 bits of the host). No state; any thread. No system calls of its own.
 */
#include "pager/server/criu.h"

#include <gio/gio.h>
#include <string.h>

#define COMMON_MAGIC 0x54564319u
#define PAGEMAP_MAGIC 0x56084025u
#define MM_MAGIC 0x57492820u
#define PAGE 4096ull
#define ADDRESS_END (1ull << 56)
#define IMAGE_MAX (256ull << 20)
/* Of an entry of pagemap. */
#define IN_PARENT 1u
#define LAZY 2u
#define PRESENT 4u

static bool fail_image(GError **error, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "CRIU's images: %s", what);
    return false;
}

/* ---- protobuf -------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at, *end;
    bool bad;
} Bytes;

static uint64_t read_varint(Bytes *b)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64 && b->at < b->end; shift += 7) {
        uint8_t byte = *b->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            return value;
        }
    }
    b->bad = true;
    return 0;
}

static Bytes read_part(Bytes *b, uint64_t len)
{
    if (len > (uint64_t)(b->end - b->at)) {
        b->bad = true;
        len = 0;
    }
    Bytes some = {b->at, b->at + len, false};
    b->at += len;
    return some;
}

typedef struct {
    uint32_t number;
    uint64_t value;
    Bytes bytes; /* of a message in the message */
} Field;

/* FALSE: the end, or it is bad. */
static bool next_field(Bytes *b, Field *f)
{
    if (b->bad || b->at == b->end) {
        return false;
    }
    uint64_t key = read_varint(b);
    *f = (Field){.number = (uint32_t)(key >> 3)};
    switch (key & 7) {
    case 0:
        f->value = read_varint(b);
        break;
    case 1:
        read_part(b, 8);
        break;
    case 2:
        f->bytes = read_part(b, read_varint(b));
        break;
    case 5:
        read_part(b, 4);
        break;
    default:
        b->bad = true;
    }
    return !b->bad;
}

static uint32_t read_u32(Bytes *b)
{
    uint32_t value = 0;
    Bytes some = read_part(b, sizeof(value));

    if (!b->bad) {
        memcpy(&value, some.at, sizeof(value));
    }
    return value;
}

static bool next_message(Bytes *b, Bytes *message)
{
    if (b->bad || b->at == b->end) {
        return false;
    }
    *message = read_part(b, read_u32(b));
    return !b->bad;
}

static Bytes begin_image(const uint8_t *data, size_t len, uint32_t magic)
{
    Bytes b = {data, data + len, false};

    b.bad = read_u32(&b) != COMMON_MAGIC || read_u32(&b) != magic;
    return b;
}

/* ---- mappings -------------------------------------------------------------------------------- */

typedef struct {
    uint64_t start, end;
} Mapping;

static bool read_mappings(const uint8_t *mm, size_t len, GArray *mappings, GError **error)
{
    enum { VMAS = 14, START = 1, END = 2 };
    Bytes file = begin_image(mm, len, MM_MAGIC), message, vma;
    Field f, g;
    uint64_t last = 0;

    if (!next_message(&file, &message)) {
        return fail_image(error, "mm is damaged");
    }
    while (next_field(&message, &f)) {
        Mapping m = {0};
        if (f.number != VMAS) {
            continue;
        }
        for (vma = f.bytes; next_field(&vma, &g);) {
            m.start = g.number == START ? g.value : m.start;
            m.end = g.number == END ? g.value : m.end;
        }
        if (vma.bad || m.start < last || m.end <= m.start) {
            return fail_image(error, "a mapping of mm is damaged");
        }
        last = m.end;
        g_array_append_val(mappings, m);
    }
    return !message.bad || fail_image(error, "mm is damaged");
}

/* ---- pages ----------------------------------------------------------------------------------- */

typedef struct {
    uint64_t addr, pages;
    uint32_t flags;
    bool has_flags, in_parent;
} Entry;

static bool read_entry(Bytes *b, Entry *e)
{
    Field f;

    *e = (Entry){0};
    while (next_field(b, &f)) {
        switch (f.number) {
        case 1:
            e->addr = f.value;
            break;
        case 2: /* what older ones have alone */
            e->pages = e->pages ? e->pages : f.value;
            break;
        case 3:
            e->in_parent = f.value;
            break;
        case 4:
            e->flags = (uint32_t)f.value;
            e->has_flags = true;
            break;
        case 5:
            e->pages = f.value;
            break;
        }
    }
    if (!e->has_flags) {
        e->flags = e->in_parent ? IN_PARENT : PRESENT;
    }
    return !b->bad && e->pages && e->addr % PAGE == 0 && e->addr < ADDRESS_END &&
           e->pages <= (ADDRESS_END - e->addr) / PAGE;
}

/* E, cut where a mapping ends: nothing can be placed over that. */
static bool add_ranges(FfCriu *c, const GArray *mappings, guint *i, const Entry *e, uint64_t offset)
{
    uint64_t at = e->addr, end = e->addr + e->pages * PAGE;

    while (at < end) {
        while (*i < mappings->len && g_array_index(mappings, Mapping, *i).end <= at) {
            (*i)++;
        }
        if (*i == mappings->len || g_array_index(mappings, Mapping, *i).start > at) {
            return false;
        }
        uint64_t stop = MIN(end, g_array_index(mappings, Mapping, *i).end);
        FfCriuRange r = {at, stop - at, offset + (at - e->addr)};
        g_array_append_val(c->ranges, r);
        at = stop;
    }
    return true;
}

/* Can its pages be had? */
static bool is_there(const Entry *e, bool elsewhere, GError **error)
{
    if (e->flags & IN_PARENT) {
        return fail_image(error,
                          "some pages are in an earlier dump (--prev-images-dir), which is not "
                          "supported: make a full one");
    }
    /* CRIU's page_xfer_dump_pages() leaves this out of what it keeps for its page server. */
    if (elsewhere && e->flags & PRESENT) {
        return fail_image(error,
                          "its pages are in the images, as criu dump was not given --lazy-pages: "
                          "leave --page-server out");
    }
    return elsewhere || e->flags & PRESENT ||
           fail_image(error,
                      "some pages are not in the images, but with criu dump --lazy-pages: give "
                      "--page-server HOST:PORT");
}

static bool add_entry(FfCriu *c, const GArray *mappings, guint *i, const Entry *e, bool elsewhere,
                      uint64_t *file, GArray *extents, uint64_t *size, GError **error)
{
    uint64_t len = e->pages * PAGE;

    if (e->flags & LAZY) {
        FfContentExtent x = {*size, len, *file};
        if (!is_there(e, elsewhere, error)) {
            return false;
        }
        if (!add_ranges(c, mappings, i, e, *size)) {
            return fail_image(error, "pagemap has pages where mm has no mapping");
        }
        g_array_append_val(extents, x);
        *size += len;
    }
    *file += e->flags & PRESENT ? len : 0;
    return true;
}

bool ff_criu_parse(FfCriu *c, bool elsewhere, const uint8_t *pagemap, size_t pagemap_len,
                   const uint8_t *mm, size_t mm_len, uint32_t *pages_id, GArray *extents,
                   uint64_t *size, GError **error)
{
    g_autoptr(GArray) mappings = g_array_new(FALSE, FALSE, sizeof(Mapping));
    Bytes file = begin_image(pagemap, pagemap_len, PAGEMAP_MAGIC), message;
    uint64_t at = 0, last = 0;
    guint i = 0;
    Field f;
    Entry e;

    c->ranges = g_array_new(FALSE, FALSE, sizeof(FfCriuRange));
    *size = *pages_id = 0;
    if (!read_mappings(mm, mm_len, mappings, error)) {
        return false;
    }
    if (!next_message(&file, &message)) {
        return fail_image(error, "pagemap is damaged");
    }
    while (next_field(&message, &f)) {
        *pages_id = f.number == 1 ? (uint32_t)f.value : *pages_id;
    }
    while (next_message(&file, &message)) {
        if (!read_entry(&message, &e) || e.addr < last) {
            return fail_image(error, "an entry of pagemap is damaged");
        }
        last = e.addr + e.pages * PAGE;
        if (!add_entry(c, mappings, &i, &e, elsewhere, &at, extents, size, error)) {
            return false;
        }
    }
    return !file.bad || fail_image(error, "pagemap is damaged");
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool read_image(const char *path, GByteArray *data, FfInputStamp *stamp, GError **error)
{
    g_autoptr(FfInput) in = ff_input_open(path, error);

    if (!in) {
        return false;
    }
    uint64_t size = ff_input_size(in);
    if (size > IMAGE_MAX) {
        return fail_image(error, "an image is too large");
    }
    g_byte_array_set_size(data, (guint)size);
    return ff_input_read(in, 0, data->data, size, error) &&
           (ff_input_stamp(in, stamp) ||
            fail_image(error, "an image cannot be asked for its size"));
}

/* All but the source, which is EXTENTS of image *ID. */
static bool open_images(FfCriu *c, bool elsewhere, int dir, int pid, uint32_t *id, GArray *extents,
                        uint64_t *size, GError **error)
{
    g_autofree char *pagemap = g_strdup_printf("/proc/self/fd/%d/pagemap-%d.img", dir, pid);
    g_autofree char *mm = g_strdup_printf("/proc/self/fd/%d/mm-%d.img", dir, pid);
    g_autoptr(GByteArray) map_data = g_byte_array_new(), mm_data = g_byte_array_new();
    FfInputStamp unused;

    return read_image(pagemap, map_data, &c->stamp, error) &&
           read_image(mm, mm_data, &unused, error) &&
           ff_criu_parse(c, elsewhere, map_data->data, map_data->len, mm_data->data, mm_data->len,
                         id, extents, size, error);
}

bool ff_criu_open(FfCriu *c, int dir, int pid, const FfContentIdentity *pages, GError **error)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(FfContentExtent));
    uint32_t id;
    uint64_t size;

    if (!open_images(c, false, dir, pid, &id, extents, &size, error)) {
        return false;
    }
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d/pages-%u.img", dir, id);
    c->source = ff_content_open_map(path, g_steal_pointer(&extents), size, pages, error);
    return c->source;
}

bool ff_criu_open_lazy(FfCriu *c, int dir, int pid, uint64_t *size, GError **error)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(FfContentExtent));
    uint32_t id;

    return open_images(c, true, dir, pid, &id, extents, size, error);
}

void ff_criu_clear(FfCriu *c)
{
    g_clear_pointer(&c->ranges, g_array_unref);
    g_clear_pointer(&c->source, ff_content_free);
}
