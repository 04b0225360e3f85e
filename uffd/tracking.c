/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See tracking.h. A piece's first protection is UFFDIO_WRITEPROTECT, not a scan: it makes page
 * tables everywhere and splits huge mappings, and a scan does not look where there is no page
 * table. From then on PAGEMAP_SCAN reads and protects at once.
 *
 * What was never protected is not scanned: it counts as written anyway. A page table that was freed
 * since, with all that it knew, is one of which the scan may tell nothing: there its first entry is
 * looked at. Of hugetlb the scan tells nothing of a page that was given back: those are looked for.
 *
 * Splitting takes the mapping away, so that each page would fault once more, also for a read: they
 * are mapped again at once, write-protected, which takes this thread 0.3 us a page, and the faults
 * took the process 2 to 3. And split mappings of shared memory are only mappings: the page cache
 * keeps its huge pages. Before the first protection the pagemap tells which there are, and
 * they are mapped again afterwards (huge.h). That would fill holes, so a range that the guest has
 * given back a part of meanwhile stays as it is.
 *
 * Threads: one, the caller's. System calls: ioctl(UFFDIO_*, PAGEMAP_SCAN).
 */
#include "uffd/tracking.h"

#include <errno.h>
#include <gio/gio.h>
#include "uffd/huge.h"
#include "uffd/uffd.h"

#define SMALL_PAGE 4096

struct FfTracking {
    FfTrackedFile *files;
    FfRegions *regions;
    int uffd, pagemap_fd, pidfd;
    bool registered;
    FfPiece *pieces;
    uint64_t *addr;  /* of each piece */
    bool *protected; /* each piece */
    unsigned n_pieces;
    FfHuge *huge; /* in the order of the pieces */
};

/* ---- regions and pieces ---------------------------------------------------------------------- */

static FfRegions *find_regions(const FfTrackedFile *files, unsigned n, int maps_fd, GError **error)
{
    g_autofree int *fds = g_new(int, n);
    g_autofree uint64_t *sizes = g_new(uint64_t, n);

    for (unsigned i = 0; i < n; i++) {
        fds[i] = files[i].fd;
        sizes[i] = files[i].size;
    }
    return ff_regions_new(maps_fd, fds, sizes, n, error);
}

static void cut_pieces(FfTracking *t)
{
    unsigned n, n_pieces = 0;
    const FfRegion *r = ff_regions_all(t->regions, &n);

    for (unsigned i = 0; i < n; i++) {
        n_pieces += (r[i].len + FF_PAGEMAP_PIECE - 1) / FF_PAGEMAP_PIECE;
    }
    t->pieces = g_new(FfPiece, n_pieces);
    t->addr = g_new(uint64_t, n_pieces);
    t->protected = g_new0(bool, n_pieces);
    for (unsigned i = 0; i < n; i++) {
        for (uint64_t at = 0; at < r[i].len; at += FF_PAGEMAP_PIECE) {
            uint64_t len = MIN(FF_PAGEMAP_PIECE, r[i].len - at);
            t->addr[t->n_pieces] = r[i].addr + at;
            t->pieces[t->n_pieces++] = (FfPiece){r[i].file, r[i].offset + at, len};
        }
    }
}

const FfPiece *ff_tracking_pieces(const FfTracking *t, unsigned *n)
{
    *n = t->n_pieces;
    return t->pieces;
}

/* ---- begin and end --------------------------------------------------------------------------- */

static void ignore_run(uint64_t addr, uint64_t len, void *opaque)
{
}

/* Registers everything and looks at one page of each mapping: what is missing shows here, before
 * anything is split. */
static int probe_tracking(FfTracking *t, const char **name)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(t->regions, &n);
    int rc = 0;

    for (unsigned i = 0; i < n && rc == 0; i++) {
        *name = t->files[r[i].file].name;
        t->registered = true;
        rc = ff_uffd_register_wp(t->uffd, r[i].addr, r[i].len);
        if (rc == 0) {
            rc = ff_pagemap_scan(t->pagemap_fd, r[i].addr, t->files[r[i].file].page_size, false,
                                 ignore_run, NULL);
        }
    }
    return rc;
}

