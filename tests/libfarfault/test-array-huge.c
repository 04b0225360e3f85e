/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arrays on huge pages: aliases, more changed data than memory, a file that is opened again, loads
 * that fail, pages that the program gives back and removes; a pool that is empty, at first and in
 * the middle, for which this stands in front of fallocate(), and one that becomes smaller; nobody
 * waits for a page; what is refused. The steps of one program are in test-array.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/libfarfault/blocks.h"

#define HW (HUGEPAGE / 8) /* words of a block */
#define LIMIT 4

/* So many times somebody else has the page that was ours. Atomic; observer: a thread that loads. */
static int stolen;

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    bool steal = mode == 0 && __atomic_load_n(&stolen, __ATOMIC_RELAXED) > 0;
    int rc = steal ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, len);

    if (steal) {
        __atomic_sub_fetch(&stolen, 1, __ATOMIC_RELAXED);
        errno = ENOSPC;
    }
    return rc;
}

/* So many mappings of blocks cannot be exchanged. Atomic; observer: a thread that loads. */
static int unmappable;

void *mremap(void *addr, size_t len, size_t new_len, int flags, ...)
{
    va_list args;

    va_start(args, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(args, void *) : NULL;
    va_end(args);
    if (flags & MREMAP_FIXED && __atomic_load_n(&unmappable, __ATOMIC_RELAXED) > 0) {
        __atomic_sub_fetch(&unmappable, 1, __ATOMIC_RELAXED);
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mremap, addr, len, new_len, flags, to);
}

/* The pool has room for it. NULL: skipped. */
static HugePages *start(File *f, unsigned flags)
{
    HugePages *pool = hugepages_new(LIMIT);

    if (pool && !file_new(f, HUGEPAGE, LIMIT, flags | FF_ARRAY_HUGE)) {
        g_clear_pointer(&pool, hugepages_free);
    }
    return pool;
}

static void end(File *f, HugePages *pool)
{
    file_free(f);
    hugepages_free(pool);
}

static void test_alias(gconstpointer data)
{
    const Mode *mode = data;
    void *bad;
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *one = file_map(&f, 10, 4), *two = file_map(&f, 11, 4);
    one[HW + 5] = 7;
    g_assert_cmpuint(two[5], ==, 7);
    two[HW - 1] = 8;
    g_assert_cmpuint(one[2 * HW - 1], ==, 8);
    g_assert_cmpuint(two[HW], ==, 12); /* which the first has not touched */
    two[HW + 1] = 9;
    g_assert_cmpuint(one[2 * HW + 1], ==, 9);
    g_assert_cmpuint(file_get(&f, &f.loads[11]), ==, 1);
    g_assert_cmpuint(file_get(&f, &f.loads[12]), ==, 1);
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.n_stores, ==, 2);
    g_assert_cmpuint(f.words[11 * HW + 5], ==, 7);
    g_assert_cmpuint(f.words[12 * HW - 1], ==, 8);
    one[HW + 5] = 1;
    two[6] = 1;
    call(ff_array_abort(f.a));
    g_assert_cmpuint(two[5], ==, 7);
    g_assert_cmpuint(one[HW + 6], ==, 11);
    two[7] = 3;
    call(ff_array_unmap(f.a, two)); /* stays */
    call(ff_array_commit(f.a));
    g_assert_cmpuint(one[HW + 7], ==, 3);
    g_assert_cmpuint(f.words[11 * HW + 7], ==, 3);
    g_assert_cmpint(ff_array_map(f.a, PS, HUGEPAGE, &bad), ==, -EINVAL);
    end(&f, pool);
}

