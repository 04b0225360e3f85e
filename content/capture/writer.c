/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which page is written next, and from where; see writer.h for the threads.
 *
 * Memory is written in aligned runs of 128 KiB, of which one is in flight at a time. What of a run
 * was kept comes from the buffer, the rest straight from the mapping, and is lent to the disk
 * meanwhile: a page that somebody wants is kept then, and its run is written again, with that page
 * alone, when it is not in flight any more.
 *
 * The order: a page that somebody waits for, with its nearest neighbours; when half of the buffer
 * is used, runs that free slots; else from the first page to the last, and then what is in the
 * buffer.
 *
 * Memory that is not mapped here (private memory; hugetlb, which a look would fill) is read into a
 * buffer of the run's own and let go before it is written.
 *
 * System calls: lseek, eventfd, ppoll, read (eventfd), write (eventfd), mmap, munmap.
 */
#include "content/capture/writer.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "content/capture/limit.h"
#include "content/image/zero.h"
#include "uffd/holes.h"

#define RUN (128u << 10) /* bytes */
#define SMALL_RUN 4      /* pages, for threads that wait */
#define MAX_PAGES (RUN / 4096)
#define DEPTH 16

/* A run in flight. */
typedef struct {
    bool busy;
    FfRun run;
    FfProtectPage pages[MAX_PAGES];
    struct iovec iov[MAX_PAGES];
    FfWriterOp ops[MAX_PAGES];
    unsigned n_ops, pending;
    void *copy; /* of a whole run; NULL: nothing needs one */
} Flight;

struct FfWriter {
    FfWriterConfig cfg; /* with blocks of its own */
    FfWriterIo *io;
    Flight *flights;
    unsigned n_flights, n_busy;
    size_t copy_len;
    FfBitmap *data;              /* by block */
    FfRun cursor;                /* the next page in order */
    uint64_t data_from, data_to; /* bytes of data_block that the file has: to ask takes long */
    unsigned data_block;
    unsigned slot; /* the next one to look at */
    int wake_fd;
    bool cancelled;     /* atomic; observer: ff_writer_run() */
    uint64_t bandwidth; /* atomic, bytes per second; likewise */
    FfLimit limit;      /* of runs that nobody waits for */
    int rc;
    FfWriterStats stats; /* atomic; observer: ff_writer_stats() */
};

/* ---- making ---------------------------------------------------------------------------------- */

static uint64_t page_size(const FfWriter *w, unsigned block)
{
    return w->cfg.blocks[block].backing.page_size;
}

static uint64_t n_pages(const FfWriter *w, unsigned block)
{
    return w->cfg.blocks[block].backing.size / page_size(w, block);
}

/* Else it is read by ff_protect_read(). */
static bool is_mapped(const FfWriter *w, unsigned block)
{
    return w->cfg.blocks[block].map;
}

static int make_flights(FfWriter *w)
{
    w->flights = g_new0(Flight, w->n_flights);
    for (unsigned i = 0; i < w->n_flights && w->copy_len; i++) {
        void *copy =
            mmap(NULL, w->copy_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (copy == MAP_FAILED) {
            return -ENOMEM;
        }
        w->flights[i].copy = copy;
    }
    return 0;
}

int ff_writer_new(const FfWriterConfig *cfg, FfWriter **result)
{
    g_autoptr(FfWriter) w = g_new0(FfWriter, 1);

    w->cfg = *cfg;
    w->cfg.blocks = g_memdup2(cfg->blocks, cfg->n_blocks * sizeof(*cfg->blocks));
    w->n_flights = cfg->depth ? cfg->depth : DEPTH;
    w->data = g_new0(FfBitmap, cfg->n_blocks);
    for (unsigned i = 0; i < cfg->n_blocks; i++) {
        if (!ff_bitmap_try_init(&w->data[i], n_pages(w, i), false)) {
            return -ENOMEM;
        }
        if (!is_mapped(w, i)) {
            w->copy_len = MAX(w->copy_len, MAX(RUN, page_size(w, i)));
        }
    }
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->wake_fd < 0) {
        return -errno;
    }
    int rc = make_flights(w);
    if (rc < 0) {
        return rc;
    }
    w->io = ff_writer_io_new(cfg->fd, w->n_flights * 4, cfg->way);
    w->stats.way = ff_writer_io_way(w->io);
    *result = g_steal_pointer(&w);
    return 0;
}

