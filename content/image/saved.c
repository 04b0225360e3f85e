/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading the head of a saved guest's file: header, configuration, table of blocks; see saved.h.
 *
 * QEMU does not compare what a mapped-ram file says with itself. We do: each bitmap must stand
 * right after its header, the pages after the bitmap and the next block after the pages, so no two
 * tables can overlap, and nothing is allocated by what a number in the file says.
 *
 * System calls: none.
 */
#include "content/image/saved.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <string.h>

#define STREAM_MAGIC 0x5145564du /* "QEVM" */
#define STREAM_VERSION 3
#define RAM_VERSION 4
#define MAPPED_VERSION 1
#define MACHINE_MAX 255 /* bytes of its name */
#define LIMIT_CAPABILITIES 64
#define LIMIT_BLOCKS 4096

/* Commands of a migration over a connection; in a file they say nothing. */
enum { COMMAND_PING = 2, COMMAND_POSTCOPY_ADVISE = 3 };

/* Head of an image of "virsh save", in the byte order of the host; then DATA_LEN bytes of XML. */
typedef struct {
    char magic[16];
    uint32_t version, data_len, was_running, format, cookie_offset, unused[14];
} LibvirtHeader;
_Static_assert(sizeof(LibvirtHeader) == 92, "libvirt's header");

#define LIBVIRT_WHOLE "LibvirtQemudSave"
#define LIBVIRT_PART "LibvirtQemudPart" /* it becomes the other one when all is written */

/* LibvirtHeader.format. libvirt gives QEMU the capability mapped-ram for sparse alone. */
enum { RAW = 0, SPARSE = 6 };

/* Of LibvirtHeader.format: which program has packed the stream. NULL: it stands there as it is. */
static const char *const packers[] = {
    [1] = "gzip", [2] = "bzip2", [3] = "xz", [4] = "lzop", [5] = "zstd", [SPARSE] = NULL};

bool ff_saved_has_capability(const FfSaved *s, const char *name)
{
    return g_ptr_array_find_with_equal_func(s->capabilities, name, g_str_equal, NULL);
}

bool ff_saved_block_is_outside(const FfSaved *s, const FfSavedBlock *b)
{
    return s->form == FF_SAVED_MAPPED && !b->bitmap && !b->pages;
}

static void block_clear(FfSavedBlock *b)
{
    g_free(b->name);
}

void ff_saved_free(FfSaved *s)
{
    if (!s) {
        return;
    }
    ff_input_free(s->in);
    g_array_unref(s->blocks);
    g_ptr_array_unref(s->capabilities);
    g_free(s->machine);
    g_free(s);
}

static char *short_text(FfCursor *c, const char *what)
{
    return ff_cursor_text(c, ff_cursor_u8(c), what);
}

static bool has_magic(const LibvirtHeader *h, const char *magic)
{
    return !memcmp(h->magic, magic, sizeof(h->magic));
}

/* Where the stream begins: 0, or after the header of libvirt's. H: that header, zeros if there is
 * none. */
static uint64_t look_for_begin(FfInput *in, LibvirtHeader *h)
{
    if (ff_input_size(in) < sizeof(*h) || !ff_input_read(in, 0, h, sizeof(*h), NULL) ||
        !(has_magic(h, LIBVIRT_WHOLE) || has_magic(h, LIBVIRT_PART))) {
        memset(h, 0, sizeof(*h));
        return 0;
    }
    return sizeof(*h) + (uint64_t)h->data_len;
}

/* What libvirt itself would not restore, or not as it stands there. */
static void check_libvirt(const LibvirtHeader *h, FfCursor *c)
{
    const char *packer = h->format < G_N_ELEMENTS(packers) ? packers[h->format] : NULL;

    if (has_magic(h, LIBVIRT_PART)) {
        ff_cursor_fail(c,
                       "libvirt has not finished it, and its guest may still run: save it again, "
                       "or, if that guest is gone, name the offset: %" PRIu64,
                       c->at);
    } else if (packer) {
        ff_cursor_fail(c,
                       "libvirt packed it with %s: unpack it first "
                       "(tail -c +%" PRIu64 " FILE | %s -dc >NEW)",
                       packer, c->at + 1, packer);
    }
}

uint8_t *ff_saved_libvirt_header(const FfSaved *s, FfSavedForm form, bool *sparse, GError **error)
{
    LibvirtHeader h;

    if (look_for_begin(s->in, &h) != s->offset || !s->offset) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s: no image of libvirt's, or its stream does not begin at byte %" PRIu64,
                    ff_input_path(s->in), s->offset);
        return NULL;
    }
    g_autofree uint8_t *header = g_malloc(s->offset);
    if (!ff_input_read(s->in, 0, header, s->offset, error)) {
        return NULL;
    }
    *sparse = form == FF_SAVED_MAPPED && h.format == SPARSE;
    h.format = *sparse ? SPARSE : RAW;
    memcpy(header, &h, sizeof(h));
    return g_steal_pointer(&header);
}

/* ---- configuration --------------------------------------------------------------------------- */

