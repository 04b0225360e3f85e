/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arrays whose blocks are loaded before they are touched: which ones, within the limit, each once;
 * loads ahead that fail, that are out of date, that meet the end of a mapping; and that no thread
 * that touches something else waits for them.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "tests/libfarfault/blocks.h"

static void wait_loads(File *f, const unsigned *counter, unsigned n)
{
    pthread_mutex_lock(&f->lock);
    while (*counter < n) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    pthread_mutex_unlock(&f->lock);
}

/* The library has done what it has begun. */
static void wait_idle(File *f, unsigned n_loads)
{
    wait_loads(f, &f->n_loads, n_loads);
    for (unsigned i = 0; i < BLOCKS; i++) {
        FfArrayBlock b = {.size = sizeof(b), .state = FF_BLOCK_LOADING};
        while (b.state == FF_BLOCK_LOADING || b.state == FF_BLOCK_LEAVING) {
            call(ff_array_block(f->a, i, &b)); /* nothing tells of it */
            g_thread_yield();
        }
    }
}

static FfArrayStats stats_of(FfArray *a)
{
    FfArrayStats stats = {.size = sizeof(stats)};

    call(ff_array_stats(a, &stats));
    return stats;
}

/* Three in a row, and the four after them are there. */
static void test_stream(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, PS, 0, mode->flags)) {
        return;
    }
    uint64_t *p = file_map(&f, 10, BLOCKS - 10);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(p[i * WORDS], ==, 10 + i);
    }
    wait_idle(&f, 7);
    assert_states(&f, 10, "LLLLLLLE", "--------");
    g_autofree char *tables = world_tables(p, 8);
    g_assert_cmpstr(tables, ==, "RRR-RRR-"); /* the touch of the fourth tells that more is wanted */
    p[4 * WORDS] = 1;                        /* without a fault for reading */
    g_assert_cmpuint(p[3 * WORDS], ==, 13);
    wait_idle(&f, 15);
    for (unsigned i = 0; i < BLOCKS - 10; i++) {
        g_assert_cmpuint(p[i * WORDS + 1], ==, 10 + i);
    }
    FfArrayStats stats = stats_of(f.a);
    g_assert_cmpuint(stats.loads, ==, BLOCKS - 10); /* each once, and nothing past the end */
    g_assert_cmpuint(stats.ahead, >, 0);
    g_assert_cmpuint(stats.failed, ==, 0);
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.n_stores, ==, 1);
    g_assert_cmpuint(f.words[14 * WORDS], ==, 1);
    file_free(&f);
}

/* Nobody reads ahead of a thread that jumps about, nor if that is not wanted, nor in a small
 * memory. */
static void test_random(void)
{
    static const struct {
        unsigned limit, flags, step;
    } cases[] = {{0, 0, 37}, {0, FF_ARRAY_RANDOM, 1}, {63, 0, 1}};

    for (unsigned k = 0; k < G_N_ELEMENTS(cases); k++) {
        File f;
        if (!file_new(&f, PS, cases[k].limit, cases[k].flags)) {
            return;
        }
        uint64_t *p = file_map(&f, 0, 0);
        for (unsigned i = 0; i < BLOCKS; i++) {
            unsigned b = i * cases[k].step % BLOCKS;
            g_assert_cmpuint(p[b * WORDS], ==, b);
        }
        g_assert_cmpuint(file_get(&f, &f.n_loads), ==, BLOCKS);
        g_assert_cmpuint(stats_of(f.a).ahead, ==, 0);
        file_free(&f);
    }
}

/* All of a file in an order, larger than memory, by several readers of both mappings. */
static gpointer read_blocks(gpointer opaque)
{
    const uint64_t *p = opaque;

    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < BLOCKS * 4; i++) {
            g_assert_cmpuint(*(const volatile uint64_t *)(p + i * WORDS), ==, i / 4);
        }
    }
    return NULL;
}

static void test_limit(gconstpointer data)
{
    const Mode *mode = data;
    GThread *threads[4];
    File f;

    if (!file_new(&f, 4 * PS, 64, mode->flags)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0), *q = file_map(&f, 0, 0);
    for (unsigned i = 0; i < 4; i++) {
        threads[i] = g_thread_new("reader", read_blocks, i % 2 ? p : q);
    }
    for (unsigned i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    FfArrayStats stats = stats_of(f.a);
    g_assert_cmpuint(stats.bytes, <=, 64 * 4 * PS);
    g_assert_cmpuint(stats.ahead, >, 0);
    g_assert_cmpuint(stats.spilled, ==, 0);
    /* What is changed has no room beside what is not touched yet. */
    for (unsigned i = 0; i < 64; i++) {
        p[i * 5 % 64 * 4 * WORDS + 1] = 7;
    }
    for (unsigned i = 64; i < BLOCKS; i++) {
        g_assert_cmpuint(p[i * 4 * WORDS], ==, i);
    }
    for (unsigned i = 0; i < 64; i++) {
        g_assert_cmpuint(p[i * 4 * WORDS + 1], ==, 7);
    }
    g_assert_cmpuint(stats_of(f.a).bytes, <=, 64 * 4 * PS);
    call(ff_array_abort(f.a));
    g_assert_cmpuint(p[4 * WORDS + 1], ==, 1);
    file_free(&f);
}

/* What fails before anybody has asked for it is tried again by a thread that does. */
static void test_failing(void)
{
    File f;

    if (!file_new(&f, PS, 0, 0)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0);
    pthread_mutex_lock(&f.lock);
    f.fail_load = -EIO;
    pthread_mutex_unlock(&f.lock);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(p[i * WORDS], ==, i);
    }
    wait_idle(&f, 7);
    assert_states(&f, 0, "LLLELLL", "-------");
    g_assert_true(world_is_bus(p + 3 * WORDS));
    g_assert_cmpuint(file_get(&f, &f.n_failed), ==, 1); /* of the touch */
    pthread_mutex_lock(&f.lock);
    f.fail_load = 0;
    pthread_mutex_unlock(&f.lock);
    call(ff_array_invalidate(f.a, 0, 0));
    for (unsigned i = 0; i < BLOCKS; i++) {
        g_assert_cmpuint(p[i * WORDS], ==, i);
    }
    file_free(&f);
}

