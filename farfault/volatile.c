/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that can be taken away while it is not pinned, and comes back when it is touched. See
 * farfault.h for what the calls say.
 *
 * The memory is a memfd, of which purging punches holes. Each page has a word, in memory that a
 * child of fork() shares: pinned, lost (it is to be told once), or being purged, and when it was
 * unpinned. All changes of it are one compare-and-swap: who purges claims the page first, so what
 * is pinned never goes. With a callback the memory is registered with a userfaultfd, and pool.h's
 * threads place what they were given; UFFDIO_COPY shows each 4096 bytes at once or not at all.
 * Without one the kernel's zeros are right, and there is no userfaultfd.
 *
 * Threads: any; those of the pool; one that waits for pressure.
 * Lock: `lock`, a leaf, for what is being filled and what has failed. System calls: memfd_create,
 * ftruncate, fallocate, lseek, fstat, mmap, munmap, madvise, futex, pidfd_open, ioctl(UFFDIO_*),
 * poll, open, read, write (pressure), eventfd.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "farfault/capture.h"
#include "farfault/memory-internal.h"
#include "farfault/pool.h"
#include "uffd/bitmap.h"
#include "uffd/uffd.h"

#define PAGE 4096u
#define PAGE_MAX (2u << 20)
#define THREADS 16
/* What is under the limit whatever it is: an instruction and a system call must find all that they
 * touch at once. */
#define LEAST_PAGES 16
/* Punched at once: who touches the range waits meanwhile. */
#define PIECE (2u << 20)
/* Somebody who purges has it claimed for so long, unless he died. */
#define PURGER_MS 1000

/* A page's word. Above the bits: when it was unpinned (now()); in PURGING, which process purges. */
#define PINNED 1ull
#define LOST 2ull
#define PURGING 4ull
#define AWAITED 8ull /* somebody waits for the end of PURGING */
#define ABOVE 8

typedef struct {
    uint64_t purged, regenerated, failed, pressure; /* atomic */
    uint64_t unpinned;                              /* atomic: since the limit was looked at */
    uint64_t word[];                                /* atomic */
} Shared;

struct FfVolatile {
    pid_t pid;
    size_t len, page_size, n;
    unsigned shift;
    int fd;
    char *map;
    Shared *shared;
    size_t shared_len;
    size_t limit; /* atomic */
    FfRegenerate *regenerate;
    void *opaque;
    FfPool *pool;
    pthread_mutex_t lock;
    FfBitmap filling, poisoned; /* lock */
    uint64_t n_poisoned;        /* lock to write; atomic */

    GThread *watcher;
    int watch_fd, own_watch_fd, wake_fd;
    short events;
};

static uint64_t *word(const FfVolatile *v, size_t i)
{
    return &v->shared->word[i];
}

static uint64_t load(const FfVolatile *v, size_t i)
{
    return __atomic_load_n(word(v, i), __ATOMIC_ACQUIRE);
}

