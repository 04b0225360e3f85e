/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When the relay starts an engine again: the policy alone, with a clock of the test's. */
#include "guest/relay/restart.h"

#define S ((gint64)G_USEC_PER_SEC)

/* An engine that dies as soon as it runs. */
static void test_deaths(void)
{
    static const unsigned pauses[] = {0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60};
    FfRestart r = {0};
    gint64 now = 1000 * S;

    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(pauses); i++) {
            ff_restart_started(&r, now);
            gint64 next = ff_restart_failed(&r, now, true);
            g_assert_cmpint(next - now, ==, pauses[i] * S);
            now = next;
        }
        /* One that has lived for a minute: what was before is forgotten. */
        ff_restart_started(&r, now);
        now += 61 * S;
        g_assert_cmpint(ff_restart_failed(&r, now, true), ==, now);
        ff_restart_ended_well(&r);
    }
}

/* There is no last time: a day of it. */
static void test_for_ever(void)
{
    FfRestart r = {0};
    gint64 now = S, end = 86400 * S;
    unsigned starts = 0;

    while (now < end) {
        ff_restart_started(&r, now);
        gint64 next = ff_restart_failed(&r, now, starts % 2);
        g_assert_cmpint(next - now, <=, 60 * S);
        now = next;
        starts++;
    }
    g_assert_cmpuint(starts, >, 1400);
    g_assert_cmpuint(starts, <, 1500);
}

/* The pause is one between starts. */
static void test_works_for_a_while(void)
{
    FfRestart r = {0};
    gint64 now = 5 * S;

    for (unsigned i = 0; i < 20; i++) {
        ff_restart_started(&r, now);
        now += 59 * S;
        gint64 next = ff_restart_failed(&r, now, true);
        g_assert_cmpint(next - now, <=, S);
        now = next;
    }
}

static void test_cannot_start(void)
{
    static const unsigned pauses[] = {1, 2, 4, 8, 16, 32, 60, 60};
    FfRestart r = {0};
    gint64 now = 77 * S;

    for (unsigned i = 0; i < G_N_ELEMENTS(pauses); i++) {
        ff_restart_started(&r, now);
        gint64 next = ff_restart_failed(&r, now, false);
        g_assert_cmpint(next - now, ==, pauses[i] * S);
        now = next;
    }
}

static void test_hurry(void)
{
    FfRestart r = {0};
    gint64 now = 3 * S;

    g_assert_cmpint(ff_restart_hurry(&r, now, false), ==, now);
    for (unsigned i = 0; i < 8; i++) {
        ff_restart_started(&r, now);
        ff_restart_failed(&r, now, true);
    }
    g_assert_cmpint(ff_restart_hurry(&r, now, true), ==, now);
    g_assert_cmpint(ff_restart_hurry(&r, now, false), ==, now + S);
    g_assert_cmpint(ff_restart_hurry(&r, now + 5 * S, false), ==, now + 5 * S);
    ff_restart_ended_well(&r);
    g_assert_cmpint(ff_restart_hurry(&r, now, false), ==, now);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/restart/deaths", test_deaths);
    g_test_add_func("/restart/for-ever", test_for_ever);
    g_test_add_func("/restart/works-for-a-while", test_works_for_a_while);
    g_test_add_func("/restart/cannot-start", test_cannot_start);
    g_test_add_func("/restart/hurry", test_hurry);
    return g_test_run();
}
