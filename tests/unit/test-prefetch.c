/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The policy of the urgent path: streams in the sequence of requests. */
#include <glib.h>

#include "uffd/prefetch.h"

/* Asks for PAGE as a guest would that finds what was sent ahead in memory. */
typedef struct {
    FfPrefetch p;
    uint8_t have[1 << 20];
    unsigned asked, told;
} Guest;

static void touch(Guest *g, int64_t page)
{
    FfAhead a;

    if (g->have[page]) {
        return;
    }
    g->have[page] = 1;
    g->asked++;
    ff_prefetch_request(&g->p, 0, page, &a);
    for (unsigned i = 0; i < a.n; i++) {
        int64_t at = a.first + (int64_t)i * a.step;
        if (at >= 0 && at < (int64_t)G_N_ELEMENTS(g->have)) {
            g->told += !g->have[at];
            g->have[at] = 1;
        }
    }
}

static void test_walks(void)
{
    static const struct {
        int64_t from, step;
    } walk[] = {{1000, 1}, {900000, -1}, {0, 64}, {1 << 19, -100}, {5, 3}};

    for (unsigned i = 0; i < G_N_ELEMENTS(walk); i++) {
        g_autofree Guest *g = g_new0(Guest, 1);
        for (int64_t k = 0; k < 4000; k++) {
            touch(g, walk[i].from + k * walk[i].step);
        }
        /* Three requests to know it, a few to open the window, then one for each window. Small
         * steps are taken page by page. */
        int64_t each = ABS(walk[i].step) <= FF_PREFETCH_SLACK ? ABS(walk[i].step) : 1;
        g_assert_cmpuint(g->asked, <, 10 + 4000 * each / (FF_PREFETCH_MAX / 2));
        g_assert_cmpuint(g->told, <=, 4000 * 3 + 2 * FF_PREFETCH_MAX);
    }
}

/* Streams among single requests, which are many times as many. */
static void test_mixed(void)
{
    g_autofree Guest *g = g_new0(Guest, 1);
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    unsigned streams = 0;

    for (int64_t k = 0; k < 4000; k++) {
        unsigned before = g->asked;
        touch(g, 10000 + k);
        touch(g, 600000 - k);
        streams += g->asked - before;
        touch(g, g_rand_int_range(rand, 0, G_N_ELEMENTS(g->have)));
    }
    g_assert_cmpuint(streams, <, 600);
}

static void test_random(void)
{
    g_autofree Guest *g = g_new0(Guest, 1);
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);

    for (unsigned k = 0; k < 20000; k++) {
        touch(g, g_rand_int_range(rand, 0, G_N_ELEMENTS(g->have)));
    }
    /* Next to nothing is guessed. */
    g_assert_cmpuint(g->told, <, 20000 / 50);
}

static void test_blocks(void)
{
    FfPrefetch p = {0};
    FfAhead a;

    /* Neighbours in two blocks are none. */
    g_assert_false(ff_prefetch_request(&p, 0, 10, &a));
    g_assert_false(ff_prefetch_request(&p, 1, 11, &a));
    g_assert_true(ff_prefetch_request(&p, 0, 11, &a));
    g_assert_cmpuint(a.block, ==, 0);
    g_assert_cmpint(a.first, ==, 12);
    g_assert_cmpuint(a.n, ==, FF_PREFETCH_FIRST);
    /* Asked for twice (a new connection asks again): no step. */
    g_assert_false(ff_prefetch_request(&p, 1, 11, &a));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/prefetch/walks", test_walks);
    g_test_add_func("/prefetch/mixed", test_mixed);
    g_test_add_func("/prefetch/random", test_random);
    g_test_add_func("/prefetch/blocks", test_blocks);
    return g_test_run();
}
