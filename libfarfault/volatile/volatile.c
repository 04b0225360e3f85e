/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that can be taken away while it is not pinned, and comes back when it is touched: begin
 * and end, filling, pressure. See libfarfault/common/farfault.h for what the calls say, purge.c for
 * pins.
 *
 * The memory is a memfd, of which purging punches holes. With a callback it is registered with a
 * userfaultfd, and libfarfault/common/pool.h's threads place what they were given; UFFDIO_COPY
 * shows each 4096 bytes at once or not at all. Without one the kernel's zeros are right, and there
 * is no userfaultfd.
 *
 * Threads: any; those of the pool; one that waits for pressure. System calls: memfd_create,
 * ftruncate, mmap, munmap, ioctl(UFFDIO_*), poll, open, read, pread64, write (pressure),
 * eventfd, close.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libfarfault/common/rlimits.h"
#include "libfarfault/common/threads.h"
#include "libfarfault/volatile/internal.h"
#include "uffd/uffd.h"

#define PAGE 4096u
#define PAGE_MAX (2u << 20)
#define THREADS_MAX 1024

/* ---- filling --------------------------------------------------------------------------------- */

/* What is there stays. 0 or -errno. */
static int place_page(FfVolatile *v, uint64_t addr, const char *content)
{
    int uffd = v->uffd;

    for (size_t at = 0; at < v->page_size;) {
        uint64_t done = 0;
        int rc = ff_uffd_try(uffd, FF_UFFD_COPY, addr + at, content + at, v->page_size - at, &done);
        if (rc == -EEXIST) {
            done = PAGE;
        } else if (rc < 0 && rc != -EAGAIN) {
            return rc;
        }
        at += done;
    }
    return 0;
}

/* Locked: a thread that touches PAGE gets SIGBUS. */
static void poison_page(FfVolatile *v, size_t page)
{
    uint64_t addr = (uintptr_t)v->map + (page << v->shift), done;

    for (size_t at = 0; at < v->page_size; at += MAX(done, PAGE)) {
        done = 0;
        ff_uffd_try(v->uffd, FF_UFFD_POISON, addr + at, NULL, v->page_size - at, &done);
    }
}

/* PAGE cannot be filled. */
static void give_up(FfVolatile *v, size_t page)
{
    __atomic_fetch_add(&v->shared->failed, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&v->lock);
    ff_bitmap_set(&v->poisoned, page);
    __atomic_store_n(&v->n_poisoned, v->n_poisoned + 1, __ATOMIC_RELAXED);
    poison_page(v, page);
    pthread_mutex_unlock(&v->lock);
}

static void fill_page(FfVolatile *v, size_t page, void *buffer)
{
    uint64_t addr = (uintptr_t)v->map + (page << v->shift);
    int rc = v->regenerate(v->opaque, page, buffer);

    rc = rc > 0 ? -EIO : rc; /* of a function that says 1 for "no", or errno */
    if (rc == 0) {
        __atomic_fetch_add(&v->shared->regenerated, 1, __ATOMIC_RELAXED);
        ff_volatile_make_young(v, page);
        __atomic_fetch_add(&v->placing, v->page_size, __ATOMIC_SEQ_CST);
        ff_volatile_keep_limit(v);
        rc = place_page(v, addr, buffer);
        __atomic_fetch_sub(&v->placing, v->page_size, __ATOMIC_SEQ_CST);
    }
    if (rc < 0) {
        give_up(v, page);
    }
}

static void on_fault(void *opaque, uint64_t addr, uint64_t flags, pid_t tid, void *buffer)
{
    FfVolatile *v = opaque;
    size_t page = (addr - (uintptr_t)v->map) >> v->shift;

    pthread_mutex_lock(&v->lock);
    bool is_mine = !ff_bitmap_test(&v->poisoned, page) && ff_bitmap_set(&v->filling, page);
    bool is_poisoned = ff_bitmap_test(&v->poisoned, page);
    ff_holds_wait(v->holds, tid, page, true);
    if (is_poisoned) {
        ff_holds_given(v->holds, page);
        poison_page(v, page); /* the message is old, or the program has taken it off (madvise()) */
    }
    pthread_mutex_unlock(&v->lock);
    if (is_mine) {
        fill_page(v, page, buffer);
        pthread_mutex_lock(&v->lock);
        ff_bitmap_claim(&v->filling, page);
        ff_holds_given(v->holds, page);
        pthread_mutex_unlock(&v->lock);
    }
    if (is_mine || is_poisoned) {
        /* Also those that came while it was being filled, and were left to this thread. */
        ff_uffd_wake(v->uffd, (uintptr_t)v->map + (page << v->shift), v->page_size);
    }
}

/* ---- pressure -------------------------------------------------------------------------------- */

