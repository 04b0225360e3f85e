/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See faults.h. A pass goes over a region page by page: each page is touched by one thread, once.
 * A thread that reads a userfaultfd places what its messages ask for, in the way that is measured;
 * there is no network. What a pass took of the processors, per fault, says more than its rate where
 * other programs run.
 *
 * Threads: touchers, readers (one or more for each userfaultfd). The map of pages that are placed
 * or about to be is claimed atomically; nothing else is shared.
 * System calls: userfaultfd, ioctl(UFFDIO_*), read, poll, getrusage.
 */
#include "tests/bench/faults.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/priority.h"
#include "uffd/bitmap.h"
#include "uffd/uffd.h"

#define PAGE 4096ull
#define REGION (256ull << 20)
#define N_PAGES (REGION / PAGE)
#define BATCH 64
/* Pieces of the region, dealt out to the userfaultfds. */
#define PIECES 64

typedef struct {
    const char *name;
    unsigned uffds, readers; /* in all; readers 0: one for each userfaultfd */
    unsigned batch;          /* messages per read */
    bool greedy;             /* reads until nothing is there, and polls only then */
    bool merge;              /* neighbours of a batch are placed by one ioctl */
    bool wake_late;          /* all of a batch are placed, then woken by one ioctl */
    bool urgent;             /* the readers have the engine's short slice and nice value */
    unsigned spin_us;        /* looks so long for a message before it sleeps */
    unsigned around;         /* pages; places the aligned piece that the page lies in */
} Way;

static const Way ways[] = {
    {"1 uffd, 1 reader, 1 message, 1 page", 1, 0, 1},
    {"64 messages per read", 1, 0, BATCH},
    {"... and polls only when nothing is there", 1, 0, BATCH, true},
    {"... and neighbours by one ioctl", 1, 0, BATCH, true, true},
    {"... and one wake for all of a batch", 1, 0, BATCH, true, true, true},
    {"the same, reader preempts", 1, 0, BATCH, true, true, true, true},
    {"2 readers of 1 uffd, each as the 3rd", 1, 2, BATCH, true},
    {"looks for 50 us before it sleeps", 1, 0, BATCH, true, false, false, false, 50},
    {"2 uffds, one wake for a batch", 2, 0, BATCH, true, true, true},
    {"4 uffds", 4, 0, BATCH, true},
    {"4 uffds, one wake for a batch", 4, 0, BATCH, true, true, true},
    {"16 uffds", 16, 0, BATCH, true},
    {"16 uffds, one wake for a batch", 16, 0, BATCH, true, true, true},
    {"64 uffds", 64, 0, BATCH, true},
    {"places 4 pages around", 1, 0, BATCH, true, false, false, false, 0, 4},
    {"places 16 pages around", 1, 0, BATCH, true, false, false, false, 0, 16},
};

typedef enum { OWN, TURN, RANDOM } Order;
static const char *const order_names[] = {"each its own", "in turn", "random"};

typedef struct {
    int uffd, wake;
    const Way *way;
    char *base;
    FfBitmap *missing; /* N_PAGES */
    uint64_t faults, reads;
    GThread *thread;
} Reader;

typedef struct {
    char *base;
    unsigned index, n;
    Order order;
} Toucher;

typedef struct {
    double faults, pages, cpu_us, messages; /* per second; per fault; per read */
} Result;

static char data[BATCH * PAGE] __attribute__((aligned(4096)));

/* ---- placing --------------------------------------------------------------------------------- */

static void wake(const Reader *r, uint64_t page, uint64_t n)
{
    int rc = ff_uffd_wake(r->uffd, (uintptr_t)r->base + page * PAGE, n * PAGE);

    if (rc < 0) {
        g_error("UFFDIO_WAKE: %s", g_strerror(-rc));
    }
}

/* Pages that this reader has claimed: nobody else places them. */
static void copy(const Reader *r, uint64_t page, uint64_t n)
{
    struct uffdio_copy c = {.src = (uintptr_t)data,
                            .mode = r->way->wake_late ? UFFDIO_COPY_MODE_DONTWAKE : 0};

    for (uint64_t done = 0; done < n * PAGE;) {
        c.dst = (uintptr_t)r->base + page * PAGE + done;
        c.len = n * PAGE - done;
        c.copy = 0;
        if (ioctl(r->uffd, UFFDIO_COPY, &c) < 0 && errno != EAGAIN) {
            g_error("UFFDIO_COPY: %s", g_strerror(errno));
        }
        done += MAX(0, c.copy);
    }
}

