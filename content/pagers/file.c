/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages from a file; see file.h.
 *
 * After each read, and before its content is placed, the content is compared with what was opened:
 * of a file size and mtime, as a write stores its mtime before its bytes.
 *
 * Threads: `fault` (FAULT_THREADS) answer requests, `zero` those that need no read, `fill`
 * (CALM_FILL_THREADS) go through the blocks by address. Few of them, and small reads: what the fill
 * has under way a fault waits for in the disk. In a hurry there are FILL_THREADS. They place, so
 * they may wait for an event of the space. When a read has come back too late (reader.h) they must
 * not look at the pager: -ECANCELED ends them at once. Locks: `ring_lock` (file-queue.c: requests)
 * and `cursor_lock`, of the fill alone; both are leaves, and nobody reads under one. `huge_lock`:
 * one thread at a time places huge pages, beside which it takes locks of the space. What comes
 * before the rest of the fill is in file-first.c.
 *
 * System calls: none.
 */
#include "content/pagers/file.h"

#include <errno.h>
#include <string.h>

#include "base/failpoints.h"
#include "content/pagers/file-internal.h"
#include "uffd/place.h"

#define FILL_BYTES (256u << 10)
#define LARGE (16u << 20) /* bytes of a page */
#define AGAIN_US (G_USEC_PER_SEC / 5)
#define PIECE (1u << 20) /* each answer of a server shows that it is there */
/* Pages that are there already are read once more if they are so few between others: one read
 * costs more than they do. */
#define FILL_GAP 16
/* Zeros that are placed in one step by the fill. */
#define ZERO_PAGES (1ull << 18)

/* ---- the file -------------------------------------------------------------------------------- */

static bool goes_on(FfFilePager *p)
{
    return !g_atomic_int_get(&p->ends) && !g_atomic_int_get(&p->broken);
}

/* A server that is back sends no event. FALSE: nothing is to be tried again. */
static bool wait_for_server(FfFilePager *p, int64_t until)
{
    int64_t next = g_get_monotonic_time() + AGAIN_US, at = MIN(next, until);

    ff_mutex_lock(&p->cursor_lock);
    while (goes_on(p) && g_get_monotonic_time() < at) {
        ff_cond_wait_until(&p->fill_asked, &p->cursor_lock, at);
    }
    ff_mutex_unlock(&p->cursor_lock);
    return goes_on(p) && g_get_monotonic_time() < until;
}

/* A server that has gone may be back; one that others keep busy has not gone. */
static int read_piece(FfFileWorker *w, uint64_t at, uint8_t *to, size_t n)
{
    int64_t until = g_get_monotonic_time() + FF_FILE_PATIENCE_US;
    bool hurry = w->reading != NULL;
    int rc;

    while ((rc = ff_file_read(w->reader, w->file, hurry, until, at, to, n)) < 0) {
        if (rc == -EBUSY && goes_on(w->p)) {
            until = g_get_monotonic_time() + FF_FILE_PATIENCE_US;
        } else if (rc != -ENOTCONN || !wait_for_server(w->p, until)) {
            break;
        }
    }
    return rc == -EBUSY ? -ENOTCONN : rc;
}

static int read_patiently(FfFileWorker *w, uint64_t at, uint8_t *to, size_t n)
{
    int rc = 0;

    for (size_t done = 0, some; done < n && rc == 0; done += some) {
        some = MIN(n - done, PIECE);
        rc = read_piece(w, at + done, to + done, some);
    }
    return rc;
}

/* N pages of the file from FIRST on into W's buffer: what stands there, and zeros. -errno with the
 * place in *AT. */
static int read_pages(FfFileWorker *w, const FfFilePagerBlock *b, uint64_t first, uint64_t n,
                      uint64_t *at, uint64_t *bytes)
{
    const FfFilePagerConfig *cfg = &w->p->cfg;

    *bytes = 0;
    *at = b->file.at + first * FF_FILE_PAGE;
    if (cfg->read) {
        *bytes = n * FF_FILE_PAGE;
        return cfg->read(w->reader, (unsigned)(b - w->p->blocks), first, n,
                         ff_reader_buffer(w->reader), at, cfg->opaque);
    }
    for (uint64_t i = 0, some; i < n; i += some) {
        bool data = ff_bitmap_test(&b->data, first + i);
        uint8_t *to = ff_reader_buffer(w->reader) + i * FF_FILE_PAGE;

        for (some = 1; i + some < n && ff_bitmap_test(&b->data, first + i + some) == data;) {
            some++;
        }
        if (!data) {
            memset(to, 0, some * FF_FILE_PAGE);
            continue;
        }
        *at = b->file.at + (first + i) * FF_FILE_PAGE;
        int rc = read_patiently(w, *at, to, some * FF_FILE_PAGE);
        if (rc < 0) {
            return rc;
        }
        *bytes += some * FF_FILE_PAGE;
    }
    /* What is read is what was saved. */
    return ff_file_read_is_right(w->reader, w->file);
}

