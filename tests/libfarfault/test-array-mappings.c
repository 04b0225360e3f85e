/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mappings of an array: changes lie over the content in all of them, also in those that are made
 * later, until they are dropped or stored; whichever address is touched, at an end, beside a gap or
 * beside another mapping, is the right block; and store() touches what is not loaded.
 */
#include <errno.h>
#include <string.h>

#include "tests/libfarfault/blocks.h"

/* ---- what lies over the content -------------------------------------------------------------- */

static void test_overlay(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, PS, 0, mode->flags | FF_ARRAY_RANDOM)) {
        return;
    }
    touch_by_calls(mode->by_calls);
    uint64_t *one = file_map(&f, 100, 4);
    /* What is only read is the content, and not changed. */
    g_assert_cmpuint(peek(one), ==, 100);
    g_assert_cmpuint(peek(one + 3 * WORDS), ==, 103);
    assert_states(&f, 100, "LEEL", "----");
    /* The first writes, to what was read and to what was not. */
    poke(one, 10);
    poke(one + 2 * WORDS, 12);
    g_assert_cmpuint(peek(one + 1), ==, 100);
    g_assert_cmpuint(peek(one + 2 * WORDS + 1), ==, 102);
    /* A mapping that is made now shows them, without a load: those of one it was not touched in. */
    uint64_t *two = file_map(&f, 100, 4);
    g_assert_cmpuint(file_mappings(&f, 100), ==, 1);
    g_assert_cmpuint(peek(two), ==, 10);
    g_assert_cmpuint(peek(two + 2 * WORDS), ==, 12);
    g_assert_cmpuint(file_mappings(&f, 100), ==, 2);
    g_assert_cmpuint(file_mappings(&f, 103), ==, 1);
    g_assert_cmpuint(file_get(&f, &f.n_loads), ==, 3);
    /* A write by the second is there in the first at once, and the other way round. */
    poke(two + 1, 11);
    g_assert_cmpuint(peek(one + 1), ==, 11);
    poke(one + 2 * WORDS + 1, 13);
    g_assert_cmpuint(peek(two + 2 * WORDS + 1), ==, 13);
    /* Dropped: the content shows again in both, and each block is loaded once for both. */
    poke(one + WORDS, 14); /* the second has not touched that */
    call(ff_array_abort(f.a));
    assert_states(&f, 100, "EEEL", "----");
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(file_mappings(&f, 100 + i), ==, 0);
        g_assert_cmpuint(peek(one + i * WORDS), ==, 100 + i);
        g_assert_cmpuint(peek(two + i * WORDS + 1), ==, 100 + i);
        g_assert_cmpuint(file_mappings(&f, 100 + i), ==, 2);
        g_assert_cmpuint(file_get(&f, &f.loads[100 + i]), ==, 2);
    }
    g_assert_cmpuint(file_get(&f, &f.loads[103]), ==, 1);
    /* Stored: one that both have, one that only one has. Nothing is loaded again. */
    poke(two, 20);
    poke(two + 3 * WORDS, 23);
    call(ff_array_unmap(f.a, one));
    g_assert_cmpuint(file_mappings(&f, 100), ==, 1);
    uint64_t *three = file_map(&f, 100, 1);
    g_assert_cmpuint(peek(three), ==, 20);
    unsigned loads = file_get(&f, &f.n_loads);
    call(ff_array_commit(f.a));
    assert_states(&f, 100, "LLLL", "----");
    g_assert_cmpuint(f.stores[100] + f.stores[103], ==, 2);
    g_assert_cmpuint(f.n_stores, ==, 2);
    g_assert_cmpuint(peek(three), ==, 20);
    g_assert_cmpuint(peek(two + 3 * WORDS), ==, 23);
    g_assert_cmpuint(file_get(&f, &f.n_loads), ==, loads);
    /* The content itself: a change that comes over it now, and is dropped, shows that. */
    poke(three, 30);
    call(ff_array_invalidate(f.a, 100 * PS, PS));
    g_assert_cmpuint(peek(two), ==, 20);
    g_assert_cmpuint(peek(three + 1), ==, 100);
    /* Without any mapping what was changed stays. */
    poke(two, 40);
    call(ff_array_unmap(f.a, two));
    call(ff_array_unmap(f.a, three));
    assert_states(&f, 100, "L", "d");
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.words[100 * WORDS], ==, 40);
    file_free(&f);
}

/* ---- which mapping, which block -------------------------------------------------------------- */

#define MAPS 16

typedef struct {
    char *at;          /* NULL: unmapped */
    uint64_t first, n; /* blocks */
} Mapped;

static int by_address(const void *a, const void *b)
{
    const Mapped *one = a, *two = b;

    return (one->at > two->at) - (one->at < two->at);
}