static void place(Reader *r, uint64_t page, uint64_t n)
{
    uint64_t around = r->way->around, first, got, at = page, end = page + n;

    if (around) {
        at = page / around * around;
        end = at + around;
    }
    for (; at < end && (got = ff_bitmap_claim_run(r->missing, at, end, BATCH, &first));
         at = first + got) {
        copy(r, first, got);
    }
    /* A thread that faulted while the page came with another. */
    if (around && !r->way->wake_late) {
        wake(r, page, n);
    }
}

static int by_page(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void place_batch(Reader *r, uint64_t *page, unsigned n)
{
    if (r->way->merge && n > 1) {
        qsort(page, n, sizeof(*page), by_page);
    }
    for (unsigned i = 0, run; i < n; i += run) {
        run = 1;
        while (r->way->merge && i + run < n && page[i + run] == page[i] + run) {
            run++;
        }
        place(r, page[i], run);
    }
    /* The kernel looks through all that wait, for each wake. A thread that waits for a page that is
     * not there yet and is woken with them faults once more. */
    if (r->way->wake_late) {
        wake(r, page[0], page[n - 1] - page[0] + 1);
    }
}

/* ---- threads --------------------------------------------------------------------------------- */

/* FALSE at the end. */
static bool wait_for_faults(Reader *r)
{
    struct pollfd fd[2] = {{.fd = r->uffd, .events = POLLIN}, {.fd = r->wake, .events = POLLIN}};
    gint64 end = r->way->spin_us ? g_get_monotonic_time() + r->way->spin_us : 0;

    while (end && g_get_monotonic_time() < end) {
        if (poll(fd, 2, 0) > 0) {
            return !fd[1].revents;
        }
    }
    poll(fd, 2, -1);
    return !fd[1].revents;
}

static gpointer serve(gpointer p)
{
    Reader *r = p;
    struct uffd_msg msg[BATCH];
    uint64_t page[BATCH];

    if (r->way->urgent) {
        ff_priority_urgent();
    }
    while (wait_for_faults(r)) {
        int n;
        do {
            n = ff_uffd_read(r->uffd, msg, r->way->batch);
            for (int i = 0; i < n; i++) {
                page[i] = (msg[i].arg.pagefault.address - (uintptr_t)r->base) / PAGE;
            }
            if (n > 0) {
                place_batch(r, page, n);
                r->faults += n;
                r->reads++;
            }
        } while (r->way->greedy && n > 0);
    }
    return NULL;
}

static gpointer touch(gpointer p)
{
    Toucher *t = p;
    uint64_t each = N_PAGES / t->n;

    for (uint64_t i = 0; i < each; i++) {
        uint64_t own = t->index * each + i, page = own;
        if (t->order == TURN) {
            page = i * t->n + t->index;
        } else if (t->order == RANDOM) {
            /* Each step can be undone, N_PAGES being a power of two: each page comes once. */
            for (unsigned k = 0; k < 3; k++) {
                page = page * 40503 % N_PAGES;
                page ^= page >> 5;
            }
        }
        *(volatile char *)(t->base + page * PAGE);
    }
    return NULL;
}

/* ---- a pass ---------------------------------------------------------------------------------- */

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static char *map_region(void)
{
    int memfd = memfd_create("farfault-micro", MFD_CLOEXEC);

    if (memfd < 0 || ftruncate(memfd, REGION) < 0) {
        g_error("memfd: %s", g_strerror(errno));
    }
    void *p = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (p == MAP_FAILED) {
        g_error("mmap: %s", g_strerror(errno));
    }
    close(memfd);
    return p;
}

static int make_uffd(void)
{
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || ff_uffd_init(fd, UFFD_FEATURE_MISSING_SHMEM, NULL) < 0) {
        g_error("userfaultfd: %s: run it as root", g_strerror(errno));
    }
    return fd;
}

