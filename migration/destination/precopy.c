/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's precopy: pages that come while the guest still runs at the source.
 *
 * The uffd is not armed yet, so a page is written over what was there, as often as it comes. The
 * received bitmap says what is valid; what is stale leaves it, and at the switch everything that is
 * not in it leaves memory, in runs, before the uffd is armed: a fault must find a hole. That a
 * range really is empty is looked at, because the kernel may keep a part of a big folio, zeroed,
 * when it cannot split it, and such a page would never be asked for.
 *
 * A huge page of the file is reserved for it until it comes, and a page that is punched loses its
 * reservation: another guest could take the huge page, and what was dropped at the switch could not
 * be placed after the grant. So what is punched is reserved again at once, by mapping it for a
 * moment: the reservation is the file's, not the mapping's. If the pages have gone meanwhile the
 * migration fails while the guest is still the source's.
 *
 * Threads: the main reader and those of the additional connections; ff_dest_drop_missing() is the
 * coordinator's, while no reader takes a page. System calls: pwrite, fallocate, lseek(SEEK_DATA),
 * mmap.
 */
#include "migration/destination/precopy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "uffd/place.h"

/* Somebody may hold a folio for a moment, so that it cannot be split just now. */
#define DROP_TRIES 100

static bool is_reserved(const FfRamBlock *b)
{
    return b->page_size > 4096 && !b->unreserved;
}

static int reserve_range(const FfRamBlock *b, uint64_t start, uint64_t end)
{
    void *p = FF_FAULT_MAP("reserve-ram", mmap(NULL, end - start, PROT_READ | PROT_WRITE,
                                               MAP_SHARED, b->memfd, start));

    return p == MAP_FAILED ? -errno : munmap(p, end - start) < 0 ? -errno : 0;
}

static int punch_range(const FfRamBlock *b, uint64_t start, uint64_t end)
{
    int rc;

    do {
        rc = FF_FAULT_CALL("punch", fallocate(b->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                              start, end - start));
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : is_reserved(b) ? reserve_range(b, start, end) : 0;
}

/* Of what cannot be had. */
static const char *failure_hint(int rc)
{
    return rc == -ENOMEM || rc == -ENOSPC ? " (free memory or hugepages on this host)" : "";
}

/* hugetlb cannot be asked, and drops whole pages only. */
static bool is_empty(const FfRamBlock *b, uint64_t start, uint64_t end)
{
    off_t data = lseek(b->memfd, start, SEEK_DATA);

    return data < 0 ? errno == ENXIO : (uint64_t)data >= end;
}

static int drop_pages(const FfRamBlock *b, uint64_t page, uint64_t n)
{
    uint64_t start = page * b->page_size, end = start + n * b->page_size;
    bool huge = b->page_size > 4096;

    if (!huge && is_empty(b, start, end)) {
        return 0;
    }
    for (int i = 0; i < DROP_TRIES; i++) {
        int rc = punch_range(b, start, end);
        if (rc < 0 || huge || is_empty(b, start, end)) {
            return rc;
        }
    }
    return -EBUSY;
}

bool ff_dest_drop_missing(FfDestination *d, GError **error)
{
    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        const FfBlock *b = &d->ram->blocks[i];
        uint64_t first, n;
        for (uint64_t at = 0; (n = ff_bitmap_next_run(&b->bitmap, at, false, &first));
             at = first + n) {
            int rc = drop_pages(&b->info, first, n);
            if (rc < 0) {
                g_set_error(error, FF_M_ERROR, 0, "guest RAM '%s' cannot be emptied: %s%s",
                            b->info.id, g_strerror(-rc), failure_hint(rc));
                return false;
            }
        }
    }
    return true;
}

/* A run of zeros is then only a mark. */
static int empty_all(FfDestination *d)
{
    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        FfBlock *b = &d->ram->blocks[i];
        int rc = punch_range(&b->info, 0, b->info.size);
        if (rc < 0) {
            return rc;
        }
        if (b->info.page_size > 4096) {
            void *p =
                mmap(NULL, b->info.size, PROT_READ | PROT_WRITE,
                     MAP_SHARED | (is_reserved(&b->info) ? 0 : MAP_NORESERVE), b->info.memfd, 0);
            if (p == MAP_FAILED) {
                return -errno;
            }
            madvise(p, b->info.size, MADV_DONTDUMP);
            b->map = p;
        }
    }
    return 0;
}

