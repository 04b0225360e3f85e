/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arrays of callbacks: what each step of a program's does to the blocks, the mappings, the order of
 * use and what counts as changed, by the program's own touches and by system calls, with first
 * writes that are faults and with page tables that tell; loads and stores that fail, nest, and meet
 * invalidations; several threads; more changed data than memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/held.h"

#define PS 4096u
#define BLOCKS 128u
#define WORDS (PS / 8)

/* ---- a file ------------------------------------------------------------------------------------
 */

typedef struct {
    size_t block_size;
    FfArray *a;
    uint64_t *words; /* what is stored; 0: never was, and each word is the block's number */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned loads[BLOCKS], stores[BLOCKS]; /* lock */
    uint64_t order[1024];                   /* lock: of stores */
    unsigned n_stores, n_loads, n_failed;   /* lock */
    unsigned held, loading;                 /* lock: loads wait while it is not 0 */
    unsigned late;                          /* lock: 1: the next load waits with what it found */
    int fail_load, fail_store;              /* lock: the errno of block 3 */
    const uint64_t *nested;                 /* a mapping of the first blocks: N touches N + 1 */
} File;

static int load(void *opaque, uint64_t block, void *buf)
{
    File *f = opaque;
    size_t n = f->block_size / 8;

    pthread_mutex_lock(&f->lock);
    f->loads[block]++;
    f->n_loads++;
    f->loading++;
    pthread_cond_broadcast(&f->changed);
    while (f->held) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t word = f->words[block * n + i];
        ((uint64_t *)buf)[i] = word ? word : block;
    }
    if (f->late == 1) {
        for (f->late = 2; f->late == 2;) {
            pthread_cond_wait(&f->changed, &f->lock);
        }
    }
    f->loading--;
    int fail = block == 3 ? f->fail_load : 0;
    const uint64_t *nested = f->nested;
    pthread_mutex_unlock(&f->lock);
    if (nested && block < 8) {
        g_assert_cmpuint(*(const volatile uint64_t *)(nested + (block + 1) * n), ==, block + 1);
    }
    errno = 98; /* nobody else's */
    return fail;
}

static int store(void *opaque, uint64_t block, const void *buf)
{
    File *f = opaque;
    int rc = 0;

    pthread_mutex_lock(&f->lock);
    if (block == 3 && f->fail_store) {
        rc = f->fail_store;
    } else {
        memcpy((char *)f->words + block * f->block_size, buf, f->block_size);
        f->stores[block]++;
        f->order[f->n_stores++ % G_N_ELEMENTS(f->order)] = block;
    }
    pthread_mutex_unlock(&f->lock);
    return rc;
}

static void failed(void *opaque, uint64_t block, int rc)
{
    File *f = opaque;

    pthread_mutex_lock(&f->lock);
    g_assert_cmpuint(block, ==, 3);
    g_assert_cmpint(rc, ==, f->fail_load);
    f->n_failed++;
    pthread_mutex_unlock(&f->lock);
}

/* One of F's counters. */
static unsigned get(File *f, const unsigned *counter)
{
    pthread_mutex_lock(&f->lock);
    unsigned n = *counter;
    pthread_mutex_unlock(&f->lock);
    return n;
}

/* FALSE: skipped. LIMIT: blocks. */
static bool file_new(File *f, size_t block_size, unsigned limit, unsigned flags)
{
    static const FfArrayFile calls = {load, store, failed};
    FfArrayOptions o = {.size = sizeof(o),
                        .block_size = block_size,
                        .limit = limit * block_size,
                        .flags = flags,
                        .spill = g_get_tmp_dir()};

    *f = (File){.block_size = block_size, .words = g_malloc0(BLOCKS * block_size)};
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    int rc = ff_array_new(BLOCKS * block_size, &calls, f, &o, &f->a);
    if (rc == -EPERM || rc == -ENOTSUP) {
        g_test_skip(ff_last_error());
        g_free(f->words);
        return false;
    }
    call(rc);
    return true;
}

static void file_free(File *f)
{
    ff_array_free(f->a);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    g_free(f->words);
}

static uint64_t *map(File *f, uint64_t first, uint64_t n)
{
    void *at;

    call(ff_array_map(f->a, first * f->block_size, n * f->block_size, &at));
    return at;
}