void ff_writer_free(FfWriter *w)
{
    if (!w) {
        return;
    }
    ff_writer_io_free(w->io);
    for (unsigned i = 0; w->flights && i < w->n_flights; i++) {
        if (w->flights[i].copy) {
            munmap(w->flights[i].copy, w->copy_len);
        }
    }
    for (unsigned i = 0; i < w->cfg.n_blocks; i++) {
        ff_bitmap_clear(&w->data[i]);
    }
    if (w->wake_fd >= 0) {
        close(w->wake_fd);
    }
    g_free((void *)w->cfg.blocks);
    g_free(w->flights);
    g_free(w->data);
    g_free(w);
}

static void note_failure(FfWriter *w, int rc)
{
    w->rc = w->rc ? w->rc : rc;
}

static void add_count(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* ---- what a run holds ------------------------------------------------------------------------ */

static void for_claimed(FfWriter *w, Flight *f, unsigned first, unsigned end,
                        void (*fn)(FfWriter *, Flight *, const FfRun *))
{
    for (unsigned i = first, n; i < end; i += n) {
        bool is_claimed = f->pages[i].where == FF_PROTECT_CLAIMED;
        for (n = 1; i + n < end && (f->pages[i + n].where == FF_PROTECT_CLAIMED) == is_claimed;
             n++) {
        }
        if (is_claimed) {
            fn(w, f, &(FfRun){f->run.block, f->run.first + i, n});
        }
    }
}

/* Returns how many pages of it come once more. */
static uint64_t end_loan(FfWriter *w, const FfRun *run)
{
    uint64_t again;
    int rc = ff_protect_end_loan(w->cfg.protect, run, &again);

    if (rc < 0) {
        note_failure(w, rc);
    }
    return again;
}

/* Page I needs nothing any more. FALSE: it has been kept since, and comes from the buffer. */
static bool drop_page(FfWriter *w, Flight *f, unsigned i)
{
    FfRun page = {f->run.block, f->run.first + i, 1};
    bool dropped = true;

    if (f->pages[i].where == FF_PROTECT_CLAIMED && is_mapped(w, f->run.block)) {
        dropped = end_loan(w, &page) == 0;
    } else if (f->pages[i].where == FF_PROTECT_CLAIMED) {
        int rc = ff_protect_done(w->cfg.protect, &page);
        if (rc < 0) {
            note_failure(w, rc);
        }
    } else if (f->pages[i].where == FF_PROTECT_KEPT) {
        ff_protect_release(w->cfg.protect, f->pages[i].slot);
    }
    f->pages[i].where = FF_PROTECT_OTHERS;
    return dropped;
}

/* The next bytes at or after AT and before END that the file of BLOCK has. FALSE: there are none,
 * or it failed. */
static bool find_data(FfWriter *w, unsigned block, uint64_t at, uint64_t end, uint64_t *from,
                      uint64_t *to)
{
    const FfBacking *b = &w->cfg.blocks[block].backing;
    bool known = w->data_block == block && at >= w->data_from && at < w->data_to;

    if (!known) {
        off_t data = ff_holes_next_data(b->fd, (off_t)at, (off_t)end);
        off_t hole = data < 0 ? data : ff_holes_end_of_data(b->fd, data, (off_t)b->size);
        if (hole < 0) {
            if (errno != ENXIO) {
                note_failure(w, -errno);
            }
            return false;
        }
        w->data_block = block;
        w->data_from = (uint64_t)data;
        w->data_to = (uint64_t)hole;
    }
    *from = MAX(at, w->data_from);
    *to = w->data_to;
    return true;
}

/* Where the claimed pages of the run are in the mapping. What is a hole of the file gets no place:
 * to look there would fill it. */
static void find_in_map(FfWriter *w, Flight *f)
{
    const FfWriterBlock *b = &w->cfg.blocks[f->run.block];
    uint64_t ps = b->backing.page_size, start = f->run.first * ps, end = start + f->run.n * ps;
    uint64_t from, to;

    for (uint64_t at = start; at < end && find_data(w, f->run.block, at, end, &from, &to);
         at = to) {
        for (at = from; at < MIN(end, to); at += ps) {
            FfProtectPage *page = &f->pages[(at - start) / ps];
            if (page->where == FF_PROTECT_CLAIMED) {
                page->data = (const char *)b->map + at;
            }
        }
    }
}

/* Whether there is anything to read: in a large hole there is not. After the end of the file there
 * is something that cannot be read. */
static bool has_data(FfWriter *w, const FfRun *run)
{
    const FfBacking *b = &w->cfg.blocks[run->block].backing;
    uint64_t start = run->first * b->page_size, end = start + run->n * b->page_size, from, to;

    if (b->kind != FF_BACKING_SHARED) {
        return true;
    }
    return find_data(w, run->block, start, end, &from, &to) ||
           lseek(b->fd, 0, SEEK_END) < (off_t)end;
}

/* What was given back meanwhile is nobody's here any more. */
static void read_claimed(FfWriter *w, Flight *f, const FfRun *run)
{
    uint64_t ps = page_size(w, run->block), i = run->first - f->run.first;
    char *to = (char *)f->copy + i * ps;
    int rc = ff_protect_read(w->cfg.protect, run, to);

    for (unsigned k = 0; k < run->n && rc == 0; k++) {
        if (!ff_protect_own(w->cfg.protect, run->block, run->first + k)) {
            f->pages[i + k].where = FF_PROTECT_OTHERS;
        }
        f->pages[i + k].data = to + k * ps;
    }
    if (rc < 0) {
        note_failure(w, rc);
    }
}

/* It has been copied: its writers need not wait for the disk. */
static void let_go(FfWriter *w, Flight *f, const FfRun *run)
{
    int rc = ff_protect_done(w->cfg.protect, run);

    for (unsigned k = 0; k < run->n; k++) {
        f->pages[run->first - f->run.first + k].where = FF_PROTECT_COPIED;
    }
    if (rc < 0) {
        note_failure(w, rc);
    }
}

static void lend_run(FfWriter *w, Flight *f, const FfRun *run)
{
    int rc = ff_protect_lend(w->cfg.protect, run);

    if (rc < 0) {
        note_failure(w, rc);
    }
}

/* Where the pages of the run are. Each look may take long (swapped memory, hidden holes), and
 * nobody who wants one of them waits for that: what is mapped is lent first. */
static void find_pages(FfWriter *w, Flight *f)
{
    FF_FAULT_AT("writer-claimed");
    if (is_mapped(w, f->run.block)) {
        for_claimed(w, f, 0, f->run.n, lend_run);
        FF_FAULT_AT("writer-looks");
        find_in_map(w, f);
    } else if (has_data(w, &f->run)) {
        for_claimed(w, f, 0, f->run.n, read_claimed);
    }
}

/* Page I is in the buffer since it was lent; what was just read of the mapping may be new. */
static bool was_taken(FfWriter *w, Flight *f, unsigned i)
{
    if (f->pages[i].where != FF_PROTECT_CLAIMED || !is_mapped(w, f->run.block)) {
        return false;
    }
    /* After what was read: a thread that writes to the page does so after it was taken. */
    return !ff_protect_is_lent(w->cfg.protect, f->run.block, f->run.first + i);
}

/* Finds all pages of the run, and drops those that need not be written. */
static void fill_flight(FfWriter *w, Flight *f)
{
    uint64_t ps = page_size(w, f->run.block);

    find_pages(w, f);
    for (unsigned i = 0; i < f->run.n && !w->rc; i++) {
        FfProtectPage *page = &f->pages[i];
        bool is_there = page->where != FF_PROTECT_OTHERS;
        bool again = is_there && ff_bitmap_test(&w->data[f->run.block], f->run.first + i);
        bool zero = is_there && (!page->data || ff_saved_is_zero(page->data, ps));
        if (was_taken(w, f, i)) {
            page->where = FF_PROTECT_OTHERS;
        } else if (zero) {
            add_count(&w->stats.zeros, drop_page(w, f, i));
        } else if (again && FF_FAULT_STEP("writer-again", false)) {
            drop_page(w, f, i);
        } else if (is_there) {
            ff_bitmap_set(&w->data[f->run.block], f->run.first + i);
        }
    }
    if (!is_mapped(w, f->run.block)) {
        for_claimed(w, f, 0, f->run.n, let_go);
    }
}

/* ---- flights --------------------------------------------------------------------------------- */

/* Makes the ops of F: one for each row of pages. */
static void make_ops(FfWriter *w, Flight *f)
{
    uint64_t ps = page_size(w, f->run.block), base = w->cfg.blocks[f->run.block].file_offset;
    unsigned n_iov = 0;

    f->n_ops = 0;
    for (unsigned i = 0; i < f->run.n; i++) {
        FfProtectPage *page = &f->pages[i];
        FfWriterOp *op = f->n_ops ? &f->ops[f->n_ops - 1] : NULL;
        uint64_t offset = base + (f->run.first + i) * ps;
        if (page->where == FF_PROTECT_OTHERS) {
            continue;
        }
        if (!op || f->pages[i - 1].where == FF_PROTECT_OTHERS) {
            op = &f->ops[f->n_ops++];
            *op = (FfWriterOp){.iov = &f->iov[n_iov], .offset = offset, .owner = f};
        }
        struct iovec *last = op->n ? &op->iov[op->n - 1] : NULL;
        if (last && (const char *)last->iov_base + last->iov_len == page->data) {
            last->iov_len += ps;
        } else {
            f->iov[n_iov++] = (struct iovec){(void *)page->data, ps};
            op->n++;
        }
        add_count(&w->stats.bytes, ps);
    }
    f->pending = f->n_ops;
    add_count(&w->stats.runs, f->n_ops > 0);
}

static void land_lent(FfWriter *w, Flight *f, const FfRun *run)
{
    add_count(&w->stats.again, end_loan(w, run));
}

/* All of F is in the file. */
static void land_flight(FfWriter *w, Flight *f)
{
    if (!w->rc) {
        for_claimed(w, f, 0, f->run.n, land_lent);
    }
    for (unsigned i = 0; i < f->run.n; i++) {
        if (f->pages[i].where == FF_PROTECT_KEPT && !w->rc) {
            ff_protect_release(w->cfg.protect, f->pages[i].slot);
        }
    }
    f->busy = false;
    w->n_busy--;
}

/* Of an op that has ended. */
static void reap_op(FfWriter *w)
{
    int rc;
    FfWriterOp *op = ff_writer_io_wait(w->io, &rc);
    Flight *f = op->owner;

    if (rc < 0) {
        note_failure(w, rc);
    }
    if (--f->pending == 0) {
        land_flight(w, f);
    }
}

/* Takes off with what can be had of RUN. FALSE: nothing. */
static bool take_off(FfWriter *w, const FfRun *run)
{
    Flight *f = w->flights;

    while (f->busy) {
        f++;
    }
    f->run = *run;
    if (!ff_protect_gather(w->cfg.protect, run, f->pages)) {
        return false;
    }
    f->busy = true;
    w->n_busy++;
    fill_flight(w, f);
    FF_FAULT_AT("writer-lent");
    if (!w->rc) {
        make_ops(w, f);
    }
    if (w->rc || !f->n_ops) {
        land_flight(w, f);
        return true;
    }
    for (unsigned i = 0; i < f->n_ops; i++) {
        ff_writer_io_submit(w->io, &f->ops[i]);
    }
    return true;
}

/* ---- the order ------------------------------------------------------------------------------- */

/* The aligned run of N pages in which PAGE is. */
static FfRun run_around(const FfWriter *w, unsigned block, uint64_t page, uint64_t n)
{
    FfRun run = {block, page / n * n, n};

    run.n = MIN(n, n_pages(w, block) - run.first);
    return run;
}

static uint64_t run_pages(const FfWriter *w, unsigned block)
{
    return MAX(1, RUN / page_size(w, block));
}

static bool is_in_flight(const FfWriter *w, const FfRun *run)
{
    for (unsigned i = 0; i < w->n_flights; i++) {
        const FfRun *r = &w->flights[i].run;
        if (w->flights[i].busy && r->block == run->block && r->first < run->first + run->n &&
            run->first < r->first + r->n) {
            return true;
        }
    }
    return false;
}

static bool next_wanted(FfWriter *w, FfRun *run)
{
    FfRun page;

    if (!ff_protect_peek_wanted(w->cfg.protect, &page)) {
        return false;
    }
    *run = run_around(w, page.block, page.first, MIN(SMALL_RUN, run_pages(w, page.block)));
    return !is_in_flight(w, run);
}

/* The next run that has a page in the buffer, from the slot on at which the last search ended. */
static bool next_kept(FfWriter *w, FfRun *run)
{
    for (unsigned round = 0; round < 2; round++) {
        FfRun page;
        for (; ff_protect_peek_kept(w->cfg.protect, &w->slot, &page); w->slot++) {
            *run = run_around(w, page.block, page.first, run_pages(w, page.block));
            if (!is_in_flight(w, run)) {
                return true;
            }
        }
        w->slot = 0;
    }
    return false;
}

static bool next_in_order(FfWriter *w, FfRun *run)
{
    for (unsigned rest = w->cfg.n_blocks + 1; rest > 0; rest--) {
        FfRun page = w->cursor;
        while (ff_protect_peek_free(w->cfg.protect, &page)) {
            *run = run_around(w, page.block, page.first, run_pages(w, page.block));
            w->cursor.first = page.first = run->first + run->n;
            if (!is_in_flight(w, run)) {
                return true;
            }
        }
        w->cursor = (FfRun){.block = (w->cursor.block + 1) % w->cfg.n_blocks};
    }
    return false;
}

static bool is_half_used(const FfWriter *w)
{
    unsigned n_free, n = ff_protect_slots(w->cfg.protect, &n_free);

    return n_free < n - n / 2;
}

static bool next_unwanted(FfWriter *w, FfRun *run)
{
    return (is_half_used(w) && next_kept(w, run)) || next_in_order(w, run) || next_kept(w, run);
}

/* ---- running --------------------------------------------------------------------------------- */

/* Until ff_writer_wake(), or for US microseconds; -1: no end. */
static void wait_for_wake(FfWriter *w, int64_t us)
{
    struct pollfd pfd = {.fd = w->wake_fd, .events = POLLIN};
    struct timespec for_us = {us / 1000000, us % 1000000 * 1000};

    while (ppoll(&pfd, 1, us < 0 ? NULL : &for_us, NULL) < 0 && errno == EINTR) {
    }
}

/* What was told before this is looked at after it. */
static void forget_wakes(FfWriter *w)
{
    uint64_t n;

    while (read(w->wake_fd, &n, sizeof(n)) < 0 && errno == EINTR) {
    }
}

static uint64_t limited_bandwidth(const FfWriter *w)
{
    return __atomic_load_n(&w->bandwidth, __ATOMIC_RELAXED);
}

/* Begins with the next run. FALSE: there is none now. *LATER: there is one after so many
 * microseconds, -1: none. */
static bool begin_next(FfWriter *w, int64_t *later)
{
    uint64_t before = w->stats.bytes;
    FfRun run;

    *later = -1;
    if (w->n_busy == w->n_flights) {
        return false;
    }
    if (!next_wanted(w, &run)) {
        int64_t us = ff_limit_delay(&w->limit, limited_bandwidth(w));
        if (us) {
            *later = us;
            return false;
        }
        if (!next_unwanted(w, &run)) {
            return false;
        }
    }
    take_off(w, &run);
    ff_limit_charge(&w->limit, limited_bandwidth(w), w->stats.bytes - before);
    return true;
}

int ff_writer_run(FfWriter *w)
{
    int64_t later;

    for (;;) {
        /* Before all that is looked at: a wake that comes behind a look is for the next one. */
        forget_wakes(w);
        if (w->rc || __atomic_load_n(&w->cancelled, __ATOMIC_ACQUIRE)) {
            break;
        }
        if (w->n_busy && ff_writer_io_way(w->io) != FF_WRITER_URING) {
            reap_op(w); /* it is written already, and somebody may wait for its pages */
            continue;
        }
        if (begin_next(w, &later)) {
            continue;
        }
        if (w->n_busy) {
            reap_op(w);
        } else if (ff_protect_left(w->cfg.protect)) {
            wait_for_wake(w, later);
        } else {
            break;
        }
    }
    while (w->n_busy) {
        reap_op(w);
    }
    __atomic_store_n(&w->stats.way, ff_writer_io_way(w->io), __ATOMIC_RELAXED);
    return w->rc ? w->rc : __atomic_load_n(&w->cancelled, __ATOMIC_ACQUIRE) ? -ECANCELED : 0;
}

void ff_writer_wake(FfWriter *w)
{
    uint64_t one = 1;

    while (write(w->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

void ff_writer_cancel(FfWriter *w)
{
    __atomic_store_n(&w->cancelled, true, __ATOMIC_RELEASE);
    ff_writer_wake(w);
}

const FfBitmap *ff_writer_data(const FfWriter *w, unsigned block)
{
    return &w->data[block];
}

void ff_writer_set_bandwidth(FfWriter *w, uint64_t bytes_per_second)
{
    __atomic_store_n(&w->bandwidth, bytes_per_second, __ATOMIC_RELAXED);
    ff_writer_wake(w);
}

FfWriterStats ff_writer_stats(const FfWriter *w)
{
    return (FfWriterStats){
        .bytes = __atomic_load_n(&w->stats.bytes, __ATOMIC_RELAXED),
        .runs = __atomic_load_n(&w->stats.runs, __ATOMIC_RELAXED),
        .zeros = __atomic_load_n(&w->stats.zeros, __ATOMIC_RELAXED),
        .again = __atomic_load_n(&w->stats.again, __ATOMIC_RELAXED),
        .way = __atomic_load_n(&w->stats.way, __ATOMIC_RELAXED),
    };
}
