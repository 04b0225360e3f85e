/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What happens when somebody touches an array, and how its blocks leave memory again. See
 * internal.h for the states and the lock.
 *
 * The memory is a memfd. A block is loaded into a buffer of the thread's and written to the memfd;
 * each mapping shows it by UFFDIO_CONTINUE, write-protected, when it is touched there (MISSING at
 * first, MINOR where another mapping has it). So no half of a block is ever seen, and no write is
 * missed. Where there is no huge page for one: place.c.
 *
 * What was written: with asynchronous write protection an entry of the page tables that was shown
 * and is not protected any more. Taking the mapping away (MADV_DONTNEED) turns protected entries
 * into markers, and others into nothing, so what was written until the last moment is known
 * afterwards, when nobody can write any more; then the pages are taken out of the file. An entry
 * that was shown and is nothing, of a block that is in memory, was swapped out or given back by the
 * program: it counts as written. Otherwise a first write is a fault, and `dirty` knows all.
 *
 * Threads: those of the pool, and any that need memory. System calls: ioctl(UFFDIO_*),
 * pread64 (pagemap, memfd), openat.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "libfarfault/arrays/internal.h"
#include "libfarfault/common/rlimits.h"
#include "uffd/pagemap.h"
#include "uffd/uffd.h"

#define PAGE FF_ARRAY_PAGE
/* So many of the oldest blocks are looked at for one that can go without being written. */
#define LOOK 64

/* ---- showing --------------------------------------------------------------------------------- */

static FfArrayMap *find_map(const FfArray *a, uint64_t addr)
{
    for (guint i = 0; i < a->maps->len; i++) {
        FfArrayMap *m = a->maps->pdata[i];
        if (addr - m->addr < m->len) {
            return m;
        }
    }
    return NULL;
}

/* What lies at PAGE is changed anyway, and can be written without a fault; but not what is being
 * stored, which would be taken for unchanged then. */
static bool is_open(const FfArray *a, uint64_t page)
{
    return ff_bitmap_test(&a->dirty, page) && !ff_bitmap_test(&a->stored, page);
}

static void open_dirty(FfArray *a, const FfArrayMap *m, uint64_t addr, uint64_t len)
{
    uint64_t first = (m->offset + (addr - m->addr)) / PAGE;

    for (uint64_t at = 0; at < len; at += a->page_size) {
        if (is_open(a, first + at / PAGE)) {
            ff_uffd_try_protect(a->uffd, addr + at, a->page_size, false);
        }
    }
}

/* N blocks from FIRST on, of which M has all, or parts of the first and the last; all in one file.
 */
static void show_run(FfArray *a, FfArrayMap *m, uint64_t first, uint64_t n)
{
    uint64_t len, addr = ff_array_where(a, m, first, &len);
    uint64_t last_len, last = ff_array_where(a, m, first + n - 1, &last_len);

    len = last + last_len - addr;
    ff_uffd_map_protected(a->uffd, addr, len);
    ff_bitmap_set_run(&m->shown, first, n);
    if (!a->async) {
        open_dirty(a, m, addr, len);
    }
    ff_uffd_wake(a->uffd, addr, len);
}

static void poison_block(const FfArray *a, const FfArrayMap *m, uint64_t block)
{
    uint64_t len, done, addr = ff_array_where(a, m, block, &len);
    size_t page = ff_array_map_page(a, m, block);

    /* The kernel poisons nothing that has a marker of protection. */
    ff_uffd_try_protect(a->uffd, addr, len, false);
    for (uint64_t at = 0; at < len; at += MAX(done, page)) {
        done = 0;
        ff_uffd_try(a->uffd, FF_UFFD_POISON, addr + at, NULL, len - at, &done);
    }
    ff_uffd_wake(a->uffd, addr, len);
}

/* N blocks from FIRST on, as above. Of huge pages each may lie in another file; where the kernel
 * has no memory to map that, it cannot be shown. */
static void show_blocks(FfArray *a, FfArrayMap *m, uint64_t first, uint64_t n)
{
    for (uint64_t i = 0; a->huge && i < n; i++) {
        if (ff_array_map_place(a, m, first + i) < 0) {
            poison_block(a, m, first + i);
            ff_bitmap_set_run(&m->failed, first + i, 1);
        } else {
            show_run(a, m, first + i, 1);
        }
    }
    if (!a->huge) {
        show_run(a, m, first, n);
    }
}

