/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The dumps of both sides of a migration, as a recovery and farfault join read them: any files are
 * read or refused in one line; what is made of two halves has each page of the half that holds it,
 * and what a pager is told to take for zeros is zeros.
 *
 * The input: a byte of what is made right (FIX_*), then parts of files. A part: which file (the
 * highest bit is the half), at which 4 KiB of it, how many bytes (2, little-endian), and those.
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content/image/dump-join.h"
#include "content/image/mapped.h"
#include "content/image/pageset.h"
#include "content/image/xxh64.h"
#include "migration/destination/dump-fit.h"

enum {
    FIX_SEAL = 1, /* the description has the sums of the lists that are there, and its own */
    FIX_SUMS = 2, /* memory is as long as the description says, and so is its list of sums */
};

/* What is read for an input, at most: larger guests are for the unit tests. */
#define MEMORY_MAX (4u << 20)

#define N_BLOCKS 3
static const char *const names[] = {"dump",     "device-state", "0.memory", "0.pages",
                                    "0.sums",   "1.memory",     "1.pages",  "1.sums",
                                    "2.memory", "2.pages",      "2.sums"};
static const char *const halves[] = {"SOURCE", "DESTINATION"};
static char *folder;
static int dirs[2];

static void remove_folder(void)
{
    for (unsigned h = 0; h < 2; h++) {
        g_autofree char *path = g_build_filename(folder, halves[h], NULL);

        for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
            unlinkat(dirs[h], names[i], 0);
        }
        g_rmdir(path);
    }
    g_rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    folder = g_strdup("/dev/shm/ff-fuzz-dump-XXXXXX");
    g_assert_nonnull(g_mkdtemp(folder));
    for (unsigned h = 0; h < 2; h++) {
        g_autofree char *path = g_build_filename(folder, halves[h], NULL);

        g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
        dirs[h] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        g_assert_cmpint(dirs[h], >=, 0);
    }
    atexit(remove_folder);
    return 0;
}

/* ---- the files ------------------------------------------------------------------------------- */

static void write_part(int dir, const char *name, uint64_t at, const void *data, size_t n)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, data, n, (off_t)at), ==, (ssize_t)n);
    close(fd);
}

static void write_files(const uint8_t *data, size_t size)
{
    for (unsigned h = 0; h < 2; h++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
            unlinkat(dirs[h], names[i], 0);
        }
    }
    while (size > 4) {
        size_t n = MIN(size - 4, (size_t)(data[2] | data[3] << 8));

        write_part(dirs[data[0] >> 7], names[(data[0] & 0x7f) % G_N_ELEMENTS(names)],
                   data[1] * 4096ull, data + 4, n);
        data += 4 + n;
        size -= 4 + n;
    }
}

/* All of a file (g_free); NULL: it is not there. */
static uint8_t *read_file(int dir, const char *name, size_t *n)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0) {
        return NULL;
    }
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    uint8_t *data = g_malloc0((size_t)st.st_size + 1);
    g_assert_cmpint(read(fd, data, (size_t)st.st_size), ==, st.st_size);
    close(fd);
    *n = (size_t)st.st_size;
    return data;
}

static void set_sum(GKeyFile *about, const char *group, const char *key, int dir, const char *name)
{
    size_t n;
    g_autofree uint8_t *data = read_file(dir, name, &n);

    if (data) {
        g_autofree char *sum = g_strdup_printf("%016" G_GINT64_MODIFIER "x", ff_xxh64(data, n, 0));

        g_key_file_set_string(about, group, key, sum);
    }
}

/* The memory of a block, and the list of its sums. */
static void fix_memory(GKeyFile *about, const char *group, int dir, const char *memory,
                       const char *sums)
{
    uint64_t size = g_key_file_get_uint64(about, group, "size", NULL);
    size_t n;

    if (!size || size > MEMORY_MAX) {
        return;
    }
    write_part(dir, memory, 0, NULL, 0);
    write_part(dir, sums, 0, NULL, 0);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d/%s", dir, memory);
    g_assert_cmpint(truncate(path, (off_t)size), ==, 0);
    g_autofree uint8_t *data = read_file(dir, memory, &n);
    for (uint64_t at = 0; at < size; at += FF_DUMP_PIECE) {
        uint64_t sum = ff_xxh64(data + at, MIN(FF_DUMP_PIECE, size - at), 0);

        write_part(dir, sums, at / FF_DUMP_PIECE * 8, &sum, sizeof(sum));
    }
}