FfTracking *ff_tracking_new(const FfTrackedFile *files, unsigned n, int maps_fd, int uffd,
                            int pagemap_fd, int pidfd, GError **error)
{
    g_autoptr(FfTracking) t = g_new0(FfTracking, 1);
    const char *name = NULL;

    t->uffd = uffd;
    t->pagemap_fd = pagemap_fd;
    t->pidfd = pidfd;
    t->files = g_memdup2(files, n * sizeof(*files));
    t->huge = ff_huge_new();
    t->regions = find_regions(files, n, maps_fd, error);
    if (!t->regions) {
        return NULL;
    }
    cut_pieces(t);
    int rc = ff_uffd_init(uffd, FF_UFFD_TRACKING, NULL);
    if (rc < 0 && rc != -EINVAL) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc), "userfaultfd: %s",
                    g_strerror(-rc));
        return NULL;
    }
    /* EINVAL: an older kernel, or used by an earlier migration. Registering tells. */
    rc = probe_tracking(t, &name);
    if (rc < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc),
                    "writes to '%s' cannot be tracked (%s): Linux 6.7 or newer is needed", name,
                    g_strerror(-rc));
        return NULL;
    }
    return g_steal_pointer(&t);
}

/* USED: it is certain that the userfaultfd was. */
static void unregister_regions(const FfRegions *regions, int uffd, bool used)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(regions, &n);

    for (unsigned i = 0; i < n; i++) {
        int rc = 0;
        /* In pieces from the front: the kernel clears page table entries meanwhile, and the
         * mapping is in two parts at most. */
        for (uint64_t at = 0; at < r[i].len && rc == 0; at += FF_PAGEMAP_PIECE) {
            rc = ff_uffd_unregister(uffd, r[i].addr + at, MIN(FF_PAGEMAP_PIECE, r[i].len - at));
        }
        if (rc == -ESRCH || (rc == -EINVAL && !used)) {
            return; /* the process has ended; or its userfaultfd was never used */
        }
        if (rc < 0) {
            g_warning("write tracking cannot be ended: %s", g_strerror(-rc));
        }
    }
}

void ff_tracking_end(FfTracking *t)
{
    if (t->registered) {
        t->registered = false;
        unregister_regions(t->regions, t->uffd, true);
    }
}

void ff_tracking_end_left_over(const FfTrackedFile *files, unsigned n, int maps_fd, int uffd)
{
    g_autoptr(FfRegions) regions = find_regions(files, n, maps_fd, NULL);

    if (regions) {
        unregister_regions(regions, uffd, false);
    }
}

void ff_tracking_free(FfTracking *t)
{
    if (t) {
        if (t->regions) {
            ff_tracking_end(t);
        }
        g_clear_pointer(&t->regions, ff_regions_free);
        ff_huge_free(t->huge);
        g_free(t->files);
        g_free(t->pieces);
        g_free(t->addr);
        g_free(t->protected);
        g_free(t);
    }
}

/* ---- protecting and scanning ----------------------------------------------------------------- */

typedef struct {
    FfTracking *t;
    unsigned piece;
    FfTrackingFunc fn;
    void *opaque;
    bool protect;
    int rc;        /* of protecting what was given back */
    uint64_t told; /* a bit for each page table in which something was written */
} Walk;

/* Page tables of a piece are numbered from that of its first page on. */
_Static_assert(FF_PAGEMAP_PIECE / FF_HUGE_PAGE + 1 <= 64, "a bit for each");

static uint64_t first_table(const Walk *w)
{
    return w->t->addr[w->piece] / FF_HUGE_PAGE;
}

static void report_written(uint64_t addr, uint64_t len, void *opaque)
{
    Walk *w = opaque;
    const FfPiece *p = &w->t->pieces[w->piece];

    for (uint64_t i = addr / FF_HUGE_PAGE; i <= (addr + len - 1) / FF_HUGE_PAGE; i++) {
        w->told |= 1ull << (i - first_table(w));
    }
    w->fn(p->file, p->offset + (addr - w->t->addr[w->piece]), len, w->opaque);
}

/* Where nothing was told all is protected, by its page table; or that is gone, and with it what was
 * written there. */
