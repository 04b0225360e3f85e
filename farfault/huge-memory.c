/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See huge-memory.h.
 *
 * The kernel keeps a huge page for a certain place of a certain file, and gives one that is punched
 * out to the process that asks first. So those that are not in use are reserved by another file,
 * which gets shorter by one for each page that is taken, and longer again. In between a page
 * belongs to nobody, for microseconds: a program that takes all that are free can have it then.
 *
 * A page is made by fallocate(), whose error tells of an empty pool. UFFDIO_COPY says EEXIST then,
 * and a touch SIGBUS; neither is done here without a page.
 *
 * Lock: `lock`, a leaf. System calls: memfd_create, ftruncate, fallocate, mmap, munmap, madvise,
 * getpid, close.
 */
#include "farfault/huge-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "farfault/memory-internal.h"

/* linux/memfd.h */
#define MFD_2MB (21u << 26)

struct FfHugeMemory {
    pid_t pid;
    int fd, kept_fd;
    char *at; /* of the memory */
    uint64_t len;
    pthread_mutex_t lock;
    uint64_t kept; /* pages that kept_fd has reserved */
    uint64_t used, n;
};

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

/* Locked. -ENOMEM: as many are not free; then it has what it had. */
static int keep(FfHugeMemory *h, uint64_t n)
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

static int make(FfHugeMemory *h)
{
    h->fd = memfd_create("array", MFD_CLOEXEC | MFD_HUGETLB | MFD_2MB);
    h->kept_fd = memfd_create("huge pages", MFD_CLOEXEC | MFD_HUGETLB | MFD_2MB);
    if (h->fd < 0 || h->kept_fd < 0) {
        return ff_fail(-ENOTSUP, "this kernel has no huge pages of 2 MiB (%s)", g_strerror(errno));
    }
    if (ftruncate(h->fd, (off_t)h->len) < 0) {
        return ff_fail(-errno, "huge pages: %s", g_strerror(errno));
    }
    /* What is not reserved here is made by ff_huge_memory_take(). */
    void *at = mmap(NULL, h->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, h->fd, 0);
    if (at == MAP_FAILED) {
        return ff_fail(-errno, "huge pages: %s", g_strerror(errno));
    }
    h->at = at;
    if (madvise(at, h->len, MADV_DONTFORK) < 0) {
        return ff_fail(-errno, "huge pages: %s", g_strerror(errno));
    }
    int rc = keep(h, h->n);
    return rc < 0 ? ff_fail(rc,
                            "%" G_GUINT64_FORMAT " huge pages of 2 MiB are needed and not free: a "
                            "smaller limit, or more of them (sysctl vm.nr_hugepages)",
                            h->n)
                  : 0;
}

int ff_huge_memory_new(uint64_t len, uint64_t n, FfHugeMemory **result)
{
    g_autoptr(FfHugeMemory) h = g_new0(FfHugeMemory, 1);

    *h = (FfHugeMemory){.pid = getpid(), .fd = -1, .kept_fd = -1, .len = len, .n = n};
    pthread_mutex_init(&h->lock, NULL);
    int rc = make(h);
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

int ff_huge_memory_take(FfHugeMemory *h, uint64_t offset)
{
    pthread_mutex_lock(&h->lock);
    if (h->kept) {
        keep(h, h->kept - 1);
    }
    int rc = ff_huge_memory_again(h, offset);
    h->used += rc == 0;
    pthread_mutex_unlock(&h->lock);
    return rc;
}

bool ff_huge_memory_has(FfHugeMemory *h)
{
    pthread_mutex_lock(&h->lock);
    bool has = h->kept > 0;
    pthread_mutex_unlock(&h->lock);
    return has;
}

void ff_huge_memory_give(FfHugeMemory *h, uint64_t offset)
{
    pthread_mutex_lock(&h->lock);
    while (fallocate(h->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                     (off_t)FF_HUGE_PAGE) < 0 &&
           errno == EINTR) {
    }
    h->used--;
    if (h->used + h->kept < h->n) {
        keep(h,
             h->n - h->used); /* as far as others have not taken them: the next one tries again */
    }
    pthread_mutex_unlock(&h->lock);
}
