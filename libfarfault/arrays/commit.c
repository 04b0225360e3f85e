/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What was changed in an array is stored, or dropped. See internal.h for the states and the
 * lock.
 *
 * An array of the caller's: each block with changed pages is handed to store_dirty(), whole, in
 * ascending order. One of ff_array_open*(): changed pages are written to the log, as far as they
 * are not there already for want of memory; its end is the moment of the commit, and the one fsync.
 * Then they are written to the file, without one: if that is lost the log has them. The log is
 * emptied when it has become long, after the file was synced. One that is compressed is only read,
 * and what was changed is dropped or stays.
 *
 * `busy` keeps others out, and changed blocks in memory, so that what is read of them is right
 * without the lock. Nobody should write meanwhile. If somebody does all the same it is not lost:
 * what is stored is protected before it is read, and stays changed when it is written to.
 *
 * Threads: any. System calls: ioctl(PAGEMAP_SCAN, UFFDIO_WRITEPROTECT), pread64 (memfd).
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "libfarfault/arrays/internal.h"
#include "libfarfault/common/rlimits.h"
#include "uffd/pagemap.h"
#include "uffd/uffd.h"

#define PAGE FF_ARRAY_PAGE
#define TABLE (2ull << 20) /* bytes of a page table */
#define LOG_MAX (256ull << 20)

/* ---- what was written ------------------------------------------------------------------------ */

typedef struct {
    FfArray *a;
    const FfArrayMap *m;
    uint64_t end; /* of what was told last; 0: nothing */
} Harvest;

static void note_written(uint64_t addr, uint64_t len, void *opaque)
{
    Harvest *h = opaque;

    ff_array_note_changed(h->a, (h->m->offset + (addr - h->m->addr)) / PAGE, len / PAGE);
    h->end = addr + len;
}

/* One page table at most. Where nothing was told all is protected, by its table; or that is gone,
 * with what was written there (uffd/pagemap.c). */
static int harvest_table(Harvest *h, uint64_t addr, uint64_t len)
{
    int fd = h->a->pagemap_fd;

    h->end = 0;
    int rc = ff_pagemap_scan(fd, addr, len, true, note_written, h);
    if (rc == 0 && !h->end) {
        rc = ff_pagemap_protected(fd, addr);
        if (rc == 0) {
            rc = ff_uffd_protect(h->a->uffd, addr, len);
            note_written(addr, len, h);
        }
    }
    return MIN(rc, 0);
}

int ff_array_harvest(FfArray *a, FfArrayMap *m)
{
    Harvest h = {.a = a, .m = m};
    uint64_t first, n;
    int rc = 0;

    if (!a->async) {
        return 0;
    }
    for (uint64_t at = 0; rc == 0 && (n = ff_bitmap_next_run(&m->shown, at, true, &first));
         at = first + n) {
        uint64_t from = MAX(first * a->block_size, m->offset) - m->offset + m->addr;
        uint64_t end = MIN((first + n) * a->block_size - m->offset, m->len) + m->addr;
        for (uint64_t next; from < end && rc == 0; from = next) {
            next = MIN(end, (from / TABLE + 1) * TABLE);
            rc = harvest_table(&h, from, next - from);
        }
    }
    return rc;
}

static int harvest_all(FfArray *a)
{
    int rc = 0;

    for (guint i = 0; i < a->maps->len && rc == 0; i++) {
        rc = ff_array_harvest(a, a->maps->pdata[i]);
    }
    return rc;
}

/* The next block at or after FROM with changed pages; n_blocks: none. */
static uint64_t next_dirty(const FfArray *a, uint64_t from)
{
    uint64_t page = ff_array_first_page(a, from), n_pages = a->size / PAGE;

    while (page < n_pages) {
        uint64_t word = __atomic_load_n(&a->dirty.words[page / 64], __ATOMIC_RELAXED);
        word &= ~0ull << page % 64;
        if (word) {
            return (page / 64 * 64 + (uint64_t)__builtin_ctzll(word)) * PAGE / a->block_size;
        }
        page = (page / 64 + 1) * 64;
    }
    return a->n_blocks;
}