/* Twelve blocks are changed, and four have room. */
static void test_spill(gconstpointer data)
{
    const Mode *mode = data;
    FfArrayStats stats = {.size = sizeof(stats)};
    unsigned n = 3 * LIMIT;
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0), *q = file_map(&f, 0, 0);
    for (unsigned round = 1; round <= 2; round++) {
        for (unsigned i = 0; i < n; i++) {
            (i % 2 ? p : q)[i * HW + round * 1000] = round;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint(p[i * HW + 1000], ==, 1);
        g_assert_cmpuint(q[i * HW + 2000], ==, 2);
        g_assert_cmpuint(p[(i + 1) * HW - 1], ==, i);
    }
    call(ff_array_stats(f.a, &stats));
    g_assert_cmpuint(stats.spilled, >=, (n - LIMIT) * 512);
    g_assert_cmpuint(stats.bytes, <=, LIMIT * HUGEPAGE);
    g_assert_cmpuint(f.n_stores, ==, 0);
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.n_stores, ==, n);
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint(f.words[i * HW + 1000], ==, 1);
        p[i * HW + 1000] = 5;
    }
    call(ff_array_abort(f.a));
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint(p[i * HW + 1000], ==, 1);
    }
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), ==, LIMIT * (ssize_t)HUGEPAGE);
    end(&f, pool);
}

static void test_fails(gconstpointer data)
{
    const Mode *mode = data;
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 8), *q = file_map(&f, 3, 1);
    for (unsigned round = 0; round < 2; round++) { /* then it has left marks in the tables */
        pthread_mutex_lock(&f.lock);
        f.fail_load = -ENOMEM;
        pthread_mutex_unlock(&f.lock);
        g_assert_true(world_is_bus(p + 3 * HW + 5));
        g_assert_true(world_is_bus(q));
        g_assert_cmpuint(p[4 * HW], ==, 4);
        pthread_mutex_lock(&f.lock);
        f.fail_load = 0;
        pthread_mutex_unlock(&f.lock);
        call(ff_array_invalidate(f.a, 3 * HUGEPAGE, HUGEPAGE));
        g_assert_cmpuint(p[3 * HW], ==, 3);
        g_assert_cmpuint(q[1], ==, 3);
        g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), ==, 2 * HUGEPAGE);
    }
    end(&f, pool);
}

/* What the program gives back may have been written to; what it removes is zeros. */
static void test_given_back(gconstpointer data)
{
    const Mode *mode = data;
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 4), *q = file_map(&f, 0, 4);
    p[0] = 1;
    p[HW] = 2;
    g_assert_cmpint(madvise(p, 4 * HUGEPAGE, MADV_DONTNEED), ==, 0);
    g_assert_cmpuint(p[0], ==, 1);
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.words[0], ==, 1);
    g_assert_cmpuint(f.words[HW], ==, 2);
    g_assert_cmpuint(p[0], ==, 1);
    g_assert_cmpuint(q[0], ==, 1);
    g_assert_cmpint(madvise(p, HUGEPAGE, MADV_REMOVE), ==, 0);
    g_assert_cmpuint(p[0], ==, 0);
    g_assert_cmpuint(q[1], ==, 0);
    g_assert_cmpuint(p[2 * HW], ==, 2);
    end(&f, pool);
}

/* Nobody gets SIGBUS because another program has the pages. */
static void test_empty_pool(void)
{
    FfArrayOptions o = {.size = sizeof(o), .limit = LIMIT * HUGEPAGE, .flags = FF_ARRAY_HUGE};
    static const FfArrayFile calls = {.size = sizeof(calls), .load = (void *)abort};
    FfArray *a;
    File f;
    HugePages *pool = start(&f, 0);

    if (!pool) {
        return;
    }
    hugepages_take(pool);
    uint64_t *p = file_map(&f, 0, 0); /* it has set its pages aside */
    for (unsigned i = 0; i < 3 * LIMIT; i++) {
        p[i * HW] = 1000 + i;
    }
    for (unsigned i = 0; i < 3 * LIMIT; i++) {
        g_assert_cmpuint(p[i * HW], ==, 1000 + i);
        hugepages_take(pool);
    }
    int rc = ff_array_new(64 * HUGEPAGE, &calls, NULL, &o, &a);
    g_assert_cmpint(rc, ==, -ENOMEM);
    g_assert_nonnull(strstr(ff_last_error(), "4 huge pages of 2 MiB"));
    g_assert_null(strchr(ff_last_error(), '\n'));
    call(ff_array_abort(f.a));
    g_assert_cmpuint(p[0], ==, 0);
    hugepages_give(pool);
    end(&f, pool);
    o.block_size = 64u << 10;
    g_assert_cmpint(ff_array_new(64 * HUGEPAGE, &calls, NULL, &o, &a), ==, -EINVAL);
    g_assert_nonnull(strstr(ff_last_error(), "block_size"));
}