/* The first and the last word of M, and what is on either side of each block's edge. */
static void assert_ends(const Mapped *m)
{
    for (uint64_t i = 0; i < m->n; i++) {
        uint64_t *block = (uint64_t *)(void *)m->at + i * WORDS;
        g_assert_cmpuint(peek(block + WORDS - 1), ==, m->first + i);
        g_assert_cmpuint(peek(block), ==, m->first + i);
    }
}

static Mapped map_some(File *f, unsigned i)
{
    /* No two neighbours in the array, so that the next mapping's block is not the next one. */
    Mapped m = {.first = i * 37 % (BLOCKS - 4), .n = 1 + i % 3};

    m.at = (char *)file_map(f, m.first, m.n);
    return m;
}

static void test_lookup(gconstpointer data)
{
    const Mode *mode = data;
    Mapped maps[MAPS];
    unsigned adjacent = 0;
    File f;

    if (!file_new(&f, PS, 0, mode->flags | FF_ARRAY_RANDOM)) {
        return;
    }
    touch_by_calls(mode->by_calls);
    for (unsigned i = 0; i < MAPS; i++) {
        maps[i] = map_some(&f, i);
    }
    qsort(maps, MAPS, sizeof(*maps), by_address);
    for (unsigned i = 0; i + 1 < MAPS; i++) {
        char *end = maps[i].at + maps[i].n * PS;
        g_assert_true(end <= maps[i + 1].at);
        adjacent += end == maps[i + 1].at;
    }
    g_assert_cmpuint(adjacent, >, 0);     /* the kernel fills from above */
    for (unsigned i = 0; i < MAPS; i++) { /* the upper end first, of every other one first */
        assert_ends(&maps[(i * 2 + i / (MAPS / 2)) % MAPS]);
    }
    /* Gaps: what is beside them is as it was, and is what it was when it is loaded again. */
    for (unsigned i = 1; i < MAPS; i += 2) {
        g_assert_cmpint(ff_array_unmap(f.a, maps[i].at + PS / 2), ==, -EINVAL);
        call(ff_array_unmap(f.a, maps[i].at));
        g_assert_cmpint(ff_array_unmap(f.a, maps[i].at), ==, -EINVAL);
        maps[i].at = NULL;
    }
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), >, 0);
    for (unsigned i = 0; i < MAPS; i += 2) {
        assert_ends(&maps[i]);
    }
    /* Others in their place, of other blocks. */
    for (unsigned i = 1; i < MAPS; i += 2) {
        maps[i] = map_some(&f, MAPS + i);
    }
    for (unsigned i = 0; i < MAPS; i++) {
        assert_ends(&maps[i]);
    }
    /* A write at an end is of that block alone. */
    for (unsigned i = 0; i < MAPS; i++) {
        poke((uint64_t *)(void *)maps[i].at + maps[i].n * WORDS - 1, maps[i].first + maps[i].n - 1);
    }
    call(ff_array_commit(f.a));
    for (unsigned i = 0; i < BLOCKS; i++) {
        bool is_end = false;
        for (unsigned k = 0; k < MAPS; k++) {
            is_end |= i == maps[k].first + maps[k].n - 1;
        }
        g_assert_cmpuint(f.stores[i], ==, is_end);
    }
    for (unsigned i = 0; i < MAPS; i++) {
        call(ff_array_unmap(f.a, maps[i].at));
    }
    file_free(&f);
}

/* ---- in a call of the program's -------------------------------------------------------------- */

static gpointer invalidate(gpointer opaque)
{
    const File *f = opaque;

    return GINT_TO_POINTER(ff_array_invalidate(f->a, 0, PS));
}

/* store() touches a block that is not loaded, and one that is; and waits for a thread that
 * invalidates, which is told that it is not the time. */
static void in_store(File *f, uint64_t block, bool store)
{
    if (!store) {
        return;
    }
    g_assert_cmpuint(*(const volatile uint64_t *)(f->nested + 20 * WORDS), ==, 20);
    g_assert_cmpuint(*(const volatile uint64_t *)(f->nested + block * WORDS), ==, 1000 + block);
    GThread *other = g_thread_new("invalidate", invalidate, f);
    g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(other)), ==, -EBUSY);
}

static void test_in_store(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, PS, 0, mode->flags | FF_ARRAY_RANDOM)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0);
    p[2 * WORDS] = 1002, p[5 * WORDS] = 1005;
    assert_states(&f, 20, "E", "-");
    f.nested = p; /* of store() alone: loads of block 8 and later look at it as little */
    file_during(&f, in_store);
    call(ff_array_commit(f.a));
    assert_states(&f, 20, "L", "-");
    g_assert_cmpuint(f.n_stores, ==, 2);
    g_assert_cmpuint(f.words[5 * WORDS], ==, 1005);
    call(ff_array_invalidate(f.a, 0, PS)); /* now it is */
    file_free(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_modes("overlay", test_overlay, 4);
    add_modes("lookup", test_lookup, 4);
    add_modes("in-store", test_in_store, 2);
    return g_test_run();
}
