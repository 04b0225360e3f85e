/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A peer of which nothing is heard, over connections that stay open: whatever the moment, both
 * sides notice it by themselves; before the grant the guest continues at the source, after it
 * both are paused and can be recovered. And a peer that is only quiet is none of that.
 */
#include <string.h>

#include "contract/state.h"
#include "net/channel.h"
#include "tests/lib/cutter.h"
#include "tests/lib/pair.h"

#define TIMEOUT_MS 1000
#define PATIENCE_MS 60000 /* of the test: the machine may be busy */

static Pair stall_pair(unsigned n_touchers)
{
    Pair p = pair_idle(n_touchers);

    p.s->config.peer_timeout_ms = p.d->config.peer_timeout_ms = TIMEOUT_MS;
    side_start(p.d, "tcp:127.0.0.1:0", -1);
    return p;
}

static gboolean impatient(gpointer name)
{
    g_error("%s: nobody noticed", (char *)name);
    return G_SOURCE_REMOVE;
}

static void check_error(Side *s, const char *part)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);

    g_assert_nonnull(info->error_desc);
    if (!strstr(info->error_desc, part)) {
        g_error("'%s' is not in '%s'", part, info->error_desc);
    }
}

/* ---- everything stops at a frame ------------------------------------------------------------- */

typedef enum {
    ROLLS_BACK, /* the guest stays at the source; the destination has ended */
    DOUBT,      /* the guest stays at the source; the destination cannot know, and never runs */
    PAUSES,     /* both are paused, and the recovery succeeds */
} Outcome;

typedef struct {
    const char *name;
    FfFrameType type;
    bool after;
    Outcome outcome;
} Row;

static const Row rows[] = {
    {"prepare", FF_FRAME_PREPARE, false, ROLLS_BACK},
    {"ready", FF_FRAME_READY, false, ROLLS_BACK},
    {"device", FF_FRAME_DEVICE, true, ROLLS_BACK},
    {"loaded", FF_FRAME_LOADED, false, DOUBT},
    {"grant", FF_FRAME_GRANT, false, PAUSES},
    {"after-grant", FF_FRAME_GRANT, true, PAUSES},
    {"running", FF_FRAME_RUNNING, false, PAUSES},
    {"pages", FF_FRAME_PAGES, true, ROLLS_BACK}, /* of those that device state needs */
    {"end", FF_FRAME_END, false, PAUSES},
};

static void test_frame(gconstpointer data)
{
    const Row *row = data;

    if (!side_possible()) {
        return;
    }
    Pair p = stall_pair(1);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1);
    guint timer = g_timeout_add(PATIENCE_MS, impatient, (gpointer)row->name);
    g_atomic_int_set(&c->type, row->type);
    g_atomic_int_set(&c->after, row->after);
    /* With the last page, which may be quicker than END, the destination says DONE. */
    g_atomic_int_set(&c->also, row->type == FF_FRAME_END ? FF_FRAME_DONE : 0);
    g_atomic_int_set(&c->freezes, true);
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(pair_over(p.s) && (pair_over(p.d) || p.d->status == FF_STATUS_COMPLETED));
    if (row->outcome == PAUSES) {
        g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
        check_error(p.s, "nothing came from the destination");
        if (row->type != FF_FRAME_END) { /* with the last page it needs nobody any more */
            g_assert_cmpint(p.d->status, ==, FF_STATUS_POSTCOPY_PAUSED);
            check_error(p.d, "nothing came from the source");
        }
        g_assert_false(g_atomic_int_get(&p.s->runs));
        pair_resume_at(&p, to);
        side_run_until(p.s->done && p.d->done);
        pair_check_moved(&p);
    } else {
        g_assert_cmpint(p.s->status, ==, FF_STATUS_FAILED);
        g_assert_cmpint(p.d->status, ==,
                        row->outcome == DOUBT ? FF_STATUS_POSTCOPY_PAUSED : FF_STATUS_FAILED);
        g_assert_true(g_atomic_int_get(&p.s->runs));
        g_assert_false(g_atomic_int_get(&p.d->runs));
    }
    g_source_remove(timer);
    cutter_free(c);
    pair_free(&p);
}

/* ---- nobody has anything to say -------------------------------------------------------------- */

static gboolean set(gpointer flag)
{
    *(bool *)flag = true;
    return G_SOURCE_REMOVE;
}

/* The guest is stopped and the client takes its time: several timeouts pass. TCP and a shared
 * connection, unix socket. */