static void read_capabilities(FfSaved *s, FfCursor *c)
{
    uint32_t n = ff_cursor_u32(c);

    if (n > LIMIT_CAPABILITIES) {
        ff_cursor_fail(c, "damaged: %" PRIu32 " capabilities", n);
    }
    for (uint32_t i = 0; i < n && !c->error; i++) {
        char *name = short_text(c, "the name of a capability");

        if (name) {
            g_ptr_array_add(s->capabilities, name);
        }
    }
}

static void read_subsection(FfSaved *s, FfCursor *c)
{
    g_autofree char *name = short_text(c, "the name of a part of the configuration");
    uint32_t version = ff_cursor_u32(c);

    if (c->error) {
        return;
    }
    if (version != 1) {
        ff_cursor_fail(c, "%s of version %" PRIu32 " is not known", name, version);
    } else if (!strcmp(name, "configuration/capabilities")) {
        read_capabilities(s, c);
    } else if (!strcmp(name, "configuration/uuid")) {
        const uint8_t *uuid = ff_cursor_bytes(c, sizeof(s->uuid));

        if (uuid) {
            memcpy(s->uuid, uuid, sizeof(s->uuid));
            s->has_uuid = true;
        }
    } else {
        ff_cursor_fail(c, "%s: not of a PC (x86)", name);
    }
}

/* Leaves C at the first section. */
static bool read_configuration(FfSaved *s, FfCursor *c)
{
    uint32_t magic = ff_cursor_u32(c), version = ff_cursor_u32(c);

    if (c->error && !g_error_matches(c->error, G_IO_ERROR, G_IO_ERROR_PARTIAL_INPUT)) {
        return false; /* it could not be read: what it is nobody knows */
    }
    if (c->error || magic != STREAM_MAGIC) {
        g_clear_error(&c->error);
        ff_cursor_fail(c,
                       "no saved guest: no migration stream of QEMU's at byte %" PRIu64
                       ": if it begins elsewhere in the file, give that byte (--offset, or "
                       "--in-offset of convert)",
                       s->offset);
        return false;
    }
    if (version != STREAM_VERSION) {
        ff_cursor_fail(c, "a migration stream of version %" PRIu32 ", not %d", version,
                       STREAM_VERSION);
        return false;
    }
    if (ff_cursor_u8(c) != FF_SECTION_CONFIGURATION) {
        ff_cursor_fail(c, "no configuration section: the machine type is older than 2.4");
        return false;
    }
    uint32_t n = ff_cursor_u32(c);
    if (n > MACHINE_MAX) {
        ff_cursor_fail(c, "damaged: the machine's name has %" PRIu32 " bytes", n);
    }
    s->machine = c->error ? NULL : ff_cursor_text(c, n, "the machine's name");
    while (!c->error && ff_cursor_u8(c) == FF_SECTION_SUBSECTION && !c->error) {
        read_subsection(s, c);
    }
    c->at--;
    if (ff_saved_has_capability(s, "mapped-ram")) {
        s->form = FF_SAVED_MAPPED;
    }
    return !c->error;
}

/* ---- table of blocks ------------------------------------------------------------------------- */

/* After the block's name and size. Leaves C where the next block begins. */
static void read_mapped_header(const FfSaved *s, FfSavedBlock *b, FfCursor *c)
{
    uint32_t version = ff_cursor_u32(c);
    uint64_t page = ff_cursor_u64(c), bitmap = ff_cursor_u64(c), pages = ff_cursor_u64(c);
    uint64_t bitmap_end = c->at + (b->size / FF_SAVED_PAGE + 63) / 64 * 8,
             size = ff_input_size(s->in);

    if (c->error) {
        return;
    }
    if (version != MAPPED_VERSION || page != FF_SAVED_PAGE) {
        ff_cursor_fail(c,
                       "block '%s': mapped-ram version %" PRIu32 " with pages of %" PRIu64
                       " bytes is not known",
                       b->name, version, page);
    } else if (!bitmap && !pages && ff_saved_has_capability(s, "x-ignore-shared")) {
        return;
    } else if (bitmap != c->at) {
        ff_cursor_fail(c,
                       "block '%s': its bitmap should be at byte %" PRIu64
                       " and is said to be at %" PRIu64 ": damaged, or moved in its file",
                       b->name, c->at, bitmap);
    } else if (pages < bitmap_end || pages % FF_SAVED_PAGE) {
        ff_cursor_fail(c,
                       "damaged: block '%s': its pages are said to be at byte %" PRIu64
                       ", its bitmap ends at %" PRIu64,
                       b->name, pages, bitmap_end);
    } else if (pages > size || b->size > size - pages) {
        ff_cursor_fail(c,
                       "the file is cut: it ends at byte %" PRIu64 ", in the memory of block '%s'",
                       size, b->name);
    } else {
        b->bitmap = bitmap;
        b->pages = pages;
        c->at = pages + b->size;
    }
}

static bool has_block(const FfSaved *s, const char *name)
{
    for (guint i = 0; i < s->blocks->len; i++) {
        if (!strcmp(ff_saved_block(s, i)->name, name)) {
            return true;
        }
    }
    return false;
}

