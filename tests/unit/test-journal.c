/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The journal: which steps it takes, what each leaves, that one which is not in the table ends the
 * process before it has stored anything, and that docs/architecture.md shows the table.
 */
#include <glib.h>
#include <string.h>

#include "migration/common/ownership.h"
#include "tests/lib/documented.h"

typedef void Step(FfStateHeader *);

static void grant(FfStateHeader *s)
{
    ff_ownership_grant(s, "running");
}

/* What a side does from the beginning to the end; each step after the one before. */
static const struct {
    FfRole role;
    Step *step;
    FfPhase phase;
    FfRunRight right;
} walks[] = {
    {FF_ROLE_SOURCE, ff_ownership_setup, FF_PHASE_SETUP, FF_RUN_MINE},
    {FF_ROLE_SOURCE, ff_ownership_stopped, FF_PHASE_STOPPED, FF_RUN_MINE},
    {FF_ROLE_SOURCE, ff_ownership_give, FF_PHASE_GRANTED, FF_RUN_GIVEN},
    {FF_ROLE_SOURCE, ff_ownership_take_back, FF_PHASE_STOPPED, FF_RUN_MINE},
    {FF_ROLE_SOURCE, ff_ownership_idle, FF_PHASE_IDLE, FF_RUN_NONE},
    {FF_ROLE_SOURCE, ff_ownership_setup, FF_PHASE_SETUP, FF_RUN_MINE},
    {FF_ROLE_SOURCE, ff_ownership_stopped, FF_PHASE_STOPPED, FF_RUN_MINE},
    {FF_ROLE_SOURCE, ff_ownership_give, FF_PHASE_GRANTED, FF_RUN_GIVEN},
    {FF_ROLE_SOURCE, ff_ownership_done, FF_PHASE_DONE, FF_RUN_GIVEN},
    {FF_ROLE_SOURCE, ff_ownership_idle, FF_PHASE_IDLE, FF_RUN_GIVEN},
    {FF_ROLE_DESTINATION, ff_ownership_setup, FF_PHASE_SETUP, FF_RUN_NONE},
    {FF_ROLE_DESTINATION, ff_ownership_loading, FF_PHASE_LOADING, FF_RUN_NONE},
    {FF_ROLE_DESTINATION, ff_ownership_loaded, FF_PHASE_LOADED, FF_RUN_NONE},
    {FF_ROLE_DESTINATION, grant, FF_PHASE_GRANTED, FF_RUN_MINE},
    {FF_ROLE_DESTINATION, ff_ownership_done, FF_PHASE_DONE, FF_RUN_MINE},
    {FF_ROLE_DESTINATION, ff_ownership_idle, FF_PHASE_IDLE, FF_RUN_MINE},
};

static void test_walk(void)
{
    g_autofree FfStateHeader *s = g_new0(FfStateHeader, 1);

    strcpy(s->run_state, "of an older migration");
    for (unsigned i = 0; i < G_N_ELEMENTS(walks); i++) {
        s->role = walks[i].role;
        walks[i].step(s);
        g_assert_cmpuint(ff_ownership_phase(s), ==, walks[i].phase);
        g_assert_cmpuint(ff_ownership_right(s), ==, walks[i].right);
        if (i == 0) {
            g_assert_cmpstr(s->run_state, ==, "");
        }
    }
    g_assert_cmpstr(s->run_state, ==, "running");
}

/* Steps that would make a second running guest, or lose one. */
static const struct {
    const char *name;
    FfRole role;
    FfPhase phase;
    FfRunRight right;
    Step *step;
} wrong[] = {
    {"roll-back-of-given", FF_ROLE_SOURCE, FF_PHASE_STOPPED, FF_RUN_GIVEN, ff_ownership_idle},
    {"roll-back-of-granted", FF_ROLE_SOURCE, FF_PHASE_GRANTED, FF_RUN_GIVEN, ff_ownership_idle},
    {"give-before-stop", FF_ROLE_SOURCE, FF_PHASE_SETUP, FF_RUN_MINE, ff_ownership_give},
    {"done-before-given", FF_ROLE_SOURCE, FF_PHASE_STOPPED, FF_RUN_MINE, ff_ownership_done},
    {"setup-over-granted", FF_ROLE_SOURCE, FF_PHASE_GRANTED, FF_RUN_GIVEN, ff_ownership_setup},
    {"grant-before-loaded", FF_ROLE_DESTINATION, FF_PHASE_LOADING, FF_RUN_NONE, grant},
    {"dead-after-grant", FF_ROLE_DESTINATION, FF_PHASE_GRANTED, FF_RUN_MINE, ff_ownership_dead},
    {"grant-of-the-dead", FF_ROLE_DESTINATION, FF_PHASE_DEAD, FF_RUN_NONE, grant},
    {"grant-at-the-source", FF_ROLE_SOURCE, FF_PHASE_STOPPED, FF_RUN_MINE, grant},
};

static void test_wrong(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);

    if (g_test_subprocess()) {
        g_autofree FfStateHeader *s = g_new0(FfStateHeader, 1);

        *s = (FfStateHeader){
            .role = wrong[i].role, .phase = wrong[i].phase, .run_right = wrong[i].right};
        wrong[i].step(s);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*of the journal is not allowed*");
}

static void test_documented(void)
{
    g_autofree char *table = ff_ownership_markdown();

    documented_check(table);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/journal/walk", test_walk);
    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autofree char *path = g_strconcat("/journal/wrong/", wrong[i].name, NULL);

        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_wrong);
    }
    g_test_add_func("/journal/documented", test_documented);
    return g_test_run();
}