static void test_quiet(gconstpointer data)
{
    bool waited = false;

    if (!side_possible()) {
        return;
    }
    Pair p = stall_pair(0);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = data ? cutter_new(to, -1) : NULL;
    p.s->config.pause_before_switchover = true;
    side_start(p.s, c ? c->uri : to, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(p.s->status == FF_STATUS_PRE_SWITCHOVER);
    g_timeout_add(3 * TIMEOUT_MS, set, &waited);
    side_run_until(waited || p.s->done);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_PRE_SWITCHOVER);
    ff_migration_continue(p.s->m, FF_STATUS_PRE_SWITCHOVER, NULL);
    pair_run_to_end(&p);
    g_clear_pointer(&c, cutter_free);
    pair_free(&p);
}

/* A precopy that lasts for several timeouts. */
static void test_quiet_precopy(void)
{
    bool waited = false;

    if (!side_possible()) {
        return;
    }
    Pair p = stall_pair(1);
    g_autofree char *to = pair_address(p.d);
    p.s->track = true;
    p.s->config.client_switches = true;
    p.s->config.max_bandwidth = 100 << 10; /* it would take minutes */
    side_start(p.s, to, -1);
    side_run_until(p.s->status == FF_STATUS_ACTIVE);
    g_timeout_add(3 * TIMEOUT_MS, set, &waited);
    side_run_until(waited || p.s->done);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_ACTIVE);
    g_assert_cmpint(p.d->status, ==, FF_STATUS_ACTIVE);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to_end(&p);
    pair_free(&p);
}

/* ---- its engine lives, its QEMU does not ----------------------------------------------------- */

static void test_hanging_load(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = stall_pair(0);
    g_autofree char *to = pair_address(p.d);
    guint timer = g_timeout_add(PATIENCE_MS, impatient, (gpointer) "load");
    p.d->hang_load = true;
    side_start(p.s, to, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(p.s->done && p.d->done);
    check_error(p.s, "has not loaded the device state");
    g_assert_cmpint(p.s->status, ==, FF_STATUS_FAILED);
    g_assert_cmpint(p.d->status, ==, FF_STATUS_FAILED);
    g_assert_true(g_atomic_int_get(&p.s->runs));
    g_assert_false(g_atomic_int_get(&p.d->runs));
    g_source_remove(timer);
    pair_free(&p);
}

/* ---- every page is there, and the last word does not come ------------------------------------ */

static GMutex hang; /* while it is locked the source's VMM answers nothing */
static gint hangs;  /* atomic: it was asked */

/* The source's VMM must get its settings back, which is right before FINISHED. */
static void hang_at_end(Side *s, bool ours)
{
    if (ours || s->state->phase != FF_PHASE_DONE) {
        return;
    }
    g_atomic_int_set(&hangs, 1);
    g_main_context_wakeup(NULL);
    g_mutex_lock(&hang);
    g_mutex_unlock(&hang);
}

/* The source's engine lives and says ALIVE. The destination needs it no more: the client's
 * migrate-pause, or the time that a silent peer has, ends its wait. */
static void test_last_word(gconstpointer pauses)
{
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = stall_pair(1);
    g_autofree char *to = pair_address(p.d);
    guint timer = g_timeout_add(PATIENCE_MS, impatient, (gpointer) "last-word");
    p.s->settings = hang_at_end;
    g_atomic_int_set(&hangs, 0);
    g_mutex_lock(&hang);
    side_start(p.s, to, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(g_atomic_int_get(&hangs));
    g_assert_cmpint(p.d->status, ==, FF_STATUS_POSTCOPY_ACTIVE);
    if (pauses) {
        ff_migration_pause(p.d->m, &error);
        g_assert_no_error(error);
    }
    side_run_until(p.d->status == FF_STATUS_COMPLETED);
    g_assert_cmpuint(p.d->state->phase, ==, FF_PHASE_DONE);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_ACTIVE);
    g_mutex_unlock(&hang);
    side_run_until(p.s->done);
    g_source_remove(timer);
    pair_check_moved(&p);
    pair_free(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/stall/frame/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_frame);
    }
    g_test_add_data_func("/stall/quiet/tcp", NULL, test_quiet);
    g_test_add_data_func("/stall/quiet/unix", "unix", test_quiet);
    g_test_add_func("/stall/quiet/precopy", test_quiet_precopy);
    g_test_add_func("/stall/hanging-load", test_hanging_load);
    g_test_add_data_func("/stall/last-word/paused", "pauses", test_last_word);
    g_test_add_data_func("/stall/last-word/time", NULL, test_last_word);
    return g_test_run();
}