/* LEFT: bytes of memory that are not in a block yet. */
static void read_block(FfSaved *s, uint64_t left, FfCursor *c)
{
    FfSavedBlock b = {.name = short_text(c, "the name of a block"), .size = ff_cursor_u64(c)};

    if (!c->error && (!b.size || b.size % FF_SAVED_PAGE || b.size > left)) {
        ff_cursor_fail(c, "damaged: block '%s' of %" PRIu64 " bytes, where %" PRIu64 " are left",
                       b.name, b.size, left);
    }
    if (!c->error && (s->blocks->len >= LIMIT_BLOCKS || has_block(s, b.name))) {
        ff_cursor_fail(c, "damaged: block '%s' twice, or too many blocks", b.name);
    }
    if (ff_saved_has_capability(s, "x-ignore-shared")) {
        b.address = ff_cursor_u64(c);
    }
    if (!c->error && s->form == FF_SAVED_MAPPED) {
        read_mapped_header(s, &b, c);
    }
    if (c->error) {
        block_clear(&b);
        return;
    }
    s->memory += b.size;
    g_array_append_val(s->blocks, b);
}

static void read_blocks(FfSaved *s, FfCursor *c)
{
    uint64_t total = ff_cursor_u64(c);

    if (!c->error && (total & (FF_SAVED_PAGE - 1)) != FF_RECORD_TABLE) {
        ff_cursor_fail(c, "damaged: no table of blocks at byte %" PRIu64, c->at - 8);
    }
    total &= ~(FF_SAVED_PAGE - 1);
    if (!c->error && (!total || total > FF_SAVED_MEMORY_MAX)) {
        ff_cursor_fail(c, "damaged: %" PRIu64 " bytes of memory", total);
    }
    while (!c->error && s->memory < total) {
        read_block(s, total - s->memory, c);
    }
}

/* In front of "ram". */
static void read_command(FfCursor *c)
{
    uint16_t command = ff_cursor_u16(c), n = ff_cursor_u16(c);

    if (command == COMMAND_POSTCOPY_ADVISE && n == 16) {
        /* Huge pages have one field more in the table of blocks. */
        if (ff_cursor_u64(c) != FF_SAVED_PAGE && !c->error) {
            ff_cursor_fail(c, "was saved with postcopy-ram on, and huge pages: cannot be read");
        }
        ff_cursor_u64(c);
    } else if (command == FF_COMMAND_OPEN_RETURN_PATH || command == COMMAND_PING ||
               command == COMMAND_POSTCOPY_ADVISE) {
        ff_cursor_bytes(c, n);
    } else {
        ff_cursor_fail(c, "command %u in front of the memory is not known", command);
    }
}

static void read_start(FfSaved *s, FfCursor *c)
{
    s->section = ff_cursor_u32(c);
    g_autofree char *name = short_text(c, "the name of a section");
    uint32_t instance = ff_cursor_u32(c), version = ff_cursor_u32(c);

    if (c->error) {
        return;
    }
    if (strcmp(name, "ram") != 0 || instance || version != RAM_VERSION) {
        ff_cursor_fail(c, "section '%s' of version %" PRIu32 " stands in front of the memory", name,
                       version);
        return;
    }
    read_blocks(s, c);
    s->records = c->at;
}

static void read_head(FfSaved *s, FfCursor *c)
{
    if (!read_configuration(s, c)) {
        return;
    }
    while (!c->error) {
        uint8_t type = ff_cursor_u8(c);

        if (type == FF_SECTION_COMMAND) {
            read_command(c);
        } else if (type == FF_SECTION_START) {
            read_start(s, c);
            return;
        } else {
            ff_cursor_fail(c, "a section of type %u stands in front of the memory", type);
        }
    }
}

int ff_saved_find(const FfSaved *s, const char *backend)
{
    int found = -1;

    for (guint i = 0; i < s->blocks->len; i++) {
        const char *name = ff_saved_block(s, i)->name, *slash = strrchr(name, '/');

        if (!strcmp(name, backend)) {
            return (int)i;
        }
        if (slash && !strcmp(slash + 1, backend)) {
            found = found == -1 ? (int)i : -2;
        }
    }
    return found;
}

FfSaved *ff_saved_open(FfInput *in, int64_t offset, GError **error)
{
    g_autoptr(FfSaved) s = g_new0(FfSaved, 1);
    g_auto(FfCursor) c = {0};
    LibvirtHeader libvirt = {0};

    s->in = in;
    s->capabilities = g_ptr_array_new_with_free_func(g_free);
    s->blocks = g_array_new(FALSE, FALSE, sizeof(FfSavedBlock));
    g_array_set_clear_func(s->blocks, (GDestroyNotify)block_clear);
    s->offset = offset < 0 ? look_for_begin(in, &libvirt) : (uint64_t)offset;
    ff_cursor_init(&c, in, s->offset);
    check_libvirt(&libvirt, &c);
    if (!c.error) {
        read_head(s, &c);
    }
    if (c.error) {
        g_propagate_error(error, g_steal_pointer(&c.error));
        if (!s->machine) {
            return NULL;
        }
    }
    return g_steal_pointer(&s);
}