static int tell_lost(Walk *w, bool protect)
{
    const FfTracking *t = w->t;
    uint64_t addr = t->addr[w->piece], end = addr + t->pieces[w->piece].len, next;

    for (; addr < end; addr = next) {
        next = MIN(end, (addr / FF_HUGE_PAGE + 1) * FF_HUGE_PAGE);
        if (w->told >> (addr / FF_HUGE_PAGE - first_table(w)) & 1) {
            continue;
        }
        int rc = ff_pagemap_protected(t->pagemap_fd, addr);
        if (rc == 0) {
            /* before it is told: what is written from here on is seen by the next scan */
            rc = protect ? ff_uffd_protect(t->uffd, addr, next - addr) : 0;
            report_written(addr, next - addr, w);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static void tell_gone(uint64_t addr, uint64_t len, void *opaque)
{
    Walk *w = opaque;

    /* before it is told, as above */
    if (w->protect && w->rc == 0) {
        w->rc = ff_uffd_protect(w->t->uffd, addr, len);
    }
    report_written(addr, len, w);
}

static int scan_piece(FfTracking *t, unsigned i, bool protect, FfTrackingFunc fn, void *opaque)
{
    Walk w = {t, i, fn, opaque, protect};
    uint64_t len = t->pieces[i].len;
    int rc = ff_pagemap_scan(t->pagemap_fd, t->addr[i], len, protect, report_written, &w);

    if (rc < 0) {
        return rc;
    }
    if (t->files[t->pieces[i].file].page_size == SMALL_PAGE) {
        return tell_lost(&w, protect);
    }
    rc = ff_pagemap_scan_gone(t->pagemap_fd, t->addr[i], len, tell_gone, &w);
    return rc < 0 ? rc : w.rc;
}

/* Of huge mappings, one by one: what is split is mapped again at once, page by page, before the
 * process needs to fault for each page that it reads or writes. Where the kernel does not do that,
 * it faults. */
static int split_huge(const FfTracking *t, const FfHugeRun *h)
{
    int rc = 0;

    for (uint64_t at = h->addr; at < h->addr + h->len && rc == 0; at += FF_HUGE_PAGE) {
        rc = ff_uffd_protect(t->uffd, at, FF_HUGE_PAGE);
        if (rc == 0) {
            ff_uffd_map_protected(t->uffd, at, FF_HUGE_PAGE);
        }
    }
    return rc;
}

static int protect_first(FfTracking *t, unsigned i)
{
    const FfPiece *p = &t->pieces[i];
    int rc = 0;

    if (t->files[p->file].page_size == SMALL_PAGE) {
        unsigned n, all;
        ff_huge_all(t->huge, &n);
        ff_huge_note(t->huge, t->pagemap_fd, p->file, t->addr[i], p->offset, p->len);
        const FfHugeRun *runs = ff_huge_all(t->huge, &all);
        for (; n < all && rc == 0; n++) {
            rc = split_huge(t, &runs[n]);
        }
    }
    return rc ? rc : ff_uffd_protect(t->uffd, t->addr[i], p->len);
}

int ff_tracking_protect(FfTracking *t, unsigned i, FfTrackingFunc fn, void *opaque)
{
    if (t->protected[i]) {
        return scan_piece(t, i, true, fn, opaque);
    }
    int rc = protect_first(t, i);
    t->protected[i] = rc == 0;
    return rc;
}

int ff_tracking_scan(FfTracking *t, bool protect, FfTrackingFunc fn, void *opaque)
{
    int rc = 0;

    for (unsigned i = 0; i < t->n_pieces && rc == 0; i++) {
        rc = t->protected[i] ? scan_piece(t, i, protect, fn, opaque) : 0;
    }
    return rc;
}

/* ---- huge mappings --------------------------------------------------------------------------- */

void ff_tracking_restore(FfTracking *t, unsigned ms)
{
    unsigned n_files = 0, n;
    const FfHugeRun *runs = ff_huge_all(t->huge, &n);

    for (unsigned i = 0; i < n; i++) {
        n_files = MAX(n_files, runs[i].file + 1);
    }
    g_autofree int *fds = g_new(int, n_files);
    for (unsigned i = 0; i < n_files; i++) {
        fds[i] = t->files[i].fd;
    }
    ff_huge_restore(t->huge, fds, -1, t->pidfd, ms);
}