static gpointer watch_pressure(gpointer opaque)
{
    FfVolatile *v = opaque;
    struct pollfd pfd[2] = {{.fd = v->watch_fd, .events = v->events},
                            {.fd = v->wake_fd, .events = POLLIN}};
    char what[512];

    while (!pfd[1].revents) {
        if (poll(pfd, 2, -1) < 0) {
            pfd[1].revents = 0;
        } else if (pfd[0].revents & v->events) {
            __atomic_fetch_add(&v->shared->pressure, 1, __ATOMIC_RELAXED);
            ff_volatile_purge_oldest(v, 0, 2, true);
            /* It says so again otherwise. */
            if (pread(v->watch_fd, what, sizeof(what), 0) < 0 && errno == ESPIPE &&
                read(v->watch_fd, what, sizeof(what)) < 0) {
                pfd[0].fd = -1;
            }
        } else if (pfd[0].revents) {
            pfd[0].fd = -1; /* the control group is gone */
        }
    }
    return NULL;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

static int open_pressure(void)
{
    static const char trigger[] = "some 100000 2000000";
    int fd = open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0) {
        return ff_fail(
            errno == ENOENT ? -ENOTSUP : -errno,
            "ff_volatile_watch: /proc/pressure/memory: %s: CONFIG_PSI, and psi=1 at boot, "
            "are needed",
            ff_strerror(errno));
    }
    if (write(fd, trigger, sizeof(trigger)) < 0) {
        int rc = -errno;
        close(fd);
        return ff_fail(rc,
                       "ff_volatile_watch: /proc/pressure/memory: %s: without CAP_SYS_RESOURCE "
                       "Linux 6.6 is needed",
                       ff_strerror(-rc));
    }
    return fd;
}

int ff_volatile_watch(FfVolatile *v, int fd, short events)
{
    sigset_t old;

    if (v->pid != getpid()) {
        return ff_volatile_fail_child();
    }
    if (v->watcher) {
        return ff_fail(-EBUSY, "ff_volatile_watch: something is watched already");
    }
    int rc = ff_reserve("ff_volatile_watch", 0);
    if (rc < 0) {
        return rc;
    }
    if (fd >= 0 && fcntl(fd, F_GETFD) < 0) {
        return ff_fail(-errno, "ff_volatile_watch: %d: %s", fd, ff_strerror(errno));
    }
    if (fd < 0) {
        v->own_watch_fd = open_pressure();
        if (v->own_watch_fd < 0) {
            return v->own_watch_fd;
        }
    }
    v->watch_fd = fd < 0 ? v->own_watch_fd : fd;
    v->events = fd < 0 ? POLLPRI : events;
    v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ff_block_signals(&old);
    v->watcher = v->wake_fd < 0 ? NULL : g_thread_try_new("ff-pressure", watch_pressure, v, NULL);
    ff_unblock_signals(&old);
    if (!v->watcher) {
        close_fd(g_steal_fd(&v->own_watch_fd));
        close_fd(g_steal_fd(&v->wake_fd));
        return ff_fail(-EAGAIN, "ff_volatile_watch: no file or thread is free");
    }
    return 0;
}

/* ---- begin and end --------------------------------------------------------------------------- */

int ff_volatile_stats(FfVolatile *v, FfVolatileStats *stats)
{
    const FfVolatileShared *c = v->shared;
    size_t size = stats->size;
    FfVolatileStats s = {.bytes = ff_volatile_used(v),
                         .purged = __atomic_load_n(&c->purged, __ATOMIC_RELAXED),
                         .regenerated = __atomic_load_n(&c->regenerated, __ATOMIC_RELAXED),
                         .failed = __atomic_load_n(&c->failed, __ATOMIC_RELAXED),
                         .pressure = __atomic_load_n(&c->pressure, __ATOMIC_RELAXED)};

    memcpy(stats, &s, MIN(size, sizeof(s)));
    stats->size = size;
    return 0;
}

void *ff_volatile_addr(const FfVolatile *v)
{
    return v->map;
}

static int check_options(size_t len, const FfVolatileOptions *o)
{
    size_t ps = o->page_size;

    if (o->size != sizeof(*o) || o->flags & ~FF_MEMORY_USER_MODE || o->threads > THREADS_MAX) {
        return ff_fail(-EINVAL,
                       "ff_volatile_new: size must be sizeof(FfVolatileOptions); flags and "
                       "threads that are known");
    }
    if (ps < PAGE || ps > PAGE_MAX || ps & (ps - 1) || !len || len % ps) {
        return ff_fail(
            -EINVAL,
            "ff_volatile_new: %zu bytes are not whole pages of %zu bytes, a power of two "
            "from 4096 to 2 MiB",
            len, ps);
    }
    return 0;
}

