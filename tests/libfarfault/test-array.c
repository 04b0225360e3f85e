/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arrays of callbacks: what each step of a program's does to the blocks, the mappings, the order of
 * use and what counts as changed, by the program's own touches and by system calls, with first
 * writes that are faults and with page tables that tell; loads that nest, and meet invalidations;
 * several threads; more changed data than memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/blocks.h"

/* Of blocks of one page of SIZE bytes. */
static void assert_tables(const char *at, size_t size, const char *expected)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (size_t i = 0; i < strlen(expected); i++) {
        g_autofree char *one = world_tables(at + i * size, 1);
        g_string_append(text, one);
    }
    g_assert_cmpstr(text->str, ==, expected);
}

/* Numbers of blocks in memory, what was used last first. */
static void assert_order(File *f, const char *expected)
{
    uint64_t blocks[BLOCKS], n = ff_array_resident(f->a, blocks, BLOCKS);
    g_autoptr(GString) text = g_string_new(NULL);

    for (uint64_t i = 0; i < n; i++) {
        g_string_append_printf(text, "%s%" G_GUINT64_FORMAT, i ? " " : "", blocks[i]);
    }
    g_assert_cmpstr(text->str, ==, expected);
}

/* ---- step by step ---------------------------------------------------------------------------- */

/* Eight blocks can be in memory. Five of them, 50 to 54, are changed, so three are for blocks 100
 * to 103; the last four of these are touched just before there is no room, as what a thread has
 * touched last stays. */
