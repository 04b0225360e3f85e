/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fill's first part: pages of which somebody knows that they will be needed soon, out of a file
 * of their own (FfFileFirst). What is wrong in it is used no more, and nothing else comes of that.
 *
 * Threads and locks: file.c. System calls: none.
 */
#include "content/pagers/file-internal.h"

#include <errno.h>

static void free_content(gpointer c)
{
    ff_content_free(c);
}

/* The pages' sums say whether they are right, however old the file is. */
FfReaderFile *ff_file_first_open(const FfFileFirst *first)
{
    FfContent *c = ff_content_open_fd(first->fd, "working set", NULL, NULL);

    if (!c) {
        first->useless(-EIO, first->opaque);
    }
    return c ? ff_reader_file_new(c, free_content) : NULL;
}

static void first_is_useless(FfFilePager *p, int rc)
{
    if (g_atomic_int_compare_and_exchange(&p->first_useless, 0, 1)) {
        p->cfg.first.useless(rc, p->cfg.first.opaque);
    }
}

/* The page that stands at PLACE. FALSE: none of small pages with data does. */
static bool page_at(const FfFilePager *p, uint64_t place, FfRun *run)
{
    for (unsigned i = 0; i < p->cfg.n_blocks; i++) {
        const FfFilePagerBlock *b = &p->blocks[i];
        uint64_t page = (place - b->file.at) / FF_FILE_PAGE;

        if (place >= b->file.at && page < b->file.n_pages) {
            *run = (FfRun){i, page, 1};
            return b->per_page == 1 && (place - b->file.at) % FF_FILE_PAGE == 0 &&
                   ff_bitmap_test(&b->data, page);
        }
    }
    return false;
}

/* Of [FIRST, END) of its pages those that stand in a row. FALSE: the first one is none. */
static bool first_run(const FfFilePager *p, uint64_t first, uint64_t end, FfRun *run)
{
    const uint64_t *places = p->cfg.first.places;
    FfRun next;

    if (!page_at(p, places[first], run)) {
        return false;
    }
    while (first + run->n < end &&
           places[first + run->n] == places[first] + run->n * FF_FILE_PAGE &&
           page_at(p, places[first + run->n], &next) && next.block == run->block) {
        run->n++;
    }
    return true;
}

bool ff_file_first_next(FfFilePager *p, uint64_t *first, uint64_t *end)
{
    const FfFileFirst *f = &p->cfg.first;
    bool some = false;
    FfRun run;

    ff_mutex_lock(&p->cursor_lock);
    while (!some && p->first_file && p->at_first < f->n && !g_atomic_int_get(&p->first_useless)) {
        *first = p->at_first;
        *end = p->at_first = MIN(f->n, p->at_first + f->chunk);
        for (uint64_t i = *first; i < *end && !some; i++) {
            /* What is wrong is seen by the thread that brings it. */
            some = !page_at(p, f->places[i], &run) ||
                   !ff_space_is_placed(p->cfg.space, run.block, run.first);
        }
    }
    ff_mutex_unlock(&p->cursor_lock);
    return some;
}

static uint64_t count_missing(const FfFilePager *p, const FfRun *run)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < run->n; i++) {
        n += !ff_space_is_placed(p->cfg.space, run->block, run->first + i);
    }
    return n;
}

bool ff_file_first_bring(FfFileWorker *w, uint64_t first, uint64_t end)
{
    FfFilePager *p = w->p;
    const FfFileFirst *f = &p->cfg.first;
    uint8_t *buf = ff_reader_buffer(w->reader);
    size_t n = (end - first) * FF_FILE_PAGE;
    int rc = ff_file_read(w->reader, p->first_file, false, 0, f->at + first * FF_FILE_PAGE, buf, n);
    FfRun run, some;

    if (rc == -ECANCELED) {
        return false;
    }
    if (rc == 0 && !f->is_right(first / f->chunk, buf, n, f->opaque)) {
        rc = -EBADMSG;
    }
    for (uint64_t i = first; i < end && rc == 0; i += run.n) {
        if (!first_run(p, i, end, &run)) {
            rc = -EBADMSG;
            break;
        }
        ff_file_count(&p->counts.first_pages, count_missing(p, &run));
        int placed = ff_file_place_missing(p, &run, buf + (i - first) * FF_FILE_PAGE, &some);
        if (placed < 0) {
            ff_file_cannot_place(p, &some, placed);
            return false;
        }
    }
    if (rc < 0) {
        first_is_useless(p, rc);
    } else {
        ff_file_count(&p->counts.first_bytes, n);
    }
    return true;
}