static int make_memory(FfVolatile *v)
{
    v->shared_len = sizeof(FfVolatileShared) + v->n * sizeof(uint64_t);
    g_auto(FfXfsz) xfsz = ff_xfsz_begin();
    v->fd = memfd_create("volatile", MFD_CLOEXEC);
    if (v->fd < 0 || ftruncate(v->fd, (off_t)v->len) < 0) {
        return -errno;
    }
    /* A child that does not have the memory has pins of its own. */
    v->shared = mmap(NULL, v->shared_len, PROT_READ | PROT_WRITE,
                     (v->regenerate ? MAP_PRIVATE : MAP_SHARED) | MAP_ANONYMOUS, -1, 0);
    if (v->shared == MAP_FAILED) {
        return -errno;
    }
    if (!v->regenerate) {
        v->map = mmap(NULL, v->len, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
        return v->map == MAP_FAILED ? -errno : 0;
    }
    return 0;
}

static int make_pool(FfVolatile *v, const FfVolatileOptions *o)
{
    int uffd = ff_uffd_open(o->flags, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID |
                                          FF_UFFD_FEATURE_POISON);

    if (uffd < 0) {
        return uffd;
    }
    v->holds = ff_holds_new();
    if (!ff_bitmap_try_init(&v->filling, v->n, false) ||
        !ff_bitmap_try_init(&v->poisoned, v->n, false)) {
        close(uffd);
        return ff_fail(-ENOMEM, "ff_volatile_new: %s", ff_strerror(ENOMEM));
    }
    /* Both before its threads. A child would find zeros, and fill the parent's memory with them. */
    v->uffd = uffd;
    int rc = ff_pool_map(uffd, UFFDIO_REGISTER_MODE_MISSING, v->fd, 0, v->len, &v->map);
    if (rc == 0) {
        /* A part of a huge page that cannot be split (somebody does I/O to another part) is made
         * zeros, and stays: nobody would be asked for it again. -EINVAL: there are none. */
        madvise(v->map, v->len, MADV_NOHUGEPAGE);
    }
    if (rc < 0) {
        close(uffd);
    } else {
        v->pool =
            ff_pool_new(uffd, o->threads ? o->threads : THREADS_MAX, v->page_size, on_fault, v);
        rc = v->pool ? 0 : -errno;
    }
    return rc < 0 ? ff_fail(rc, "ff_volatile_new: %s", ff_strerror(-rc)) : 0;
}

int ff_volatile_new(size_t len, FfRegenerate *regenerate, void *opaque,
                    const FfVolatileOptions *options, FfVolatile **result)
{
    FfVolatileOptions o = options ? *options : (FfVolatileOptions){.size = sizeof(o)};

    *result = NULL;
    o.page_size = o.page_size ? o.page_size : PAGE;
    int rc = check_options(len, &o);
    rc = rc < 0 ? rc : ff_reserve("ff_volatile_new", len / o.page_size / 4);
    if (rc < 0) {
        return rc;
    }
    FfVolatile *v = g_new0(FfVolatile, 1);
    *v = (FfVolatile){.pid = getpid(),
                      .len = len,
                      .page_size = o.page_size,
                      .shift = (unsigned)__builtin_ctzll(o.page_size),
                      .n = len / o.page_size,
                      .limit = o.limit,
                      .fd = -1,
                      .map = MAP_FAILED,
                      .shared = MAP_FAILED,
                      .regenerate = regenerate,
                      .opaque = opaque,
                      .own_watch_fd = -1,
                      .wake_fd = -1};
    pthread_mutex_init(&v->lock, NULL);
    rc = make_memory(v);
    rc = rc < 0 ? ff_fail(rc, "ff_volatile_new: %s", ff_strerror(-rc)) : 0;
    if (rc == 0) {
        ff_volatile_init_shared(v);
    }
    rc = rc == 0 && regenerate ? make_pool(v, &o) : rc;
    if (rc < 0) {
        ff_volatile_free(v);
        return rc;
    }
    *result = v;
    return 0;
}

static void end_watch(FfVolatile *v)
{
    uint64_t one = 1;

    if (v->watcher) {
        while (write(v->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
        }
        g_thread_join(v->watcher);
    }
}

void ff_volatile_free(FfVolatile *v)
{
    if (!v) {
        return;
    }
    bool is_child = v->pid != getpid();
    if (!is_child) {
        end_watch(v);
    }
    if (v->map != MAP_FAILED && !(is_child && v->pool)) {
        munmap(v->map, v->len);
    }
    if (!is_child) {
        ff_pool_free(v->pool);
    }
    if (!is_child && v->regenerate && v->fd >= 0 && ftruncate(v->fd, 0) < 0) {
        /* A child of fork() keeps the memory until it ends. */
    }
    if (v->shared != MAP_FAILED) {
        munmap(v->shared, v->shared_len);
    }
    close_fd(v->fd);
    close_fd(v->own_watch_fd);
    close_fd(v->wake_fd);
    ff_holds_free(v->holds);
    ff_bitmap_clear(&v->filling);
    ff_bitmap_clear(&v->poisoned);
    pthread_mutex_destroy(&v->lock);
    g_free(v);
}
