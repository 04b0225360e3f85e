/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages from a file; see file.h.
 *
 * A request goes into a ring, and its page's bit into a bitmap. Where the ring is full only the bit
 * is there, and who finds the ring empty looks through the bitmaps: no request is ever lost, and
 * none waits for room.
 *
 * After each read, and before its content is placed, the file's size and mtime are compared with
 * those of the beginning: a write stores its mtime before its bytes.
 *
 * Threads: `fault` (FAULT_THREADS) answer requests, `fill` (FILL_THREADS) go through the blocks by
 * address. Few of them, and small reads: what the fill has under way a fault waits for in the disk.
 * They place, so they may wait for an event of the space. When a read has come back too late
 * (reader.h) they must not look at the pager: -ECANCELED ends them at once. Locks: `ring_lock`,
 * with the fault thread of the space, and `cursor_lock`, of the fill alone; both are leaves, and
 * nobody reads under one. `huge_lock`: one thread at a time places huge pages, beside which it
 * takes locks of the space. What comes before the rest of the fill is in file-first.c.
 *
 * System calls: fadvise64.
 */
#include "pagers/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "fault/fault.h"
#include "pagers/file-internal.h"
#include "uffd/place.h"

#define FILL_BYTES (256u << 10)
/* Pages that are there already are read once more if they are so few between others: one read
 * costs more than they do. */
#define FILL_GAP 16
/* Zeros that are placed in one step by the fill. */
#define ZERO_PAGES (1ull << 18)

/* ---- the file ----------------------------------------------------------------------------------
 */

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
        int rc = ff_reader_read(w->reader, w->file, *at, to, some * FF_FILE_PAGE);
        if (rc < 0) {
            return rc;
        }
        *bytes += some * FF_FILE_PAGE;
    }
    /* What is read is what was saved. */
    return ff_reader_check(w->reader, w->file, &w->p->id);
}

static void fail(FfFilePager *p, int rc, uint64_t at, bool waits)
{
    FfFileError e = {-rc, at, waits};

    if (g_atomic_int_compare_and_exchange(&p->broken, 0, 1)) {
        p->cfg.failed(&e, p->cfg.opaque);
    }
}

/* ---- placing -----------------------------------------------------------------------------------
 */

