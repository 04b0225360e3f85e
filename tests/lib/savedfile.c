/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes what QEMU writes, by the layout of its migration/common/ram.c and savevm.c; see
 * savedfile.h. An ordinary stream has page 3 of the first block twice, first with other contents,
 * as a live one.
 */
#include "tests/lib/savedfile.h"

#include <string.h>

#define MACHINE "pc-i440fx-7.2"
#define DESCRIPTION "{\"page_size\": 4096, \"devices\": [{\"name\": \"made up\"}]}"

enum { SECTION = 2, MIB = 1 << 20 };

static const struct {
    const char *name;
    uint32_t pages;
} blocks[] = {{"pc.ram", SAVEDFILE_PAGES}, {"/rom@etc/table", SAVEDFILE_SMALL}};

bool savedfile_has_data(unsigned block, uint64_t page)
{
    return block ? page == 1 : page % 3 == 0;
}

void savedfile_fill(unsigned block, uint64_t page, uint8_t bytes[SAVEDFILE_PAGE])
{
    for (unsigned i = 0; i < SAVEDFILE_PAGE; i++) {
        bytes[i] = 1 + (block * 7 + page * 13 + i / 64) % 255;
    }
}

static void put(GByteArray *b, const void *data, size_t n)
{
    g_byte_array_append(b, data, n);
}

static void put_number(GByteArray *b, uint64_t value, unsigned n)
{
    while (n--) {
        uint8_t byte = value >> (8 * n);

        put(b, &byte, 1);
    }
}

static void put_text(GByteArray *b, const char *text)
{
    put_number(b, strlen(text), 1);
    put(b, text, strlen(text));
}

static void put_zeros(GByteArray *b, size_t to)
{
    size_t from = b->len;

    g_byte_array_set_size(b, to);
    if (to > from) { /* an empty array has no data */
        memset(b->data + from, 0, to - from);
    }
}

static void put_at(SavedFile *f, uint32_t at, uint64_t value, unsigned n)
{
    while (n--) {
        f->bytes->data[at++] = value >> (8 * n);
    }
}

void savedfile_put32(SavedFile *f, uint32_t at, uint32_t value)
{
    put_at(f, at, value, 4);
}

void savedfile_put64(SavedFile *f, uint32_t at, uint64_t value)
{
    put_at(f, at, value, 8);
}

static void put_capability(SavedFile *f, const SavedFileKind *k)
{
    if (!k->mapped && !k->shared) {
        return;
    }
    put_number(f->bytes, 5, 1);
    put_text(f->bytes, "configuration/capabilities");
    put_number(f->bytes, 1, 4);
    put_number(f->bytes, k->mapped && k->shared ? 2 : 1, 4);
    if (k->shared) {
        put_text(f->bytes, "x-ignore-shared");
    }
    if (k->mapped) {
        put_text(f->bytes, "mapped-ram");
    }
}

static void put_footer(SavedFile *f, const SavedFileKind *k)
{
    if (!k->no_footers) {
        put_number(f->bytes, 0x7e, 1);
        put_number(f->bytes, SECTION, 4);
    }
}

static void put_mapped_block(SavedFile *f, const SavedFileKind *k, unsigned block)
{
    GByteArray *b = f->bytes;
    uint32_t n = blocks[block].pages, bitmap = b->len + 28, size = (n + 63) / 64 * 8;
    uint32_t pages = (bitmap + size + MIB - 1) / MIB * MIB;
    bool outside = k->shared && !block;

    put_number(b, 1, 4);
    put_number(b, SAVEDFILE_PAGE, 8);
    put_number(b, outside ? 0 : bitmap, 8);
    put_number(b, outside ? 0 : pages, 8);
    if (outside) {
        return;
    }
    put_zeros(b, pages + n * SAVEDFILE_PAGE);
    for (uint32_t i = 0; i < n; i++) {
        if (savedfile_has_data(block, i)) {
            b->data[bitmap + i / 8] |= 1 << (i % 8);
            savedfile_fill(block, i, b->data + pages + i * SAVEDFILE_PAGE);
        }
    }
}