static void fix(int dir, uint8_t what)
{
    g_autoptr(GKeyFile) about = g_key_file_new();
    size_t n;
    g_autofree char *text = (char *)read_file(dir, FF_DUMP_ABOUT, &n);
    gsize len;

    if (!text || !g_key_file_load_from_data(about, text, n, G_KEY_FILE_NONE, NULL)) {
        return;
    }
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        g_autofree char *group = g_strdup_printf("block %u", i);

        if (g_key_file_has_group(about, group)) {
            const char *const *files = names + 2 + 3 * i; /* memory, pages, sums */

            if (what & FIX_SUMS) {
                fix_memory(about, group, dir, files[0], files[2]);
            }
            set_sum(about, group, "pages-sum", dir, files[1]);
            set_sum(about, group, "sums-sum", dir, files[2]);
        }
    }
    if (g_key_file_has_group(about, "dump")) {
        set_sum(about, "dump", "device-state-sum", dir, "device-state");
    }
    g_key_file_remove_group(about, "end", NULL);
    g_autofree char *changed = g_key_file_to_data(about, NULL, NULL);
    g_autofree char *sealed = ff_dump_seal(changed, &len);
    unlinkat(dir, FF_DUMP_ABOUT, 0);
    write_part(dir, FF_DUMP_ABOUT, 0, sealed, len);
}

/* ---- what is made of them -------------------------------------------------------------------- */

/* What a terminal may be told. */
static void check_error(const GError *error, const char *prefix)
{
    g_assert_nonnull(error);
    g_assert_true(!prefix || g_str_has_prefix(error->message, prefix));
    for (const char *c = error->message; *c; c++) {
        g_assert_false(g_ascii_iscntrl(*c));
    }
}

static FfDumpFiles *open_half(unsigned h)
{
    g_autoptr(GError) error = NULL;
    int dir = dup(dirs[h]);
    FfDumpFiles *f = ff_dump_files_open(dir, halves[h], &error);

    if (!f) {
        check_error(error, halves[h]);
    }
    return f;
}

static const FfDumpBlock *find_block(const FfDumpFiles *f, const char *id)
{
    for (unsigned i = 0; i < f->n_blocks; i++) {
        if (!strcmp(f->blocks[i].id, id)) {
            return &f->blocks[i];
        }
    }
    return NULL;
}

static bool is_page(int fd, uint64_t at, const uint8_t *right)
{
    uint8_t page[FF_SAVED_PAGE];

    g_assert_cmpint(pread(fd, page, sizeof(page), (off_t)at), ==, sizeof(page));
    return !memcmp(page, right, sizeof(page));
}

/* FfMappedRun */
static bool note_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    for (uint64_t i = 0; i < n; i++) {
        ff_pageset_add(opaque, first + i);
    }
    return true;
}

/* Whose page PAGE of a block is, of the source's B and the destination's OTHER: a source that has
 * given up memory (RELEASED) is asked for what the destination does not have. */
static const FfDumpBlock *owner(const FfDumpBlock *b, const FfDumpBlock *other, bool released,
                                uint64_t page)
{
    bool sure = ff_pageset_has(b->held, page) && !(released && ff_pageset_has(other->held, page));

    return sure ? b : other;
}

/* Block B of the source in the file FD. */
static void check_block(const FfSaved *s, int fd, const FfDumpBlock *b, const FfDumpBlock *other,
                        bool released)
{
    static const uint8_t zeros[FF_SAVED_PAGE];
    g_autofree uint64_t *pages = g_new0(uint64_t, b->size / FF_SAVED_PAGE / 64 + 1);
    const FfSavedBlock *to = NULL;

    for (guint i = 0; i < s->blocks->len && !to; i++) {
        to = strcmp(ff_saved_block(s, i)->name, b->id) ? NULL : ff_saved_block(s, i);
    }
    g_assert_nonnull(to);
    g_assert_true(ff_mapped_runs(s, to, note_run, pages, NULL));
    for (uint64_t at = 0; at < b->size; at += FF_SAVED_PAGE) {
        const FfDumpBlock *from = owner(b, other, released, at / b->page_size);
        uint8_t page[FF_SAVED_PAGE];

        g_assert_true(ff_pageset_has(from->held, at / b->page_size));
        g_assert_cmpint(pread(from->fd, page, sizeof(page), (off_t)at), ==, sizeof(page));
        if (ff_pageset_has(pages, at / FF_SAVED_PAGE)) {
            g_assert_true(is_page(fd, to->pages + at, page));
        } else {
            g_assert_cmpmem(page, sizeof(page), zeros, sizeof(zeros));
        }
    }
}