static void test_steps(gconstpointer data)
{
    const Mode *mode = data;
    bool faults = mode->flags & FF_ARRAY_WRITE_FAULTS, huge = mode->flags & FF_ARRAY_HUGE;
    HugePages *pool = huge ? hugepages_new(8) : NULL;
    size_t size = huge ? HUGEPAGE : PS, words = size / 8;
    File f;

    if ((huge && !pool) || !file_new(&f, size, 8, mode->flags)) {
        hugepages_free(pool);
        return;
    }
    touch_by_calls(mode->by_calls);
    uint64_t *other = file_map(&f, 50, 5), *p = file_map(&f, 100, 4);
    uint64_t *p0 = p, *p1 = p + words, *p2 = p + 2 * words, *p3 = p + 3 * words;

    /* 0 */
    assert_tables((const char *)p, size, "----");
    assert_states(&f, 100, "EEEE", "----");
    poke(other, 5);
    assert_order(&f, "50");
    /* 1 */
    errno = 1;
    g_assert_cmpuint(peek(p0), ==, 100);
    g_assert_cmpint(errno, ==, 1); /* what load() did to its own is not seen */
    g_assert_cmpuint(p0[1], ==, 100);
    g_assert_cmpuint(p0[words - 1], ==, 100);
    assert_tables((const char *)p, size, "R---");
    assert_states(&f, 100, "LEEE", "----");
    g_assert_cmpuint(file_mappings(&f, 100), ==, 1);
    assert_order(&f, "100 50");
    /* 2 */
    poke(p2, 12);
    g_assert_cmpuint(p2[0], ==, 12);
    g_assert_cmpuint(p2[1], ==, 102);
    assert_tables((const char *)p, size, "R-W-");
    assert_order(&f, "102 100 50");
    assert_states(&f, 100, "LELE", faults ? "--d-" : "----");
    /* 3 */
    g_assert_cmpuint(peek(p3), ==, 103);
    assert_order(&f, "103 102 100 50");
    /* 4 */
    poke(p0, 10);
    assert_tables((const char *)p, size, "W-WR");
    assert_order(&f, faults ? "100 103 102 50" : "103 102 100 50");
    /* 5: room for one more is made by the only one that is not changed */
    for (unsigned i = 1; i < 5; i++) {
        poke(other + i * words, 5);
    }
    g_assert_cmpuint(peek(p1), ==, 101);
    assert_tables((const char *)p, size, "WRW-");
    assert_states(&f, 100, "LLLE", "d-d-");
    g_assert_cmpuint(file_mappings(&f, 103), ==, 0);
    assert_order(&f, faults ? "101 54 53 52 51 100 102 50" : "101 54 53 52 51 102 100 50");
    /* 6 */
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), ==, (ssize_t)size);
    assert_tables((const char *)p, size, "W-W-");
    assert_states(&f, 100, "LELE", "d-d-");
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), ==, 0);
    /* 7: what was changed stays */
    call(ff_array_unmap(f.a, p));
    assert_states(&f, 100, "LELE", "d-d-");
    g_assert_cmpuint(file_mappings(&f, 100), ==, 0);
    assert_order(&f, faults ? "54 53 52 51 100 102 50" : "54 53 52 51 102 100 50");
    /* 8 */
    p = file_map(&f, 100, 4);
    p0 = p, p2 = p + 2 * words, p3 = p + 3 * words;
    assert_tables((const char *)p, size, "----");
    g_assert_cmpuint(peek(p2), ==, 12);
    g_assert_cmpuint(p2[1], ==, 102);
    assert_tables((const char *)p, size, faults ? "--W-" : "--R-");
    assert_order(&f, faults ? "102 54 53 52 51 100 50" : "102 54 53 52 51 100 50");
    g_assert_cmpuint(peek(p0), ==, 10);
    g_assert_cmpuint(file_get(&f, &f.loads[100]), ==, 1);
    /* 9 */
    call(ff_array_abort(f.a));
    assert_tables((const char *)p, size, "----");
    assert_states(&f, 100, "EEEE", "----");
    assert_order(&f, "");
    g_assert_cmpuint(peek(p2), ==, 102);
    g_assert_cmpuint(peek(other), ==, 50);
    poke(p0, 20);
    poke(p2, 22);
    g_assert_cmpuint(peek(p3), ==, 103);
    g_assert_cmpuint(f.n_stores, ==, 0);
    /* 10 */
    call(ff_array_writeout(f.a, FF_ARRAY_STORE));
    g_assert_cmpuint(f.n_stores, ==, 2);
    g_assert_cmpuint(f.order[0], ==, 100);
    g_assert_cmpuint(f.order[1], ==, 102);
    g_assert_cmpuint(f.words[100 * words], ==, 20);
    g_assert_cmpuint(f.words[102 * words + 1], ==, 102);
    assert_states(&f, 100, "LELL", "d-d-");
    assert_tables((const char *)p, size, "R-RR");
    /* 11 */
    call(ff_array_writeout(f.a, FF_ARRAY_MARK));
    g_assert_cmpuint(f.n_stores, ==, 2);
    assert_states(&f, 100, "LELL", "----");
    assert_tables((const char *)p, size, "R-RR");
    /* 12 */
    poke(p2 + 1, 23);
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.n_stores, ==, 3);
    g_assert_cmpuint(f.stores[102], ==, 2);
    assert_states(&f, 100, "LELL", "----");
    call(ff_array_commit(f.a)); /* nothing */
    g_assert_cmpuint(f.n_stores, ==, 3);
    /* 13 */
    poke(p0, 30);
    call(ff_array_writeout(f.a, FF_ARRAY_STORE));
    call(ff_array_writeout(f.a, FF_ARRAY_STORE));
    g_assert_cmpuint(f.stores[100], ==, 3);
    call(ff_array_writeout(f.a, FF_ARRAY_MARK));
    g_assert_cmpint(ff_array_writeout(f.a, 4), ==, -EINVAL);
    g_assert_cmpint(ff_array_writeout(f.a, 0), ==, -EINVAL);
    /* 14 */
    call(ff_array_invalidate(f.a, 101 * size, size));
    assert_states(&f, 100, "LELL", "----");
    call(ff_array_invalidate(f.a, 103 * size, size));
    assert_states(&f, 100, "LELE", "----");
    assert_tables((const char *)p, size, "R-R-");
    call(ff_array_invalidate(f.a, 102 * size, size));
    call(ff_array_invalidate(f.a, 100 * size, size));
    assert_tables((const char *)p, size, "----");
    unsigned before = file_get(&f, &f.loads[103]);
    g_assert_cmpuint(peek(p3), ==, 103);
    g_assert_cmpuint(file_get(&f, &f.loads[103]), ==, before + 1);
    g_assert_cmpuint(peek(p0), ==, 30);
    g_assert_cmpuint(peek(p2 + 1), ==, 23);
    /* 15 */
    poke(p2, 99);
    file_free(&f);
    hugepages_free(pool);
}