static void put_table(SavedFile *f, const SavedFileKind *k)
{
    f->total = f->bytes->len;
    put_number(f->bytes, (SAVEDFILE_PAGES + SAVEDFILE_SMALL) * SAVEDFILE_PAGE | 4, 8);
    for (unsigned i = 0; i < G_N_ELEMENTS(blocks); i++) {
        *(i ? &f->second : &f->block) = f->bytes->len;
        put_text(f->bytes, blocks[i].name);
        put_number(f->bytes, blocks[i].pages * SAVEDFILE_PAGE, 8);
        if (k->shared) {
            put_number(f->bytes, 0, 8);
        }
        if (!i) {
            f->header = f->bytes->len;
        }
        if (k->mapped) {
            put_mapped_block(f, k, i);
        }
    }
}

static void put_page(SavedFile *f, unsigned block, uint64_t page, bool first, uint8_t xor)
{
    bool data = savedfile_has_data(block, page);
    uint8_t bytes[SAVEDFILE_PAGE];

    put_number(f->bytes, page * SAVEDFILE_PAGE | (data ? 8 : 2) | (first ? 0 : 0x20), 8);
    if (first) {
        put_text(f->bytes, blocks[block].name);
    }
    savedfile_fill(block, page, bytes);
    bytes[0] ^= xor;
    put(f->bytes, data ? bytes : (const uint8_t *)"", data ? sizeof(bytes) : 1);
}

static void put_pages(SavedFile *f, const SavedFileKind *k)
{
    put_number(f->bytes, 2, 1);
    put_number(f->bytes, SECTION, 4);
    f->records = f->bytes->len;
    for (unsigned i = k->shared; i < G_N_ELEMENTS(blocks); i++) {
        for (uint32_t page = 0; page < blocks[i].pages; page++) {
            put_page(f, i, page, !page, !i && page == 3);
        }
    }
    if (!k->shared) {
        put_page(f, 0, 3, true, 0);
    }
    put_number(f->bytes, 0x10, 8);
    put_footer(f, k);
}

static void put_device(SavedFile *f, const SavedFileKind *k)
{
    put_number(f->bytes, 4, 1);
    put_number(f->bytes, 9, 4);
    put_text(f->bytes, "made up");
    put_number(f->bytes, 0, 4);
    put_number(f->bytes, 1, 4);
    put(f->bytes, SAVEDFILE_DEVICE, sizeof(SAVEDFILE_DEVICE));
    put_footer(f, k);
}

static void put_end(SavedFile *f, const SavedFileKind *k)
{
    if (k->switchover) {
        put(f->bytes, "\10\0\13\0\0", 5);
    }
    if (!k->background) {
        put_number(f->bytes, 3, 1);
        put_number(f->bytes, SECTION, 4);
        put_number(f->bytes, 0x10, 8);
        put_footer(f, k);
    }
}

SavedFile savedfile_new(const SavedFileKind *k)
{
    SavedFile f = {.bytes = g_byte_array_new()};

    put_zeros(f.bytes, k->prefix);
    put(f.bytes, "QEVM\0\0\0\3\7", 9);
    f.machine = f.bytes->len;
    put_number(f.bytes, strlen(MACHINE), 4);
    put(f.bytes, MACHINE, strlen(MACHINE));
    put_capability(&f, k);
    f.sections = f.bytes->len;
    put(f.bytes, "\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4", 17);
    put_table(&f, k);
    put_number(f.bytes, 0x10, 8);
    put_footer(&f, k);
    f.tail = f.bytes->len;
    if (k->early) {
        put_device(&f, k);
    }
    if (!k->mapped) {
        put_pages(&f, k);
    }
    put_end(&f, k);
    if (!k->early) {
        f.tail = f.bytes->len;
    }
    put_device(&f, k);
    put_number(f.bytes, 0, 1);
    put_number(f.bytes, 6, 1);
    f.description = f.bytes->len;
    put_number(f.bytes, strlen(DESCRIPTION), 4);
    put(f.bytes, DESCRIPTION, strlen(DESCRIPTION));
    return f;
}

void savedfile_clear(SavedFile *f)
{
    g_clear_pointer(&f->bytes, g_byte_array_unref);
}
