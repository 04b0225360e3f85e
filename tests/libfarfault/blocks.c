/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See blocks.h. */
#include "tests/libfarfault/blocks.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

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
    FileDuring *during = f->during;
    pthread_mutex_unlock(&f->lock);
    if (nested && block < 8) {
        g_assert_cmpuint(*(const volatile uint64_t *)(nested + (block + 1) * n), ==, block + 1);
    }
    if (during) {
        during(f, block, false);
    }
    errno = 98; /* nobody else's */
    return fail;
}

static int store(void *opaque, uint64_t block, const void *buf)
{
    File *f = opaque;
    int rc = 0;

    pthread_mutex_lock(&f->lock);
    FileDuring *during = f->during;
    pthread_mutex_unlock(&f->lock);
    if (during) {
        during(f, block, true);
    }
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

unsigned file_get(File *f, const unsigned *counter)
{
    pthread_mutex_lock(&f->lock);
    unsigned n = *counter;
    pthread_mutex_unlock(&f->lock);
    return n;
}

bool file_new(File *f, size_t block_size, unsigned limit, unsigned flags)
{
    static const FfArrayFile calls = {sizeof(calls), load, store, failed};
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

void file_free(File *f)
{
    ff_array_free(f->a);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    g_free(f->words);
}

uint64_t *file_map(File *f, uint64_t first, uint64_t n)
{
    void *at;

    call(ff_array_map(f->a, first * f->block_size, n * f->block_size, &at));
    return at;
}

/* ---- what is seen of it ---------------------------------------------------------------------- */

void assert_states(File *f, uint64_t first, const char *states, const char *changed)
{
    for (size_t i = 0; states[i]; i++) {
        FfArrayBlock b = {.size = sizeof(b)};
        call(ff_array_block(f->a, first + i, &b));
        g_assert_cmpint("ElLXF"[b.state], ==, states[i]);
        g_assert_cmpint(b.changed > 0 ? 'd' : '-', ==, changed[i]);
    }
}

unsigned file_mappings(File *f, uint64_t block)
{
    FfArrayBlock b = {.size = sizeof(b)};

    call(ff_array_block(f->a, block, &b));
    return b.mappings;
}

/* ---- touching -------------------------------------------------------------------------------- */

static bool by_calls;
static int pipes[2] = {-1, -1};

void touch_by_calls(bool on)
{
    by_calls = on;
    if (on && pipes[0] < 0) {
        g_assert_cmpint(pipe(pipes), ==, 0);
    }
}

uint64_t peek(const uint64_t *at)
{
    uint64_t word;

    if (!by_calls) {
        return *(const volatile uint64_t *)at;
    }
    g_assert_cmpint(write(pipes[1], at, 8), ==, 8);
    g_assert_cmpint(read(pipes[0], &word, 8), ==, 8);
    return word;
}

void poke(uint64_t *at, uint64_t word)
{
    if (!by_calls) {
        *(volatile uint64_t *)at = word;
        return;
    }
    g_assert_cmpint(write(pipes[1], &word, 8), ==, 8);
    g_assert_cmpint(read(pipes[0], at, 8), ==, 8);
}

gpointer read_word(gpointer at)
{
    return GSIZE_TO_POINTER(*(const volatile uint64_t *)at);
}

void file_wait_loading(File *f, unsigned n)
{
    pthread_mutex_lock(&f->lock);
    while (f->loading < n) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    pthread_mutex_unlock(&f->lock);
}

void file_hold(File *f, unsigned held)
{
    pthread_mutex_lock(&f->lock);
    f->held = held;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

void file_during(File *f, FileDuring *during)
{
    pthread_mutex_lock(&f->lock);
    f->during = during;
    pthread_mutex_unlock(&f->lock);
}

#define HUGE FF_ARRAY_HUGE
static const Mode modes[][4] = {
    {{FF_ARRAY_WRITE_FAULTS, false}, {FF_ARRAY_WRITE_FAULTS, true}, {0, false}, {0, true}},
    {{HUGE | FF_ARRAY_WRITE_FAULTS, false},
     {HUGE | FF_ARRAY_WRITE_FAULTS, true},
     {HUGE, false},
     {HUGE, true}}};

static void add(bool huge, const char *name, void (*fn)(gconstpointer), unsigned n)
{
    static const char *const names[] = {"faults", "faults-calls", "tables", "tables-calls"};

    for (unsigned i = 0; i < G_N_ELEMENTS(modes[0]); i += 4 / n) {
        g_autofree char *path =
            g_strdup_printf("/libfarfault/array/%s%s/%s", huge ? "huge/" : "", name, names[i]);
        g_test_add_data_func(path, &modes[huge][i], fn);
    }
}

void add_modes(const char *name, void (*fn)(gconstpointer), unsigned n)
{
    add(false, name, fn, n);
}

void add_huge_modes(const char *name, void (*fn)(gconstpointer), unsigned n)
{
    add(true, name, fn, n);
}
