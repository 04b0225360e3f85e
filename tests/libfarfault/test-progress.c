/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What needs several blocks, or pages, at once, in as little memory as there can be, by several
 * threads: an instruction whose operands are both across a border, system calls over many blocks;
 * and a snapshot's buffer of one page.
 * Each case ends within SECONDS, or a thread gets on no more.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/libfarfault/blocks.h"

#define SECONDS 30
#define THREADS 8u
#define HALF (BLOCKS / 2) /* blocks that are read; those after it are written */

typedef void Work(char *at, size_t block_size, unsigned index);

typedef struct {
    Work *work;
    char *at[2];
    size_t block_size;
    unsigned next, ended; /* lock */
    GMutex lock;
    GCond changed;
} Crew;

static gpointer run(gpointer opaque)
{
    Crew *c = opaque;

    g_mutex_lock(&c->lock);
    unsigned index = c->next++;
    g_mutex_unlock(&c->lock);
    c->work(c->at[index % 2], c->block_size, index);
    g_mutex_lock(&c->lock);
    c->ended++;
    g_cond_signal(&c->changed);
    g_mutex_unlock(&c->lock);
    return NULL;
}

/* By THREADS, half of them at each of the two. */
static void run_all(Work *work, char *one, char *two, size_t block_size)
{
    gint64 end = g_get_monotonic_time() + SECONDS * G_TIME_SPAN_SECOND;
    Crew c = {.work = work, .at = {one, two}, .block_size = block_size};
    GThread *threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        threads[i] = g_thread_new("worker", run, &c);
    }
    g_mutex_lock(&c.lock);
    while (c.ended < THREADS) {
        if (!g_cond_wait_until(&c.changed, &c.lock, end)) {
            g_error("after %u s %u of %u threads have not ended", SECONDS, THREADS - c.ended,
                    THREADS);
        }
    }
    g_mutex_unlock(&c.lock);
    for (unsigned i = 0; i < THREADS; i++) {
        g_thread_join(threads[i]);
    }
}

/* One instruction. */
static void move_word(char *to, const char *from)
{
    __asm__ volatile("movsq" : "+D"(to), "+S"(from) : : "memory");
}

/* What an array, or a range, has across the border before BLOCK. */
static uint64_t across(unsigned block)
{
    return (uint64_t)block << 32;
}

/* From one border to another: four blocks. */
static void move_words(char *at, size_t block_size, unsigned index)
{
    /* What is changed in a huge page is all of it, and is written to the disk. */
    for (unsigned i = 0; i < (block_size > PS ? 3 : HALF); i++) {
        unsigned from = 1 + (i * 7 + index * 11) % (HALF - 1);
        unsigned to = HALF + 1 + (i * 5 + index * 3) % (HALF - 2);
        char *word = at + to * block_size - 4;
        uint64_t found;
        move_word(word, at + from * block_size - 4);
        memcpy(&found, word, sizeof(found)); /* of this thread, or of another one */
        g_assert_cmpuint(found & 0xffffffffu, ==, 0);
        g_assert_cmpuint(found >> 32, <, HALF);
        memcpy(&found, at + from * block_size - 4, sizeof(found));
        g_assert_cmpuint(found, ==, across(from));
    }
}

/* Nearly all of it, by calls that begin and end in the middle of a block. */
static void call_all(char *at, size_t block_size, unsigned index)
{
    size_t len = (HALF - 1) * block_size, half = block_size / 2;
    g_autofree char *copy = g_malloc(len);
    struct iovec local = {copy, len}, remote = {at + half, len};
    int fd = world_file();

    g_assert_cmpint(pwrite(fd, at + half, len, 0), ==, (ssize_t)len);
    g_assert_cmpint(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), ==, (ssize_t)len);
    for (unsigned i = 0; i < HALF - 1; i++) {
        uint64_t found;
        memcpy(&found, copy + i * block_size + half - 4, sizeof(found));
        g_assert_cmpuint(found, ==, across(i + 1));
    }
    if (index == 0) { /* the others would write to the same */
        g_assert_cmpint(pread(fd, at + HALF * block_size + half, len, 0), ==, (ssize_t)len);
        g_assert_cmpint(memcmp(at + HALF * block_size + half, copy, len), ==, 0);
    }
    close(fd);
}