/* The snapshot of two halves. */
static void join(const FfDumpFiles *s, const FfDumpFiles *d)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfOutput) out = ff_output_new_nameless("/dev/shm/ff-fuzz", NULL);
    FfJoined joined;
    uint64_t pages = 0;

    g_assert_nonnull(out);
    if (!ff_dump_halves_check(s, d, &error) || !ff_dump_join_check(s, d, &error) ||
        !ff_dump_join(s, d, out, &joined, &error)) {
        check_error(error, NULL);
        return;
    }
    int fd = ff_output_fd(out);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autoptr(FfSaved) saved = ff_saved_open(ff_input_open(path, &error), 0, &error);
    g_assert_no_error(error);
    for (unsigned i = 0; i < s->n_blocks; i++) {
        check_block(saved, fd, &s->blocks[i], find_block(d, s->blocks[i].id), s->released);
        pages += s->blocks[i].size / FF_SAVED_PAGE;
    }
    g_assert_cmpuint(joined.pages[0] + joined.pages[1], ==, pages);
}

/* A page that the pager would not read, but place as zeros. */
static void check_zeros(const FfDumpBlock *b, uint64_t at)
{
    static const uint8_t zeros[FF_DUMP_PIECE];
    uint64_t piece = at / FF_DUMP_PIECE;

    g_assert_true(ff_pageset_has(b->held, at / b->page_size));
    g_assert_cmphex(b->sums[piece], ==, ff_xxh64(zeros, ff_dump_piece_size(b, piece), 0));
}

/* What is needed of a piece: read, and right, or an error. */
static void read_piece(const FfDumpBlock *b, uint64_t piece)
{
    g_autofree uint8_t *data = g_malloc(FF_DUMP_PIECE);
    g_autoptr(GError) error = NULL;
    int rc = ff_dump_read(b, piece, data);

    if (rc < 0) {
        ff_dump_set_error(b, piece, rc, &error);
        check_error(error, halves[0]);
        return;
    }
    g_assert_cmphex(ff_xxh64(data, ff_dump_piece_size(b, piece), 0), ==, b->sums[piece]);
    for (uint64_t at = 0; at < ff_dump_piece_size(b, piece); at += FF_SAVED_PAGE) {
        g_assert_true(is_page(b->fd, piece * FF_DUMP_PIECE + at, data + at));
    }
}

static void check_fit(const FfDumpFit *fit, const FfRam *ram)
{
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        const FfDumpBlock *b = fit->block[i];

        for (uint64_t piece = 0; piece < b->n_pieces; piece++) {
            if (ff_dump_fit_needs(fit, ram, i, piece)) {
                read_piece(b, piece);
            }
        }
        for (uint64_t at = 0; at < b->size; at += FF_SAVED_PAGE) {
            if (!(fit->pages[i].data[at / FF_SAVED_PAGE / 64] >> (at / FF_SAVED_PAGE % 64) & 1)) {
                check_zeros(b, at);
            }
        }
    }
}

/* A destination with the source's memory, that has received what the other half holds. */
static void recover(const FfDumpFiles *s, const FfDumpFiles *d)
{
    g_autoptr(GError) error = NULL;
    FfRam ram = {.n_blocks = MIN(s->n_blocks, FF_MAX_BLOCKS)};
    FfDumpFit fit = {.files = s};

    ram.blocks = g_new0(FfBlock, ram.n_blocks);
    for (unsigned i = 0; i < ram.n_blocks; i++) {
        const FfDumpBlock *b = &s->blocks[i], *other = find_block(d, b->id);
        FfBlock *to = &ram.blocks[i];

        to->info = (FfRamBlock){
            .id = b->id, .size = b->size, .page_size = b->page_size, .gpa = b->address};
        to->n_pages = b->n_pages;
        ff_bitmap_init(&to->bitmap, b->n_pages, false);
        for (uint64_t p = 0; other && p < MIN(b->n_pages, other->n_pages); p++) {
            if (ff_pageset_has(other->held, p)) {
                ff_bitmap_set(&to->bitmap, p);
            }
        }
    }
    if (ff_dump_fit_check(&fit, &ram, d->session, &error)) {
        ff_dump_fit_make_pages(&fit, &ram);
        check_fit(&fit, &ram);
    } else {
        check_error(error, "SOURCE: ");
    }
    ff_dump_fit_clear(&fit);
    for (unsigned i = 0; i < ram.n_blocks; i++) {
        ff_bitmap_clear(&ram.blocks[i].bitmap);
    }
    g_free(ram.blocks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_quiet();
    if (!size) {
        return 0;
    }
    write_files(data + 1, size - 1);
    for (unsigned h = 0; h < 2 && data[0] & FIX_SEAL; h++) {
        fix(dirs[h], data[0]);
    }
    g_autoptr(FfDumpFiles) s = open_half(0), d = open_half(1);
    if (s && d) {
        join(s, d);
        recover(s, d);
    }
    return 0;
}