static int write_shmem(int fd, const char *data, uint64_t at, uint64_t len)
{
    while (len) {
        ssize_t n = FF_FAULT_CALL("write-ram", pwrite(fd, data, len, at));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -ENOSPC;
        }
        data += n;
        at += n;
        len -= n;
    }
    return 0;
}

/* hugetlbfs has no write(). A page that cannot be had must be an error, not a signal: reserved
 * first. */
static int write_huge(const FfBlock *b, const char *data, uint64_t at, uint64_t len)
{
    if (fallocate(b->info.memfd, 0, at, len) < 0) {
        return -errno;
    }
    memcpy((char *)b->map + at, data, len);
    return 0;
}

/* Pages of [FIRST, FIRST + N) that were received become zeros. */
static void clear_huge(const FfBlock *b, uint64_t first, uint64_t n)
{
    for (uint64_t page = first; page < first + n; page++) {
        if (ff_bitmap_test(&b->bitmap, page)) {
            memset((char *)b->map + page * b->info.page_size, 0, b->info.page_size);
        }
    }
}

static int write_run(const FfBlock *b, const FfFrame *f, const void *data)
{
    uint64_t ps = b->info.page_size, at = f->page * ps, len = f->n_pages * ps;

    if (data) {
        return b->map ? write_huge(b, data, at, len) : write_shmem(b->info.memfd, data, at, len);
    }
    if (is_reserved(&b->info)) {
        /* Nobody gains by a hole that is reserved, and somebody may come between. */
        clear_huge(b, f->page, f->n_pages);
        return 0;
    }
    /* Zeros over a page that was received: it becomes a hole. Else it is one. */
    return ff_bitmap_count_run(&b->bitmap, f->page, f->n_pages)
               ? punch_range(&b->info, at, at + len)
               : 0;
}

int ff_dest_empty(FfDestination *d)
{
    if (g_atomic_int_get(&d->emptied)) {
        return 0;
    }
    int rc = empty_all(d);
    if (rc < 0) {
        ff_control_dead(d->control, "guest RAM cannot be emptied: %s%s", g_strerror(-rc),
                        failure_hint(rc));
        return rc;
    }
    /* Observer: the additional readers, which use what was mapped. */
    g_atomic_int_set(&d->emptied, 1);
    return 0;
}

int ff_dest_write(FfDestination *d, const FfFrame *f, const void *data)
{
    FfBlock *b = &d->ram->blocks[f->block];
    int rc = ff_dest_empty(d);

    if (rc < 0) {
        return rc;
    }
    rc = write_run(b, f, data);
    if (rc < 0) {
        ff_control_dead(d->control, "page %" G_GUINT64_FORMAT " of '%s' cannot be written: %s%s",
                        f->page, b->info.id, g_strerror(-rc), failure_hint(rc));
        return rc;
    }
    uint64_t fresh = ff_bitmap_set_run(&b->bitmap, f->page, f->n_pages);
    if (data) {
        ff_count(d->stats->pages_normal, f->n_pages);
    } else {
        ff_count(d->stats->pages_zero, f->n_pages);
    }
    ff_ram_done(d->ram, fresh, fresh * b->info.page_size);
    return 0;
}

int ff_dest_stale(FfDestination *d, const FfStaleRun *runs, unsigned n, bool drop_now)
{
    for (unsigned i = 0; i < n; i++) {
        FfBlock *b = &d->ram->blocks[runs[i].block];
        FfRun run = {runs[i].block, runs[i].page, runs[i].n_pages};
        ff_ram_undone(d->ram, b, ff_bitmap_count_run(&b->bitmap, run.first, run.n));
        if (d->placer.space) {
            ff_place_forget(d->placer.space, &run);
        } else {
            ff_bitmap_clear_run(&b->bitmap, run.first, run.n);
        }
        int rc = drop_now ? drop_pages(&b->info, runs[i].page, runs[i].n_pages) : 0;
        if (rc < 0) {
            ff_control_dead(d->control, "guest RAM '%s' cannot be emptied: %s%s", b->info.id,
                            g_strerror(-rc), failure_hint(rc));
            return rc;
        }
    }
    return 0;
}