/* What lies at OFFSET may be written to without a fault. Of huge pages, as far as each first write
 * is a fault, all of a block is changed or nothing: in whatever it lies the next time. */
static void note_dirty(FfArray *a, uint64_t offset)
{
    size_t unit = a->async ? PAGE : a->page_size;

    ff_array_note_changed(a, offset / unit * unit / PAGE, unit / PAGE);
}

/* It was shown before: the message is old, or the entry was lost. If the memory has the page no
 * more the program has removed it (MADV_REMOVE), and it is zeros. */
static void show_page(FfArray *a, FfArrayMap *m, uint64_t addr)
{
    uint64_t offset = m->offset + (addr - m->addr), done;
    uint64_t len = ff_array_map_page(a, m, offset / a->block_size);
    int uffd = a->uffd;

    addr &= ~(len - 1);
    offset &= ~(len - 1);
    if (ff_pagemap_protected(a->pagemap_fd, addr) > 0 ||
        (!a->async && !is_open(a, offset / PAGE))) {
        ff_uffd_map_protected(uffd, addr, len);
    }
    if (ff_pagemap_present(a->pagemap_fd, addr) == 0) {
        note_dirty(a, offset);
        /* Of a page that the program has removed the marker of protection is left. */
        ff_uffd_try_protect(uffd, addr, len, false);
        int rc = ff_uffd_try(uffd, FF_UFFD_CONTINUE, addr, NULL, len, &done);
        if (rc == -EFAULT && len == PAGE) {
            ff_uffd_try(uffd, FF_UFFD_ZERO, addr, NULL, len, &done);
        } else if (rc == -EFAULT) {
            rc = ff_huge_memory_again(a->huge, offset);
            ff_uffd_try(uffd, rc < 0 ? FF_UFFD_POISON : FF_UFFD_CONTINUE, addr, NULL, len, &done);
        }
    }
    ff_uffd_wake(uffd, addr, len);
}

/* ---- loading --------------------------------------------------------------------------------- */

/* Of a file that could not be written or synced. A page that the kernel could not write it may take
 * from the disk again, as it was before: what the log has of the first N bytes of BLOCK counts. Of
 * changed pages it does not matter. */
static int load_committed(FfArray *a, uint64_t block, uint64_t n, char *buffer)
{
    uint64_t first = ff_array_first_page(a, block);
    int rc = 0;

    for (uint64_t at = 0; at < n && rc == 0; at += PAGE) {
        uint64_t page = first + at / PAGE;
        rc = ff_bitmap_test(&a->dirty, page) ? 0 : ff_redo_read_ended(a->log, page, buffer + at);
        rc = rc == -ENOENT ? 0 : rc;
    }
    return rc;
}

int ff_array_load(FfArray *a, uint64_t block, void *buffer)
{
    uint64_t at = block * a->block_size;

    if (!a->disk) {
        int rc = a->file.load(a->opaque, block, buffer);
        return rc > 0 ? -EIO : rc;
    }
    uint64_t n = MIN(a->block_size, a->len - at);
    int rc = ff_array_disk_read(a->disk, at, buffer, n);
    if (rc == 0 && __atomic_load_n(&a->broken, __ATOMIC_ACQUIRE)) {
        rc = load_committed(a, block, n, buffer);
    }
    memset((char *)buffer + n, 0, a->block_size - n);
    return rc;
}

int ff_array_read(FfArray *a, uint64_t block, void *buffer)
{
    uint64_t first = ff_array_first_page(a, block), n = ff_array_pages(a);
    uint64_t changed = ff_array_dirty(a, block);
    int rc = changed == n ? 0 : ff_array_load(a, block, buffer);

    for (uint64_t i = 0; i < n && changed && rc >= 0; i++) {
        if (ff_bitmap_test(&a->dirty, first + i)) {
            rc = ff_redo_read(a->log, first + i, (char *)buffer + i * PAGE);
            /* Aborted meanwhile: the block is loaded again. */
            rc = rc == -ENOENT ? 0 : rc;
        }
    }
    return MIN(rc, 0);
}