/* Two mappings of the same blocks, at different times, are the same memory. */
static void test_alias(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, 4 * PS, 0, mode->flags)) {
        return;
    }
    uint64_t *one = file_map(&f, 10, 4);
    one[4 * WORDS] = 7;                  /* block 11 */
    uint64_t *two = file_map(&f, 11, 4); /* 11 to 14 */
    g_assert_cmpuint(two[0], ==, 7);
    g_assert_cmpuint(file_mappings(&f, 11), ==, 2);
    g_assert_cmpuint(file_get(&f, &f.loads[11]), ==, 1);
    two[1] = 8; /* a write by the second is there in the first, at once */
    g_assert_cmpuint(one[4 * WORDS + 1], ==, 8);
    two[4 * WORDS] = 9; /* 12, which the first has not touched */
    g_assert_cmpuint(one[8 * WORDS], ==, 9);
    g_assert_cmpuint(file_get(&f, &f.loads[12]), ==, 1);
    void *three;
    call(ff_array_map(f.a, 11 * 4 * PS + PS, PS, &three)); /* a part of a block */
    ((uint64_t *)three)[0] = 10;
    g_assert_cmpuint(one[4 * WORDS + WORDS], ==, 10);
    call(ff_array_unmap(f.a, three));
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.n_stores, ==, 2);
    g_assert_cmpuint(f.words[11 * 4 * WORDS], ==, 7);
    g_assert_cmpuint(f.words[11 * 4 * WORDS + 1], ==, 8);
    g_assert_cmpuint(f.words[11 * 4 * WORDS + WORDS], ==, 10);
    g_assert_cmpuint(f.words[12 * 4 * WORDS], ==, 9);
    one[4 * WORDS + 2] = 5;
    two[3] = 6;
    call(ff_array_abort(f.a));
    g_assert_cmpuint(one[4 * WORDS + 2], ==, 11);
    g_assert_cmpuint(two[3], ==, 11);
    g_assert_cmpuint(two[1], ==, 8);
    two[3] = 6;
    call(ff_array_unmap(f.a, two)); /* stays */
    call(ff_array_commit(f.a));
    g_assert_cmpuint(one[4 * WORDS + 3], ==, 6);
    g_assert_cmpuint(f.words[11 * 4 * WORDS + 3], ==, 6);
    g_assert_cmpint(ff_array_unmap(f.a, one + 1), ==, -EINVAL);
    void *bad;
    g_assert_cmpint(ff_array_map(f.a, 1, PS, &bad), ==, -EINVAL);
    g_assert_cmpint(ff_array_map(f.a, 0, BLOCKS * 4 * PS + 1, &bad), ==, -EINVAL);
    g_assert_cmpint(ff_array_map(f.a, UINT64_MAX / PS * PS, PS, &bad), ==, -EINVAL);
    file_free(&f);
}

/* ---- what fails ------------------------------------------------------------------------------ */

/* load() touches another block of the array. */
static void test_nested(void)
{
    File f;

    if (!file_new(&f, PS, 0, FF_ARRAY_RANDOM)) {
        return;
    }
    pthread_mutex_lock(&f.lock);
    f.nested = file_map(&f, 0, 16);
    pthread_mutex_unlock(&f.lock);
    g_assert_cmpuint(f.nested[0], ==, 0);
    g_assert_cmpuint(file_get(&f, &f.n_loads), ==, 9); /* a chain */
    file_free(&f);
}

/* ---- threads --------------------------------------------------------------------------------- */