static void fail_read(FfFilePager *p, int rc, uint64_t at, bool waits)
{
    FfFileError e = {-rc, at, waits, p->content ? ff_file_read_error() : NULL};

    if (g_atomic_int_compare_and_exchange(&p->broken, 0, 1)) {
        p->cfg.failed(&e, p->cfg.opaque);
    }
}

/* ---- placing --------------------------------------------------------------------------------- */

/* Of huge pages there may be as many as the guest needs, and no more: two threads that place the
 * same one would need two of them for a moment. */
static void enter_placing(FfFilePager *p, unsigned block)
{
    if (p->blocks[block].per_page > 1) {
        ff_mutex_lock(&p->huge_lock);
    }
}

static void leave_placing(FfFilePager *p, unsigned block)
{
    if (p->blocks[block].per_page > 1) {
        ff_mutex_unlock(&p->huge_lock);
    }
}

static bool place_zero(FfFilePager *p, const FfRun *run, bool waits)
{
    enter_placing(p, run->block);
    int rc =
        p->cfg.zero && !waits ? p->cfg.zero(run, p->cfg.opaque) : ff_place_zero(p->cfg.space, run);

    leave_placing(p, run->block);
    if (rc < 0) {
        ff_file_cannot_place(p, run, rc);
    }
    return rc >= 0;
}

/* Reads RUN, of which what is missing is placed. FALSE: it could not be, and that was said, or W
 * was left behind. With ALONE that is what is needed of it, and is tried by itself: what stands
 * beside a page may be unreadable, as a bad sector is, where the page is not. */
static bool read_run(FfFileWorker *w, const FfRun *run, const FfRun *alone)
{
    FfFilePager *p = w->p;
    const FfFilePagerBlock *b = &p->blocks[run->block];
    uint64_t at, bytes;
    int rc = read_pages(w, b, run->first * b->per_page, run->n * b->per_page, &at, &bytes);
    FfRun some;

    if (rc == -ECANCELED) {
        return false;
    }
    if (rc < 0 && rc != -ENOTCONN && alone && alone->n < run->n &&
        !FF_FAULT_STEP("page-alone", false)) {
        ff_file_reads(w, alone);
        return read_run(w, alone, alone);
    }
    if (rc < 0) {
        if (rc != -ENOTCONN || !g_atomic_int_get(&p->ends)) {
            fail_read(p, rc, at, alone != NULL);
        }
        return false;
    }
    ff_file_count(alone ? &p->counts.fault_bytes : &p->counts.fill_bytes, bytes);
    enter_placing(p, run->block);
    rc = ff_file_place_missing(p, run, ff_reader_buffer(w->reader), &some);
    leave_placing(p, run->block);
    if (rc < 0) {
        ff_file_cannot_place(p, &some, rc);
    }
    return rc >= 0;
}

/* ---- who waits ------------------------------------------------------------------------------- */

static void begin_thread(const FfFilePager *p)
{
    if (p->cfg.thread_begins) {
        p->cfg.thread_begins();
    }
}

/* FfReaderFunc */
static void fault_thread(FfReader *reader, void *owner)
{
    FfFilePager *p = owner;
    FfRun *reading = &p->reading[g_atomic_int_add(&p->n_reading, 1)];
    FfFileWorker w = {p, reader, p->content, .reading = reading};
    FfRun run, page;

    begin_thread(p);
    while (!ff_reader_is_left(reader) && ff_file_take(&w, &run, &page)) {
        ff_file_count(&p->counts.faults, 1);
        read_run(&w, &run, &page);
    }
}

/* FfReaderFunc */
static void zero_thread(FfReader *reader, void *owner)
{
    FfFilePager *p = owner;
    FfRun page;

    begin_thread(p);
    while (ff_file_take_zeros(p, &page)) {
        ff_file_count(&p->counts.zeros, 1);
        place_zero(p, &page, true);
    }
}

/* ---- the fill -------------------------------------------------------------------------------- */

/* The end of what is read together from FIRST on: at a page of zeros, or where many are there. */
static uint64_t data_end(const FfFilePager *p, unsigned block, uint64_t first, uint64_t end)
{
    uint64_t last = first + 1;

    for (uint64_t page = last; page < end && page - last < FILL_GAP; page++) {
        if (!ff_file_has_data(&p->blocks[block], page)) {
            break;
        }
        last = ff_space_is_placed(p->cfg.space, block, page) ? last : page + 1;
    }
    return last;
}