/* ---- what is seen of it ------------------------------------------------------------------------
 */

static void assert_tables(const void *at, const char *expected)
{
    g_autofree char *text = world_tables(at, strlen(expected));

    g_assert_cmpstr(text, ==, expected);
}

/* E, l, L, X, F of N blocks from FIRST on; and changed ones. */
static void assert_states(File *f, uint64_t first, const char *states, const char *changed)
{
    for (size_t i = 0; states[i]; i++) {
        FfArrayBlock b = {.size = sizeof(b)};
        call(ff_array_block(f->a, first + i, &b));
        g_assert_cmpint("ElLXF"[b.state], ==, states[i]);
        g_assert_cmpint(b.changed > 0 ? 'd' : '-', ==, changed[i]);
    }
}

static unsigned mappings_of(File *f, uint64_t block)
{
    FfArrayBlock b = {.size = sizeof(b)};

    call(ff_array_block(f->a, block, &b));
    return b.mappings;
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

/* How the test touches: itself, or by a system call. */
static bool by_calls;
static int pipes[2];

static uint64_t peek(const uint64_t *at)
{
    uint64_t word;

    if (!by_calls) {
        return *(const volatile uint64_t *)at;
    }
    g_assert_cmpint(write(pipes[1], at, 8), ==, 8);
    g_assert_cmpint(read(pipes[0], &word, 8), ==, 8);
    return word;
}

static void poke(uint64_t *at, uint64_t word)
{
    if (!by_calls) {
        *(volatile uint64_t *)at = word;
        return;
    }
    g_assert_cmpint(write(pipes[1], &word, 8), ==, 8);
    g_assert_cmpint(read(pipes[0], at, 8), ==, 8);
}

typedef struct {
    unsigned flags;
    bool by_calls;
} Mode;

static const Mode modes[] = {
    {FF_ARRAY_WRITE_FAULTS, false}, {FF_ARRAY_WRITE_FAULTS, true}, {0, false}, {0, true}};

/* ---- step by step ------------------------------------------------------------------------------
 */

/* Four blocks can be in memory; one of them, 50, is changed, so three are for blocks 100 to 103. */
static void test_steps(gconstpointer data)
{
    const Mode *mode = data;
    bool faults = mode->flags & FF_ARRAY_WRITE_FAULTS;
    File f;

    if (!file_new(&f, PS, 4, mode->flags)) {
        return;
    }
    by_calls = mode->by_calls;
    g_assert_cmpint(pipe(pipes), ==, 0);
    uint64_t *other = map(&f, 50, 1), *p = map(&f, 100, 4);
    uint64_t *p0 = p, *p1 = p + WORDS, *p2 = p + 2 * WORDS, *p3 = p + 3 * WORDS;

    /* 0 */
    assert_tables(p, "----");
    assert_states(&f, 100, "EEEE", "----");
    poke(other, 5);
    assert_order(&f, "50");
    /* 1 */
    errno = 1;
    g_assert_cmpuint(peek(p0), ==, 100);
    g_assert_cmpint(errno, ==, 1); /* what load() did to its own is not seen */
    g_assert_cmpuint(p0[1], ==, 100);
    g_assert_cmpuint(p0[WORDS - 1], ==, 100);
    assert_tables(p, "R---");
    assert_states(&f, 100, "LEEE", "----");
    g_assert_cmpuint(mappings_of(&f, 100), ==, 1);
    assert_order(&f, "100 50");
    /* 2 */
    poke(p2, 12);
    g_assert_cmpuint(p2[0], ==, 12);
    g_assert_cmpuint(p2[1], ==, 102);
    assert_tables(p, "R-W-");
    assert_order(&f, "102 100 50");
    assert_states(&f, 100, "LELE", faults ? "--d-" : "----");
    /* 3 */
    g_assert_cmpuint(peek(p3), ==, 103);
    assert_order(&f, "103 102 100 50");
    /* 4 */
    poke(p0, 10);
    assert_tables(p, "W-WR");
    assert_order(&f, faults ? "100 103 102 50" : "103 102 100 50");
    /* 5: room for one more is made by the only one that is not changed */
    g_assert_cmpuint(peek(p1), ==, 101);
    assert_tables(p, "WRW-");
    assert_states(&f, 100, "LLLE", "d-d-");
    g_assert_cmpuint(mappings_of(&f, 103), ==, 0);
    assert_order(&f, faults ? "101 100 102 50" : "101 102 100 50");
    /* 6 */
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), ==, PS);
    assert_tables(p, "W-W-");
    assert_states(&f, 100, "LELE", "d-d-");
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), ==, 0);
    /* 7: what was changed stays */
    call(ff_array_unmap(f.a, p));
    assert_states(&f, 100, "LELE", "d-d-");
    g_assert_cmpuint(mappings_of(&f, 100), ==, 0);
    assert_order(&f, faults ? "100 102 50" : "102 100 50");
    /* 8 */
    p = map(&f, 100, 4);
    p0 = p, p2 = p + 2 * WORDS, p3 = p + 3 * WORDS;
    assert_tables(p, "----");
    g_assert_cmpuint(peek(p2), ==, 12);
    g_assert_cmpuint(p2[1], ==, 102);
    assert_tables(p, faults ? "--W-" : "--R-");
    assert_order(&f, "102 100 50");
    g_assert_cmpuint(peek(p0), ==, 10);
    g_assert_cmpuint(get(&f, &f.loads[100]), ==, 1);
    /* 9 */
    call(ff_array_abort(f.a));
    assert_tables(p, "----");
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
    g_assert_cmpuint(f.words[100 * WORDS], ==, 20);
    g_assert_cmpuint(f.words[102 * WORDS + 1], ==, 102);
    assert_states(&f, 100, "LELL", "d-d-");
    assert_tables(p, faults ? "W-WR" : "R-RR");
    /* 11 */
    call(ff_array_writeout(f.a, FF_ARRAY_MARK));
    g_assert_cmpuint(f.n_stores, ==, 2);
    assert_states(&f, 100, "LELL", "----");
    assert_tables(p, "R-RR");
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
    call(ff_array_invalidate(f.a, 101 * PS, PS));
    assert_states(&f, 100, "LELL", "----");
    call(ff_array_invalidate(f.a, 103 * PS, PS));
    assert_states(&f, 100, "LELE", "----");
    assert_tables(p, "R-R-");
    call(ff_array_invalidate(f.a, 102 * PS, PS));
    call(ff_array_invalidate(f.a, 100 * PS, PS));
    assert_tables(p, "----");
    unsigned before = get(&f, &f.loads[103]);
    g_assert_cmpuint(peek(p3), ==, 103);
    g_assert_cmpuint(get(&f, &f.loads[103]), ==, before + 1);
    g_assert_cmpuint(peek(p0), ==, 30);
    g_assert_cmpuint(peek(p2 + 1), ==, 23);
    /* 15 */
    poke(p2, 99);
    file_free(&f);
    close(pipes[0]);
    close(pipes[1]);
}