static void test_parallel(void)
{
    GThread *threads[6];
    File f;

    if (!file_new(&f, PS, 0, FF_ARRAY_RANDOM)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 8), *q = file_map(&f, 0, 8);
    file_hold(&f, 1);
    for (unsigned i = 0; i < 6; i++) { /* blocks 1, 2 and 3, two each, by two mappings */
        threads[i] = g_thread_new("toucher", read_word, (i % 2 ? p : q) + (1 + i / 2) * WORDS);
    }
    file_wait_loading(&f, 3); /* all three at once */
    assert_states(&f, 1, "lll", "---");
    file_hold(&f, 0);
    for (unsigned i = 0; i < 6; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(threads[i])), ==, 1 + i / 2);
    }
    g_assert_cmpuint(file_get(&f, &f.n_loads), ==, 3); /* each once */
    /* Invalidated while it is loaded: what was loaded is thrown away. */
    file_hold(&f, 1);
    threads[0] = g_thread_new("toucher", read_word, p + 5 * WORDS);
    file_wait_loading(&f, 1);
    call(ff_array_invalidate(f.a, 5 * PS, PS));
    pthread_mutex_lock(&f.lock);
    f.words[5 * WORDS] = 55;
    pthread_mutex_unlock(&f.lock);
    file_hold(&f, 0);
    g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(threads[0])), ==, 55);
    g_assert_cmpuint(file_get(&f, &f.loads[5]), ==, 2);
    file_free(&f);
}

typedef struct {
    uint64_t *at; /* its words, one in each page */
    unsigned index;
    unsigned n, rounds;
} Writer;

#define WRITERS 4

static gpointer write_words(gpointer opaque)
{
    Writer *w = opaque;

    for (unsigned round = 0; round < w->rounds; round++) {
        for (unsigned i = 0; i < w->n; i++) {
            volatile uint64_t *at = w->at + i * WORDS + 8 + w->index;
            g_assert_cmpuint(*at, ==, round ? round : *at);
            *at = round + 1;
        }
    }
    return NULL;
}

/* More is changed than there is memory for, by several threads at once; then it is committed,
 * aborted. */
static void test_spill(gconstpointer data)
{
    const Mode *mode = data;
    GThread *threads[WRITERS];
    Writer writers[WRITERS];
    FfArrayStats stats = {.size = sizeof(stats)};
    unsigned rounds = world_rounds(3), pages = BLOCKS * 4;
    File f;

    if (!file_new(&f, 4 * PS, 24, mode->flags)) { /* four for each thread, and some */
        return;
    }
    uint64_t *p = file_map(&f, 0, 0), *q = file_map(&f, 0, 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (Writer){i % 2 ? p : q, i, pages, rounds};
        threads[i] = g_thread_new("writer", write_words, &writers[i]);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        g_thread_join(threads[i]);
    }
    call(ff_array_stats(f.a, &stats));
    g_assert_cmpuint(stats.spilled, >, pages / 2);
    g_assert_cmpuint(stats.bytes, <=, 24 * 4 * PS);
    g_assert_cmpuint(f.n_stores, ==, 0);
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.n_stores, ==, BLOCKS);
    for (unsigned i = 0; i < pages; i++) {
        for (unsigned k = 0; k < WRITERS; k++) {
            g_assert_cmpuint(f.words[i * WORDS + 8 + k], ==, rounds);
            g_assert_cmpuint(p[i * WORDS + 8 + k], ==, rounds);
        }
        g_assert_cmpuint(p[i * WORDS], ==, i / 4);
    }
    for (unsigned i = 0; i < pages; i++) {
        p[i * WORDS] = 1234567;
    }
    call(ff_array_abort(f.a));
    for (unsigned i = 0; i < pages; i++) {
        g_assert_cmpuint(p[i * WORDS], ==, i / 4);
    }
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.n_stores, ==, BLOCKS);
    file_free(&f);
}

