/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long a write takes while memory is saved: by a child of fork(), which copies on write, and by
 * a snapshot whose buffer has room for all of it. Threads write at random, and time each write.
 *
 *   writes [MIB [THREADS [BUFFER-MIB]]]
 *
 * Of the writes between the moment and the end of the save. "idle": for as long, without one.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <farfault.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "example.h"

#define MAX_THREADS 64
#define WRITES 16      /* in a row, then a millisecond of something else */
#define BUCKETS 100000 /* of 100 ns; the last one: longer */

typedef struct {
    pthread_t thread;
    uint64_t seed;
    uint32_t buckets[BUCKETS];
    uint64_t worst_ns;
} Writer;

static char *memory;
static size_t size = 1024u << 20;
static size_t buffer;
static Writer *writers;
static unsigned n_writers = 2;
/* Read by a thread that writes; the moment does not wait for as long as somebody does. */
static pthread_rwlock_t moment = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static bool counts, end; /* atomic; observer: writers */

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void write_one(Writer *w)
{
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 7;
    w->seed ^= w->seed << 17;
    uint64_t begin = now_ns();
    __atomic_store_n(memory + w->seed % size, (char)w->seed, __ATOMIC_RELAXED);
    uint64_t took = now_ns() - begin;
    if (__atomic_load_n(&counts, __ATOMIC_RELAXED)) {
        w->buckets[took / 100 < BUCKETS ? took / 100 : BUCKETS - 1]++;
        w->worst_ns = took > w->worst_ns ? took : w->worst_ns;
    }
}

static void *write_at_random(void *opaque)
{
    struct timespec pause = {.tv_nsec = 1000000};

    while (!__atomic_load_n(&end, __ATOMIC_RELAXED)) {
        pthread_rwlock_rdlock(&moment);
        for (unsigned i = 0; i < WRITES; i++) {
            write_one(opaque);
        }
        pthread_rwlock_unlock(&moment);
        nanosleep(&pause, NULL); /* it does something else */
    }
    return NULL;
}

static void count(bool on)
{
    for (unsigned i = 0; i < n_writers && on; i++) {
        memset(writers[i].buckets, 0, sizeof(writers[i].buckets));
        writers[i].worst_ns = 0;
    }
    __atomic_store_n(&counts, on, __ATOMIC_RELAXED);
}

/* Microseconds, below which PART of all writes are. */
static double quantile(const uint64_t *all, uint64_t n, double part)
{
    uint64_t sum = 0;
    unsigned i = 0;

    while (i < BUCKETS - 1 && (double)(sum += all[i]) < (double)n * part) {
        i++;
    }
    return (double)(i + 1) / 10;
}

static void print(const char *what, int64_t us)
{
    static uint64_t all[BUCKETS];
    uint64_t n = 0, worst = 0;

    memset(all, 0, sizeof(all));
    for (unsigned w = 0; w < n_writers; w++) {
        for (unsigned i = 0; i < BUCKETS; i++) {
            all[i] += writers[w].buckets[i];
            n += writers[w].buckets[i];
        }
        worst = writers[w].worst_ns > worst ? writers[w].worst_ns : worst;
    }
    printf("%-9s %8.2f %9llu %9.1f %9.1f %9.1f %9.1f\n", what, (double)us / 1e6,
           (unsigned long long)n, quantile(all, n, 0.5), quantile(all, n, 0.99),
           quantile(all, n, 0.999), (double)worst / 1e3);
}

static void write_all(int fd)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = pwrite(fd, memory + at, size - at, (off_t)at);
        if (n <= 0) {
            _exit(1);
        }
        at += (size_t)n;
    }
    _exit(fdatasync(fd) < 0);
}

static int64_t save_by_fork(int fd)
{
    int64_t begin = now_us();
    int status;

    pthread_rwlock_wrlock(&moment);
    pid_t pid = fork();
    if (pid == 0) {
        write_all(fd);
    }
    count(true);
    pthread_rwlock_unlock(&moment);
    if (waitpid(pid, &status, 0) != pid || status) {
        die("the child cannot save");
    }
    count(false);
    return now_us() - begin;
}

static int64_t save_by_snapshot(FfMemory *m, int fd)
{
    FfSnapshotOptions options = {.size = sizeof(options), .buffer = buffer};
    int64_t begin = now_us();

    if (ff_snapshot_prepare(m, &options) < 0) {
        die(ff_last_error());
    }
    pthread_rwlock_wrlock(&moment);
    int rc = ff_snapshot_begin(m);
    count(true);
    pthread_rwlock_unlock(&moment);
    if (rc < 0 || ff_snapshot_save_fd(m, fd) < 0 || ff_snapshot_wait(m, NULL) < 0) {
        die(ff_last_error());
    }
    count(false);
    return now_us() - begin;
}

static void rounds(FfMemory *m)
{
    FILE *file = tmpfile();

    if (!file) {
        die("no temporary file");
    }
    printf("           seconds    writes    p50 us    p99 us  p99.9 us  worst us\n");
    for (unsigned i = 0; i < 3; i++) {
        int64_t us = save_by_snapshot(m, fileno(file));
        print("snapshot", us);
        if (ftruncate(fileno(file), 0) < 0) {
            die("ftruncate");
        }
        print("fork", save_by_fork(fileno(file)));
        count(true);
        nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
        count(false);
        print("idle", us);
    }
    fclose(file);
}

int main(int argc, char **argv)
{
    FfMemory *m;

    size = argc > 1 ? strtoul(argv[1], NULL, 10) << 20 : size;
    n_writers = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : n_writers;
    buffer = argc > 3 ? strtoul(argv[3], NULL, 10) << 20 : size;
    writers = n_writers <= MAX_THREADS ? calloc(MAX_THREADS, sizeof(*writers)) : NULL;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || !writers) {
        die("mmap, or more than 64 threads");
    }
    madvise(memory, size, MADV_NOHUGEPAGE);
    memset(memory, 1, size);
    if (ff_memory_new(0, &m) < 0 || ff_region_add(m, memory, size, -1, 0) < 0) {
        die(ff_last_error());
    }
    for (unsigned i = 0; i < n_writers; i++) {
        writers[i].seed = 88172645463325252ull * (i + 1);
        pthread_create(&writers[i].thread, NULL, write_at_random, &writers[i]);
    }
    rounds(m);
    __atomic_store_n(&end, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < n_writers; i++) {
        pthread_join(writers[i].thread, NULL);
    }
    ff_memory_free(m);
    free(writers);
    return 0;
}
