/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sides that reconnect by themselves (x-farfault-auto-recover): after a break nobody is asked for
 * help, the statuses stay QEMU's, and in the end the memories are equal. When the time is over,
 * or the user pauses either side, both are postcopy-paused as ever.
 */
#include <string.h>

#include "contract/state.h"
#include "net/channel.h"
#include "tests/lib/cutter.h"
#include "tests/lib/pair.h"

#define LONG 60 /* seconds; no test waits for its end */

static Pair auto_pair(unsigned n_touchers, unsigned source_s, unsigned destination_s)
{
    Pair p = pair_idle(n_touchers);

    p.s->config.auto_recover_s = source_s;
    p.d->config.auto_recover_s = destination_s;
    side_start(p.d, "tcp:127.0.0.1:0", -1);
    return p;
}

static void check_history(const Side *s, const char *has, const char *has_not)
{
    if (!strstr(s->history->str, has) || (has_not && strstr(s->history->str, has_not))) {
        g_error("wanted '%s', not '%s': %s", has, has_not ? has_not : "", s->history->str);
    }
}

/* ---- cut once, at a frame -------------------------------------------------------------------- */

typedef struct {
    const char *name;
    FfFrameType type;
    bool after;
} Row;

static const Row rows[] = {
    {"grant", FF_FRAME_GRANT, false},     {"after-grant", FF_FRAME_GRANT, true},
    {"running", FF_FRAME_RUNNING, false}, {"end", FF_FRAME_END, false},
    {"done", FF_FRAME_DONE, false},
};

static void test_frame(gconstpointer data)
{
    const Row *row = data;

    if (!side_possible()) {
        return;
    }
    Pair p = auto_pair(1, LONG, LONG);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1);
    g_atomic_int_set(&c->type, row->type);
    g_atomic_int_set(&c->after, row->after);
    g_atomic_int_set(&c->once, true);
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to_end(&p);
    check_history(p.s, "postcopy-recover postcopy-active completed", "paused");
    check_history(p.d, "completed", "paused");
    cutter_free(c);
    pair_free(&p);
}

/* The source is done, and its word for that is lost: the destination is completed all the same, and
 * a client that asked for that is not kept waiting. */
static void test_last_word(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = auto_pair(1, LONG, LONG);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1);
    g_atomic_int_set(&c->type, FF_FRAME_FINISHED);
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(p.s->done && p.d->status == FF_STATUS_COMPLETED);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_COMPLETED);
    g_assert_false(p.d->done);
    pair_check_moved(&p);
    cutter_free(c);
    pair_free(&p);
}

/* ---- cut again and again --------------------------------------------------------------------- */

static void test_cut(gconstpointer data)
{
    unsigned row = GPOINTER_TO_UINT(data);

    if (!side_possible()) {
        return;
    }
    Pair p = auto_pair(2, LONG, LONG);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, 400000 + row * 1000003);
    g_atomic_int_set(&c->renews, true);
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    /* A cut may take away the source's last word: then the destination, which is completed, waits
     * long for a source that may not know (test_last_word()). */
    side_run_until(p.s->done && (p.d->done || p.d->status == FF_STATUS_COMPLETED));
    if (p.s->status == FF_STATUS_COMPLETED) {
        pair_check_moved(&p);
    }
    check_history(p.s, "setup active", "paused");
    g_test_message("%s", p.s->history->str);
    cutter_free(c);
    pair_free(&p);
}

/* ---- nobody comes back ----------------------------------------------------------------------- */

static void test_in_vain(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = auto_pair(0, 1, 1);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1);
    g_atomic_int_set(&c->type, FF_FRAME_RUNNING);
    g_atomic_int_set(&c->after, true);
    g_atomic_int_set(&c->leaves, true);
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to(&p, FF_STATUS_POSTCOPY_PAUSED);
    check_history(p.s, "postcopy-active postcopy-recover postcopy-paused", NULL);
    check_history(p.d, "postcopy-active postcopy-recover postcopy-paused", NULL);
    pair_resume_at(&p, to);
    pair_run_to_end(&p);
    cutter_free(c);
    pair_free(&p);
}

/* ---- the user wants it paused
 * ------------------------------------------------------------------------
 */