/* read() into it from a file, write() of it, larger than the memory. */
static void test_system_calls(gconstpointer data)
{
    const Mode *mode = data;
    size_t len = BLOCKS * 4 * PS;
    int fd = world_file();
    File f;

    if (!file_new(&f, 4 * PS, 8, mode->flags)) {
        close(fd);
        return;
    }
    g_autofree uint64_t *words = g_malloc(len), *back = g_malloc(len);
    for (size_t i = 0; i < len / 8; i++) {
        words[i] = i * 0x9e3779b97f4a7c15ull | 1;
    }
    g_assert_cmpint(pwrite(fd, words, len, 0), ==, (ssize_t)len);
    uint64_t *p = file_map(&f, 0, 0);
    g_assert_cmpint(pread(fd, p, len, 0), ==, (ssize_t)len);
    g_assert_cmpint(pwrite(fd, p, len, (off_t)len), ==, (ssize_t)len);
    g_assert_cmpint(pread(fd, back, len, (off_t)len), ==, (ssize_t)len);
    g_assert_cmpint(memcmp(words, back, len), ==, 0);
    call(ff_array_commit(f.a));
    g_assert_cmpint(memcmp(words, f.words, len), ==, 0);
    close(fd);
    file_free(&f);
}

/* A page that the program gives back may have been written to. */
static void test_given_back(void)
{
    File f;

    if (!file_new(&f, 4 * PS, 0, 0)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0);
    p[0] = 1;
    p[4 * WORDS] = 2;
    g_assert_cmpuint(p[8 * WORDS], ==, 2);
    g_assert_cmpint(madvise(p, BLOCKS * 4 * PS, MADV_DONTNEED), ==, 0);
    g_assert_cmpuint(p[0], ==, 1); /* the block is in memory */
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.words[0], ==, 1);
    g_assert_cmpuint(f.words[4 * WORDS], ==, 2);
    file_free(&f);
}

static int load_nothing(void *opaque, uint64_t block, void *buf)
{
    return -EIO;
}

static void test_busy(void)
{
    static const FfArrayFile none = {.size = sizeof(none)}, other = {.load = load_nothing},
                             read_only = {.size = sizeof(read_only), .load = load_nothing};
    FfArrayOptions o = {.size = sizeof(o), .block_size = 3 * PS};
    FfArray *a;
    File f;

    g_assert_cmpint(ff_array_new(PS, &none, NULL, NULL, &a), ==, -EINVAL);
    g_assert_cmpint(ff_array_new(PS, &other, NULL, NULL, &a), ==, -EINVAL);
    g_assert_cmpint(ff_array_new(PS, &read_only, NULL, &o, &a), ==, -EINVAL);
    g_assert_cmpint(ff_array_new(0, &read_only, NULL, NULL, &a), ==, -EINVAL);
    if (!file_new(&f, PS, 0, 0)) {
        return;
    }
    g_assert_cmpint(ff_array_invalidate(f.a, 1, PS), ==, -EINVAL);
    g_assert_cmpint(ff_array_invalidate(f.a, 0, PS / 2), ==, -EINVAL);
    g_assert_cmpuint(ff_array_len(f.a), ==, BLOCKS * PS);
    int st;
    uint64_t *p = file_map(&f, 0, 1);
    pid_t pid = fork();
    if (pid == 0) {
        FfArrayStats stats = {.size = sizeof(stats)};
        FfArrayBlock b = {.size = sizeof(b)};
        bool all = ff_array_commit(f.a) == -ECHILD && ff_array_unmap(f.a, p) == -ECHILD &&
                   ff_array_stats(f.a, &stats) == -ECHILD &&
                   ff_array_block(f.a, 0, &b) == -ECHILD && !ff_array_resident(f.a, NULL, 0);
        _exit(all ? 0 : 1);
    }
    g_assert_cmpint(waitpid(pid, &st, 0), ==, pid);
    g_assert_cmpint(st, ==, 0);
    file_free(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_modes("steps", test_steps, 4);
    add_huge_modes("steps", test_steps, 4);
    add_modes("alias", test_alias, 2);
    add_modes("spill", test_spill, 2);
    add_modes("system-calls", test_system_calls, 2);
    g_test_add_func("/libfarfault/array/nested", test_nested);
    g_test_add_func("/libfarfault/array/parallel", test_parallel);
    g_test_add_func("/libfarfault/array/given-back", test_given_back);
    g_test_add_func("/libfarfault/array/arguments", test_busy);
    return g_test_run();
}
