/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See ownership.h. Stores have release order: the observer is the engine (or the relay) that looks
 * after a crash of this one, and what was written before a step is there when the step is.
 *
 * Thread: the coordinator; after its end, where it has left the migration to QEMU, the driver's. No
 * locks.
 */
#include "migration/common/ownership.h"

#include <glib.h>

#include "base/trace-mark.h"
#include "contract/names.h"

typedef enum {
    STEP_SETUP,
    STEP_STOPPED,
    STEP_RESUMED,
    STEP_GIVE,
    STEP_TAKE_BACK,
    STEP_RECLAIM,
    STEP_LOADING,
    STEP_LOADED,
    STEP_GRANT,
    STEP_DONE,
    STEP_DEAD,
    STEP_IDLE,
} Step;

typedef enum { RIGHT_FIRST, PHASE_FIRST } Order;

#define KEEP (-1)
#define RIGHT_NONE FF_RUN_NONE
#define RIGHT_MINE FF_RUN_MINE
#define RIGHT_GIVEN FF_RUN_GIVEN
#define RIGHT_KEEP KEEP

/* Sets of phases and of rights, as bits. */
#define BIT(phase) (1u << FF_PHASE_##phase)
#define P1(a) (BIT(a))
#define P2(a, b) (BIT(a) | BIT(b))
#define P3(a, b, c) (BIT(a) | BIT(b) | BIT(c))
#define P5(a, b, c, d, e) (BIT(a) | BIT(b) | BIT(c) | BIT(d) | BIT(e))
#define BEFORE_GIVEN (1u << FF_RUN_GIVEN)
#define BEFORE_NOT_GIVEN (1u << FF_RUN_NONE | 1u << FF_RUN_MINE)
#define BEFORE_ANY (BEFORE_GIVEN | BEFORE_NOT_GIVEN)

typedef struct {
    FfRole side;
    Step step;
    unsigned phases, rights; /* before */
    FfPhase phase;           /* after */
    int right;               /* FfRunRight after, or KEEP */
    Order order;
    const char *why, *name;
} Row;

static const Row rows[] = {
#define FF_JOURNAL_STEP(side, step, phases, rights, phase, right, order, why)                      \
    {FF_ROLE_##side, STEP_##step, phases, BEFORE_##rights, FF_PHASE_##phase, RIGHT_##right,        \
     order,          why,         #step},
#include "migration/common/ownership-steps.h"
#undef FF_JOURNAL_STEP
};

static bool row_allows(const Row *row, FfRole side, Step step, FfPhase phase, FfRunRight right)
{
    return row->side == side && row->step == step && row->phases >> phase & 1 &&
           row->rights >> right & 1;
}

static const Row *find_row(const FfStateHeader *s, Step step)
{
    FfPhase phase = ff_ownership_phase(s);
    FfRunRight right = ff_ownership_right(s);

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        if (row_allows(&rows[i], s->role, step, phase, right)) {
            return &rows[i];
        }
    }
    g_error("phase %u, right %u, side %u: step %u of the journal is not allowed", phase, right,
            s->role, step);
}

static void store_phase(FfStateHeader *s, const Row *row)
{
    __atomic_store_n(&s->phase, row->phase, __ATOMIC_RELEASE);
    FF_MARK3(phase, s->role, row->phase, s->run_right);
}

static void store_right(FfStateHeader *s, const Row *row)
{
    if (row->right != KEEP) {
        __atomic_store_n(&s->run_right, (uint32_t)row->right, __ATOMIC_RELEASE);
    }
}

static void take_step(FfStateHeader *s, Step which)
{
    const Row *row = find_row(s, which);

    if (row->order == PHASE_FIRST) {
        store_phase(s, row);
        store_right(s, row);
    } else {
        store_right(s, row);
        store_phase(s, row);
    }
}

void ff_ownership_setup(FfStateHeader *s)
{
    if (s->role == FF_ROLE_SOURCE) {
        s->run_state[0] = 0; /* that of an older migration must not be restored */
        ff_state_mark(s, FF_MARK_WHOLE);
        ff_state_unmark(s, FF_MARK_PARKED | FF_MARK_STANDS_THERE | FF_MARK_SUSPENDED);
    }
    take_step(s, STEP_SETUP);
}

void ff_ownership_stopped(FfStateHeader *s)
{
    take_step(s, STEP_STOPPED);
}

void ff_ownership_resumed(FfStateHeader *s)
{
    take_step(s, STEP_RESUMED);
}

void ff_ownership_give(FfStateHeader *s)
{
    take_step(s, STEP_GIVE);
}

void ff_ownership_take_back(FfStateHeader *s)
{
    /* Phase first: an engine that comes between the two still finds a guest that was given. */
    take_step(s, STEP_TAKE_BACK);
}

void ff_ownership_reclaim(FfStateHeader *s)
{
    take_step(s, STEP_RECLAIM);
    ff_state_unmark(s, FF_MARK_WHOLE);
}

void ff_ownership_loading(FfStateHeader *s)
{
    take_step(s, STEP_LOADING);
}

void ff_ownership_loaded(FfStateHeader *s)
{
    take_step(s, STEP_LOADED);
}

void ff_ownership_grant(FfStateHeader *s, const char *run_state)
{
    const Row *row = find_row(s, STEP_GRANT);

    store_right(s, row);
    s->resumed = 0;
    g_strlcpy(s->run_state, run_state, sizeof(s->run_state));
    store_phase(s, row);
}

void ff_ownership_done(FfStateHeader *s)
{
    take_step(s, STEP_DONE);
}

void ff_ownership_dead(FfStateHeader *s)
{
    take_step(s, STEP_DEAD);
}

void ff_ownership_idle(FfStateHeader *s)
{
    take_step(s, STEP_IDLE);
    if (ff_ownership_right(s) != FF_RUN_GIVEN) {
        ff_state_unmark(s, FF_MARK_WHOLE); /* else the user may want it back: reclaim */
    }
}

/* ---- the table as text ----------------------------------------------------------------------- */

static void append_names(GString *out, const char *const *names, unsigned n, unsigned set)
{
    const char *between = "";

    for (unsigned i = 0; i < n; i++) {
        if (set >> i & 1) {
            g_string_append_printf(out, "%s%s", between, names[i]);
            between = ", ";
        }
    }
}

static void append_row(GString *out, const Row *row)
{
    g_autofree char *name = g_ascii_strdown(row->name, -1);

    g_string_append_printf(out, "| %s | `%s` | ", row->side == FF_ROLE_SOURCE ? "S" : "D", name);
    append_names(out, ff_phase_names, G_N_ELEMENTS(ff_phase_names), row->phases);
    g_string_append(out, row->rights == BEFORE_GIVEN ? "; right GIVEN"
                         : row->rights == BEFORE_ANY ? ""
                                                     : "; right not GIVEN");
    g_string_append_printf(out, " | %s | %s%s | %s |\n", ff_phase_names[row->phase],
                           row->right == KEEP ? "–" : ff_right_names[row->right],
                           row->order == PHASE_FIRST ? ", after the phase" : "", row->why);
}

char *ff_ownership_markdown(void)
{
    GString *out =
        g_string_new("| side | step | phase before | phase after | right after | what |\n"
                     "|---|---|---|---|---|---|\n");

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        append_row(out, &rows[i]);
    }
    return g_string_free(out, FALSE);
}