/* One block that no thread holds leaves memory, to the log if need be. Locked, drops the lock.
 * FALSE: none can. */
static bool free_unheld(FfArray *a)
{
    ff_holds_expire(a->holds);
    if (ff_array_evict(a, 1, LOOK, false)) {
        return true;
    }
    uint32_t at = a->oldest;
    while (at && (a->blocks[at - 1].state != FF_BLOCK_LOADED || ff_holds_has(a->holds, at - 1))) {
        at = a->blocks[at - 1].newer;
    }
    return at && !a->busy && ff_array_leave(a, at - 1, FF_LEAVE_SPILL) == 0;
}

/* Until the limit has room for one more. Where nothing can go, as threads hold it, for want of room
 * in the log, while others load or commit, the limit gives way: a program that has done nothing
 * wrong is not ended. */
static void make_room(FfArray *a)
{
    while (a->max_resident && a->n_resident >= a->max_resident && free_unheld(a)) {
    }
}

/* BLOCK is EMPTY, and somebody waits for it. Locked, drops the lock. */
static void load_block(FfArray *a, uint64_t block, void *buffer)
{
    FfBlockEntry *b = &a->blocks[block];
    char *to = buffer;
    bool placed = false;
    int rc;

    ff_array_set_state(a, block, FF_BLOCK_LOADING);
    make_room(a);
    a->n_resident++;
    do {
        b->again = false;
        pthread_mutex_unlock(&a->lock);
        rc = placed ? 0 : ff_array_place(a, block, false, buffer, &to);
        placed = rc == 0;
        rc = rc < 0 ? rc : ff_array_read(a, block, to);
        rc = rc < 0 ? rc : ff_array_fill(a, block, to);
        if (rc < 0 && placed) {
            ff_array_unplace(a, block);
            placed = false;
        }
        pthread_mutex_lock(&a->lock);
        a->stats.loads++;
    } while (b->again);
    if (rc < 0) {
        a->n_resident--;
        a->stats.failed++;
        ff_array_set_state(a, block, FF_BLOCK_FAILED);
    } else {
        ff_array_use(a, block);
        ff_array_set_state(a, block, FF_BLOCK_LOADED);
    }
    if (rc < 0 && a->file.failed) {
        pthread_mutex_unlock(&a->lock);
        a->file.failed(a->opaque, block, rc);
        pthread_mutex_lock(&a->lock);
    }
}

/* ---- loading ahead --------------------------------------------------------------------------- */

/* The first ones of N blocks from FIRST on that are EMPTY, and that there is room for, are LOADING:
 * how many. Locked, drops the lock. */
static uint64_t claim_blocks(FfArray *a, uint64_t first, uint64_t n)
{
    uint64_t i = 0;

    for (; i < n && a->blocks[first + i].state == FF_BLOCK_EMPTY; i++) {
        FfBlockEntry *b = &a->blocks[first + i];
        b->again = b->wanted = false;
        ff_array_set_state(a, first + i, FF_BLOCK_LOADING);
        bool room = true;
        while (room && a->max_resident && a->n_resident >= a->max_resident) {
            room = ff_array_evict(a, 1, LOOK, false) > 0;
        }
        if (!room) {
            ff_array_set_state(a, first + i, FF_BLOCK_EMPTY);
            ff_array_wake(a, first + i, NULL);
            break;
        }
        a->n_resident++;
    }
    return i;
}

/* N blocks from FIRST on, which are LOADING, have memory, or none has. *TO: as of ff_array_place(),
 * of all. Not locked. */
static int place_run(FfArray *a, uint64_t first, uint64_t n, char *buffer, char **to)
{
    uint64_t i = 0;
    int rc = 0;

    while (i < n && rc == 0) {
        char *one;
        rc = ff_array_place(a, first + i, true, buffer + i * a->block_size, &one);
        *to = i == 0 ? one : *to;
        i += rc == 0;
    }
    while (rc < 0 && i > 0) {
        ff_array_unplace(a, first + --i);
    }
    return rc;
}

/* N blocks, which are LOADING, are LOADED; or EMPTY: a thread that touches one tries once more, and
 * is told of what fails. Locked, drops the lock. */
