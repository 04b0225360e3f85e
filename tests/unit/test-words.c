/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clients say of running at the moments at which the engine itself stops or starts the guest:
 * a source and a destination in this process, as in test-migration.c. What is said is a call from
 * the main loop, as the driver's; what QEMU has still to carry out is Side.words.
 */
#include "contract/state.h"
#include "tests/lib/side.h"

static void start_pair(Side *s, Side *d)
{
    side_start(d, "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    side_start(s, info->socket_address, -1);
}

static GAsyncQueue *late; /* what goes through it means nothing */
static gint loading;      /* atomic */

static void load_late(void)
{
    g_atomic_int_set(&loading, 1);
    g_main_context_wakeup(NULL);
    g_async_queue_pop(late);
}

static void obey_stop(Side *s)
{
    s->paused = true;
}

/* A client's stop is on its way to QEMU when the guest is about to be stopped: it is carried out
 * before the guest is asked what it was, so it arrives as the client was told. */
static void test_words(void)
{
    uint64_t a = 8 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    side_fill(s);
    s->words = obey_stop;
    start_pair(s, d);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_COMPLETED);
    g_assert_cmpstr(s->state->run_state, ==, "paused");
    g_assert_false(g_atomic_int_get(&d->runs));
    side_free(s);
    side_free(d);
}

static void expect_later(Side *s)
{
    bool holds;

    g_assert_cmpint(ff_migration_client_stop(s->m, &holds, NULL), ==, FF_STOP_LATER);
    g_assert_cmpint(holds, ==, s->role == FF_ROLE_SOURCE);
}

/* Said before the guest has been stopped: it is not answered before that. */
static void test_stop_stopping(void)
{
    uint64_t a = 8 << 20;
    bool holds;

    if (!side_possible()) {
        return;
    }
    late = g_async_queue_new();
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    side_fill(s);
    s->words = expect_later;
    d->loaded = load_late;
    g_atomic_int_set(&loading, 0);
    start_pair(s, d);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(g_atomic_int_get(&loading) && s->moved);
    g_assert_cmpint(ff_migration_client_stop(s->m, &holds, NULL), ==, FF_STOP_STANDS);
    g_async_queue_push(late, late);
    side_run_until(s->done && d->done);
    g_assert_cmpuint(s->moved, ==, 1);
    g_assert_cmpstr(s->state->run_state, ==, "paused");
    g_assert_false(g_atomic_int_get(&d->runs));
    side_free(s);
    side_free(d);
    g_async_queue_unref(late);
}

static void stop_and_cancel(Side *s)
{
    expect_later(s);
    g_assert_true(ff_migration_cancel(s->m, NULL));
}

/* The migration ends before the guest was stopped for it: the client's stop counts all the same. */
static void test_stop_never_stopped(void)
{
    uint64_t a = 8 << 20;
    bool holds;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    side_fill(s);
    s->words = stop_and_cancel;
    start_pair(s, d);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_CANCELLED);
    g_assert_cmpuint(s->moved, ==, 1);
    g_assert_false(g_atomic_int_get(&s->runs));
    g_assert_cmpint(ff_migration_client_stop(s->m, &holds, NULL), ==, FF_STOP_IS_VMMS);
    side_free(s);
    side_free(d);
}

/* The destination's QEMU is being told to start the guest: a stop in front of that would be undone.
 */
static void test_stop_starting(void)
{
    uint64_t a = 8 << 20;
    bool holds;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    side_fill(s);
    d->resuming = expect_later;
    start_pair(s, d);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpuint(d->moved, ==, 1);
    g_assert_true(g_atomic_int_get(&d->runs));
    g_assert_cmpint(ff_migration_client_stop(d->m, &holds, NULL), ==, FF_STOP_IS_VMMS);
    side_free(s);
    side_free(d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/words/under-way", test_words);
    g_test_add_func("/words/stopping", test_stop_stopping);
    g_test_add_func("/words/never-stopped", test_stop_never_stopped);
    g_test_add_func("/words/starting", test_stop_starting);
    return g_test_run();
}