/* Another program takes what is free for a moment, or all of it. */
static void test_stolen(gconstpointer data)
{
    const Mode *mode = data;
    FfArrayStats stats = {.size = sizeof(stats)};
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0), *q = file_map(&f, 0, 0);
    for (unsigned i = 8; i < 8 + LIMIT; i++) {
        p[i * HW] = 1;
    }
    for (unsigned i = 20; i < 30; i++) { /* what is changed goes, and then what is not */
        __atomic_store_n(&stolen, 1, __ATOMIC_RELAXED);
        g_assert_cmpuint(p[i * HW], ==, i);
    }
    g_assert_cmpint(__atomic_load_n(&stolen, __ATOMIC_RELAXED), ==, 0);
    for (unsigned i = 8; i < 8 + LIMIT; i++) {
        g_assert_cmpuint(p[i * HW], ==, 1);
    }
    /* All of them, for ever: blocks lie in other memory then, and what was changed in it is kept.
     */
    __atomic_store_n(&stolen, 100000, __ATOMIC_RELAXED);
    for (unsigned i = 30; i < 40; i++) {
        g_assert_cmpuint(p[i * HW], ==, i);
        g_assert_cmpuint(q[i * HW + HW - 1], ==, i);
        q[i * HW + 1000] = i;
        g_assert_cmpuint(p[i * HW + 1000], ==, i);
    }
    call(ff_array_commit(f.a));
    for (unsigned i = 30; i < 40; i++) {
        g_assert_cmpuint(f.words[i * HW + 1000], ==, i);
        p[i * HW + 1000] = 1;
        g_assert_cmpuint(q[i * HW + 1000], ==, 1);
    }
    call(ff_array_abort(f.a));
    call(ff_array_stats(f.a, &stats));
    g_assert_cmpuint(stats.failed, ==, 0);
    g_assert_cmpuint(stats.bytes, <=, LIMIT * HUGEPAGE);
    /* They come back. */
    __atomic_store_n(&stolen, 0, __ATOMIC_RELAXED);
    for (unsigned i = 30; i < 40; i++) {
        g_assert_cmpuint(q[i * HW + 1000], ==, i);
        p[i * HW + 1001] = 2;
        g_assert_cmpuint(q[i * HW + 1001], ==, 2);
    }
    for (unsigned i = 0; i < 3 * LIMIT; i++) {
        g_assert_cmpuint(p[i * HW], ==, i >= 8 && i < 8 + LIMIT ? 1 : i);
    }
    end(&f, pool);
}

static uint64_t *touched; /* the first word of all blocks */

/* A system call that reads a word of BLOCK does. */
static bool can_touch(unsigned block)
{
    int fd = world_file();
    bool ok = pwrite(fd, touched + block * HW, 8, 0) == 8;

    close(fd);
    return ok;
}

/* The first one touches another block itself, and waits for a thread that does. */
static void touch_in_store(File *f, uint64_t block, bool store)
{
    if (store && block == 8) {
        g_assert_true(can_touch(3));
        GThread *reader = g_thread_new("reader", read_word, touched + 20 * HW);
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(reader)), ==, 20);
    }
}

/* All that is in memory is changed, and is being committed. A thread that reads something else
 * meanwhile need not wait for the end, nor need store() itself. */
static void test_commit(gconstpointer data)
{
    const Mode *mode = data;
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = touched = file_map(&f, 0, 0);
    for (unsigned i = 8; i < 8 + LIMIT; i++) {
        p[i * HW] = 1000 + i;
    }
    hugepages_take(pool);
    file_during(&f, touch_in_store);
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.n_stores, ==, LIMIT);
    g_assert_cmpuint(file_get(&f, &f.n_failed), ==, 0);
    for (unsigned i = 0; i < 3 * LIMIT; i++) {
        g_assert_cmpuint(p[i * HW], ==, i >= 8 && i < 8 + LIMIT ? 1000 + i : i);
    }
    end(&f, pool);
}