static uint64_t zeros_end(const FfFilePager *p, unsigned block, uint64_t first, uint64_t end)
{
    while (++first < end && !ff_file_has_data(&p->blocks[block], first) &&
           !ff_space_is_placed(p->cfg.space, block, first)) {
    }
    return first;
}

/* The next run of one block that is missing; *ZERO: it is zeros. FALSE: none. */
static bool next_locked(FfFilePager *p, FfRun *run, bool *zero)
{
    for (; p->at_block < p->cfg.n_blocks; p->at_block++, p->at_page = 0) {
        const FfFilePagerBlock *b = &p->blocks[p->at_block];

        while (p->at_page < b->n_pages &&
               ff_space_is_placed(p->cfg.space, p->at_block, p->at_page)) {
            p->at_page++;
        }
        if (p->at_page == b->n_pages) {
            continue;
        }
        uint64_t most = ff_file_fill_pages(p, p->at_block), first = p->at_page;

        *zero = !ff_file_has_data(b, first);
        p->at_page =
            *zero ? zeros_end(p, p->at_block, first, MIN(first + ZERO_PAGES, b->n_pages))
                  : data_end(p, p->at_block, first, MIN((first / most + 1) * most, b->n_pages));
        *run = (FfRun){p->at_block, first, p->at_page - first};
        return true;
    }
    return false;
}

static bool next_run(FfFilePager *p, FfRun *run, bool *zero)
{
    ff_mutex_lock(&p->cursor_lock);
    bool some = next_locked(p, run, zero);
    ff_mutex_unlock(&p->cursor_lock);
    return some;
}

/* Until *ASKED, which the cursor_lock guards. FALSE: the end. */
static bool await_asked(FfFilePager *p, const bool *asked)
{
    ff_mutex_lock(&p->cursor_lock);
    while (!*asked && !g_atomic_int_get(&p->ends)) {
        ff_cond_wait(&p->fill_asked, &p->cursor_lock);
    }
    bool is = *asked;
    ff_mutex_unlock(&p->cursor_lock);
    return is;
}

static void fill_rest(FfFileWorker *w)
{
    FfFilePager *p = w->p;
    uint64_t first, end;
    FfRun run;
    bool zero;

    while (goes_on(p) && ff_file_first_next(p, &first, &end)) {
        if (!ff_file_first_bring(w, first, end)) {
            return;
        }
    }
    if (!await_asked(p, &p->fills)) {
        return;
    }
    while (goes_on(p) && next_run(p, &run, &zero)) {
        FF_FAULT_AT("fill");
        if (!zero) {
            ff_file_fill_begins(w, &run);
        }
        if (zero ? !place_zero(p, &run, false) : !read_run(w, &run, NULL)) {
            return;
        }
    }
}

/* FfReaderFunc */
static void fill_thread(FfReader *reader, void *owner)
{
    FfFilePager *p = owner;
    int number = g_atomic_int_add(&p->n_filling, 1);
    FfFileWorker w = {p, reader, p->content, .filling = &p->filling[number]};

    if (number < CALM_FILL_THREADS || await_asked(p, &p->hurries)) {
        fill_rest(&w);
    }
    if (!ff_reader_is_left(reader)) {
        ff_file_fill_ends(&w);
    }
}

/* ---- beginning and end ----------------------------------------------------------------------- */

FfPager *ff_file_pager_pager(FfFilePager *p)
{
    return &p->pager;
}

static void block_init(FfFilePagerBlock *b, const FfFileBlock *file)
{
    b->file = *file;
    b->per_page = file->page_size / FF_FILE_PAGE;
    b->n_pages = file->n_pages / b->per_page;
    ff_bitmap_init_over(&b->data, (uint64_t *)file->data, file->n_pages);
    ff_bitmap_init(&b->wanted, b->n_pages, false);
    ff_bitmap_init(&b->parked, b->n_pages, false);
}

FfFilePager *ff_file_pager_new(const FfFilePagerConfig *cfg)
{
    FfFilePager *p = g_new0(FfFilePager, 1);

    p->pager.request = ff_file_request;
    p->cfg = *cfg;
    p->blocks = g_new0(FfFilePagerBlock, cfg->n_blocks);
    p->page_max = 1;
    for (unsigned i = 0; i < cfg->n_blocks; i++) {
        block_init(&p->blocks[i], &cfg->blocks[i]);
        p->page_max = MAX(p->page_max, p->blocks[i].per_page);
    }
    p->cfg.blocks = NULL;
    p->fill_bytes = cfg->fill ? cfg->fill : FILL_BYTES;
    p->buf_len =
        MAX(MAX(p->page_max, cfg->first.chunk), p->fill_bytes / FF_FILE_PAGE) * FF_FILE_PAGE;
    if (cfg->first.n) {
        p->first_file = ff_file_first_open(&cfg->first);
    }
    if (cfg->record) {
        p->record = g_new(uint64_t, cfg->record);
        p->n_places = cfg->record;
    }
    ff_cond_init(&p->fill_asked);
    ff_file_queues_init(p);
    ff_mutex_init(&p->cursor_lock);
    ff_mutex_init(&p->huge_lock);
    return p;
}