static int load_claimed(FfArray *a, uint64_t first, uint64_t n, char *buffer)
{
    bool again, placed = false;
    char *to = buffer;
    int rc = 0;

    do {
        for (uint64_t i = 0; i < n; i++) {
            a->blocks[first + i].again = false;
        }
        pthread_mutex_unlock(&a->lock);
        rc = placed ? 0 : place_run(a, first, n, buffer, &to);
        placed = rc == 0;
        for (uint64_t i = 0; i < n && rc >= 0; i++) {
            char *at = to + i * a->block_size;
            rc = ff_array_read(a, first + i, at);
            rc = rc < 0 ? rc : ff_array_fill(a, first + i, at);
        }
        for (uint64_t i = 0; i < n && rc < 0 && placed; i++) {
            ff_array_unplace(a, first + i);
        }
        placed &= rc >= 0;
        pthread_mutex_lock(&a->lock);
        again = false;
        for (uint64_t i = 0; i < n; i++) {
            again |= a->blocks[first + i].again;
        }
    } while (again);
    a->n_resident -= rc < 0 ? n : 0;
    a->stats.loads += rc < 0 ? 0 : n;
    a->stats.ahead += rc < 0 ? 0 : n;
    for (uint64_t i = 0; i < n; i++) {
        if (rc >= 0) {
            ff_array_use(a, first + i);
        }
        ff_array_set_state(a, first + i, rc < 0 ? FF_BLOCK_EMPTY : FF_BLOCK_LOADED);
    }
    return rc;
}

/* In M, or NULL, what is LOADED and not shown there, of N blocks from FIRST on. A thread that waits
 * for one is woken. Locked. */
static void show_loaded(FfArray *a, FfArrayMap *m, uint64_t first, uint64_t n)
{
    for (uint64_t b = first, run; b < first + n; b += MAX(run, 1)) {
        for (run = 0; m && b + run < first + n; run++) {
            uint64_t len;
            if (a->blocks[b + run].state != FF_BLOCK_LOADED || ff_bitmap_test(&m->shown, b + run) ||
                !ff_array_where(a, m, b + run, &len)) {
                break;
            }
        }
        if (run) {
            show_blocks(a, m, b, run);
        }
    }
}

