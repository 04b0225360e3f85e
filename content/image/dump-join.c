/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See dump-join.h.
 *
 * The source's guest stands since the switch, and its device state was written then: so its half is
 * of that moment, whenever it was dumped. The destination's is of the same moment as long as its
 * guest has not run, but for what loading its devices has written (a vmgenid). So a page that both
 * have is taken from the source, and the destination gives what the source has given up
 * (release-ram).
 *
 * System calls: none.
 */
#include "content/image/dump-join.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <string.h>

#include "content/image/live-file.h"
#include "content/image/pageset.h"
#include "content/image/run-state.h"

static bool refuse_join(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static bool refuse_join(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, text);
    return false;
}

/* ---- do they belong together ----------------------------------------------------------------- */

static const FfDumpBlock *find_block(const FfDumpFiles *f, const char *id)
{
    for (unsigned i = 0; i < f->n_blocks; i++) {
        if (!strcmp(f->blocks[i].id, id)) {
            return &f->blocks[i];
        }
    }
    return NULL;
}

static uint64_t pages_in_neither(const FfDumpBlock *a, const FfDumpBlock *b)
{
    uint64_t n = 0;

    for (uint64_t p = 0; p < a->n_pages; p++) {
        n += !ff_pageset_has(a->held, p) && !ff_pageset_has(b->held, p);
    }
    return n;
}

bool ff_dump_halves_check(const FfDumpFiles *a, const FfDumpFiles *b, GError **error)
{
    uint64_t missing = 0;

    if (memcmp(a->session, b->session, sizeof(a->session)) != 0 || !strcmp(a->role, b->role) ||
        a->n_blocks != b->n_blocks) {
        return refuse_join(error, "these are not the two halves of one migration");
    }
    for (unsigned i = 0; i < a->n_blocks; i++) {
        const FfDumpBlock *one = &a->blocks[i], *other = find_block(b, one->id);

        if (!other) {
            return refuse_join(error, "block '%s' is in one of them only", one->id);
        }
        if (one->size != other->size || one->page_size != other->page_size) {
            return refuse_join(error, "block '%s' differs in size", one->id);
        }
        missing += pages_in_neither(one, other);
    }
    return !missing || refuse_join(error, "%" PRIu64 " pages are in neither of them", missing);
}

/* ---- do they make a guest -------------------------------------------------------------------- */

bool ff_dump_join_check(const FfDumpFiles *s, const FfDumpFiles *d, GError **error)
{
    if (strcmp(s->role, "source") != 0 || strcmp(d->role, "destination") != 0) {
        return refuse_join(error, "%s is the dump of a %s: give the source's first", s->path,
                           s->role);
    }
    if (!strcmp(d->phase, "granted") || !strcmp(d->phase, "done")) {
        return refuse_join(
            error,
            "%s: the guest has run at the destination, and its processors and devices are "
            "in its QEMU alone: let it continue there (farfault recover --from %s QMP)",
            d->path, s->path);
    }
    if (strcmp(d->phase, "loaded") != 0) {
        return refuse_join(error,
                           "%s: the destination is '%s': it had not loaded the guest, or had "
                           "given it back: the guest is at the source",
                           d->path, d->phase);
    }
    if (strcmp(s->run_right, "given") != 0) {
        return refuse_join(error, "%s: the guest had not been given away: it is at the source",
                           s->path);
    }
    if (!s->device_bytes && !d->device_bytes) {
        return refuse_join(error,
                           "neither dump has the device state (the relays of both sides have been "
                           "replaced): without it there is no guest");
    }
    return true;
}

/* ---- what they make -------------------------------------------------------------------------- */

/* A block, as it is put together. */
typedef struct {
    const FfDumpBlock *half[2]; /* source's, destination's */
    uint8_t *buf[2];            /* FF_DUMP_PIECE bytes each */
    bool released;              /* FfDumpFiles.released, of the source */
    unsigned number;            /* in the file */
    uint64_t *pages;            /* FfJoined.pages */
} Joining;