/* All that is in memory at first is changed. */
static void run_in_array(Work *work, size_t block_size, unsigned flags)
{
    FfArrayStats stats = {.size = sizeof(stats)};
    File f;

    if (!file_new(&f, block_size, 4, flags)) {
        return;
    }
    char *one = (char *)file_map(&f, 0, 0), *two = (char *)file_map(&f, 0, 0);
    for (unsigned i = HALF + 1; i < HALF + 17; i++) {
        one[i * block_size + 8] = 1;
    }
    run_all(work, one, two, block_size);
    call(ff_array_stats(f.a, &stats));
    g_assert_cmpuint(stats.failed, ==, 0);
    /* Four blocks of each thread, and of this one; of huge pages if the pool has them. */
    g_assert_cmpuint(stats.bytes, <=, 4 * (THREADS + 2) * block_size);
    g_test_message("%u loads, %u bytes of memory", (unsigned)stats.loads, (unsigned)stats.bytes);
    file_free(&f);
}

static void test_borders(gconstpointer data)
{
    const Mode *mode = data;

    run_in_array(move_words, PS, mode->flags);
}

static void test_calls(gconstpointer data)
{
    const Mode *mode = data;

    run_in_array(call_all, PS, mode->flags);
}

static void test_huge(gconstpointer data)
{
    const Mode *mode = data;
    HugePages *pool = hugepages_new(4);

    if (pool) {
        run_in_array(move_words, HUGEPAGE, mode->flags);
    }
    hugepages_free(pool);
}

static int regenerate(void *opaque, size_t page, void *buf)
{
    for (size_t i = 0; i < WORDS; i++) {
        ((uint64_t *)buf)[i] = page;
    }
    return 0;
}

/* Nothing of it is pinned: what is written may go. */
static void move_in_range(char *at, size_t block_size, unsigned index)
{
    for (unsigned i = 1; i < 200; i++) {
        unsigned from = 1 + (i * 7 + index * 11) % (HALF - 1);
        unsigned to = HALF + 1 + (i * 5 + index * 3) % (HALF - 2);
        uint64_t found;
        move_word(at + to * block_size - 4, at + from * block_size - 4);
        memcpy(&found, at + from * block_size - 4, sizeof(found));
        g_assert_cmpuint(found, ==, across(from));
    }
}

static void test_range(void)
{
    FfVolatileOptions o = {.size = sizeof(o), .page_size = PS, .limit = 1};
    FfVolatileStats stats = {.size = sizeof(stats)};
    FfVolatile *v;
    int rc = ff_volatile_new(BLOCKS * PS, regenerate, NULL, &o, &v);

    if (rc == -EPERM || rc == -ENOTSUP) {
        g_test_skip(ff_last_error());
        return;
    }
    call(rc);
    call(ff_volatile_unpin(v, 0, 0));
    run_all(move_in_range, ff_volatile_addr(v), ff_volatile_addr(v), PS);
    call(ff_volatile_stats(v, &stats));
    g_test_message("%u pages were made", (unsigned)stats.regenerated);
    ff_volatile_free(v);
}

static int forget_page(void *opaque, void *addr, const void *data, size_t len)
{
    return 0;
}

/* The buffer has room for one page, and each instruction writes to two that are not saved. */
static void test_snapshot(void)
{
    FfSnapshotOptions o = {.size = sizeof(o), .buffer = PS};
    FfMemory *m;
    int rc = ff_memory_new(0, &m);

    if (rc == -EPERM || rc == -ENOTSUP) {
        g_test_skip(ff_last_error());
        return;
    }
    call(rc);
    char *at = mmap(NULL, BLOCKS * PS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(at != MAP_FAILED);
    for (size_t i = 0; i < BLOCKS; i++) {
        regenerate(NULL, i, at + i * PS);
    }
    call(ff_region_add(m, at, BLOCKS * PS, -1, 0));
    call(ff_snapshot_prepare(m, &o));
    call(ff_snapshot_begin(m));
    call(ff_snapshot_save_pages(m, forget_page, NULL));
    run_all(move_in_range, at, at, PS);
    call(ff_snapshot_wait(m, NULL));
    ff_memory_free(m);
    g_assert_cmpint(munmap(at, BLOCKS * PS), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_modes("progress/borders", test_borders, 2);
    add_modes("progress/calls", test_calls, 2);
    add_huge_modes("progress/borders", test_huge, 2);
    g_test_add_func("/libfarfault/volatile/progress", test_range);
    g_test_add_func("/libfarfault/snapshot/progress", test_snapshot);
    return g_test_run();
}