/* Two mappings of the same blocks, at different times, are the same memory. */
static void test_alias(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, 4 * PS, 0, mode->flags)) {
        return;
    }
    uint64_t *one = map(&f, 10, 4);
    one[4 * WORDS] = 7;             /* block 11 */
    uint64_t *two = map(&f, 11, 4); /* 11 to 14 */
    g_assert_cmpuint(two[0], ==, 7);
    g_assert_cmpuint(mappings_of(&f, 11), ==, 2);
    g_assert_cmpuint(get(&f, &f.loads[11]), ==, 1);
    two[1] = 8; /* a write by the second is there in the first, at once */
    g_assert_cmpuint(one[4 * WORDS + 1], ==, 8);
    two[4 * WORDS] = 9; /* 12, which the first has not touched */
    g_assert_cmpuint(one[8 * WORDS], ==, 9);
    g_assert_cmpuint(get(&f, &f.loads[12]), ==, 1);
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

/* ---- what fails --------------------------------------------------------------------------------
 */

static void test_fails(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, 4 * PS, 0, mode->flags)) {
        return;
    }
    uint64_t *p = map(&f, 0, 8), *q = map(&f, 3, 1);
    int fd = world_file();
    pthread_mutex_lock(&f.lock);
    f.fail_load = -EIO;
    pthread_mutex_unlock(&f.lock);
    g_assert_true(world_is_bus(p + 3 * 4 * WORDS + 5));
    g_assert_true(world_is_bus(p + 3 * 4 * WORDS + WORDS));
    g_assert_true(world_is_bus(q));
    g_assert_cmpint(pwrite(fd, p + 3 * 4 * WORDS, PS, 0), ==, -1);
    g_assert_cmpuint(p[2 * 4 * WORDS], ==, 2);
    g_assert_cmpuint(p[4 * 4 * WORDS], ==, 4);
    assert_states(&f, 3, "FL", "--");
    g_assert_cmpuint(get(&f, &f.n_failed), ==, 1);
    pthread_mutex_lock(&f.lock);
    f.fail_load = 0;
    pthread_mutex_unlock(&f.lock);
    g_assert_true(world_is_bus(p + 3 * 4 * WORDS)); /* until somebody says so */
    call(ff_array_invalidate(f.a, 3 * 4 * PS, 4 * PS));
    g_assert_cmpuint(p[3 * 4 * WORDS], ==, 3);
    g_assert_cmpuint(q[0], ==, 3);
    /* A store that fails, twice: all stays changed, and it can be tried again. */
    p[2 * 4 * WORDS] = 12, p[3 * 4 * WORDS] = 13, p[4 * 4 * WORDS] = 14;
    pthread_mutex_lock(&f.lock);
    f.fail_store = -ENOSPC;
    pthread_mutex_unlock(&f.lock);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpint(ff_array_commit(f.a), ==, -ENOSPC);
        assert_states(&f, 2, "LLL", "ddd");
        g_assert_cmpuint(p[3 * 4 * WORDS], ==, 13);
    }
    pthread_mutex_lock(&f.lock);
    f.fail_store = 0;
    pthread_mutex_unlock(&f.lock);
    call(ff_array_commit(f.a));
    assert_states(&f, 2, "LLL", "---");
    g_assert_cmpuint(f.words[3 * 4 * WORDS], ==, 13);
    g_assert_cmpuint(f.stores[4], ==, 1);
    close(fd);
    file_free(&f);
}