/* Against all that it does not know: pinned, purged and filled by anybody. */
static bool swap(FfVolatile *v, size_t i, uint64_t *was, uint64_t is)
{
    return __atomic_compare_exchange_n(word(v, i), was, is, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

/* Only to tell what is older: not a clock, as that takes as long as the rest of unpinning. */
static uint64_t now(void)
{
    return __builtin_ia32_rdtsc() << ABOVE;
}

/* ---- pins --------------------------------------------------------------------------------------
 */

static int futex(uint64_t *at, int op, uint32_t value, const struct timespec *timeout)
{
    /* The lower half of the word, which has all bits; also of other processes. */
    return (int)syscall(SYS_futex, at, op, value, timeout, NULL, 0);
}

/* Also if nobody has waited for it yet. */
static bool has_ended(pid_t pid)
{
    struct pollfd pfd = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    bool ended = pfd.fd < 0 ? errno == ESRCH : poll(&pfd, 1, 0) > 0;

    if (pfd.fd >= 0) {
        close(pfd.fd);
    }
    return ended;
}

/* W is being purged: waits until it is not, or was given up. */
static void await_purge(FfVolatile *v, size_t i, uint64_t w)
{
    struct timespec timeout = {.tv_sec = PURGER_MS / 1000};

    if (!(w & AWAITED) && !swap(v, i, &w, w | AWAITED)) {
        return;
    }
    w |= AWAITED;
    /* A process that is killed tells nobody: what it had claimed may have gone. */
    if (futex(word(v, i), FUTEX_WAIT, (uint32_t)w, &timeout) < 0 && errno == ETIMEDOUT &&
        has_ended((pid_t)(w >> ABOVE))) {
        swap(v, i, &w, v->regenerate ? 0 : LOST);
    }
}

static bool pin(FfVolatile *v, size_t i)
{
    uint64_t w = load(v, i);

    for (;;) {
        if (w & PURGING) {
            await_purge(v, i, w);
            w = load(v, i);
        } else if (swap(v, i, &w, PINNED)) {
            return w & LOST;
        }
    }
}

/* TRUE: it was pinned. */
static bool unpin(FfVolatile *v, size_t i, uint64_t when)
{
    uint64_t w = load(v, i);

    while (w & PINNED) {
        if (swap(v, i, &w, when)) {
            return true;
        }
    }
    return false;
}

static int fail_range(const char *call)
{
    return ff_fail(-EINVAL, "%s: they are not whole pages of the range", call);
}

static int fail_child(void)
{
    return ff_fail(-ECHILD, "this is a child of the process whose memory it is");
}

/* Of LEN bytes at OFFSET the pages [*FIRST, *END). */
static int find(const FfVolatile *v, const char *call, size_t offset, size_t len, size_t *first,
                size_t *end)
{
    if (offset > v->len || len > v->len - offset || (offset | len) & (v->page_size - 1)) {
        return fail_range(call);
    }
    *first = offset >> v->shift;
    *end = len ? *first + (len >> v->shift) : v->n;
    return 0;
}

int ff_volatile_pin(FfVolatile *v, size_t offset, size_t len)
{
    size_t i, end;
    bool lost = false;
    int rc = find(v, "ff_volatile_pin", offset, len, &i, &end);

    if (rc < 0) {
        return rc;
    }
    for (; i < end; i++) {
        lost |= pin(v, i);
    }
    return lost ? FF_WAS_PURGED : 0;
}

static void keep_limit(FfVolatile *v);

/* So that memory is looked at after each eighth of the limit, and not each time. */
static void count_unpinned(FfVolatile *v, size_t limit, size_t n)
{
    uint64_t all = __atomic_add_fetch(&v->shared->unpinned, n * v->page_size, __ATOMIC_RELAXED);

    if (all >= limit / 8) {
        __atomic_store_n(&v->shared->unpinned, 0, __ATOMIC_RELAXED);
        keep_limit(v);
    }
}

int ff_volatile_unpin(FfVolatile *v, size_t offset, size_t len)
{
    size_t i, end, limit, n = 0;
    int rc = find(v, "ff_volatile_unpin", offset, len, &i, &end);

    if (rc < 0) {
        return rc;
    }
    for (uint64_t when = now(); i < end; i++) {
        n += unpin(v, i, when);
    }
    limit = v->regenerate ? 0 : __atomic_load_n(&v->limit, __ATOMIC_RELAXED);
    if (limit && n) {
        count_unpinned(v, limit, n);
    }
    return 0;
}

int ff_volatile_is_pinned(FfVolatile *v, size_t offset, size_t len)
{
    size_t i, end;
    int rc = find(v, "ff_volatile_is_pinned", offset, len, &i, &end);

    if (rc < 0) {
        return rc;
    }
    while (i < end && load(v, i) & PINNED) {
        i++;
    }
    return i == end;
}

/* ---- purging -----------------------------------------------------------------------------------
 */

/* Nobody pins it until settle(). FALSE: it is pinned, or somebody else has it. */
static bool claim(FfVolatile *v, size_t i)
{
    uint64_t w = load(v, i);

    while (!(w & (PINNED | PURGING))) {
        if (swap(v, i, &w, PURGING | (uint64_t)getpid() << ABOVE | (w & LOST))) {
            return true;
        }
    }
    return false;
}

/* The end of a claim. */
static void settle(FfVolatile *v, size_t i, bool gone)
{
    uint64_t w = load(v, i), is;

    do {
        is = (w & LOST) | (gone && !v->regenerate ? LOST : 0);
    } while (!swap(v, i, &w, is));
    if (w & AWAITED) {
        futex(word(v, i), FUTEX_WAKE, INT32_MAX, NULL);
    }
}

static int punch(FfVolatile *v, size_t first, size_t n)
{
    int rc;

    do {
        rc = fallocate(v->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       (off_t)(first << v->shift), (off_t)(n << v->shift));
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* Of N pages from FIRST on those that nobody has pinned. Returns how many, or -errno. */
static ssize_t purge_run(FfVolatile *v, size_t first, size_t n)
{
    size_t max = MAX(1, PIECE >> v->shift), done = 0;
    int rc = 0;

    for (size_t i = first, run; i < first + n && rc == 0; i += run) {
        for (run = 0; run < max && i + run < first + n && claim(v, i + run); run++) {
        }
        if (!run) {
            run = 1;
            continue;
        }
        rc = punch(v, i, run);
        for (size_t k = 0; k < run; k++) {
            settle(v, i + k, rc == 0);
        }
        done += rc == 0 ? run : 0;
    }
    __atomic_fetch_add(&v->shared->purged, done, __ATOMIC_RELAXED);
    return rc < 0 ? rc : (ssize_t)done;
}

/* The next pages at or after FROM of which something is in memory (or swapped out). 0: none. */
static size_t next_data(const FfVolatile *v, size_t from, size_t *first)
{
    off_t at = from < v->n ? lseek(v->fd, (off_t)(from << v->shift), SEEK_DATA) : -1;
    off_t end = at < 0 ? -1 : lseek(v->fd, at, SEEK_HOLE);

    if (end <= at) {
        return 0;
    }
    *first = (size_t)at >> v->shift;
    return (((size_t)end - 1) >> v->shift) + 1 - *first;
}

static ssize_t purge_all(FfVolatile *v)
{
    size_t first, done = 0;

    for (size_t at = 0, n; (n = next_data(v, at, &first)); at = first + n) {
        ssize_t some = purge_run(v, first, n);
        if (some < 0) {
            return some;
        }
        done += (size_t)some;
    }
    return (ssize_t)done;
}

typedef struct {
    uint64_t when;
    size_t page;
} Candidate;

static int by_age(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;

    return x->when != y->when ? (x->when > y->when) - (x->when < y->when)
                              : (x->page > y->page) - (x->page < y->page);
}

static int by_page(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;

    return (x->page > y->page) - (x->page < y->page);
}

/* All that can go; NULL if nothing can. */
static GArray *find_candidates(const FfVolatile *v)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(Candidate));
    size_t first;

    for (size_t at = 0, n; (n = next_data(v, at, &first)); at = first + n) {
        for (size_t i = first; i < first + n; i++) {
            uint64_t w = load(v, i);
            Candidate c = {w >> ABOVE, i};
            if (!(w & (PINNED | PURGING))) {
                g_array_append_val(found, c);
            }
        }
    }
    return found;
}

/* The first N of FOUND, in order of address. */
static ssize_t purge_these(FfVolatile *v, GArray *found, size_t n)
{
    const Candidate *c = (const Candidate *)(const void *)found->data;
    size_t done = 0;

    g_array_sort(found, by_age);
    g_array_set_size(found, (guint)n);
    g_array_sort(found, by_page);
    for (size_t i = 0, run; i < n; i += run) {
        for (run = 1; i + run < n && c[i + run].page == c[i].page + run; run++) {
        }
        ssize_t some = purge_run(v, c[i].page, run);
        if (some < 0) {
            return some;
        }
        done += (size_t)some;
    }
    return (ssize_t)done;
}

/* BYTES, or FRACTION of what can go. */
static ssize_t purge_oldest(FfVolatile *v, size_t bytes, unsigned fraction)
{
    g_autoptr(GArray) found = find_candidates(v);
    size_t n = fraction ? (found->len + fraction - 1) / fraction
                        : MIN(found->len, bytes / v->page_size + (bytes % v->page_size > 0));

    return purge_these(v, found, n);
}

/* What could not be regenerated is asked for once more: a poisoned page is no memory, so a hole
 * does not remove it. */
static void forget_failures(FfVolatile *v)
{
    if (!__atomic_load_n(&v->n_poisoned, __ATOMIC_RELAXED)) {
        return;
    }
    pthread_mutex_lock(&v->lock);
    uint64_t first, n;
    for (uint64_t at = 0; (n = ff_bitmap_next_run(&v->poisoned, at, true, &first));
         at = first + n) {
        madvise(v->map + (first << v->shift), n << v->shift, MADV_DONTNEED);
        ff_bitmap_clear_run(&v->poisoned, first, n);
    }
    __atomic_store_n(&v->n_poisoned, 0, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&v->lock);
}

ssize_t ff_volatile_purge(FfVolatile *v, size_t bytes)
{
    if (v->pool && v->pid != getpid()) {
        return fail_child();
    }
    forget_failures(v);
    ssize_t n = bytes >= v->len ? purge_all(v) : purge_oldest(v, bytes, 0);
    return n < 0 ? ff_fail((int)n, "ff_volatile_purge: %s", g_strerror((int)-n)) : n << v->shift;
}

static size_t used(const FfVolatile *v)
{
    struct stat st;

    return fstat(v->fd, &st) < 0 ? 0 : (size_t)st.st_blocks * 512;
}

static void keep_limit(FfVolatile *v)
{
    size_t limit = __atomic_load_n(&v->limit, __ATOMIC_RELAXED);
    size_t least = MAX(limit, LEAST_PAGES * v->page_size), have = limit ? used(v) : 0;

    if (limit && have > least) {
        /* Some more, so that it is not done for each page. */
        purge_oldest(v, have - least + least / 16, 0);
    }
}

int ff_volatile_set_limit(FfVolatile *v, size_t bytes)
{
    if (v->pool && v->pid != getpid()) {
        return fail_child();
    }
    __atomic_store_n(&v->limit, bytes, __ATOMIC_RELAXED);
    keep_limit(v);
    return 0;
}

/* ---- filling -----------------------------------------------------------------------------------
 */

/* What is there stays. 0 or -errno. */
static int place(FfVolatile *v, uint64_t addr, const char *content)
{
    int uffd = ff_pool_uffd(v->pool);

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

/* Who touches PAGE, which cannot be filled, gets SIGBUS. */
static void poison(FfVolatile *v, size_t page)
{
    uint64_t addr = (uintptr_t)v->map + (page << v->shift), done;

    __atomic_fetch_add(&v->shared->failed, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&v->lock);
    ff_bitmap_set(&v->poisoned, page);
    __atomic_store_n(&v->n_poisoned, v->n_poisoned + 1, __ATOMIC_RELAXED);
    for (size_t at = 0; at < v->page_size; at += MAX(done, PAGE)) {
        done = 0;
        ff_uffd_try(ff_pool_uffd(v->pool), FF_UFFD_POISON, addr + at, NULL, v->page_size - at,
                    &done);
    }
    pthread_mutex_unlock(&v->lock);
}

/* Just used: it is not the next one to go. */
static void make_young(FfVolatile *v, size_t page)
{
    uint64_t w = load(v, page);

    if (!(w & (PINNED | PURGING))) {
        swap(v, page, &w, now() | (w & LOST));
    }
}

static void fill(FfVolatile *v, size_t page, void *buffer)
{
    uint64_t addr = (uintptr_t)v->map + (page << v->shift);
    int rc = v->regenerate(v->opaque, page, buffer);

    if (rc >= 0) {
        make_young(v, page);
        rc = place(v, addr, buffer);
        __atomic_fetch_add(&v->shared->regenerated, rc == 0, __ATOMIC_RELAXED);
    }
    if (rc < 0) {
        poison(v, page);
    }
}

static void on_fault(void *opaque, uint64_t addr, uint64_t flags, pid_t tid, void *buffer)
{
    FfVolatile *v = opaque;
    size_t page = (addr - (uintptr_t)v->map) >> v->shift;

    pthread_mutex_lock(&v->lock);
    bool is_mine = !ff_bitmap_test(&v->poisoned, page) && ff_bitmap_set(&v->filling, page);
    bool is_poisoned = ff_bitmap_test(&v->poisoned, page);
    pthread_mutex_unlock(&v->lock);
    if (is_mine) {
        fill(v, page, buffer);
        pthread_mutex_lock(&v->lock);
        ff_bitmap_claim(&v->filling, page);
        pthread_mutex_unlock(&v->lock);
    }
    if (is_mine || is_poisoned) {
        /* Also those that came while it was being filled, and were left to this thread. */
        ff_uffd_wake(ff_pool_uffd(v->pool), (uintptr_t)v->map + (page << v->shift), v->page_size);
    }
    if (is_mine) {
        keep_limit(v);
    }
}

/* ---- pressure ----------------------------------------------------------------------------------
 */

static gpointer watch(gpointer opaque)
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
            purge_oldest(v, 0, 2);
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

static int open_pressure(void)
{
    static const char trigger[] = "some 100000 2000000";
    int fd = open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0) {
        return ff_fail(
            errno == ENOENT ? -ENOTSUP : -errno,
            "ff_volatile_watch: /proc/pressure/memory: %s: CONFIG_PSI, and psi=1 at boot, "
            "are needed",
            g_strerror(errno));
    }
    if (write(fd, trigger, sizeof(trigger)) < 0) {
        int rc = -errno;
        close(fd);
        return ff_fail(rc,
                       "ff_volatile_watch: /proc/pressure/memory: %s: without CAP_SYS_RESOURCE "
                       "Linux 6.6 is needed",
                       g_strerror(-rc));
    }
    return fd;
}

int ff_volatile_watch(FfVolatile *v, int fd, short events)
{
    sigset_t old;

    if (v->pid != getpid()) {
        return fail_child();
    }
    if (v->watcher) {
        return ff_fail(-EBUSY, "ff_volatile_watch: something is watched already");
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
    v->watcher = v->wake_fd < 0 ? NULL : g_thread_try_new("ff-pressure", watch, v, NULL);
    ff_unblock_signals(&old);
    return v->watcher ? 0 : ff_fail(-EAGAIN, "ff_volatile_watch: no file or thread is free");
}

/* ---- begin and end -----------------------------------------------------------------------------
 */

int ff_volatile_stats(FfVolatile *v, FfVolatileStats *stats)
{
    const Shared *c = v->shared;
    size_t size = stats->size;
    FfVolatileStats s = {.bytes = used(v),
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

    if (o->size != sizeof(*o) || o->flags & ~FF_MEMORY_USER_MODE || o->threads > 1024) {
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
    v->shared_len = sizeof(Shared) + v->n * sizeof(uint64_t);
    v->fd = memfd_create("volatile", MFD_CLOEXEC);
    if (v->fd < 0 || ftruncate(v->fd, (off_t)v->len) < 0) {
        return -errno;
    }
    v->shared =
        mmap(NULL, v->shared_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    v->map = mmap(NULL, v->len, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    return v->shared == MAP_FAILED || v->map == MAP_FAILED ? -errno : 0;
}

static int make_pool(FfVolatile *v, const FfVolatileOptions *o)
{
    int uffd = ff_uffd_open(o->flags, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID |
                                          FF_UFFD_FEATURE_POISON);

    if (uffd < 0) {
        return uffd;
    }
    ff_bitmap_init(&v->filling, v->n, false);
    ff_bitmap_init(&v->poisoned, v->n, false);
    v->pool = ff_pool_new(uffd, o->threads ? o->threads : THREADS, v->page_size, on_fault, v);
    int rc = v->pool
                 ? ff_uffd_register(uffd, (uintptr_t)v->map, v->len, UFFDIO_REGISTER_MODE_MISSING)
                 : -errno;
    /* A child would find zeros, and fill the parent's memory with them. */
    if (rc == 0 && madvise(v->map, v->len, MADV_DONTFORK) < 0) {
        rc = -errno;
    }
    return rc < 0 ? ff_fail(rc, "ff_volatile_new: %s", g_strerror(-rc)) : 0;
}

int ff_volatile_new(size_t len, FfRegenerate *regenerate, void *opaque,
                    const FfVolatileOptions *options, FfVolatile **result)
{
    FfVolatileOptions o = options ? *options : (FfVolatileOptions){.size = sizeof(o)};

    *result = NULL;
    o.page_size = o.page_size ? o.page_size : PAGE;
    int rc = check_options(len, &o);
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
    rc = rc < 0 ? ff_fail(rc, "ff_volatile_new: %s", g_strerror(-rc)) : 0;
    for (size_t i = 0; rc == 0 && i < v->n; i++) {
        *word(v, i) = PINNED;
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

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
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
    if (v->shared != MAP_FAILED) {
        munmap(v->shared, v->shared_len);
    }
    close_fd(v->fd);
    close_fd(v->own_watch_fd);
    close_fd(v->wake_fd);
    ff_bitmap_clear(&v->filling);
    ff_bitmap_clear(&v->poisoned);
    pthread_mutex_destroy(&v->lock);
    g_free(v);
}
