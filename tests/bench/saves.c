/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What it costs a program to save its memory, by fork() and by libfarfault: how long it stands at
 * the moment, and how long each write takes while the memory is saved. Threads write a word
 * somewhere, so many times a second, in bursts of a millisecond; a line for each round. The floor
 * is what it costs without the library (saves-floor.h), with 128 KiB at once, as it has, and 16
 * KiB.
 *
 *   farfault-saves-bench FILE MIB ROUNDS WRITERS WRITES [cached]
 *
 * WRITES: a second, by each writer; 0: without a pause. cached: snapshots go through the page
 * cache, as fork()'s child does.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libfarfault/common/farfault.h"
#include "tests/bench/saves-floor.h"

#define PS 4096u
#define MAX_WRITERS 64
#define MAX_SAMPLES (1u << 20) /* of each writer; what comes later is not measured */
#define NS 1000000000ll
#define BURST_NS 1000000ll
#define PIECE (1u << 20)

typedef enum { BY_FORK, BY_SNAPSHOT, WITHOUT_PASSES, FAULTS_ALONE, FLOOR, SMALL_FLOOR, WAYS } Way;
static const char *const names[WAYS] = {"fork",         "snapshot", "without passes",
                                        "faults alone", "floor",    "floor, 16 KiB"};

typedef struct {
    GThread *thread;
    uint64_t random;
    uint32_t *ns; /* of each write */
    unsigned n;
} Writer;

static char *map;
static size_t len;
static unsigned n_writers, writes; /* writes: a second, by each */
static Writer writers[MAX_WRITERS];
/* Read: for a burst. Written: at the moment. */
static pthread_rwlock_t moment;
static bool measure, end; /* atomic; observers: writers */

static void call(int rc)
{
    if (rc < 0) {
        g_printerr("%s\n", ff_last_error());
        exit(1);
    }
}

static void check(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NS + t.tv_nsec;
}

/* ---- who writes ------------------------------------------------------------------------------ */

static void write_once(Writer *w)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    uint64_t *word = (uint64_t *)(void *)(map + w->random % (len / 8) * 8);
    int64_t begin = now_ns();
    __atomic_store_n(word, w->random, __ATOMIC_RELAXED);
    int64_t took = now_ns() - begin;
    if (__atomic_load_n(&measure, __ATOMIC_RELAXED) && w->n < MAX_SAMPLES) {
        w->ns[w->n++] = (uint32_t)MIN(took, UINT32_MAX);
    }
}

static gpointer write_on(gpointer p)
{
    Writer *w = p;
    int64_t period = writes ? MAX(BURST_NS, NS / writes) : 0;
    unsigned burst = writes ? (unsigned)(writes * period / NS) : 256;
    int64_t next = now_ns();

    while (!__atomic_load_n(&end, __ATOMIC_RELAXED)) {
        pthread_rwlock_rdlock(&moment);
        for (unsigned i = 0; i < burst; i++) {
            write_once(w);
        }
        pthread_rwlock_unlock(&moment);
        /* A thread that was late does not make up for it. */
        next = MAX(next + period, now_ns());
        struct timespec until = {next / NS, next % NS};
        while (writes && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
        }
    }
    return NULL;
}

static void start_writers(void)
{
    pthread_rwlockattr_t attr;

    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&moment, &attr);
    for (unsigned i = 0; i < n_writers; i++) {
        writers[i].random = 88172645463325252ull * (i + 1);
        writers[i].ns = g_new(uint32_t, MAX_SAMPLES);
        memset(writers[i].ns, 1, MAX_SAMPLES * sizeof(uint32_t)); /* no faults of our own */
        writers[i].thread = g_thread_new("writer", write_on, &writers[i]);
    }
}

static void set_measure(bool on)
{
    for (unsigned i = 0; on && i < n_writers; i++) {
        writers[i].n = 0;
    }
    __atomic_store_n(&measure, on, __ATOMIC_RELAXED);
}

/* ---- who saves ------------------------------------------------------------------------------- */

typedef struct {
    int64_t stop, save; /* ns */
    uint64_t waited;
} Result;

static void write_all(int fd)
{
    for (size_t at = 0; at < len; at += PIECE) {
        check(write(fd, map + at, PIECE) == PIECE, "write");
    }
    check(fsync(fd) == 0, "fsync");
}

static Result save_by_fork(int fd)
{
    Result r = {0};
    int status;

    pthread_rwlock_wrlock(&moment);
    int64_t begin = now_ns();
    pid_t pid = fork();
    check(pid >= 0, "fork");
    if (pid == 0) {
        write_all(fd);
        _exit(0);
    }
    r.stop = now_ns() - begin;
    set_measure(true);
    pthread_rwlock_unlock(&moment);
    check(waitpid(pid, &status, 0) == pid && status == 0, "the child");
    set_measure(false);
    r.save = now_ns() - begin;
    return r;
}