static bool has_data(const FfFilePagerBlock *b, uint64_t page)
{
    return b->per_page == 1 ? ff_bitmap_test(&b->data, page)
                            : ff_bitmap_count_run(&b->data, page * b->per_page, b->per_page) > 0;
}

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
static bool bring(FfFileWorker *w, const FfRun *run, const FfRun *alone)
{
    FfFilePager *p = w->p;
    const FfFilePagerBlock *b = &p->blocks[run->block];
    uint64_t at, bytes;
    int rc = read_pages(w, b, run->first * b->per_page, run->n * b->per_page, &at, &bytes);
    FfRun some;

    if (rc == -ECANCELED) {
        return false;
    }
    if (rc < 0 && alone && alone->n < run->n && !FF_FAULT_STEP("page-alone", false)) {
        return bring(w, alone, alone);
    }
    if (rc < 0) {
        fail(p, rc, at, alone != NULL);
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

/* ---- who waits ---------------------------------------------------------------------------------
 */

static void record_locked(FfFilePager *p, unsigned block, uint64_t page)
{
    const FfFilePagerBlock *b = &p->blocks[block];

    if (p->n_record < p->n_places && b->per_page == 1 && ff_bitmap_test(&b->data, page)) {
        p->record[p->n_record++] = b->file.at + page * FF_FILE_PAGE;
    }
}

uint64_t *ff_file_pager_take_record(FfFilePager *p, uint64_t *n)
{
    ff_mutex_lock(&p->ring_lock);
    uint64_t *record = g_steal_pointer(&p->record);
    *n = p->n_record;
    p->n_record = p->n_places = 0;
    ff_mutex_unlock(&p->ring_lock);
    return record;
}

/* A fault thread of a space, which has no other locks of ours. */
static int request(FfPager *pager, const FfRun *runs, unsigned n)
{
    FfFilePager *p = (FfFilePager *)pager;

    ff_mutex_lock(&p->ring_lock);
    for (unsigned i = 0; i < n; i++) {
        for (uint64_t page = runs[i].first; page < runs[i].first + runs[i].n; page++) {
            if (!ff_bitmap_set(&p->blocks[runs[i].block].wanted, page)) {
                continue; /* it is on its way to a thread */
            }
            record_locked(p, runs[i].block, page);
            if (p->n < RING) {
                p->ring[(p->head + p->n++) % RING] = (Request){runs[i].block, page};
            } else {
                p->overflow = true;
            }
        }
    }
    ff_cond_broadcast(&p->asked);
    ff_mutex_unlock(&p->ring_lock);
    return 0;
}

/* One that is in the bitmaps alone. */
static bool take_overflow_locked(FfFilePager *p, Request *r)
{
    for (r->block = 0; r->block < p->cfg.n_blocks; r->block++) {
        FfFilePagerBlock *b = &p->blocks[r->block];

        if (ff_bitmap_claim_run(&b->wanted, 0, b->n_pages, 1, &r->page)) {
            return true;
        }
    }
    p->overflow = false;
    return false;
}

static bool take_locked(FfFilePager *p, Request *r)
{
    while (p->n) {
        *r = p->ring[p->head];
        p->head = (p->head + 1) % RING;
        p->n--;
        /* Not if it was taken out of the bitmap while the ring was empty. */
        if (ff_bitmap_claim(&p->blocks[r->block].wanted, r->page)) {
            return true;
        }
    }
    return p->overflow && take_overflow_locked(p, r);
}

/* FALSE: the end. */
static bool take(FfFilePager *p, Request *r)
{
    ff_mutex_lock(&p->ring_lock);
    while (!p->ends && !take_locked(p, r)) {
        ff_cond_wait(&p->asked, &p->ring_lock);
    }
    bool ends = p->ends;
    ff_mutex_unlock(&p->ring_lock);
    return !ends;
}

static bool is_wanted(const FfFilePager *p, unsigned block, uint64_t page)
{
    return !ff_space_is_placed(p->cfg.space, block, page) && has_data(&p->blocks[block], page);
}

/* The pages around R's that are missing and stand in the file, as far as they are next to it. */
static FfRun window_of(const FfFilePager *p, const Request *r)
{
    const FfFilePagerBlock *b = &p->blocks[r->block];
    uint64_t size = MAX(1, p->cfg.window / b->per_page), from = r->page / size * size;
    uint64_t end = MIN(from + size, b->n_pages), first = r->page, last = r->page + 1;

    while (first > from && is_wanted(p, r->block, first - 1)) {
        first--;
    }
    while (last < end && is_wanted(p, r->block, last)) {
        last++;
    }
    return (FfRun){r->block, first, last - first};
}

static void answer(FfFileWorker *w, const Request *r)
{
    FfFilePager *p = w->p;

    if (ff_space_is_placed(p->cfg.space, r->block, r->page)) {
        return; /* which woke who waited */
    }
    const FfRun alone = {r->block, r->page, 1};
    if (has_data(&p->blocks[r->block], r->page)) {
        FfRun run = window_of(p, r);

        ff_file_count(&p->counts.faults, 1);
        bring(w, &run, &alone);
    } else {
        ff_file_count(&p->counts.zeros, 1);
        place_zero(p, &alone, true);
    }
}

/* FfReaderFunc */
static void fault_thread(FfReader *reader, void *owner)
{
    FfFilePager *p = owner;
    FfFileWorker w = {p, reader, p->urgent_file};
    Request r;

    if (p->cfg.thread_begins) {
        p->cfg.thread_begins();
    }
    while (!ff_reader_is_left(reader) && take(p, &r)) {
        answer(&w, &r);
    }
}

/* ---- the fill ----------------------------------------------------------------------------------
 */

/* The end of what is read together from FIRST on: at a page of zeros, or where many are there. */
static uint64_t data_end(const FfFilePager *p, unsigned block, uint64_t first, uint64_t end)
{
    uint64_t last = first + 1;

    for (uint64_t page = last; page < end && page - last < FILL_GAP; page++) {
        if (!has_data(&p->blocks[block], page)) {
            break;
        }
        last = ff_space_is_placed(p->cfg.space, block, page) ? last : page + 1;
    }
    return last;
}

static uint64_t zeros_end(const FfFilePager *p, unsigned block, uint64_t first, uint64_t end)
{
    while (++first < end && !has_data(&p->blocks[block], first) &&
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
        uint64_t most = MAX(1, p->fill_bytes / FF_FILE_PAGE / b->per_page), first = p->at_page;

        *zero = !has_data(b, first);
        p->at_page =
            *zero ? zeros_end(p, p->at_block, first, MIN(first + ZERO_PAGES, b->n_pages))
                  : data_end(p, p->at_block, first, MIN((first / most + 1) * most, b->n_pages));
        *run = (FfRun){p->at_block, first, p->at_page - first};
        return true;
    }
    return false;
}

static bool next(FfFilePager *p, FfRun *run, bool *zero)
{
    ff_mutex_lock(&p->cursor_lock);
    bool some = next_locked(p, run, zero);
    ff_mutex_unlock(&p->cursor_lock);
    return some;
}

/* Until ff_file_pager_fill(). FALSE: the end. */
static bool await_fill(FfFilePager *p)
{
    ff_mutex_lock(&p->cursor_lock);
    while (!p->fills && !g_atomic_int_get(&p->ends)) {
        ff_cond_wait(&p->filling, &p->cursor_lock);
    }
    bool fills = p->fills;
    ff_mutex_unlock(&p->cursor_lock);
    return fills;
}

static bool goes_on(FfFilePager *p)
{
    return !g_atomic_int_get(&p->ends) && !g_atomic_int_get(&p->broken);
}

/* FfReaderFunc */
static void fill_thread(FfReader *reader, void *owner)
{
    FfFilePager *p = owner;
    FfFileWorker w = {p, reader, p->fill_file};
    uint64_t first, end;
    FfRun run;
    bool zero;

    while (goes_on(p) && ff_file_first_next(p, &first, &end)) {
        if (!ff_file_first_bring(&w, first, end)) {
            return;
        }
    }
    if (!await_fill(p)) {
        return;
    }
    while (goes_on(p) && next(p, &run, &zero)) {
        if (zero ? !place_zero(p, &run, false) : !bring(&w, &run, NULL)) {
            return;
        }
    }
}

/* ---- beginning and end -------------------------------------------------------------------------
 */

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
}

FfFilePager *ff_file_pager_new(const FfFilePagerConfig *cfg)
{
    FfFilePager *p = g_new0(FfFilePager, 1);

    p->pager.request = request;
    p->cfg = *cfg;
    p->blocks = g_new0(FfFilePagerBlock, cfg->n_blocks);
    p->page_max = 1;
    for (unsigned i = 0; i < cfg->n_blocks; i++) {
        block_init(&p->blocks[i], &cfg->blocks[i]);
        p->page_max = MAX(p->page_max, p->blocks[i].per_page);
    }
    p->cfg.blocks = NULL;
    p->fill_bytes = cfg->read ? cfg->fill : FILL_BYTES;
    p->buf_len =
        MAX(MAX(p->page_max, cfg->first.chunk), p->fill_bytes / FF_FILE_PAGE) * FF_FILE_PAGE;
    if (cfg->first.n) {
        p->first_file = ff_reader_file_new(cfg->first.fd);
        posix_fadvise(cfg->first.fd, 0, 0, POSIX_FADV_RANDOM); /* read in pieces, as the fill */
    }
    if (cfg->record) {
        p->record = g_new(uint64_t, cfg->record);
        p->n_places = cfg->record;
    }
    ff_cond_init(&p->filling);
    ff_mutex_init(&p->ring_lock);
    ff_cond_init(&p->asked);
    ff_mutex_init(&p->cursor_lock);
    ff_mutex_init(&p->huge_lock);
    return p;
}

static void begin(FfFilePager *p, FfReader **readers, unsigned n, const char *name,
                  FfReaderFunc run)
{
    for (unsigned i = 0; i < n; i++) {
        readers[i] = ff_reader_start(name, p->buf_len, run, p);
    }
}

void ff_file_pager_start(FfFilePager *p, int urgent, int fill, const FfFileId *id)
{
    p->urgent_file = urgent < 0 ? NULL : ff_reader_file_new(urgent);
    p->fill_file = fill < 0 ? NULL : ff_reader_file_new(fill);
    p->id = id ? *id : (FfFileId){0};
    p->ends = p->broken = 0;
    p->fills = false;
    p->at_first = 0;
    p->at_block = 0;
    p->at_page = 0;
    /* The kernel reads no more than is asked for. A hint: what it says does not matter. */
    posix_fadvise(urgent, 0, 0, POSIX_FADV_RANDOM);
    posix_fadvise(fill, 0, 0, POSIX_FADV_RANDOM);
    begin(p, p->fault, FAULT_THREADS, "ff-file-fault", fault_thread);
    if (p->first_file) {
        begin(p, p->fill, FILL_THREADS, "ff-file-fill", fill_thread);
    }
}

void ff_file_pager_fill(FfFilePager *p)
{
    ff_mutex_lock(&p->cursor_lock);
    p->fills = true;
    ff_cond_broadcast(&p->filling);
    ff_mutex_unlock(&p->cursor_lock);
    if (!p->fill[0]) {
        begin(p, p->fill, FILL_THREADS, "ff-file-fill", fill_thread);
    }
}

void ff_file_pager_pause(FfFilePager *p)
{
    g_atomic_int_set(&p->broken, 1);
}

static void end(FfReader **readers, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        g_clear_pointer(&readers[i], ff_reader_end);
    }
}