/* Whose page with byte AT is taken. Both have the guest as it stood; but what a source has that has
 * given up memory may be zeros by now, where the destination has what was sent. */
static unsigned page_owner(const Joining *j, uint64_t at)
{
    const FfDumpBlock *source = j->half[0], *destination = j->half[1];

    if (j->released && ff_pageset_has(destination->held, at / destination->page_size)) {
        return 1;
    }
    return ff_pageset_has(source->held, at / source->page_size) ? 0 : 1;
}

/* Reads piece PIECE of those halves of which something is taken. */
static bool read_halves(const Joining *j, uint64_t piece, GError **error)
{
    uint64_t at = piece * FF_DUMP_PIECE, end = at + ff_dump_piece_size(j->half[0], piece);
    bool wanted[2] = {false, false};

    for (uint64_t p = at; p < end; p += FF_SAVED_PAGE) {
        wanted[page_owner(j, p)] = true;
    }
    for (unsigned h = 0; h < 2; h++) {
        int rc = wanted[h] ? ff_dump_read(j->half[h], piece, j->buf[h]) : 0;

        if (rc < 0) {
            ff_dump_set_error(j->half[h], piece, rc, error);
            return false;
        }
    }
    return true;
}

static bool put_piece(Joining *j, FfLiveFile *f, uint64_t piece, GError **error)
{
    uint64_t at = piece * FF_DUMP_PIECE, n = ff_dump_piece_size(j->half[0], piece);

    if (!read_halves(j, piece, error)) {
        return false;
    }
    for (uint64_t p = 0; p < n; p += FF_SAVED_PAGE) {
        unsigned h = page_owner(j, at + p);

        if (!ff_live_file_put(f, j->number, (at + p) / FF_SAVED_PAGE, j->buf[h] + p, error)) {
            return false;
        }
        j->pages[h]++;
    }
    return true;
}

static bool put_block(Joining *j, FfLiveFile *f, GError **error)
{
    const FfDumpBlock *b = j->half[0];
    int number = ff_live_file_block(f, b->id, b->size, error);
    bool ok = number >= 0;

    j->number = (unsigned)number;
    for (uint64_t piece = 0; ok && piece < b->n_pieces; piece++) {
        ok = put_piece(j, f, piece, error);
    }
    return ok;
}

/* QEMU's stream, which says that the guest runs if it did: it was stopped for the switch alone. */
static FfInput *open_devices(const FfDumpFiles *s, const FfDumpFiles *d, GByteArray **stream,
                             bool *runs, GError **error)
{
    const FfDumpFiles *from = s->device_bytes ? s : d;
    GBytes *bytes = ff_dump_read_devices(from, error);

    if (!bytes) {
        return NULL;
    }
    *stream = g_bytes_unref_to_array(bytes);
    *runs = (!strcmp(s->run_state, "running") || !strcmp(s->run_state, "suspended")) &&
            ff_run_state_set((*stream)->data, (*stream)->len, s->run_state);
    return ff_input_new_memory(from->path, (*stream)->data, (*stream)->len, error);
}

bool ff_dump_join(const FfDumpFiles *s, const FfDumpFiles *d, FfOutput *o, FfJoined *joined,
                  GError **error)
{
    g_autoptr(GByteArray) stream = NULL;
    g_autofree uint8_t *source = g_malloc(FF_DUMP_PIECE), *destination = g_malloc(FF_DUMP_PIECE);
    g_autoptr(FfLiveFile) f = NULL;

    *joined = (FfJoined){0};
    FfInput *in = open_devices(s, d, &stream, &joined->runs, error);
    f = in ? ff_live_file_new(in, FF_SAVED_MAPPED, o, 0, error) : NULL;
    for (unsigned i = 0; f && i < s->n_blocks; i++) {
        Joining j = {.half = {&s->blocks[i], find_block(d, s->blocks[i].id)},
                     .buf = {source, destination},
                     .released = s->released,
                     .pages = joined->pages};

        if (!put_block(&j, f, error)) {
            return false;
        }
    }
    return f && ff_live_file_end(f, error);
}