/* load() touches another block of the array. */
static void test_nested(void)
{
    File f;

    if (!file_new(&f, PS, 0, 0)) {
        return;
    }
    pthread_mutex_lock(&f.lock);
    f.nested = map(&f, 0, 16);
    pthread_mutex_unlock(&f.lock);
    g_assert_cmpuint(f.nested[0], ==, 0);
    g_assert_cmpuint(get(&f, &f.n_loads), ==, 9); /* a chain */
    file_free(&f);
}

/* ---- threads -----------------------------------------------------------------------------------
 */

static gpointer read_word(gpointer at)
{
    return GSIZE_TO_POINTER(*(const volatile uint64_t *)at);
}

static void wait_loading(File *f, unsigned n)
{
    pthread_mutex_lock(&f->lock);
    while (f->loading < n) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    pthread_mutex_unlock(&f->lock);
}

static void hold(File *f, unsigned held)
{
    pthread_mutex_lock(&f->lock);
    f->held = held;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void test_parallel(void)
{
    GThread *threads[6];
    File f;

    if (!file_new(&f, PS, 0, 0)) {
        return;
    }
    uint64_t *p = map(&f, 0, 8), *q = map(&f, 0, 8);
    hold(&f, 1);
    for (unsigned i = 0; i < 6; i++) { /* blocks 1, 2 and 3, two each, by two mappings */
        threads[i] = g_thread_new("toucher", read_word, (i % 2 ? p : q) + (1 + i / 2) * WORDS);
    }
    wait_loading(&f, 3); /* all three at once */
    assert_states(&f, 1, "lll", "---");
    hold(&f, 0);
    for (unsigned i = 0; i < 6; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(threads[i])), ==, 1 + i / 2);
    }
    g_assert_cmpuint(get(&f, &f.n_loads), ==, 3); /* each once */
    /* Invalidated while it is loaded: what was loaded is thrown away. */
    hold(&f, 1);
    threads[0] = g_thread_new("toucher", read_word, p + 5 * WORDS);
    wait_loading(&f, 1);
    call(ff_array_invalidate(f.a, 5 * PS, PS));
    pthread_mutex_lock(&f.lock);
    f.words[5 * WORDS] = 55;
    pthread_mutex_unlock(&f.lock);
    hold(&f, 0);
    g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(threads[0])), ==, 55);
    g_assert_cmpuint(get(&f, &f.loads[5]), ==, 2);
    file_free(&f);
}