#define CROWD (16 * LIMIT)

/* N threads read the first words of as many blocks, from FIRST on; all are loaded at once. */
static void read_at_once(File *f, uint64_t *p, unsigned first, unsigned n)
{
    GThread *readers[CROWD];

    file_hold(f, 1);
    for (unsigned i = 0; i < n; i++) {
        readers[i] = g_thread_new("reader", read_word, p + (first + i) * HW);
    }
    file_wait_loading(f, n);
    file_hold(f, 0);
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(readers[i])), ==, first + i);
    }
}

/* Far more miss blocks at once than there are pages: none waits for another. */
static void test_crowd(gconstpointer data)
{
    const Mode *mode = data;
    FfArrayStats stats = {.size = sizeof(stats)};
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0);
    hugepages_take(pool);
    read_at_once(&f, p, 0, CROWD);
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), ==, CROWD * (ssize_t)HUGEPAGE);
    for (unsigned i = 0; i < CROWD; i++) {
        g_assert_cmpuint(p[i * HW + 1], ==, i);
    }
    call(ff_array_stats(f.a, &stats));
    g_assert_cmpuint(stats.failed, ==, 0);
    g_test_message("%u loads of %u blocks, %u faults", (unsigned)stats.loads, CROWD,
                   (unsigned)stats.faults);
    end(&f, pool);
}

/* All read the same one more. */
static void touch_in_load(File *f, uint64_t block, bool store)
{
    if (block >= 8) {
        g_assert_true(can_touch(3));
    }
}

/* Loads that have all pages need another block themselves. */
static void test_nested(gconstpointer data)
{
    const Mode *mode = data;
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = touched = file_map(&f, 0, 0);
    hugepages_take(pool);
    file_during(&f, touch_in_load);
    read_at_once(&f, p, 8, LIMIT);
    g_assert_cmpuint(file_get(&f, &f.loads[3]), ==, 1);
    g_assert_cmpuint(file_get(&f, &f.n_failed), ==, 0);
    file_during(&f, NULL);
    end(&f, pool);
}

static void copy(const char *from, const char *to)
{
    g_autofree char *data = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(from, &data, &len, NULL));
    g_assert_true(g_file_set_contents(to, data, (gssize)len, NULL));
}

/* The machine stops after a commit to a file that ends in the middle of a block, before any of it
 * is in the file. */
