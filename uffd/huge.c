/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See huge.h.
 *
 * System calls: lseek, mincore, process_madvise, madvise, mmap, munmap, open, read.
 */
#include "uffd/huge.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "uffd/pagemap.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define SETTINGS "/sys/kernel/mm/transparent_hugepage"

enum { TRIES = 4 };

struct FfHuge {
    GArray *runs; /* FfHugeRun */
};

FfHuge *ff_huge_new(void)
{
    FfHuge *h = g_new0(FfHuge, 1);

    h->runs = g_array_new(FALSE, FALSE, sizeof(FfHugeRun));
    return h;
}

void ff_huge_free(FfHuge *h)
{
    if (h) {
        g_array_unref(h->runs);
        g_free(h);
    }
}

typedef struct {
    FfHuge *h;
    unsigned file;
    uint64_t addr, offset; /* of what is looked at */
} Look;

static void note_huge(uint64_t addr, uint64_t len, void *opaque)
{
    const Look *l = opaque;
    uint64_t first = (addr + FF_HUGE_PAGE - 1) & ~(FF_HUGE_PAGE - 1);
    uint64_t end = (addr + len) & ~(FF_HUGE_PAGE - 1);
    FfHugeRun run = {l->file, first, l->offset + (first - l->addr), end - first};

    if (first < end) { /* else it lies in two pieces */
        g_array_append_val(l->h->runs, run);
    }
}

void ff_huge_note(FfHuge *h, int pagemap_fd, unsigned file, uint64_t addr, uint64_t offset,
                  uint64_t len)
{
    Look l = {h, file, addr, offset};

    ff_pagemap_scan_huge(pagemap_fd, addr, len, note_huge, &l);
}

const FfHugeRun *ff_huge_all(const FfHuge *h, unsigned *n)
{
    *n = h->runs->len;
    return (const FfHugeRun *)(void *)h->runs->data;
}

/* One huge page. FALSE: no other one can be had either. EAGAIN: somebody, as reclaim or DAMON, has
 * one of its pages in hand just now (madvise(2)). */
static bool collapse_page(int pidfd, uint64_t addr)
{
    struct iovec iov = {(void *)(uintptr_t)addr, FF_HUGE_PAGE};
    long done = -1;

    for (int i = 0; i < TRIES && done < 0; i++) {
        done = syscall(SYS_process_madvise, pidfd, &iov, 1, MADV_COLLAPSE, 0);
        if (done < 0 && errno != EAGAIN) {
            return errno != EPERM && errno != ESRCH && errno != ENOSYS;
        }
    }
    return true;
}

/* All that a huge page at ADDR would have is there. */
static bool is_full(int pagemap_fd, uint64_t addr)
{
    return ff_pagemap_all_mapped(pagemap_fd, addr, FF_HUGE_PAGE) == 1;
}

void ff_huge_restore(const FfHuge *h, const int *files, int pagemap_fd, int pidfd, unsigned ms)
{
    int64_t end = g_get_monotonic_time() + ms * 1000ll;
    uint64_t first = 0, hole = 0; /* in FILE there is none from the one to the other */
    unsigned file = 0, n;
    const FfHugeRun *runs = ff_huge_all(h, &n);

    for (unsigned i = 0; i < n; i++) {
        for (uint64_t at = runs[i].offset; at < runs[i].offset + runs[i].len; at += FF_HUGE_PAGE) {
            if (g_get_monotonic_time() >= end) {
                return;
            }
            uint64_t addr = runs[i].addr + (at - runs[i].offset);
            if (files[runs[i].file] < 0) {
                if (is_full(pagemap_fd, addr) && !collapse_page(pidfd, addr)) {
                    return;
                }
                continue;
            }
            if (runs[i].file != file || at < first || at >= hole) {
                off_t found = lseek(files[runs[i].file], at, SEEK_HOLE);
                file = runs[i].file;
                first = at;
                hole = found < 0 ? at : (uint64_t)found;
            }
            if (at + FF_HUGE_PAGE <= hole && !collapse_page(pidfd, addr)) {
                return;
            }
        }
    }
}

/* ---- memory that has come page by page ------------------------------------------------------- */

bool ff_huge_is_set(const char *file, const char *word)
{
    g_autofree char *path = g_build_filename(SETTINGS, file, NULL);
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;

    return g_file_get_contents(path, &text, NULL, &error)
               ? strstr(text, word) != NULL
               : g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOENT);
}

bool ff_huge_is_allowed(void)
{
    return !ff_huge_is_set("enabled", "[never]") && !ff_huge_is_set("shmem_enabled", "[deny]");
}

struct FfHugeMap {
    char *map; /* at a multiple of FF_HUGE_PAGE: else the kernel finds no huge page there */
    uint64_t n;
    void *area; /* what to unmap */
    size_t area_len;
};

FfHugeMap *ff_huge_map_new(int fd, uint64_t size)
{
    uint64_t n = size / FF_HUGE_PAGE;
    size_t len = n * FF_HUGE_PAGE + FF_HUGE_PAGE;

    if (!n) {
        errno = EINVAL;
        return NULL;
    }
    void *area = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) {
        return NULL;
    }
    uintptr_t at = ((uintptr_t)area + FF_HUGE_PAGE - 1) & ~(uintptr_t)(FF_HUGE_PAGE - 1);
    char *map = mmap((void *)at, n * FF_HUGE_PAGE, PROT_NONE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (map == MAP_FAILED) {
        int err = errno;
        munmap(area, len);
        errno = err;
        return NULL;
    }
    /* A dump of this process would read it, and so fill the holes: nobody is asked for them. */
    madvise(map, n * FF_HUGE_PAGE, MADV_DONTDUMP);
    FfHugeMap *m = g_new(FfHugeMap, 1);
    *m = (FfHugeMap){map, n, area, len};
    return m;
}

void ff_huge_map_free(FfHugeMap *m)
{
    if (m) {
        munmap(m->area, m->area_len);
        g_free(m);
    }
}

/* All of the piece is in memory: it has no hole. What was swapped out is not fetched for this. */
static bool is_resident(char *piece)
{
    unsigned char pages[FF_HUGE_PAGE / 4096];

    return mincore(piece, FF_HUGE_PAGE, pages) == 0 && !memchr(pages, 0, sizeof(pages));
}

int ff_huge_map_collapse(FfHugeMap *m, uint64_t piece)
{
    char *at = m->map + piece * FF_HUGE_PAGE;
    int rc = -1;

    for (int i = 0; i < TRIES && rc < 0; i++) {
        if (!is_resident(at)) {
            return 0;
        }
        rc = madvise(at, FF_HUGE_PAGE, MADV_COLLAPSE);
        if (rc < 0 && errno != EAGAIN) { /* a page is in use just now */
            break;
        }
    }
    if (rc == 0) {
        return 1;
    }
    /* EBUSY of one that has no hole: the control group is full. Each further one would have its
     * memory taken. */
    bool passes = errno == EAGAIN || errno == EINVAL || (errno == EBUSY && !is_resident(at));
    return passes ? 0 : -errno;
}