static void set_late(File *f, unsigned late)
{
    pthread_mutex_lock(&f->lock);
    f->late = late;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

/* A block that is read while it is committed, and has begun to load before, is what was committed:
 * what it held had no room in memory, and is in the log. */
static void test_load_while_stored(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, 4 * PS, 4, mode->flags)) {
        return;
    }
    uint64_t *p = map(&f, 0, 0);
    p[0] = 1000;
    for (unsigned b = 1; b < 8; b++) {
        p[b * 4 * WORDS] = 2000;
    }
    assert_states(&f, 0, "E", "d");
    set_late(&f, 1);
    GThread *reader = g_thread_new("reader", read_word, p);
    wait_loading(&f, 1);
    call(ff_array_commit(f.a));
    set_late(&f, 0);
    g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(reader)), ==, 1000);
    g_assert_cmpuint(p[0], ==, 1000);
    g_assert_cmpuint(f.words[0], ==, 1000);
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

    if (!file_new(&f, 4 * PS, 16, mode->flags)) {
        return;
    }
    uint64_t *p = map(&f, 0, 0), *q = map(&f, 0, 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (Writer){i % 2 ? p : q, i, pages, rounds};
        threads[i] = g_thread_new("writer", write_words, &writers[i]);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        g_thread_join(threads[i]);
    }
    call(ff_array_stats(f.a, &stats));
    g_assert_cmpuint(stats.spilled, >, pages / 2);
    g_assert_cmpuint(stats.bytes, <=, 16 * 4 * PS);
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
    uint64_t *p = map(&f, 0, 0);
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
    uint64_t *p = map(&f, 0, 0);
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

static void test_busy(void)
{
    static const FfArrayFile none = {NULL, NULL, NULL}, read_only = {load, NULL, NULL};
    FfArrayOptions o = {.size = sizeof(o), .block_size = 3 * PS};
    FfArray *a;
    File f;

    g_assert_cmpint(ff_array_new(PS, &none, NULL, NULL, &a), ==, -EINVAL);
    g_assert_cmpint(ff_array_new(PS, &read_only, NULL, &o, &a), ==, -EINVAL);
    g_assert_cmpint(ff_array_new(0, &read_only, NULL, NULL, &a), ==, -EINVAL);
    if (!file_new(&f, PS, 0, 0)) {
        return;
    }
    g_assert_cmpint(ff_array_invalidate(f.a, 1, PS), ==, -EINVAL);
    g_assert_cmpint(ff_array_invalidate(f.a, 0, PS / 2), ==, -EINVAL);
    g_assert_cmpuint(ff_array_len(f.a), ==, BLOCKS * PS);
    int st;
    uint64_t *p = map(&f, 0, 1);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(ff_array_commit(f.a) == -ECHILD && ff_array_unmap(f.a, p) == -ECHILD ? 0 : 1);
    }
    g_assert_cmpint(waitpid(pid, &st, 0), ==, pid);
    g_assert_cmpint(st, ==, 0);
    file_free(&f);
}

static void add(const char *name, void (*fn)(gconstpointer), unsigned n)
{
    static const char *const names[] = {"faults", "faults-calls", "tables", "tables-calls"};

    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i += 4 / n) {
        g_autofree char *path = g_strdup_printf("/libfarfault/array/%s/%s", name, names[i]);
        g_test_add_data_func(path, &modes[i], fn);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("steps", test_steps, 4);
    add("alias", test_alias, 2);
    add("fails", test_fails, 2);
    add("load-while-stored", test_load_while_stored, 2);
    add("spill", test_spill, 2);
    add("system-calls", test_system_calls, 2);
    g_test_add_func("/libfarfault/array/nested", test_nested);
    g_test_add_func("/libfarfault/array/parallel", test_parallel);
    g_test_add_func("/libfarfault/array/given-back", test_given_back);
    g_test_add_func("/libfarfault/array/arguments", test_busy);
    return g_test_run();
}