static void test_left_behind(gconstpointer data)
{
    const Mode *mode = data;
    size_t len = 2 * HUGEPAGE + 1000;
    g_autofree char *folder = g_dir_make_tmp("huge-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    g_autofree char *log = g_strconcat(path, ".redo", NULL);
    g_autofree char *left = g_build_filename(folder, "left", NULL);
    g_autofree char *left_log = g_strconcat(left, ".redo", NULL), *found = NULL;
    FfArrayOptions o = {.size = sizeof(o), .limit = LIMIT * HUGEPAGE, .flags = mode->flags};
    HugePages *pool = hugepages_new(LIMIT);
    struct stat st;
    FfArray *a;
    void *at;
    int rc = pool ? ff_array_open(path, len, &o, &a) : -EPERM;

    if (pool && rc < 0) {
        g_assert_true(rc == -EPERM || rc == -ENOTSUP);
        g_test_skip(ff_last_error());
    }
    if (rc == 0) {
        copy(path, left);
        call(ff_array_map(a, 0, 0, &at));
        memset(at, 7, len);
        call(ff_array_commit(a));
        g_assert_cmpint(stat(log, &st), ==, 0);
        copy(log, left_log);
        ff_array_free(a);
        call(ff_array_open(left, 0, &o, &a));
        ff_array_free(a);
        g_assert_true(g_file_get_contents(left, &found, NULL, NULL));
        for (size_t i = 0; i < len; i++) {
            g_assert_cmpint(found[i], ==, 7);
        }
        g_assert_cmpuint(st.st_size, <, len + HUGEPAGE / 2);
        unlink(left);
        unlink(left_log);
    }
    unlink(path);
    unlink(log);
    rmdir(folder);
    hugepages_free(pool);
}

/* Of a file that ends in the middle of a block. */
static void test_file(gconstpointer data)
{
    const Mode *mode = data;
    size_t len = 6 * HUGEPAGE + 1000;
    g_autofree char *folder = g_dir_make_tmp("huge-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    g_autofree char *log = g_strconcat(path, ".redo", NULL);
    FfArrayOptions o = {.size = sizeof(o), .limit = LIMIT * HUGEPAGE, .flags = mode->flags};
    HugePages *pool = hugepages_new(LIMIT);
    FfArray *a;
    void *at;

    for (unsigned round = 0; pool && round < 2; round++) {
        int rc = ff_array_open(path, len, &o, &a);
        if (rc == -EPERM || rc == -ENOTSUP) {
            g_test_skip(ff_last_error());
            break;
        }
        call(rc);
        call(ff_array_map(a, 0, 0, &at));
        char *p = at;
        for (size_t i = 0; i < len; i += 100000) {
            g_assert_cmpint(p[i], ==, (char)(round ? i / 100000 : 0));
            p[i] = (char)(i / 100000);
        }
        call(ff_array_commit(a));
        memset(p, 99, len);
        call(ff_array_abort(a));
        g_assert_cmpint(p[len - 1], ==, 0);
        ff_array_free(a);
    }
    unlink(path);
    unlink(log);
    rmdir(folder);
    hugepages_free(pool);
}

/* An array that is no larger than its limit keeps its pages, whatever it does with its blocks: the
 * pool becomes smaller, which takes what leaves a file, and other programs take all that is free.
 */
static void test_kept(gconstpointer data)
{
    const Mode *mode = data;
    g_autofree char *folder = g_dir_make_tmp("huge-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    g_autofree char *log = g_strconcat(path, ".redo", NULL);
    FfArrayOptions o = {.size = sizeof(o), .limit = LIMIT * HUGEPAGE, .flags = mode->flags};
    HugePages *pool = hugepages_new(LIMIT);
    FfArray *a;
    void *at;
    int rc = pool ? ff_array_open(path, LIMIT * HUGEPAGE, &o, &a) : -EPERM;

    if (pool && rc < 0) {
        g_assert_true(rc == -EPERM || rc == -ENOTSUP);
        g_test_skip(ff_last_error());
    }
    if (rc == 0) {
        unsigned size = hugepages_size();
        call(ff_array_map(a, 0, 0, &at));
        hugepages_take(pool);
        char *p = at;
        for (unsigned round = 0; round < 3; round++) {
            for (unsigned i = 0; i < LIMIT; i++) {
                g_assert_cmpint(p[i * HUGEPAGE], ==, (char)round);
                p[i * HUGEPAGE] = (char)(round + 1);
            }
            g_assert_true(hugepages_set_size(size - LIMIT));
            call(ff_array_commit(a));
            g_assert_cmpint(ff_array_reclaim(a, SIZE_MAX), ==, LIMIT * (ssize_t)HUGEPAGE);
            hugepages_take(pool);
        }
        g_assert_true(hugepages_set_size(size));
        ff_array_free(a);
    }
    unlink(path);
    unlink(log);
    rmdir(folder);
    hugepages_free(pool);
}

/* More than the limit was in memory at once: the pages that are too many go back. */
static void test_excess(gconstpointer data)
{
    const Mode *mode = data;
    File f;
    HugePages *pool = hugepages_new(CROWD);

    if (!pool || !file_new(&f, HUGEPAGE, LIMIT, mode->flags | FF_ARRAY_HUGE)) {
        hugepages_free(pool);
        return;
    }
    uint64_t *p = file_map(&f, 0, 0);
    unsigned have = hugepages_free_now();
    read_at_once(&f, p, 0, CROWD);
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), >, 0);
    g_assert_cmpuint(hugepages_free_now(), ==, have);
    end(&f, pool);
}

/* What is removed by the program is zeros: clean pages, and those of a block without a huge page.
 */
static void test_removed(gconstpointer data)
{
    const Mode *mode = data;
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0);
    for (unsigned i = 8; i < 8 + LIMIT; i++) { /* it has its pages at these places */
        p[i * HW] = 1;
    }
    for (unsigned round = 0; round < 2; round++) {
        __atomic_store_n(&stolen, 100000, __ATOMIC_RELAXED);
        g_assert_cmpuint(p[3 * HW + 512], ==, 3);
        if (round) {
            p[3 * HW] = 7;
            call(ff_array_commit(f.a));
        }
        g_assert_cmpint(madvise(p + 3 * HW, 4096, MADV_REMOVE), ==, 0);
        g_assert_cmpuint(p[3 * HW], ==, 0);
        g_assert_cmpuint(p[3 * HW + 512], ==, 3);
        __atomic_store_n(&stolen, 0, __ATOMIC_RELAXED);
        call(ff_array_invalidate(f.a, 3 * HUGEPAGE, HUGEPAGE));
    }
    end(&f, pool);
}

