/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long a program stands: fork(), and ff_snapshot_begin() after ff_snapshot_prepare(), after one
 * without passes, and without one. Four threads write at random all the while, but for the moment.
 *
 *   stop [MIB [WRITES]]
 *
 * WRITES: of each thread in a row, after which it does something else for a millisecond. 0: it does
 * nothing but write.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <farfault.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "example.h"

#define WRITERS 4

static char *memory;
static size_t size = 1024u << 20;
static unsigned n_writes = 16;
/* Read by a thread that writes; the moment does not wait for as long as somebody does. */
static pthread_rwlock_t moment = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static bool end; /* atomic; observer: writers */

typedef struct {
    double wall, cpu; /* ms; cpu: of this thread, which is what it takes on an idle machine */
} Time;

static double read_clock(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static Time now(void)
{
    return (Time){read_clock(CLOCK_MONOTONIC), read_clock(CLOCK_THREAD_CPUTIME_ID)};
}

static Time since(Time begin)
{
    Time t = now();

    return (Time){t.wall - begin.wall, t.cpu - begin.cpu};
}

static void *write_at_random(void *opaque)
{
    uint64_t x = (uintptr_t)opaque + 88172645463325252ull;
    struct timespec pause = {.tv_nsec = 1000000};

    while (!__atomic_load_n(&end, __ATOMIC_RELAXED)) {
        pthread_rwlock_rdlock(&moment);
        for (unsigned i = 0; i < (n_writes ? n_writes : 1000); i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            __atomic_store_n(memory + x % size, (char)x, __ATOMIC_RELAXED);
        }
        pthread_rwlock_unlock(&moment);
        if (n_writes) {
            nanosleep(&pause, NULL); /* it does something else */
        }
    }
    return NULL;
}

static Time time_fork(void)
{
    Time begin = now();
    pid_t pid = fork();

    if (pid == 0) {
        _exit(0);
    }
    Time took = since(begin);
    waitpid(pid, NULL, 0);
    return took;
}

static Time time_begin(FfMemory *m)
{
    Time begin = now();

    if (ff_snapshot_begin(m) < 0) {
        die(ff_last_error());
    }
    return since(begin);
}

static Time with_all_parked(FfMemory *m)
{
    pthread_rwlock_wrlock(&moment);
    Time took = m ? time_begin(m) : time_fork();
    pthread_rwlock_unlock(&moment);
    return took;
}

static void measure(FfMemory *m)
{
    FfSnapshotOptions no_passes = {
        .size = sizeof(no_passes), .buffer = 64u << 20, .flags = FF_SNAPSHOT_NO_PASSES};

    Time took = with_all_parked(NULL);

    printf("%6zu MiB  %8.2f %8.2f", size >> 20, took.wall, took.cpu);
    for (unsigned way = 0; way < 3; way++) {
        if ((way == 0 && ff_snapshot_prepare(m, NULL) < 0) ||
            (way == 1 && ff_snapshot_prepare(m, &no_passes) < 0)) {
            die(ff_last_error());
        }
        took = with_all_parked(m);
        printf("  %8.2f %8.2f", took.wall, took.cpu);
        ff_snapshot_cancel(m);
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    pthread_t writers[WRITERS];
    FfMemory *m;

    if (argc > 1) {
        size = strtoul(argv[1], NULL, 10) << 20;
    }
    if (argc > 2) {
        n_writes = (unsigned)strtoul(argv[2], NULL, 10);
    }
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        die("mmap");
    }
    madvise(memory, size, MADV_NOHUGEPAGE);
    memset(memory, 1, size);
    if (ff_memory_new(0, &m) < 0 || ff_region_add(m, memory, size, -1, 0) < 0) {
        die(ff_last_error());
    }
    for (uintptr_t i = 0; i < WRITERS; i++) {
        pthread_create(&writers[i], NULL, write_at_random, (void *)i);
    }
    printf("ms, wall and cpu:       fork()      after prepare     without passes       not "
           "prepared\n");
    for (unsigned round = 0; round < 5; round++) {
        measure(m);
    }
    __atomic_store_n(&end, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(writers[i], NULL);
    }
    ff_memory_free(m);
    return 0;
}