/* ---- one at a time --------------------------------------------------------------------------- */

/* Locked afterwards, if it is 0. */
static int begin_commit(FfArray *a, const char *call)
{
    if (a->pid != getpid()) {
        return ff_fail(-ECHILD, "%s: this is a child of the process whose memory it is", call);
    }
    pthread_mutex_lock(&a->lock);
    if (a->busy) {
        pthread_mutex_unlock(&a->lock);
        return ff_fail(-EBUSY, "%s: another thread commits, aborts or invalidates", call);
    }
    a->busy = true;
    while (a->n_spilling) { /* a thread that spills has not seen that it is busy */
        pthread_cond_wait(&a->changed, &a->lock);
    }
    return 0;
}

/* A thread that loads one of N pages from FIRST on may have begun before they were stored, and
 * would look for them in the log by now. */
static void load_again(FfArray *a, uint64_t first, uint64_t n)
{
    uint64_t last = (first + n - 1) / ff_array_pages(a);

    for (uint64_t b = first / ff_array_pages(a); b <= last; b++) {
        a->blocks[b].again |= a->blocks[b].state == FF_BLOCK_LOADING;
    }
}

/* Locked before. */
static void end_commit(FfArray *a)
{
    a->busy = false;
    if (a->broken) {
        load_again(a, 0, a->size / PAGE); /* with the log */
    }
    pthread_mutex_unlock(&a->lock);
}

static int fail_commit(const char *call, int rc)
{
    return ff_fail(rc, "%s: %s", call, ff_strerror(-rc));
}

/* ---- storing --------------------------------------------------------------------------------- */

/* Of BLOCK, which is changed: it stays where it is, as nothing is spilled, and is in the log if it
 * is not in memory. One that was not changed when this began may be on its way out, and comes back.
 */
static bool is_loaded(FfArray *a, uint64_t block)
{
    pthread_mutex_lock(&a->lock);
    while (a->blocks[block].state == FF_BLOCK_LEAVING) {
        pthread_cond_wait(&a->changed, &a->lock);
    }
    bool loaded = a->blocks[block].state == FF_BLOCK_LOADED;
    pthread_mutex_unlock(&a->lock);
    return loaded;
}

/* N pages from FIRST on, of one block: where each first write is a fault, the next one is again.
 * -errno: they may be written to, and nobody knows. Locked. */
static int protect_pages(const FfArray *a, uint64_t first, uint64_t n)
{
    uint64_t begin = first * PAGE / a->page_size * a->page_size;
    uint64_t end = ((first + n) * PAGE + a->page_size - 1) / a->page_size * a->page_size;
    int rc = 0;

    for (guint i = 0; !a->async && i < a->maps->len && rc == 0; i++) {
        const FfArrayMap *m = a->maps->pdata[i];
        uint64_t from = MAX(begin, m->offset), to = MIN(end, m->offset + m->len);
        if (from < to && ff_bitmap_test(&m->shown, from / a->block_size)) {
            rc = ff_uffd_protect(a->uffd, m->addr + (from - m->offset), to - from);
        }
    }
    return rc;
}

/* What is changed in BLOCK counts as stored, before it is read: what is written to it from now on
 * does not (ff_array_note_changed()), whether that is stored or not. What cannot be protected, for
 * want of memory, stays changed. */
static void begin_store(FfArray *a, uint64_t block)
{
    uint64_t at = ff_array_first_page(a, block), end = at + ff_array_pages(a), first, n;

    pthread_mutex_lock(&a->lock);
    for (; (n = ff_bitmap_next_run_in(&a->dirty, at, end, true, &first)); at = first + n) {
        bool all = protect_pages(a, first, n) == 0;
        for (uint64_t i = first, some; i < first + n; i += some) {
            some = all ? n : MIN(a->page_size / PAGE, first + n - i);
            if (all || protect_pages(a, i, some) == 0) {
                ff_bitmap_set_run(&a->stored, i, some);
            }
        }
    }
    pthread_mutex_unlock(&a->lock);
}