/* A load ahead that is under way while its block is invalidated is thrown away. */
static void test_out_of_date(void)
{
    File f;

    if (!file_new(&f, PS, 0, 0)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(p[i * WORDS], ==, i);
    }
    wait_idle(&f, 7);
    pthread_mutex_lock(&f.lock);
    f.late = 1; /* the next one has read what it will say, and waits */
    pthread_mutex_unlock(&f.lock);
    g_assert_cmpuint(p[3 * WORDS], ==, 3);
    pthread_mutex_lock(&f.lock);
    while (f.late != 2) {
        pthread_cond_wait(&f.changed, &f.lock);
    }
    for (unsigned b = 7; b < 15; b++) {
        f.words[b * WORDS] = 1000 + b;
    }
    pthread_mutex_unlock(&f.lock);
    call(ff_array_invalidate(f.a, 7 * PS, 8 * PS));
    pthread_mutex_lock(&f.lock);
    f.late = 0;
    pthread_cond_broadcast(&f.changed);
    pthread_mutex_unlock(&f.lock);
    for (unsigned b = 7; b < 15; b++) {
        g_assert_cmpuint(p[b * WORDS], ==, 1000 + b);
    }
    file_free(&f);
}

/* While a stream waits for its loads others do not; then its mapping goes, and the loads end. */
static void test_held(void)
{
    File f;

    if (!file_new(&f, PS, 0, 0)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 50), *q = file_map(&f, 0, 0);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(p[i * WORDS], ==, i);
    }
    wait_idle(&f, 7);
    file_hold(&f, 1);
    g_assert_cmpuint(p[3 * WORDS], ==, 3); /* is there; the window after it is not */
    wait_loads(&f, &f.loads[7], 1);
    uint64_t before = stats_of(f.a).faults;
    GThread *waiter = g_thread_new("waiter", read_word, q + 7 * WORDS);
    while (stats_of(f.a).faults == before) {
        g_thread_yield(); /* nothing tells of it */
    }
    GThread *other = g_thread_new("other", read_word, q + 100 * WORDS);
    wait_loads(&f, &f.loads[100], 1);
    call(ff_array_unmap(f.a, p));
    file_hold(&f, 0);
    g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(other)), ==, 100);
    g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(waiter)), ==, 7); /* by another mapping */
    g_assert_cmpuint(q[9 * WORDS], ==, 9);
    file_free(&f); /* with loads under way, or not */
}

/* A file, in blocks of a page: pieces of several blocks, and an end in the middle of one. */
static void test_file(gconstpointer data)
{
    const Mode *mode = data;
    size_t len = (4u << 20) + 1000, words = len / 8;
    g_autofree char *folder = g_dir_make_tmp("ahead-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    g_autofree char *log = g_strconcat(path, ".redo", NULL);
    g_autofree uint64_t *content = g_new(uint64_t, words + 1);
    FfArrayOptions o = {
        .size = sizeof(o), .block_size = PS, .limit = 1u << 20, .flags = mode->flags};
    FfArray *a;
    void *at;

    for (size_t i = 0; i <= words; i++) {
        content[i] = i * 0x9e3779b97f4a7c15ull | 1;
    }
    g_assert_true(g_file_set_contents(path, (const char *)content, (gssize)len, NULL));
    int rc = ff_array_open(path, 0, &o, &a);
    if (rc == -EPERM || rc == -ENOTSUP) {
        g_test_skip(ff_last_error());
    } else {
        call(rc);
        call(ff_array_map(a, 0, 0, &at));
        g_assert_cmpint(memcmp(at, content, len), ==, 0);
        for (size_t i = 0; i < words; i += 64) {
            ((uint64_t *)at)[i] = i;
        }
        call(ff_array_commit(a));
        for (size_t i = 0; i < words; i += 64) {
            ((uint64_t *)at)[i] = 5;
            content[i] = i;
        }
        call(ff_array_abort(a));
        g_assert_cmpint(memcmp(at, content, len), ==, 0);
        g_assert_cmpuint(stats_of(a).ahead, >, words * 8 / PS); /* of three times */
        g_assert_cmpuint(stats_of(a).bytes, <=, 1u << 20);
        ff_array_free(a);
        g_autofree char *found = NULL;
        g_assert_true(g_file_get_contents(path, &found, NULL, NULL));
        g_assert_cmpint(memcmp(found, content, len), ==, 0);
    }
    unlink(path);
    unlink(log);
    rmdir(folder);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_modes("ahead/stream", test_stream, 2);
    add_modes("ahead/limit", test_limit, 2);
    add_modes("ahead/file", test_file, 2);
    g_test_add_func("/libfarfault/array/ahead/random", test_random);
    g_test_add_func("/libfarfault/array/ahead/failing", test_failing);
    g_test_add_func("/libfarfault/array/ahead/out-of-date", test_out_of_date);
    g_test_add_func("/libfarfault/array/ahead/held", test_held);
    return g_test_run();
}