void ff_array_load_ahead(FfArray *a, FfArrayMap *m, uint64_t first, uint64_t n, bool mark,
                         char *buffer)
{
    for (uint64_t at = first, end = first + n, some; at < end; at += MAX(some, 1)) {
        some = claim_blocks(a, at, end - at);
        if (!some && a->blocks[at].state == FF_BLOCK_EMPTY) {
            return; /* no room */
        }
        int rc = some ? load_claimed(a, at, some, buffer) : 0;
        FfArrayMap *now = g_ptr_array_find(a->maps, m, NULL) ? m : NULL;
        bool hide = mark && at == first && !a->blocks[at].wanted;
        if (rc >= 0 && hide) {
            show_loaded(a, now, at + 1, MAX(some, 1) - 1);
        } else if (rc >= 0) {
            show_loaded(a, now, at, MAX(some, 1));
        }
        for (uint64_t b = at; b < at + some; b++) {
            if (a->blocks[b].wanted || rc < 0) {
                ff_array_wake(a, b, rc < 0 ? NULL : now);
            }
        }
        if (rc < 0) {
            return;
        }
    }
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* TID waits for BLOCK. */
static void hold_block(FfArray *a, uint64_t block, pid_t tid)
{
    FfBlockState state = a->blocks[block].state;

    ff_holds_wait(a->holds, tid, block, state == FF_BLOCK_EMPTY || state == FF_BLOCK_LEAVING);
}

/* A first write, where each is a fault. */
static void on_write(FfArray *a, FfArrayMap *m, uint64_t block, uint64_t addr, pid_t tid)
{
    if (a->blocks[block].state != FF_BLOCK_LOADED || !ff_bitmap_test(&m->shown, block)) {
        ff_uffd_wake(a->uffd, addr, PAGE); /* it misses the page now */
        return;
    }
    addr &= ~(uint64_t)(a->page_size - 1); /* of which a mapping begins at a multiple */
    note_dirty(a, m->offset + (addr - m->addr));
    ff_array_use(a, block);
    hold_block(a, block, tid);
    ff_holds_given(a->holds, block);
    ff_uffd_try_protect(a->uffd, addr, a->page_size, false);
}

static void on_miss(FfArray *a, uint64_t addr, uint64_t block, pid_t tid, void *buffer)
{
    FfBlockState state = a->blocks[block].state;
    FfArrayMap *m = find_map(a, addr), *done = NULL;
    bool loaded = false;

    a->blocks[block].wanted = true;
    if (!ff_bitmap_test(&m->shown, block)) {
        ff_array_ahead_note(a->ahead, m, block);
    }
    hold_block(a, block, tid);
    if (state == FF_BLOCK_EMPTY) {
        load_block(a, block, buffer);
        loaded = true;
    }
    m = find_map(a, addr); /* now */
    if (m && a->blocks[block].state == FF_BLOCK_LOADED) {
        done = m;
        if (ff_bitmap_test(&m->shown, block)) {
            show_page(a, m, addr);
        } else {
            ff_array_use(a, block);
            show_blocks(a, m, block, 1);
        }
    } else if (m && a->blocks[block].state == FF_BLOCK_FAILED) {
        done = m;
        poison_block(a, m, block);
    } /* else another thread loads it, or takes it away, and wakes all then */
    if (state == FF_BLOCK_LOADED || state == FF_BLOCK_FAILED) {
        ff_holds_given(a->holds, block); /* else its state changes */
    }
    if (loaded) {
        ff_array_wake(a, block, done);
    }
}

void ff_array_on_fault(void *opaque, uint64_t addr, uint64_t flags, pid_t tid, void *buffer)
{
    FfArray *a = opaque;

    pthread_mutex_lock(&a->lock);
    FfArrayMap *m = find_map(a, addr);
    a->stats.faults++;
    if (m) {
        uint64_t block = (m->offset + (addr - m->addr)) / a->block_size;
        if (flags & UFFD_PAGEFAULT_FLAG_WP) {
            on_write(a, m, block, addr, tid);
        } else {
            on_miss(a, addr, block, tid, buffer);
        }
    } /* else it is being unmapped */
    pthread_mutex_unlock(&a->lock);
}

/* ---- leaving --------------------------------------------------------------------------------- */

typedef struct {
    FfArray *a;
    const FfArrayMap *m;
} Written;

static void note_written(uint64_t addr, uint64_t len, void *opaque)
{
    const Written *w = opaque;

    ff_array_note_changed(w->a, (w->m->offset + (addr - w->m->addr)) / PAGE, len / PAGE);
}

/* Nobody has BLOCK mapped any more; what was written until now is in `dirty`. LOOK: it stays
 * mapped, and what is written while this looks may be seen or not. -errno: some still have it. */
static int unmap_block(FfArray *a, uint64_t block, bool look)
{
    for (guint i = 0; i < a->maps->len; i++) {
        FfArrayMap *m = a->maps->pdata[i];
        uint64_t len, addr = ff_array_where(a, m, block, &len);
        if (addr && a->huge && !look && ff_bitmap_test(&m->failed, block)) {
            ff_bitmap_claim(&m->failed, block);
            ff_pool_unmap(addr, len); /* the poison */
        }
        if (!addr || !ff_bitmap_test(&m->shown, block)) {
            continue;
        }
        int rc = look ? 0 : ff_pool_unmap(addr, len);
        if (rc < 0) {
            return rc;
        }
        if (!look) {
            ff_bitmap_claim(&m->shown, block);
        }
        Written w = {a, m};
        if (a->async && ff_pagemap_unprotected(a->pagemap_fd, addr, len, note_written, &w) < 0) {
            note_written(addr, len, &w); /* nobody knows */
        }
    }
    return 0;
}

/* Changed pages of BLOCK, which nobody has mapped, go to the log. */
static int spill_block(FfArray *a, uint64_t block)
{
    uint64_t first = ff_array_first_page(a, block), end = first + ff_array_pages(a);
    g_autofree char *buffer = g_try_malloc(a->block_size);
    ssize_t all = (ssize_t)a->block_size;
    int rc = buffer ? 0 : -ENOMEM;

    if (rc == 0 &&
        pread(ff_array_block_fd(a, block), buffer, a->block_size, (off_t)(first * PAGE)) != all) {
        rc = -EIO;
    }

    for (uint64_t i = first, n; i < end && rc == 0; i += n) {
        bool dirty = ff_bitmap_test(&a->dirty, i);
        for (n = 1; i + n < end && ff_bitmap_test(&a->dirty, i + n) == dirty; n++) {
        }
        if (dirty) {
            rc = ff_redo_add(a->log, i, n, buffer + (i - first) * PAGE);
        }
    }
    return rc;
}

/* Not each file system has that kind: NFS has not. */
int ff_array_open_nameless(const char *folder)
{
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
        g_autofree char *name = g_build_filename(folder, "farfault-XXXXXX", NULL);
        fd = g_mkstemp_full(name, O_RDWR | O_CLOEXEC, 0600);
        if (fd >= 0) {
            unlink(name);
        }
    }
    return fd < 0 ? -errno : fd;
}

