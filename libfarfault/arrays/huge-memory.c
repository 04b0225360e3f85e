/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See huge-memory.h.
 *
 * The kernel keeps a huge page for a certain place of a certain file, and gives one that is punched
 * out to the process that asks first. It moves none to another place, and after vm.nr_hugepages
 * became smaller than what is in use it takes each one that is punched out. So pages leave the file
 * as seldom as can be:
 *
 *   not used yet    reserved by another file, which gets shorter by one for each that is taken
 *   not in use      stays at its place ("spare"), and is filled again if that place is wanted
 *   another place   gets a page that is free, if there is one, and then a spare one is punched out;
 *                   else it is the other way round, and in between, for microseconds, a program
 *                   that takes all that are free can have it
 *
 * If one was lost so, what is left stays at its places, and who asks for another place has no page
 * (place.c), until there are free ones again; now and then one more is tried. A memory that
 * may have all of its pages at once loses none: each has its place, reserved by a mapping or there.
 *
 * A page is made by fallocate(), whose error tells of an empty pool. UFFDIO_COPY says EEXIST then,
 * and a touch SIGBUS; neither is done here without a page.
 *
 * Lock: `lock`, a leaf. System calls: memfd_create, ftruncate, fallocate, mmap, munlock, mprotect,
 * munmap, madvise, getpid, close.
 */
#include "libfarfault/arrays/huge-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libfarfault/common/memory-internal.h"
#include "libfarfault/common/rlimits.h"

#define ASKED_MAX 64
/* linux/memfd.h */
#define MFD_2MB (21u << 26)

struct FfHugeMemory {
    pid_t pid;
    int fd, kept_fd;
    char *at; /* of the memory */
    uint64_t len;
    pthread_mutex_t lock;
    uint64_t kept; /* pages that kept_fd has reserved */
    GArray *spare; /* uint64_t: places whose pages are not in use, the oldest first */
    uint64_t used, n;
    /* One that was punched out was lost. Then no other is, until there are free ones, or so many
     * have asked for one: the pool may have no more than it had. */
    bool lost;
    unsigned asked;
};

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

/* Locked. -ENOMEM: as many are not free; then it has what it had. */
static int keep_pages(FfHugeMemory *h, uint64_t n)
{
    size_t len = n * FF_HUGE_PAGE;

    if (ftruncate(h->kept_fd, (off_t)len) < 0) {
        return -errno;
    }
    /* Mapping reserves what is not reserved yet, and unmapping leaves that. */
    void *at = n > h->kept ? mmap(NULL, len, PROT_NONE, MAP_SHARED, h->kept_fd, 0) : NULL;
    if (at == MAP_FAILED) {
        int rc = -errno;
        return ftruncate(h->kept_fd, (off_t)(h->kept * FF_HUGE_PAGE)) < 0 ? -errno : rc;
    }
    if (at) {
        munmap(at, len);
    }
    h->kept = n;
    return 0;
}

/* Each place has its own. */
static bool has_all(const FfHugeMemory *h)
{
    return h->n * FF_HUGE_PAGE >= h->len;
}

static int fail_pages(const FfHugeMemory *h, int rc)
{
    return ff_fail(rc,
                   "%" G_GUINT64_FORMAT " huge pages of 2 MiB are needed and not free: a smaller "
                   "limit, or more of them (sysctl vm.nr_hugepages)",
                   h->n);
}

static int make_files(FfHugeMemory *h)
{
    h->fd = memfd_create("array", MFD_CLOEXEC | MFD_HUGETLB | MFD_2MB);
    h->kept_fd = memfd_create("huge pages", MFD_CLOEXEC | MFD_HUGETLB | MFD_2MB);
    if (h->fd < 0 || h->kept_fd < 0) {
        return ff_fail(-ENOTSUP, "this kernel has no huge pages of 2 MiB (%s)", ff_strerror(errno));
    }
    if (ftruncate(h->fd, (off_t)h->len) < 0) {
        return ff_fail(-errno, "huge pages: %s", ff_strerror(errno));
    }
    /* What is not reserved here is made by ff_huge_memory_take(). */
    int reserve = has_all(h) ? 0 : MAP_NORESERVE;
    void *at = mmap(NULL, h->len, PROT_NONE, MAP_SHARED | reserve, h->fd, 0);
    if (at == MAP_FAILED) {
        return reserve || errno != ENOMEM ? ff_fail(-errno, "huge pages: %s", ff_strerror(errno))
                                          : fail_pages(h, -ENOMEM);
    }
    h->at = at;
    /* After mlockall(MCL_FUTURE) the kernel would fill all of it. */
    if (munlock(at, h->len) < 0 || mprotect(at, h->len, PROT_READ | PROT_WRITE) < 0 ||
        madvise(at, h->len, MADV_DONTFORK) < 0) {
        return ff_fail(-errno, "huge pages: %s", ff_strerror(errno));
    }
    int rc = reserve ? keep_pages(h, h->n) : 0;
    return rc < 0 ? fail_pages(h, rc) : 0;
}

