/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See huge.h.
 *
 * System calls: lseek, process_madvise.
 */
#include "uffd/huge.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "uffd/pagemap.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

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

static void note(uint64_t addr, uint64_t len, void *opaque)
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

    ff_pagemap_scan_huge(pagemap_fd, addr, len, note, &l);
}

const FfHugeRun *ff_huge_all(const FfHuge *h, unsigned *n)
{
    *n = h->runs->len;
    return (const FfHugeRun *)(void *)h->runs->data;
}

/* One huge page. FALSE: no other one can be had either. EAGAIN: somebody, as reclaim or DAMON, has
 * one of its pages in hand just now (madvise(2)). */
static bool collapse(int pidfd, uint64_t addr)
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
                if (is_full(pagemap_fd, addr) && !collapse(pidfd, addr)) {
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
            if (at + FF_HUGE_PAGE <= hole && !collapse(pidfd, addr)) {
                return;
            }
        }
    }
}