static void register_pieces(const int *uffd, unsigned n, char *base)
{
    for (unsigned i = 0; i < PIECES; i++) {
        int rc = ff_uffd_register(uffd[i % n], (uintptr_t)base + REGION / PIECES * i,
                                  REGION / PIECES, UFFDIO_REGISTER_MODE_MISSING);
        if (rc < 0) {
            g_error("register: %s", g_strerror(-rc));
        }
    }
}

static double run_touchers(char *base, unsigned n, Order order)
{
    g_autofree Toucher *t = g_new0(Toucher, n);
    g_autofree GThread **th = g_new0(GThread *, n);
    gint64 begin = g_get_monotonic_time();

    for (unsigned i = 0; i < n; i++) {
        t[i] = (Toucher){.base = base, .index = i, .n = n, .order = order};
        th[i] = g_thread_new("touch", touch, &t[i]);
    }
    for (unsigned i = 0; i < n; i++) {
        g_thread_join(th[i]);
    }
    return (g_get_monotonic_time() - begin) / 1e6;
}

static Result pass(const Way *w, unsigned threads, Order order)
{
    unsigned n_readers = w->readers ? w->readers : w->uffds;
    g_autofree Reader *r = g_new0(Reader, n_readers);
    g_autofree int *uffd = g_new(int, w->uffds);
    int end = eventfd(0, EFD_CLOEXEC);
    uint64_t faults = 0, reads = 0, one = 1;
    char *base = map_region();
    FfBitmap missing;

    ff_bitmap_init(&missing, N_PAGES, true);
    for (unsigned i = 0; i < w->uffds; i++) {
        uffd[i] = make_uffd();
    }
    register_pieces(uffd, w->uffds, base);
    for (unsigned i = 0; i < n_readers; i++) {
        r[i] = (Reader){uffd[i % w->uffds], end, w, base, &missing};
        r[i].thread = g_thread_new("reader", serve, &r[i]);
    }
    double cpu = cpu_seconds(), dt = run_touchers(base, threads, order);
    cpu = cpu_seconds() - cpu;
    G_GNUC_UNUSED ssize_t rc = write(end, &one, sizeof(one));
    for (unsigned i = 0; i < n_readers; i++) {
        g_thread_join(r[i].thread);
        faults += r[i].faults;
        reads += r[i].reads;
    }
    for (unsigned i = 0; i < w->uffds; i++) {
        close(uffd[i]);
    }
    uint64_t placed = N_PAGES - ff_bitmap_count(&missing);
    close(end);
    ff_bitmap_clear(&missing);
    munmap(base, REGION);
    return (Result){faults / dt, placed / dt, cpu * 1e6 / faults, (double)faults / reads};
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static int by_rate(const void *a, const void *b)
{
    double x = ((const Result *)a)->faults, y = ((const Result *)b)->faults;

    return (x > y) - (x < y);
}

static void report(const Way *w, unsigned threads, Order order, Result *r, unsigned rounds)
{
    qsort(r, rounds, sizeof(*r), by_rate);
    const Result *m = &r[rounds / 2];
    printf("{\"bench\": \"faults\", \"way\": \"%s\", \"threads\": %u, \"order\": \"%s\", "
           "\"kfaults/s\": %.1f, \"least\": %.1f, \"most\": %.1f, \"kpages/s\": %.1f, "
           "\"cpu us/fault\": %.2f, \"messages/read\": %.2f}\n",
           w->name, threads, order_names[order], m->faults / 1e3, r[0].faults / 1e3,
           r[rounds - 1].faults / 1e3, m->pages / 1e3, m->cpu_us, m->messages);
    fflush(stdout);
}

static void compare(unsigned threads, Order order, unsigned rounds)
{
    g_autofree Result *r = g_new(Result, G_N_ELEMENTS(ways) * rounds);

    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(ways); i++) {
            r[i * rounds + round] = pass(&ways[i], threads, order);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(ways); i++) {
        report(&ways[i], threads, order, &r[i * rounds], rounds);
    }
}

void bench_faults(unsigned rounds)
{
    static const unsigned threads[] = {1, 8, 64, 256};

    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++) {
        for (Order order = OWN; order <= RANDOM; order++) {
            compare(threads[i], order, rounds);
        }
    }
}
