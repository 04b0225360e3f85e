/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that answer faults; see pool.h.
 *
 * All threads read the same userfaultfd, so there is no queue and nobody that hands out: the kernel
 * gives each message once. `idle` counts the threads that can read the next one.
 *
 * Lock: `lock`, a leaf, for the list of threads. System calls: poll, read, write (eventfd),
 * mmap, munlock, mprotect, munmap, madvise,
 * ioctl(UFFDIO_REGISTER), close.
 */
#include "libfarfault/common/pool.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libfarfault/common/rlimits.h"
#include "libfarfault/common/threads.h"
#include "uffd/uffd.h"

/* asm-generic/mman-common.h since 5.18. */
#define DONTNEED_LOCKED 24

struct FfPool {
    int uffd, wake_fd;
    unsigned max_threads;
    size_t buffer;
    FfPoolFault *fn;
    void *opaque;
    int idle; /* atomic; observer: a thread that takes a message */
    pthread_mutex_t lock;
    GPtrArray *threads; /* lock: GThread */
    bool ending;        /* lock */
};

static gpointer run_thread(gpointer opaque);

/* Another thread, which counts as idle. Without it, for want of memory, those that are there do. 0
 * or -errno. */
static int start_one(FfPool *p)
{
    sigset_t old;

    pthread_mutex_lock(&p->lock);
    bool may_start = !p->ending && p->threads->len < p->max_threads;
    int rc = may_start ? ff_reserve("ff-load", 0) : 0;
    if (may_start && rc == 0) {
        __atomic_add_fetch(&p->idle, 1, __ATOMIC_RELAXED);
        ff_block_signals(&old);
        GThread *thread = g_thread_try_new("ff-load", run_thread, p, NULL);
        ff_unblock_signals(&old);
        rc = thread ? 0 : -EAGAIN;
        if (thread) {
            g_ptr_array_add(p->threads, thread);
        } else {
            __atomic_sub_fetch(&p->idle, 1, __ATOMIC_RELAXED);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return rc;
}

static void handle_message(FfPool *p, const struct uffd_msg *msg, void *buffer)
{
    if (msg->event != UFFD_EVENT_PAGEFAULT) {
        return; /* nobody has asked for events */
    }
    if (__atomic_sub_fetch(&p->idle, 1, __ATOMIC_RELAXED) <= 0) {
        start_one(p);
    }
    p->fn(p->opaque, msg->arg.pagefault.address & ~4095ull, msg->arg.pagefault.flags,
          (pid_t)msg->arg.pagefault.feat.ptid, buffer);
    __atomic_add_fetch(&p->idle, 1, __ATOMIC_RELAXED);
}

static gpointer run_thread(gpointer opaque)
{
    FfPool *p = opaque;
    struct pollfd pfd[2] = {{.fd = p->uffd, .events = POLLIN},
                            {.fd = p->wake_fd, .events = POLLIN}};
    void *buffer =
        mmap(NULL, p->buffer, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffd_msg msg;

    if (buffer == MAP_FAILED) {
        /* The first one has one: ff_pool_new() has tried. */
        __atomic_sub_fetch(&p->idle, 1, __ATOMIC_RELAXED);
        return NULL;
    }
    while (!pfd[1].revents) {
        if (poll(pfd, 2, -1) < 0) {
            pfd[1].revents = 0; /* EINTR: a debugger */
            continue;
        }
        if (!pfd[1].revents && ff_uffd_read(p->uffd, &msg, 1) == 1) {
            handle_message(p, &msg, buffer);
        }
    }
    munmap(buffer, p->buffer);
    return NULL;
}

static int prepare_buffer(FfPool *p)
{
    void *probe = mmap(NULL, p->buffer, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (probe == MAP_FAILED || p->wake_fd < 0) {
        return -errno;
    }
    munmap(probe, p->buffer);
    return start_one(p);
}

FfPool *ff_pool_new(int uffd, unsigned max_threads, size_t buffer, FfPoolFault *fn, void *opaque)
{
    FfPool *p = g_new0(FfPool, 1);

    *p = (FfPool){.uffd = uffd,
                  .wake_fd = -1,
                  .max_threads = max_threads,
                  .buffer = buffer,
                  .fn = fn,
                  .opaque = opaque};
    pthread_mutex_init(&p->lock, NULL);
    p->threads = g_ptr_array_new();
    int rc = prepare_buffer(p);
    if (rc < 0) {
        ff_pool_free(p);
        errno = -rc;
        return NULL;
    }
    return p;
}

int ff_pool_map(int uffd, uint64_t mode, int fd, uint64_t offset, size_t len, void **at)
{
    /* After mlockall(MCL_FUTURE) the kernel fills what is mapped with zeros, but for this. */
    char *p = mmap(NULL, len, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)offset);

    if (p == MAP_FAILED) {
        return -errno;
    }
    int rc = munlock(p, len) < 0 ? -errno : ff_uffd_register(uffd, (uintptr_t)p, len, mode);
    if (rc == 0 &&
        (mprotect(p, len, PROT_READ | PROT_WRITE) < 0 || madvise(p, len, MADV_DONTFORK) < 0)) {
        rc = -errno;
    }
    if (rc < 0) {
        munmap(p, len);
        return rc;
    }
    *at = p;
    return 0;
}

int ff_pool_unmap(uint64_t addr, uint64_t len)
{
    int rc = madvise((void *)(uintptr_t)addr, len, DONTNEED_LOCKED);

    return rc < 0 && errno != ENOMEM ? -errno : 0;
}

static void end_threads(FfPool *p)
{
    uint64_t one = 1;

    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_mutex_unlock(&p->lock);
    while (p->wake_fd >= 0 && write(p->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    for (guint i = 0; i < p->threads->len; i++) {
        g_thread_join(p->threads->pdata[i]);
    }
}

void ff_pool_free(FfPool *p)
{
    if (!p) {
        return;
    }
    end_threads(p);
    close(p->uffd);
    if (p->wake_fd >= 0) {
        close(p->wake_fd);
    }
    g_ptr_array_unref(p->threads);
    pthread_mutex_destroy(&p->lock);
    g_free(p);
}