int ff_huge_memory_new(uint64_t len, uint64_t n, FfHugeMemory **result)
{
    int rc = ff_reserve("ff_array_new", len / FF_HUGE_PAGE * sizeof(uint64_t));
    if (rc < 0) {
        return rc;
    }
    g_autoptr(FfHugeMemory) h = g_new0(FfHugeMemory, 1);

    *h = (FfHugeMemory){.pid = getpid(), .fd = -1, .kept_fd = -1, .len = len, .n = n};
    pthread_mutex_init(&h->lock, NULL);
    h->spare = g_array_sized_new(FALSE, FALSE, sizeof(uint64_t), (guint)(len / FF_HUGE_PAGE));
    rc = make_files(h);
    *result = rc < 0 ? NULL : g_steal_pointer(&h);
    return rc;
}

void ff_huge_memory_free(FfHugeMemory *h)
{
    if (h) {
        if (h->at && h->pid == getpid()) { /* a child may have something else there */
            munmap(h->at, h->len);
            if (h->kept && ftruncate(h->kept_fd, 0) < 0) {
                /* A child of fork() keeps them until it ends. */
            }
        }
        close_fd(h->fd);
        close_fd(h->kept_fd);
        pthread_mutex_destroy(&h->lock);
        g_array_unref(h->spare);
        g_free(h);
    }
}

int ff_huge_memory_fd(const FfHugeMemory *h)
{
    return h->fd;
}

void *ff_huge_memory_at(const FfHugeMemory *h, uint64_t offset)
{
    return h->at + offset;
}

int ff_huge_memory_again(FfHugeMemory *h, uint64_t offset)
{
    int rc;

    do {
        rc = fallocate(h->fd, 0, (off_t)offset, (off_t)FF_HUGE_PAGE) < 0 ? -errno : 0;
    } while (rc == -EINTR);
    return rc < 0 ? -ENOMEM : 0;
}

static void punch_page(FfHugeMemory *h, uint64_t offset)
{
    while (fallocate(h->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                     (off_t)FF_HUGE_PAGE) < 0 &&
           errno == EINTR) {
    }
}

/* All locked. */

/* Pages that are set aside, in use or not. */
static uint64_t count_pages(const FfHugeMemory *h)
{
    return has_all(h) ? h->n : h->used + h->spare->len + h->kept;
}

/* The page of OFFSET is there, and was not in use. */
static bool take_own(FfHugeMemory *h, uint64_t offset)
{
    for (guint i = 0; i < h->spare->len; i++) {
        if (g_array_index(h->spare, uint64_t, i) == offset) {
            g_array_remove_index(h->spare, i);
            return ff_huge_memory_again(h, offset) == 0; /* the program may have removed it */
        }
    }
    return false;
}

static void drop_spare(FfHugeMemory *h)
{
    punch_page(h, g_array_index(h->spare, uint64_t, 0));
    g_array_remove_index(h->spare, 0);
}

/* OFFSET gets a page, another place loses its own. */
static int exchange_page(FfHugeMemory *h, uint64_t offset)
{
    int rc = ff_huge_memory_again(h, offset);

    if (rc < 0 && h->spare->len && (!h->lost || ++h->asked > ASKED_MAX)) {
        drop_spare(h);
        rc = ff_huge_memory_again(h, offset);
        h->lost = rc < 0;
        h->asked = 0;
    } else if (rc == 0) {
        h->lost = false;
        while (count_pages(h) >= h->n && h->spare->len) {
            drop_spare(h);
        }
    }
    return rc;
}

int ff_huge_memory_take(FfHugeMemory *h, uint64_t offset)
{
    pthread_mutex_lock(&h->lock);
    int rc = take_own(h, offset) ? 0 : -ENOMEM;
    if (rc < 0) {
        if (count_pages(h) < h->n) {
            keep_pages(h, h->kept + h->n - count_pages(h)); /* what others have given back */
        }
        if (h->kept) {
            keep_pages(h, h->kept - 1);
        }
        rc = has_all(h) ? ff_huge_memory_again(h, offset) : exchange_page(h, offset);
    }
    h->used += rc == 0;
    pthread_mutex_unlock(&h->lock);
    return rc;
}

void ff_huge_memory_give(FfHugeMemory *h, uint64_t offset)
{
    pthread_mutex_lock(&h->lock);
    g_array_append_val(h->spare, offset);
    h->used--;
    while (!has_all(h) && count_pages(h) > h->n && h->spare->len) {
        drop_spare(h); /* there was room for more than N */
    }
    pthread_mutex_unlock(&h->lock);
}