static void begin_readers(FfFilePager *p, FfReader **readers, unsigned n, const char *name,
                          FfReaderFunc run)
{
    for (unsigned i = 0; i < n; i++) {
        readers[i] = ff_reader_start(name, p->buf_len, run, p);
    }
}

/* Each thread has room for the largest page: of pages of 1 GiB few can be under way. */
static bool is_large(const FfFilePager *p)
{
    return p->buf_len > LARGE;
}

static void begin_fill(FfFilePager *p)
{
    begin_readers(p, p->fill, is_large(p) ? 1 : FILL_THREADS, "ff-file-fill", fill_thread);
}

void ff_file_pager_start(FfFilePager *p, FfReaderFile *content)
{
    p->content = content ? ff_reader_file_ref(content) : NULL;
    p->ends = p->broken = 0;
    p->fills = false;
    p->at_first = 0;
    p->at_block = 0;
    p->at_page = 0;
    begin_readers(p, p->fault, is_large(p) ? 1 : FAULT_THREADS, "ff-file-fault", fault_thread);
    begin_readers(p, &p->zero, 1, "ff-file-zero", zero_thread);
    if (p->first_file) {
        begin_fill(p);
    }
}

void ff_file_pager_fill(FfFilePager *p)
{
    ff_mutex_lock(&p->cursor_lock);
    p->fills = true;
    ff_cond_broadcast(&p->fill_asked);
    ff_mutex_unlock(&p->cursor_lock);
    if (!p->fill[0]) {
        begin_fill(p);
    }
}

void ff_file_pager_hurry(FfFilePager *p)
{
    ff_mutex_lock(&p->cursor_lock);
    p->hurries = true;
    ff_cond_broadcast(&p->fill_asked);
    ff_mutex_unlock(&p->cursor_lock);
}

void ff_file_pager_pause(FfFilePager *p)
{
    ff_mutex_lock(&p->cursor_lock);
    g_atomic_int_set(&p->broken, 1);
    ff_cond_broadcast(&p->fill_asked);
    ff_mutex_unlock(&p->cursor_lock);
}

static void end_readers(FfReader **readers, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        g_clear_pointer(&readers[i], ff_reader_end);
    }
}

void ff_file_pager_stop(FfFilePager *p)
{
    ff_file_queues_end(p);
    ff_mutex_lock(&p->cursor_lock);
    ff_cond_broadcast(&p->fill_asked);
    ff_mutex_unlock(&p->cursor_lock);
    end_readers(p->fault, FAULT_THREADS);
    end_readers(&p->zero, 1);
    end_readers(p->fill, FILL_THREADS);
    ff_file_queues_empty(p);
    g_clear_pointer(&p->content, ff_reader_file_unref);
}

FfFileCounts ff_file_pager_counts(const FfFilePager *p)
{
    return (FfFileCounts){
        .faults = __atomic_load_n(&p->counts.faults, __ATOMIC_RELAXED),
        .zeros = __atomic_load_n(&p->counts.zeros, __ATOMIC_RELAXED),
        .fault_bytes = __atomic_load_n(&p->counts.fault_bytes, __ATOMIC_RELAXED),
        .fill_bytes = __atomic_load_n(&p->counts.fill_bytes, __ATOMIC_RELAXED),
        .first_bytes = __atomic_load_n(&p->counts.first_bytes, __ATOMIC_RELAXED),
        .first_pages = __atomic_load_n(&p->counts.first_pages, __ATOMIC_RELAXED),
    };
}

void ff_file_pager_free(FfFilePager *p)
{
    if (!p) {
        return;
    }
    ff_file_pager_stop(p);
    for (unsigned i = 0; i < p->cfg.n_blocks; i++) {
        ff_bitmap_clear(&p->blocks[i].data);
        ff_bitmap_clear(&p->blocks[i].wanted);
        ff_bitmap_clear(&p->blocks[i].parked);
    }
    ff_reader_file_unref(p->first_file);
    g_free(p->record);
    ff_cond_clear(&p->fill_asked);
    ff_file_queues_clear(p);
    ff_mutex_clear(&p->cursor_lock);
    ff_mutex_clear(&p->huge_lock);
    g_free(p->blocks);
    g_free(p);
}