static void test_pause(gconstpointer at_source)
{
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = auto_pair(0, LONG, LONG);
    g_autofree char *to = pair_address(p.d);
    side_start(p.s, to, -1);
    ff_migration_set_bandwidth(p.s->m, 0, 65536);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to(&p, FF_STATUS_POSTCOPY_ACTIVE);
    ff_migration_pause(at_source ? p.s->m : p.d->m, &error);
    g_assert_no_error(error);
    pair_run_to(&p, FF_STATUS_POSTCOPY_PAUSED);
    check_history(p.s, "postcopy-active postcopy-paused", "recover");
    check_history(p.d, "postcopy-active postcopy-paused", "recover");
    ff_migration_set_bandwidth(p.s->m, 0, 0);
    pair_resume_at(&p, to);
    pair_run_to_end(&p);
    pair_free(&p);
}

/* The word that it is paused comes later than the ends of the other connections would. */
static void test_pause_late(gconstpointer at_source)
{
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = auto_pair(0, LONG, LONG);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1);
    g_atomic_int_set(&c->late, FF_FRAME_PAUSED);
    side_start(p.s, c->uri, -1);
    ff_migration_set_bandwidth(p.s->m, 0, 65536);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to(&p, FF_STATUS_POSTCOPY_ACTIVE);
    ff_migration_pause(at_source ? p.s->m : p.d->m, &error);
    g_assert_no_error(error);
    side_run_until(p.s->status != FF_STATUS_POSTCOPY_ACTIVE &&
                   p.d->status != FF_STATUS_POSTCOPY_ACTIVE);
    check_history(p.s, "postcopy-active postcopy-paused", "recover");
    check_history(p.d, "postcopy-active postcopy-paused", "recover");
    ff_migration_set_bandwidth(p.s->m, 0, 0);
    pair_resume_at(&p, to);
    pair_run_to_end(&p);
    cutter_free(c);
    pair_free(&p);
}

/* What the user has paused and resumed is not paused for good: the next break is nobody's wish. */
static void test_pause_over(void)
{
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = auto_pair(0, LONG, LONG);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1);
    side_start(p.s, c->uri, -1);
    ff_migration_set_bandwidth(p.s->m, 0, 65536);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to(&p, FF_STATUS_POSTCOPY_ACTIVE);
    ff_migration_pause(p.d->m, &error);
    g_assert_no_error(error);
    pair_run_to(&p, FF_STATUS_POSTCOPY_PAUSED);
    pair_resume_at(&p, c->uri);
    pair_run_to(&p, FF_STATUS_POSTCOPY_ACTIVE);
    g_string_truncate(p.d->history, 0);
    cutter_cut(c);
    side_run_until(p.d->history->len);
    ff_migration_set_bandwidth(p.s->m, 0, 0);
    side_run_until(p.s->done && p.d->done);
    check_history(p.d, "postcopy-recover postcopy-active completed", "paused");
    pair_check_moved(&p);
    cutter_free(c);
    pair_free(&p);
}

/* While it tries: it stops, and is paused. */
static void test_pause_between(void)
{
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = auto_pair(0, LONG, LONG);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1);
    g_atomic_int_set(&c->type, FF_FRAME_GRANT);
    g_atomic_int_set(&c->after, true);
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to(&p, FF_STATUS_POSTCOPY_RECOVER);
    cutter_free(c);
    ff_migration_pause(p.s->m, &error);
    g_assert_no_error(error);
    ff_migration_pause(p.d->m, &error);
    g_assert_no_error(error);
    pair_run_to(&p, FF_STATUS_POSTCOPY_PAUSED);
    pair_resume_at(&p, to);
    pair_run_to_end(&p);
    pair_free(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/auto-recover/frame/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_frame);
    }
    g_test_add_func("/auto-recover/last-word", test_last_word);
    for (unsigned i = 0; i < 6; i++) {
        g_autofree char *path = g_strdup_printf("/auto-recover/cut/%u", i);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_cut);
    }
    g_test_add_func("/auto-recover/in-vain", test_in_vain);
    g_test_add_data_func("/auto-recover/pause/source", "source", test_pause);
    g_test_add_data_func("/auto-recover/pause/destination", NULL, test_pause);
    g_test_add_data_func("/auto-recover/pause/late/source", "source", test_pause_late);
    g_test_add_data_func("/auto-recover/pause/late/destination", NULL, test_pause_late);
    g_test_add_func("/auto-recover/pause/over", test_pause_over);
    g_test_add_func("/auto-recover/pause/between", test_pause_between);
    return g_test_run();
}
