/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The side of relay and engine of what tells the hook in QEMU to drop discards (see discards.h for
 * the threads). How much was added is known from here, never from the shared memory: a guest may
 * have taken over QEMU. No locks. System calls: fstat, fcntl, mmap, munmap.
 */
#include "contract/discards.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct FfDiscards {
    FfDiscardsPage *page;
    uint32_t n_files, n_ranges;
};

/* A file that could shrink would be a SIGBUS. */
static bool is_agents(int fd)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & FF_DISCARDS_SEALS) == FF_DISCARDS_SEALS && fstat(fd, &st) == 0 &&
           (uint64_t)st.st_size >= sizeof(FfDiscardsPage);
}

int ff_discards_map(int fd, FfDiscards **result)
{
    *result = NULL;
    if (!is_agents(fd)) {
        return -EINVAL;
    }
    FfDiscardsPage *page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        return -errno;
    }
    FfDiscards *d = calloc(1, sizeof(*d));
    if (!d || page->magic != FF_DISCARDS_MAGIC || page->version != FF_DISCARDS_VERSION) {
        int rc = d ? -EINVAL : -ENOMEM;
        munmap(page, sizeof(*page));
        free(d);
        return rc;
    }
    d->page = page;
    *result = d;
    return 0;
}

void ff_discards_free(FfDiscards *d)
{
    if (d) {
        munmap(d->page, sizeof(*d->page));
        free(d);
    }
}

int ff_discards_add_file(FfDiscards *d, int memfd)
{
    struct stat st;

    if (ff_discards_is_armed(d)) {
        return -EBUSY;
    }
    if (d->n_files == FF_DISCARDS_MAX) {
        return -E2BIG;
    }
    if (fstat(memfd, &st) < 0) {
        return -errno;
    }
    d->page->file[d->n_files].dev = st.st_dev;
    d->page->file[d->n_files].ino = st.st_ino;
    d->n_files++;
    return 0;
}

int ff_discards_add_range(FfDiscards *d, uint64_t addr, uint64_t len)
{
    if (ff_discards_is_armed(d)) {
        return -EBUSY;
    }
    if (d->n_ranges == FF_DISCARDS_MAX) {
        return -E2BIG;
    }
    d->page->range[d->n_ranges].addr = addr;
    d->page->range[d->n_ranges].len = len;
    d->n_ranges++;
    return 0;
}

void ff_discards_arm(FfDiscards *d)
{
    d->page->n_files = d->n_files;
    d->page->n_ranges = d->n_ranges;
    __atomic_store_n(&d->page->armed, 1, __ATOMIC_RELEASE); /* observer: the hook in QEMU */
}

bool ff_discards_disarm(FfDiscards *d)
{
    if (!d) {
        return false;
    }
    d->n_files = d->n_ranges = 0;
    return __atomic_exchange_n(&d->page->armed, 0, __ATOMIC_ACQ_REL) != 0; /* the same observer */
}

bool ff_discards_is_armed(const FfDiscards *d)
{
    return __atomic_load_n(&d->page->armed, __ATOMIC_ACQUIRE) != 0;
}

void ff_discards_set_accepts(FfDiscards *d, FfAccepts accepts)
{
    if (d) {
        __atomic_store_n(&d->page->accepts, accepts, __ATOMIC_RELEASE);
    }
}

uint64_t ff_discards_dropped(const FfDiscards *d, uint64_t *bytes)
{
    *bytes = __atomic_load_n(&d->page->dropped_bytes, __ATOMIC_RELAXED);
    return __atomic_load_n(&d->page->dropped, __ATOMIC_RELAXED);
}