void ff_file_pager_stop(FfFilePager *p)
{
    ff_mutex_lock(&p->ring_lock);
    g_atomic_int_set(&p->ends, 1);
    ff_cond_broadcast(&p->asked);
    ff_mutex_unlock(&p->ring_lock);
    ff_mutex_lock(&p->cursor_lock);
    ff_cond_broadcast(&p->filling);
    ff_mutex_unlock(&p->cursor_lock);
    end(p->fault, FAULT_THREADS);
    end(p->fill, FILL_THREADS);
    ff_mutex_lock(&p->ring_lock);
    p->head = p->n = 0;
    p->overflow = false;
    ff_mutex_unlock(&p->ring_lock);
    for (unsigned i = 0; i < p->cfg.n_blocks; i++) {
        ff_bitmap_clear_run(&p->blocks[i].wanted, 0, p->blocks[i].n_pages);
    }
    g_clear_pointer(&p->urgent_file, ff_reader_file_unref);
    g_clear_pointer(&p->fill_file, ff_reader_file_unref);
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
    }
    ff_reader_file_unref(p->first_file);
    g_free(p->record);
    ff_cond_clear(&p->filling);
    ff_cond_clear(&p->asked);
    ff_mutex_clear(&p->ring_lock);
    ff_mutex_clear(&p->cursor_lock);
    ff_mutex_clear(&p->huge_lock);
    g_free(p->blocks);
    g_free(p);
}