static Result save_by_snapshot(FfMemory *m, int fd, unsigned flags)
{
    FfSnapshotOptions o = {.size = sizeof(o), .buffer = 64u << 20, .flags = flags};
    FfSnapshotStats stats = {.size = sizeof(stats)};
    Result r = {0};

    call(ff_snapshot_prepare(m, &o));
    pthread_rwlock_wrlock(&moment);
    int64_t begin = now_ns();
    call(ff_snapshot_begin(m));
    r.stop = now_ns() - begin;
    set_measure(true);
    pthread_rwlock_unlock(&moment);
    call(ff_snapshot_save_fd(m, fd));
    call(ff_snapshot_wait(m, &stats));
    set_measure(false);
    r.save = now_ns() - begin;
    r.waited = stats.waited;
    return r;
}

/* Nothing is saved or copied: each first write to a page is answered by another thread, and that is
 * all. A second of it. */
static Result let_fault(FfMemory *m)
{
    FfSnapshotOptions o = {.size = sizeof(o), .buffer = 64u << 20};

    call(ff_snapshot_prepare(m, &o));
    set_measure(true);
    g_usleep(G_USEC_PER_SEC);
    set_measure(false);
    call(ff_snapshot_cancel(m));
    return (Result){0};
}

/* Page cache or not is as FD says. */
static Result save_at_least(int fd, size_t piece)
{
    Result r = {0};

    pthread_rwlock_wrlock(&moment);
    int64_t begin = now_ns();
    floor_begin(map, len);
    r.stop = now_ns() - begin;
    set_measure(true);
    pthread_rwlock_unlock(&moment);
    floor_save(fd, piece);
    set_measure(false);
    r.save = now_ns() - begin;
    floor_end();
    return r;
}

/* ---- what is said ---------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void print(Way way, const Result *r)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    /* A burst that began before the end of it is over when nobody writes. */
    pthread_rwlock_wrlock(&moment);
    for (unsigned i = 0; i < n_writers; i++) {
        g_array_append_vals(all, writers[i].ns, writers[i].n);
    }
    pthread_rwlock_unlock(&moment);
    const uint32_t *ns = (const uint32_t *)(const void *)all->data;
    guint n = all->len;
    if (!n) {
        printf("%-16s nothing was written\n", names[way]);
        return;
    }
    qsort(all->data, n, sizeof(*ns), compare);
    printf("%-16s %8.2f %7.2f %9u %7.1f %7.1f %8.1f %9.1f %8" G_GUINT64_FORMAT "\n", names[way],
           (double)r->stop / 1e6, (double)r->save / 1e9, n, ns[n / 2] / 1e3,
           ns[(guint)(n * 0.99)] / 1e3, ns[(guint)(n * 0.999)] / 1e3, ns[n - 1] / 1e3, r->waited);
    fflush(stdout);
}

static void run(FfMemory *m, const char *path, Way way, unsigned flags)
{
    bool direct = !flags && (way == FLOOR || way == SMALL_FLOOR);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | (direct ? O_DIRECT : 0), 0600);
    Result r;

    check(fd >= 0, path);
    switch (way) {
    case BY_FORK:
        r = save_by_fork(fd);
        break;
    case FAULTS_ALONE:
        r = let_fault(m);
        break;
    case FLOOR:
        r = save_at_least(fd, 128u << 10);
        break;
    case SMALL_FLOOR:
        r = save_at_least(fd, 16u << 10);
        break;
    default:
        r = save_by_snapshot(m, fd, flags | (way == WITHOUT_PASSES ? FF_SNAPSHOT_NO_PASSES : 0));
    }
    print(way, &r);
    close(fd);
    unlink(path);
}

int main(int argc, char **argv)
{
    FfMemory *m;

    unsigned flags = argc == 7 && !strcmp(argv[6], "cached") ? FF_SNAPSHOT_NO_DIRECT : 0;
    if (argc != (flags ? 7 : 6)) {
        g_printerr("farfault-saves-bench FILE MIB ROUNDS WRITERS WRITES [cached]\n");
        return 1;
    }
    len = (size_t)strtoul(argv[2], NULL, 10) << 20;
    unsigned rounds = (unsigned)strtoul(argv[3], NULL, 10);
    n_writers = (unsigned)CLAMP(strtoul(argv[4], NULL, 10), 1, MAX_WRITERS);
    writes = (unsigned)strtoul(argv[5], NULL, 10);
    map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(len && map != MAP_FAILED, "mmap");
    madvise(map, len, MADV_NOHUGEPAGE); /* as redis asks for */
    memset(map, 1, len);
    call(ff_memory_new(0, &m));
    call(ff_region_add(m, map, len, -1, 0));
    start_writers();
    printf("%-16s %8s %7s %9s %7s %7s %8s %9s %8s\n", "", "stop ms", "save s", "writes", "p50 us",
           "p99 us", "p99.9 us", "worst us", "no room");
    for (unsigned i = 0; i < rounds; i++) {
        for (Way way = 0; way < WAYS; way++) {
            run(m, argv[1], way, flags);
        }
    }
    __atomic_store_n(&end, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < n_writers; i++) {
        g_thread_join(writers[i].thread);
    }
    ff_memory_free(m);
    return 0;
}
