/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The test guest's reads past the page cache; see directio.h.
 *
 * The disk's words are a function of their place. Memory is in chunks; for each it is kept beside
 * which chunk of the disk was read into it last, so it is known what every page must hold, though
 * no processor of the guest has ever written to it. A chunk belongs to one reader. Before a chunk
 * is read again one page of it is checked; at a request for a verdict every page is.
 *
 * Threads: readers. Counters are atomics; the lock is for the verdict.
 */
#include "directio.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    CHUNK = 64 << 10,
    PAGES = CHUNK / PAGE,
    WORDS = PAGE / 8,
    READERS = 4,
    DISK_CHUNKS = 256 /* 16 MiB of disk */
};
#define DISK_START (16ll << 20)

static char *memory;
static uint16_t *source; /* of each chunk of memory: the disk's chunk + 1; 0: never read */
static unsigned n_chunks;
static int disk;
static _Atomic uint64_t reads, bad;
static _Atomic unsigned request;
static _Atomic bool stopping;
static pthread_t readers[READERS];
static unsigned n_readers;
static unsigned verified[READERS]; /* lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

DirectCounts direct_counts(void)
{
    return (DirectCounts){.reads = atomic_load(&reads), .bad = atomic_load(&bad)};
}

static void complain(const char *what, unsigned chunk, unsigned page, unsigned from)
{
    char text[128];
    int n = snprintf(text, sizeof text, "FF bad direct %s chunk=%u page=%u from=%u errno=%d\n",
                     what, chunk, page, from, errno);
    if (atomic_fetch_add(&bad, 1) < 10 && write(STDOUT_FILENO, text, n) < 0)
        return;
}

static uint64_t word_at(unsigned from, unsigned page, unsigned word)
{
    return ((uint64_t)from * PAGES + page + 1) * 0x9e3779b97f4a7c15u + word * 0xbf58476d1ce4e5b9u;
}

static void check_page(unsigned chunk, unsigned page)
{
    const uint64_t *word = (const void *)(memory + (size_t)chunk * CHUNK + page * PAGE);
    unsigned from = source[chunk] - 1;
    for (unsigned i = 0; i < WORDS; i++) {
        if (word[i] != word_at(from, page, i)) {
            errno = 0;
            complain("page", chunk, page, from);
            return;
        }
    }
}

static void check_all(unsigned index)
{
    for (unsigned chunk = index; chunk < n_chunks; chunk += READERS)
        for (unsigned page = 0; source[chunk] && page < PAGES; page++)
            check_page(chunk, page);
}

static void serve_request(unsigned index)
{
    unsigned now = atomic_load(&request);
    /* Only this thread stores it. */
    if (verified[index] == now)
        return;
    check_all(index);
    pthread_mutex_lock(&lock);
    verified[index] = now;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void *read_on(void *arg)
{
    unsigned index = (uintptr_t)arg, seed = index + 1, own = (n_chunks - index - 1) / READERS + 1;
    while (!atomic_load(&stopping)) {
        unsigned chunk = rand_r(&seed) % own * READERS + index, from = rand_r(&seed) % DISK_CHUNKS;
        if (source[chunk])
            check_page(chunk, rand_r(&seed) % PAGES);
        source[chunk] = from + 1;
        if (pread(disk, memory + (size_t)chunk * CHUNK, CHUNK, DISK_START + (off_t)from * CHUNK) !=
            CHUNK)
            complain("read", chunk, 0, from);
        atomic_fetch_add(&reads, 1);
        serve_request(index);
    }
    return NULL;
}

static bool fill_disk(void)
{
    uint64_t *words = (void *)memory;
    for (unsigned from = 0; from < DISK_CHUNKS; from++) {
        for (unsigned i = 0; i < PAGES * WORDS; i++)
            words[i] = word_at(from, i / WORDS, i % WORDS);
        if (pwrite(disk, words, CHUNK, DISK_START + (off_t)from * CHUNK) != CHUNK)
            return false;
    }
    return true;
}

const char *direct_start(unsigned mib)
{
    n_chunks = mib * ((1 << 20) / CHUNK);
    disk = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
    if (disk < 0)
        return "no /dev/vda: give the guest a virtio-blk device";
    memory =
        mmap(NULL, (size_t)mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    source = calloc(n_chunks, sizeof *source);
    if (memory == MAP_FAILED || !source)
        return "no memory for ff.direct=";
    if (!fill_disk())
        return "/dev/vda cannot be written: it must have 32 MiB";
    for (; n_readers < READERS; n_readers++)
        if (pthread_create(&readers[n_readers], NULL, read_on, (void *)(uintptr_t)n_readers))
            return "no thread for reads from the disk";
    return NULL;
}

void direct_stop(void)
{
    atomic_store(&stopping, true);
    while (n_readers)
        pthread_join(readers[--n_readers], NULL);
}

void direct_verify(void)
{
    unsigned now = atomic_fetch_add(&request, 1) + 1;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < READERS && memory; i++)
        while (verified[i] != now)
            pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}