/* The pool becomes smaller, which takes each page that leaves a file, and other programs take all
 * that is free: an array that is larger than its limit goes on, and all that was changed is there.
 */
static void test_lost(gconstpointer data)
{
    const Mode *mode = data;
    unsigned n = 3 * LIMIT;
    FfArrayStats stats = {.size = sizeof(stats)};
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    unsigned size = hugepages_size();
    uint64_t *p = file_map(&f, 0, 0), *q = file_map(&f, 4, 4);
    for (unsigned round = 1; round <= 4; round++) {
        for (unsigned i = 0; i < n; i++) {
            p[i * HW + round] = round + i;
        }
        for (unsigned i = 0; i < 4; i++) {
            g_assert_cmpuint(q[i * HW + round], ==, round + 4 + i);
            q[i * HW + 512 + round] = round;
        }
        g_assert_true(round > 1 || hugepages_set_size(size - LIMIT));
        hugepages_take(pool);
        if (round == 2) {
            call(ff_array_commit(f.a));
        } else if (round == 3) {
            call(ff_array_abort(f.a));
        }
    }
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint(f.words[i * HW + 2], ==, 2 + i);
        g_assert_cmpuint(p[i * HW + 2], ==, 2 + i);
        g_assert_cmpuint(p[i * HW + 3], ==, i); /* dropped */
        g_assert_cmpuint(p[i * HW + 4], ==, 4 + i);
        g_assert_cmpuint(p[i * HW + 512 + 4], ==, i >= 4 && i < 8 ? 4 : i);
    }
    call(ff_array_stats(f.a, &stats));
    g_assert_cmpuint(stats.failed, ==, 0);
    g_assert_cmpuint(stats.bytes, <=, LIMIT * HUGEPAGE);
    g_assert_true(hugepages_set_size(size));
    hugepages_give(pool);
    end(&f, pool);
}

/* A mapping for which the kernel had no memory is an error until the block is loaded again. */
static void test_unmappable(gconstpointer data)
{
    const Mode *mode = data;
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0), *q = file_map(&f, 3, 1);
    for (unsigned i = 8; i < 8 + LIMIT; i++) {
        p[i * HW] = 1;
    }
    __atomic_store_n(&stolen, 100000, __ATOMIC_RELAXED);
    __atomic_store_n(&unmappable, 100, __ATOMIC_RELAXED);
    g_assert_true(world_is_bus(p + 3 * HW));
    __atomic_store_n(&unmappable, 0, __ATOMIC_RELAXED);
    g_assert_cmpuint(q[0], ==, 3);
    call(ff_array_invalidate(f.a, 3 * HUGEPAGE, HUGEPAGE));
    g_assert_cmpuint(p[3 * HW], ==, 3);
    p[3 * HW + 5] = 8;
    g_assert_cmpuint(q[5], ==, 8);
    __atomic_store_n(&stolen, 0, __ATOMIC_RELAXED);
    end(&f, pool);
}