static int open_spill(FfArray *a)
{
    int fd = a->log ? -1 : ff_reserve("the spill file", 0);

    fd = a->log || fd < 0 ? fd : ff_array_open_nameless(a->spill);

    if (a->log || fd < 0) {
        return a->log ? 0 : fd;
    }
    int rc = ff_redo_new(fd, a->len, true, &a->log);
    if (rc == 0) {
        ff_redo_begin(a->log);
    }
    return rc;
}

/* What lies after the end of a file is kept nowhere, and no reason to spill. */
static void forget_tail(FfArray *a, uint64_t block)
{
    uint64_t end = ff_array_first_page(a, block) + ff_array_pages(a);
    uint64_t from = MAX(ff_array_end_page(a), ff_array_first_page(a, block));

    if (a->disk && from < end) {
        ff_bitmap_clear_run(&a->dirty, from, end - from);
    }
}

int ff_array_leave(FfArray *a, uint64_t block, FfLeave how)
{
    uint64_t first = ff_array_first_page(a, block), n = ff_array_pages(a);

    ff_array_set_state(a, block, FF_BLOCK_LEAVING);
    int rc = unmap_block(a, block, false);
    forget_tail(a, block);
    if (how == FF_LEAVE_DROP && rc == 0) {
        ff_bitmap_clear_run(&a->dirty, first, n);
    }
    uint64_t changed = ff_array_dirty(a, block);
    if (rc == 0 && changed) {
        rc = how == FF_LEAVE_CLEAN ? -EAGAIN : open_spill(a);
    }
    bool spills = rc == 0 && changed;
    a->n_spilling += spills;
    pthread_mutex_unlock(&a->lock);
    if (spills) {
        rc = spill_block(a, block);
    }
    if (rc == 0) {
        ff_array_unplace(a, block);
    }
    pthread_mutex_lock(&a->lock);
    a->n_spilling -= spills;
    if (rc == 0) {
        a->stats.spilled += changed;
        a->stats.evictions++;
        a->n_resident--;
        ff_array_unlist(a, block);
    }
    ff_array_set_state(a, block, rc == 0 ? FF_BLOCK_EMPTY : FF_BLOCK_LOADED);
    ff_array_wake(a, block, NULL);
    return rc;
}

static bool is_clean(FfArray *a, uint64_t block)
{
    if (a->blocks[block].state != FF_BLOCK_LOADED || ff_array_dirty(a, block)) {
        return false;
    }
    unmap_block(a, block, true);
    return ff_array_dirty(a, block) == 0;
}

uint64_t ff_array_evict(FfArray *a, uint64_t n, uint64_t look, bool held)
{
    uint64_t done = 0;

    for (uint32_t at = a->oldest, next; done < n && at && look > 0; at = next) {
        next = a->blocks[at - 1].newer;
        bool stays = !held && ff_holds_has(a->holds, at - 1);
        look -= !stays;
        if (stays || !is_clean(a, at - 1)) {
            continue;
        }
        done += ff_array_leave(a, at - 1, FF_LEAVE_CLEAN) == 0;
        if (next && a->blocks[next - 1].state != FF_BLOCK_LOADED) {
            next = a->oldest; /* it has left as well */
        }
    }
    return done;
}
