/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See dump-fit.h. Whatever is compared was verified by its checksum (content/image/dump-files.h).
 *
 * System calls: none.
 */
#include "migration/destination/dump-fit.h"

#include <inttypes.h>
#include <string.h>

#include "content/image/pageset.h"

static bool refuse_dump(GError **error, const FfDumpFit *fit, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

static bool refuse_dump(GError **error, const FfDumpFit *fit, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, format);
    what = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_set_error(error, FF_M_ERROR, 0, "%s: %s", fit->files->path, what);
    return false;
}

/* ---- whether it is ours ---------------------------------------------------------------------- */

static bool compare_block(FfDumpFit *fit, unsigned i, const FfRamBlock *ours, GError **error)
{
    for (unsigned j = 0; j < fit->files->n_blocks; j++) {
        const FfDumpBlock *b = &fit->files->blocks[j];

        if (strcmp(b->id, ours->id) != 0) {
            continue;
        }
        fit->block[i] = b;
        return (b->size == ours->size && b->page_size == ours->page_size &&
                b->address == ours->gpa) ||
               refuse_dump(error, fit, "its memory '%s' is another one than this guest's", b->id);
    }
    return refuse_dump(error, fit, "it has no memory '%s', as this guest has", ours->id);
}

static bool compare_dump(FfDumpFit *fit, const FfRam *ram, const uint8_t *session, GError **error)
{
    const FfDumpFiles *f = fit->files;

    if (memcmp(f->session, session, sizeof(f->session)) != 0) {
        return refuse_dump(
            error, fit,
            "it is of another migration: this one is continued by its own source, or its "
            "source's dump");
    }
    if (strcmp(f->role, "source") != 0) {
        return refuse_dump(error, fit,
                           "it is the destination's half: name the directory of the source's");
    }
    if (strcmp(f->run_right, "given") != 0) {
        return refuse_dump(
            error, fit,
            "it was made before the source gave the guest away, and is older than what "
            "is here: dump the source when it is postcopy-paused");
    }
    if (f->n_blocks != ram->n_blocks) {
        return refuse_dump(error, fit, "it has %u blocks of memory, this guest has %u", f->n_blocks,
                           ram->n_blocks);
    }
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        if (!compare_block(fit, i, &ram->blocks[i].info, error)) {
            return false;
        }
    }
    return true;
}

/* ---- its pages ------------------------------------------------------------------------------- */

static bool is_here(const FfRam *ram, unsigned block, uint64_t page)
{
    return ff_bitmap_test(&ram->blocks[block].bitmap, page);
}

/* What is missing here the dump must have: what it does not hold is never zeros. */
static bool check_held(const FfDumpFit *fit, const FfRam *ram, GError **error)
{
    uint64_t lacking = 0;

    for (unsigned i = 0; i < ram->n_blocks; i++) {
        for (uint64_t page = 0; page < ram->blocks[i].n_pages; page++) {
            lacking += !is_here(ram, i, page) && !ff_pageset_has(fit->block[i]->held, page);
        }
    }
    return !lacking ||
           refuse_dump(error, fit, "%" PRIu64 " pages are neither here nor in it", lacking);
}

/* What the pager reads; the rest is zeros. A page that is not held is none of them. */
void ff_dump_fit_make_pages(FfDumpFit *fit, const FfRam *ram)
{
    uint64_t at = 0;

    for (; fit->n_blocks < ram->n_blocks; fit->n_blocks++) {
        const FfDumpBlock *b = fit->block[fit->n_blocks];
        uint64_t n = b->size / FF_FILE_PAGE, *words = g_new0(uint64_t, ff_bitmap_words(n));
        FfBitmap data;

        ff_bitmap_init_over(&data, words, n);
        for (uint64_t i = 0; i < n; i++) {
            if (!ff_dump_piece_is_zero(b, i * FF_FILE_PAGE / FF_DUMP_PIECE) ||
                !ff_pageset_has(b->held, i * FF_FILE_PAGE / b->page_size)) {
                ff_bitmap_set(&data, i);
            }
        }
        fit->pages[fit->n_blocks] =
            (FfFileBlock){.at = at, .n_pages = n, .page_size = b->page_size, .data = words};
        at += b->size;
    }
}

bool ff_dump_fit_needs(const FfDumpFit *fit, const FfRam *ram, unsigned block, uint64_t piece)
{
    const FfDumpBlock *b = fit->block[block];
    uint64_t at = piece * FF_DUMP_PIECE, end = at + ff_dump_piece_size(b, piece);

    for (uint64_t page = at / b->page_size; page * b->page_size < end; page++) {
        if (!is_here(ram, block, page)) {
            return true;
        }
    }
    return false;
}

bool ff_dump_fit_check(FfDumpFit *fit, const FfRam *ram, const uint8_t *session, GError **error)
{
    return compare_dump(fit, ram, session, error) && check_held(fit, ram, error);
}

void ff_dump_fit_clear(FfDumpFit *fit)
{
    for (unsigned i = 0; i < fit->n_blocks; i++) {
        g_free((uint64_t *)fit->pages[i].data);
    }
    *fit = (FfDumpFit){0};
}