typedef struct {
    uint64_t *map[2];
    unsigned lane, seed, rounds;
} Writer;

#define LANES 4
#define LANE_BLOCKS 24

/* Its own words of all blocks: what it wrote last is there, in both mappings. */
static gpointer write_lane(gpointer opaque)
{
    Writer *w = opaque;
    g_autoptr(GRand) rand = g_rand_new_with_seed(w->seed);
    uint64_t last[LANE_BLOCKS];

    for (unsigned i = 0; i < LANE_BLOCKS; i++) {
        last[i] = i;
    }
    for (unsigned i = 0; i < w->rounds; i++) {
        unsigned block = g_rand_int_range(rand, 0, LANE_BLOCKS), page = 512 * w->lane;
        uint64_t *p = w->map[g_rand_int_range(rand, 0, 2)] + block * HW;
        g_assert_cmpuint(p[page], ==, last[block]);
        if (g_rand_int_range(rand, 0, 3) == 0) {
            __atomic_store_n(&stolen, g_rand_int_range(rand, 0, 3), __ATOMIC_RELAXED);
        }
        p[page] = last[block] = (uint64_t)w->seed << 32 | i;
    }
    for (unsigned i = 0; i < LANE_BLOCKS; i++) {
        g_assert_cmpuint(w->map[0][i * HW + 512 * w->lane], ==, last[i]);
    }
    return NULL;
}

/* Threads write to blocks that go from huge pages to small ones and back, and a commit goes on. */
static void test_lanes(gconstpointer data)
{
    const Mode *mode = data;
    const char *rounds = g_getenv("FF_ROUNDS");
    Writer w[LANES];
    GThread *threads[LANES];
    FfArrayStats stats = {.size = sizeof(stats)};
    File f;
    HugePages *pool = start(&f, mode->flags);

    if (!pool) {
        return;
    }
    uint64_t *p = file_map(&f, 0, LANE_BLOCKS), *q = file_map(&f, 0, LANE_BLOCKS);
    for (unsigned i = 0; i < LANES; i++) {
        w[i] = (Writer){{p, q}, i, g_test_rand_int(), rounds ? (unsigned)atoi(rounds) : 200};
        threads[i] = g_thread_new("writer", write_lane, &w[i]);
    }
    for (unsigned i = 0; i < 5; i++) {
        call(ff_array_commit(f.a));
    }
    for (unsigned i = 0; i < LANES; i++) {
        g_thread_join(threads[i]);
    }
    __atomic_store_n(&stolen, 0, __ATOMIC_RELAXED);
    call(ff_array_commit(f.a));
    for (unsigned i = 0; i < LANE_BLOCKS * LANES; i++) {
        uint64_t at = i / LANES * HW + i % LANES * 512;
        g_assert_cmpuint(f.words[at], ==, p[at]);
        g_assert_cmpuint(f.words[at + 1], ==, i / LANES);
    }
    call(ff_array_stats(f.a, &stats));
    g_assert_cmpuint(stats.failed, ==, 0);
    end(&f, pool);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_huge_modes("alias", test_alias, 2);
    add_huge_modes("spill", test_spill, 2);
    add_huge_modes("fails", test_fails, 2);
    add_huge_modes("given-back", test_given_back, 2);
    add_huge_modes("stolen", test_stolen, 2);
    add_huge_modes("commit", test_commit, 2);
    add_huge_modes("crowd", test_crowd, 2);
    add_huge_modes("nested", test_nested, 2);
    add_huge_modes("file", test_file, 2);
    add_huge_modes("left-behind", test_left_behind, 2);
    add_huge_modes("kept", test_kept, 2);
    add_huge_modes("lost", test_lost, 2);
    add_huge_modes("excess", test_excess, 2);
    add_huge_modes("removed", test_removed, 2);
    add_huge_modes("unmappable", test_unmappable, 2);
    add_huge_modes("lanes", test_lanes, 2);
    g_test_add_func("/libfarfault/array/huge/empty-pool", test_empty_pool);
    return g_test_run();
}
