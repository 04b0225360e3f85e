/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The limit of what a snapshot writes, and what becomes of a wait when it is changed. */
#include <glib.h>

#include "content/capture/limit.h"

#define HOUR ((int64_t)3600 * G_USEC_PER_SEC)

static void test_keeps(void)
{
    FfLimit l = {0};

    g_assert_cmpint(ff_limit_delay(&l, 1000), ==, 0);
    ff_limit_charge(&l, 1000, 1000 * 3600);
    int64_t us = ff_limit_delay(&l, 1000);
    g_assert_cmpint(us, >, HOUR / 2);
    g_assert_cmpint(us, <=, HOUR);
    ff_limit_charge(&l, 1000, 1000 * 3600);
    g_assert_cmpint(ff_limit_delay(&l, 1000), >, us);
}

/* Nobody waits an hour for what was slow a moment ago. */
static void test_changed(void)
{
    const uint64_t others[] = {0, 2000, 500};

    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
        FfLimit l = {0};

        ff_limit_charge(&l, 1000, 1000 * 3600);
        g_assert_cmpint(ff_limit_delay(&l, others[i]), ==, 0);
        ff_limit_charge(&l, others[i], others[i] * 3600);
        g_assert_true((ff_limit_delay(&l, others[i]) > 0) == (others[i] > 0));
    }
}

static void test_none(void)
{
    FfLimit l = {0};

    ff_limit_charge(&l, 0, G_MAXUINT64);
    g_assert_cmpint(ff_limit_delay(&l, 0), ==, 0);
    g_assert_cmpint(ff_limit_delay(&l, 1000), ==, 0);
}

/* While the moment comes: a delay is never one without an end. */
static void test_moment(void)
{
    for (unsigned i = 0; i < 1000000; i++) {
        FfLimit l = {.rate = 1000, .due = g_get_monotonic_time() + 1};

        g_assert_cmpint(ff_limit_delay(&l, 1000), >=, 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/limit/keeps", test_keeps);
    g_test_add_func("/limit/changed", test_changed);
    g_test_add_func("/limit/none", test_none);
    g_test_add_func("/limit/moment", test_moment);
    return g_test_run();
}
