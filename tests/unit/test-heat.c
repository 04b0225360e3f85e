/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The order of what goes first: pages of more looks, of later looks, then by address. */
#include "migration/source/write-frequency.h"

static const uint64_t n_pages[] = {100, 5000};

static void expect(const GArray *order, guint i, unsigned block, uint64_t first, uint64_t n)
{
    g_assert_cmpuint(i, <, order->len);
    const FfRun *r = &g_array_index(order, FfRun, i);

    g_assert_cmpuint(r->block, ==, block);
    g_assert_cmpuint(r->first, ==, first);
    g_assert_cmpuint(r->n, ==, n);
}

static void test_order(void)
{
    g_autoptr(FfFrequency) heat = ff_frequency_new(n_pages, G_N_ELEMENTS(n_pages));

    ff_frequency_look(heat);
    ff_frequency_note(heat, 0, 0, 100);
    ff_frequency_look(heat);
    ff_frequency_note(heat, 1, 4999, 1);
    ff_frequency_note(heat, 0, 10, 1);
    ff_frequency_look(heat);
    ff_frequency_note(heat, 1, 7, 3);
    ff_frequency_note(heat, 0, 98, 2);
    g_autoptr(GArray) order = ff_frequency_order(heat, G_MAXUINT);

    g_assert_cmpuint(order->len, ==, 6);
    expect(order, 0, 0, 98, 2);   /* twice, and in the last look */
    expect(order, 1, 0, 10, 1);   /* twice */
    expect(order, 2, 1, 7, 3);    /* the last look */
    expect(order, 3, 1, 4999, 1); /* the one before */
    expect(order, 4, 0, 0, 10);   /* the first, by address */
    expect(order, 5, 0, 11, 87);
}

/* What was written long ago counts no more. */
static void test_forgets(void)
{
    g_autoptr(FfFrequency) heat = ff_frequency_new(n_pages, G_N_ELEMENTS(n_pages));

    ff_frequency_look(heat);
    ff_frequency_note(heat, 1, 0, 5000);
    for (unsigned i = 0; i < FF_HEAT_LOOKS - 1; i++) {
        ff_frequency_look(heat);
        ff_frequency_note(heat, 0, i, 1);
    }
    g_autoptr(GArray) order = ff_frequency_order(heat, G_MAXUINT);

    g_assert_cmpuint(order->len, ==, FF_HEAT_LOOKS);
    expect(order, 0, 0, FF_HEAT_LOOKS - 2, 1);
    expect(order, FF_HEAT_LOOKS - 1, 1, 0, 5000);
    ff_frequency_look(heat);
    g_autoptr(GArray) later = ff_frequency_order(heat, G_MAXUINT);

    g_assert_cmpuint(later->len, ==, FF_HEAT_LOOKS - 1);
    expect(later, 0, 0, FF_HEAT_LOOKS - 2, 1);
}

/* The coldest are left out. */
static void test_limit(void)
{
    g_autoptr(FfFrequency) heat = ff_frequency_new(n_pages, G_N_ELEMENTS(n_pages));

    ff_frequency_look(heat);
    for (uint64_t p = 0; p < 5000; p += 2) {
        ff_frequency_note(heat, 1, p, 1);
    }
    ff_frequency_look(heat);
    ff_frequency_note(heat, 1, 4000, 1);
    ff_frequency_note(heat, 0, 1, 1);
    g_autoptr(GArray) order = ff_frequency_order(heat, 4);

    g_assert_cmpuint(order->len, ==, 4);
    expect(order, 0, 1, 4000, 1);
    expect(order, 1, 0, 1, 1);
    expect(order, 2, 1, 0, 1);
    expect(order, 3, 1, 2, 1);
    g_autoptr(GArray) none = ff_frequency_order(heat, 0);

    g_assert_cmpuint(none->len, ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/heat/order", test_order);
    g_test_add_func("/heat/forgets", test_forgets);
    g_test_add_func("/heat/limit", test_limit);
    return g_test_run();
}