/* Nothing of N blocks from FIRST on was stored. Returns RC. */
static int fail_store(FfArray *a, uint64_t first, uint64_t n, int rc)
{
    ff_bitmap_clear_run(&a->stored, ff_array_first_page(a, first), n * ff_array_pages(a));
    return rc;
}

/* What it holds now. */
static int read_now(FfArray *a, uint64_t block, char *buffer)
{
    if (!is_loaded(a, block)) {
        return ff_array_read(a, block, buffer);
    }
    for (size_t done = 0; done < a->block_size;) {
        ssize_t n = pread(ff_array_block_fd(a, block), buffer + done, a->block_size - done,
                          (off_t)(block * a->block_size + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        done += (size_t)n;
    }
    return 0;
}

/* Calls FN for each run of changed pages of BLOCK. */
typedef int Run(FfArray *a, uint64_t first, uint64_t n, const char *data);
static int each_run(FfArray *a, uint64_t block, const char *buffer, Run *fn)
{
    uint64_t first = ff_array_first_page(a, block), n_pages = ff_array_pages(a);
    int rc = 0;

    for (uint64_t i = 0, n; i < n_pages && rc == 0; i += n) {
        bool dirty = ff_bitmap_test(&a->dirty, first + i);
        for (n = 1; i + n < n_pages && ff_bitmap_test(&a->dirty, first + i + n) == dirty; n++) {
        }
        rc = dirty ? fn(a, first + i, n, buffer + i * PAGE) : 0;
    }
    return rc;
}

static int to_log(FfArray *a, uint64_t first, uint64_t n, const char *data)
{
    uint64_t end = ff_array_end_page(a);

    return first >= end ? 0 : ff_redo_add(a->log, first, MIN(n, end - first), data);
}

static int to_disk(FfArray *a, uint64_t first, uint64_t n, const char *data)
{
    uint64_t at = first * PAGE;

    return at >= a->len ? 0 : ff_array_disk_write(a->disk, at, data, MIN(n * PAGE, a->len - at));
}

/* Of each changed block STEP, in ascending order. BUFFER has its content. */
typedef int Step(FfArray *a, uint64_t block, char *buffer);
static int each_dirty(FfArray *a, char *buffer, Step *step)
{
    int rc = 0;

    for (uint64_t b = 0; rc == 0 && (b = next_dirty(a, b)) < a->n_blocks; b++) {
        rc = step(a, b, buffer);
    }
    return rc;
}

static int log_block(FfArray *a, uint64_t block, char *buffer)
{
    begin_store(a, block);
    if (!is_loaded(a, block)) {
        return 0;
    }
    int rc = read_now(a, block, buffer);
    return rc < 0 ? rc : each_run(a, block, buffer, to_log);
}

static int apply_block(FfArray *a, uint64_t block, char *buffer)
{
    int rc = read_now(a, block, buffer);

    rc = rc < 0 ? rc : each_run(a, block, buffer, to_disk);
    a->stats.stores += rc == 0;
    return rc;
}

static int store_block(FfArray *a, uint64_t block, char *buffer)
{
    int rc = a->file.store ? 0 : -EROFS;

    if (rc == 0) {
        begin_store(a, block);
        rc = read_now(a, block, buffer);
    }
    if (rc == 0) {
        rc = a->file.store(a->opaque, block, buffer);
        rc = rc > 0 ? -EIO : rc;
    }
    a->stats.stores += rc == 0;
    return rc < 0 ? fail_store(a, block, 1, rc) : 0;
}

/* Of an array that can only be read: a block that counts as written, and holds what it held
 * (place.c; or the program has written the same), is not changed. */
static int compare_block(FfArray *a, uint64_t block, char *buffer)
{
    g_autofree char *was = g_try_malloc(a->block_size);
    begin_store(a, block);
    int rc = was ? read_now(a, block, buffer) : -ENOMEM;

    rc = rc < 0 ? rc : ff_array_load(a, block, was);
    if (rc == 0 && memcmp(was, buffer, MIN(a->block_size, a->len - block * a->block_size)) != 0) {
        rc = -EROFS;
    }
    return rc < 0 ? fail_store(a, block, 1, rc) : 0;
}

int ff_array_checkpoint(FfArray *a)
{
    int rc = ff_array_disk_sync(a->disk);

    return rc < 0 ? rc : ff_redo_reset(a->log);
}

/* What was committed is in its place, and what is changed in memory: the log is empty. -EBUSY:
 * something that is changed is in the log alone. */
static int empty_log(FfArray *a)
{
    for (uint64_t b = 0; (b = next_dirty(a, b)) < a->n_blocks; b++) {
        if (!is_loaded(a, b)) {
            return -EBUSY;
        }
    }
    return ff_array_checkpoint(a);
}

/* The log has it: what fails from here on does not undo it. */
static int apply_log(FfArray *a, char *buffer)
{
    int rc = each_dirty(a, buffer, apply_block);

    if (rc < 0) {
        /* The log has what the file lacks: it stays until it is opened again. */
        return ff_fail(
            -EIO,
            "ff_array_commit: it is committed, and could not be written to its place (%s): "
            "free this array and open it again",
            ff_strerror(-rc));
    }
    return 0;
}

static int set_broken(FfArray *a, int rc)
{
    __atomic_store_n(&a->broken, rc < 0, __ATOMIC_RELEASE);
    return rc;
}

static int log_all(FfArray *a, char *buffer)
{
    int rc = each_dirty(a, buffer, log_block);

    return rc < 0 ? rc : ff_redo_end(a->log);
}

static int store_disk(FfArray *a, char *buffer)
{
    if (a->broken) {
        return ff_fail(-EIO,
                       "ff_array_commit: an earlier one failed in the middle: free this array "
                       "and open it again");
    }
    int rc = log_all(a, buffer), emptied = 0;
    if ((rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG) && ff_redo_size(a->log) &&
        !ff_redo_is_lost(a->log)) {
        emptied = empty_log(a);
        rc = emptied < 0 ? rc : log_all(a, buffer);
    }
    if (rc < 0) {
        set_broken(a, ff_redo_is_lost(a->log) || (emptied < 0 && emptied != -EBUSY) ? rc : 0);
        return ff_fail(a->broken ? -EIO : rc, "ff_array_commit: the log: %s%s", ff_strerror(-rc),
                       a->broken ? ": free this array and open it again" : "");
    }
    return set_broken(a, apply_log(a, buffer));
}

static int store_dirty(FfArray *a)
{
    g_autofree char *buffer = g_try_malloc(a->block_size);

    if (next_dirty(a, 0) == a->n_blocks) {
        return 0;
    }
    if (!buffer) {
        return fail_commit("ff_array_commit", -ENOMEM);
    }
    if (a->read_only) {
        int rc = each_dirty(a, buffer, compare_block);
        if (rc == -EROFS) {
            return ff_fail(rc, "ff_array_commit: a compressed file can only be read: drop what was "
                               "changed by ff_array_abort()");
        }
        return rc < 0 ? fail_commit("ff_array_commit", rc) : 0;
    }
    if (a->disk) {
        g_auto(FfXfsz) xfsz = ff_xfsz_begin();
        int rc = store_disk(a, buffer);
        return rc < 0 ? fail_store(a, 0, a->n_blocks, rc) : 0;
    }
    int rc = each_dirty(a, buffer, store_block);
    return rc < 0 ? fail_commit("ff_array_commit: store", rc) : 0;
}

/* ---- marking --------------------------------------------------------------------------------- */

/* Locked. */
static void mark_dirty(FfArray *a)
{
    uint64_t first, n;

    for (uint64_t at = 0; (n = ff_bitmap_next_run(&a->stored, at, true, &first)); at = first + n) {
        for (uint64_t i = first; a->log && i < first + n; i++) {
            ff_redo_forget(a->log, i);
        }
        load_again(a, first, n);
        ff_bitmap_clear_run(&a->dirty, first, n);
        ff_bitmap_clear_run(&a->stored, first, n);
    }
    /* What is not stored yet, and was spilled, is still wanted. */
    if (a->log && next_dirty(a, 0) == a->n_blocks) {
        ff_redo_begin(a->log);
    }
}

int ff_array_writeout(FfArray *a, unsigned flags)
{
    int rc = 0;

    if (!flags || flags & ~(FF_ARRAY_STORE | FF_ARRAY_MARK)) {
        return ff_fail(-EINVAL,
                       "ff_array_writeout: flags are FF_ARRAY_STORE, FF_ARRAY_MARK or both");
    }
    rc = ff_reserve("ff_array_commit", 0);
    rc = rc < 0 ? rc : begin_commit(a, "ff_array_commit");
    if (rc < 0) {
        return rc;
    }
    if (flags & FF_ARRAY_STORE) {
        rc = harvest_all(a);
        rc = rc < 0 ? fail_commit("ff_array_commit: the page tables", rc) : 0;
        pthread_mutex_unlock(&a->lock);
        rc = rc < 0 ? rc : store_dirty(a);
        pthread_mutex_lock(&a->lock);
    }
    if (rc == 0 && flags & FF_ARRAY_MARK) {
        mark_dirty(a);
    }
    if (rc == 0 && a->disk && !a->read_only && !a->broken && next_dirty(a, 0) == a->n_blocks &&
        ff_redo_size(a->log) > LOG_MAX) {
        pthread_mutex_unlock(&a->lock);
        /* It is committed. A log that cannot be emptied is there for the next one that opens it:
         * the kernel tells once that it could not write, so this is not tried once more. */
        set_broken(a, ff_array_checkpoint(a));
        pthread_mutex_lock(&a->lock);
    }
    end_commit(a);
    return rc;
}

int ff_array_commit(FfArray *a)
{
    return ff_array_writeout(a, FF_ARRAY_STORE | FF_ARRAY_MARK);
}

int ff_array_sync(FfArray *a)
{
    int rc = begin_commit(a, "ff_array_sync");

    if (rc < 0) {
        return rc;
    }
    if (a->broken) {
        rc = ff_fail(-EIO, "ff_array_sync: a commit failed in the middle: free this array and open "
                           "it again");
    } else if (a->disk && !a->read_only && ff_redo_size(a->log)) {
        pthread_mutex_unlock(&a->lock);
        rc = empty_log(a);
        set_broken(a, rc == -EBUSY ? 0 : rc);
        rc = rc == -EBUSY
                 ? ff_fail(rc, "ff_array_sync: what is changed and has no room in memory is "
                               "in the log: commit or abort it first")
             : rc < 0 ? ff_fail(-EIO, "ff_array_sync: %s: free this array and open it again",
                                ff_strerror(-rc))
                      : 0;
        pthread_mutex_lock(&a->lock);
    }
    end_commit(a);
    return rc;
}

/* ---- dropping -------------------------------------------------------------------------------- */

static void forget_pages(FfArray *a, uint64_t block)
{
    uint64_t first = ff_array_first_page(a, block), n = ff_array_pages(a);

    for (uint64_t i = 0; a->log && i < n; i++) {
        if (ff_bitmap_test(&a->dirty, first + i)) { /* what is in the log is changed */
            ff_redo_forget(a->log, first + i);
        }
    }
    ff_bitmap_clear_run(&a->dirty, first, n);
    ff_bitmap_clear_run(&a->stored, first, n);
}

/* Locked, drops the lock: BLOCK is loaded again when it is touched. 0 or -errno. */
static int drop_block(FfArray *a, uint64_t block)
{
    FfBlockEntry *b = &a->blocks[block];
    int rc = 0;

    while (b->state == FF_BLOCK_LEAVING) {
        pthread_cond_wait(&a->changed, &a->lock);
    }
    forget_pages(a, block);
    if (b->state == FF_BLOCK_LOADING) {
        b->again = true;
    } else if (b->state == FF_BLOCK_LOADED) {
        rc = ff_array_leave(a, block, FF_LEAVE_DROP);
    } else if (b->state == FF_BLOCK_FAILED) {
        for (guint i = 0; i < a->maps->len; i++) {
            uint64_t len, addr = ff_array_where(a, a->maps->pdata[i], block, &len);
            if (addr) {
                ff_pool_unmap(addr, len); /* the poison */
            }
        }
        ff_array_set_state(a, block, FF_BLOCK_EMPTY);
    }
    if (rc < 0) {
        ff_array_note_changed(a, ff_array_first_page(a, block), ff_array_pages(a));
    }
    return rc;
}

/* As begin_commit(). What the file holds after a commit that failed in the middle is of no
 * transaction. */
static int begin_drop(FfArray *a, const char *call)
{
    int rc = begin_commit(a, call);

    if (rc == 0 && a->broken) {
        end_commit(a);
        return ff_fail(-EIO, "%s: a commit failed in the middle: free this array and open it again",
                       call);
    }
    return rc;
}

int ff_array_abort(FfArray *a)
{
    int rc = ff_reserve("ff_array_abort", 0);

    rc = rc < 0 ? rc : begin_drop(a, "ff_array_abort");
    if (rc < 0) {
        return rc;
    }
    rc = harvest_all(a);
    for (uint64_t b = 0; rc == 0 && (b = next_dirty(a, b)) < a->n_blocks; b++) {
        rc = drop_block(a, b);
    }
    if (rc == 0 && a->log) {
        ff_redo_begin(a->log);
    }
    end_commit(a);
    return rc < 0 ? fail_commit("ff_array_abort: the page tables", rc) : 0;
}

/* The commit of the rest does not bring back what these blocks had in the log. Locked, drops the
 * lock: as long as this is busy nobody else writes to the log. A thread that loads one of them
 * meanwhile finds what it was, and it is dropped after that. */
static int drop_from_log(FfArray *a, uint64_t first, uint64_t end)
{
    if (!a->disk || a->read_only || first >= end) {
        return 0;
    }
    g_auto(FfXfsz) xfsz = ff_xfsz_begin();
    pthread_mutex_unlock(&a->lock);
    int rc = ff_redo_drop(a->log, first * ff_array_pages(a), (end - first) * ff_array_pages(a));
    pthread_mutex_lock(&a->lock);
    return rc;
}

int ff_array_invalidate(FfArray *a, uint64_t offset, uint64_t len)
{
    if (offset > a->size || len > a->size - offset || offset % a->block_size ||
        (len % a->block_size && offset + len != a->len)) {
        return ff_fail(-EINVAL, "ff_array_invalidate: they are not whole blocks of the array");
    }
    int rc = ff_reserve("ff_array_invalidate", 0);
    rc = rc < 0 ? rc : begin_drop(a, "ff_array_invalidate");
    if (rc < 0) {
        return rc;
    }
    uint64_t last = len ? (offset + len + a->block_size - 1) / a->block_size : a->n_blocks;
    rc = drop_from_log(a, offset / a->block_size, last);
    if (rc < 0) {
        end_commit(a);
        return fail_commit("ff_array_invalidate: the log", rc);
    }
    if (a->disk) {
        ff_array_disk_forget(a->disk); /* before it is loaded again */
    }
    for (uint64_t b = offset / a->block_size; b < last; b++) { /* all: the log has them no more */
        int dropped = drop_block(a, b);
        rc = rc < 0 ? rc : dropped;
    }
    if (rc == 0 && a->log && next_dirty(a, 0) == a->n_blocks) {
        ff_redo_begin(a->log); /* it has nothing that anybody wants */
    }
    end_commit(a);
    return rc < 0 ? fail_commit("ff_array_invalidate: the page tables", rc) : 0;
}
