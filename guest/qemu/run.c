/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stops and starts the guest.
 *
 * Threads: the coordinator's. No lock here.
 */
#include "guest/qemu/run.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "guest/qemu/device-state.h"
#include "guest/qemu/internal.h"
#include "guest/qemu/nested-virtualisation.h"
#include "guest/qemu/settings.h"
#include "guest/qemu/status.h"
#include "qmp/json.h"

static const char resumed_in_switchover[] =
    "the guest was resumed by another monitor during the switchover: repeat the migration";
static const char resumed_in_save[] =
    "the guest was resumed by another monitor while its devices were saved: repeat the snapshot";

/* What the guest was before stop, from what QEMU says to query-status before (WAS) and after (IS)
 * it; g_free. NULL and ERROR if it does not stand. */
static char *stopped_state(JsonNode *was, JsonNode *is, GError **error)
{
    const char *before = ff_qemu_status_of(was), *after = ff_qemu_status_of(is);

    if (!before || !after) {
        ff_qemu_set_no_status(error);
    } else if (strcmp(after, "suspended") == 0) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC, FF_QEMU_WOULD_WAKE);
    } else if (ff_vmm_runs(after)) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "QEMU is still \"%s\" after stop: resume the guest and try again", after);
    } else {
        /* A guest that was not running keeps its state ("io-error", ...), and the blob carries it.
         * "prelaunch": it was reset in the very stop, and would run on. */
        bool reset = ff_vmm_runs(before) && strcmp(after, "prelaunch") == 0;
        return g_strdup(reset || strcmp(after, "paused") == 0 ? before : after);
    }
    return NULL;
}

/* From now on all events are heard, for ff_qemu_stood(). */
static void listen_from_stop(FfQemu *qemu)
{
    g_clear_pointer(&qemu->since_stop, ff_qmp_watch_free);
    qemu->conts = 0;
    if (qemu->vmm.state.one_way) {
        qemu->since_stop = ff_qmp_watch_new(qemu->qmp, NULL);
    }
}

/* FALSE and ERROR: after stop, by another monitor. Memory may have been written since. */
static bool still_stands(FfQemu *qemu, FfQmpWatch *resumed, GError **error)
{
    if (!ff_qmp_watch_any(resumed)) {
        return true;
    }
    g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                        qemu->vmm.state.one_way ? resumed_in_save : resumed_in_switchover);
    return false;
}

/* With the guest stopped: what must be done before its devices are saved. DISKS: the answer to
 * query-block that came after stop's; NULL if it was not asked, or there is none (WHY). */
static bool come_between(FfQemu *qemu, FfQmpWatch *resumed, JsonNode *disks, GError **why,
                         GError **error)
{
    FfVmmState *state = &qemu->vmm.state;

    if (*why) {
        g_propagate_error(error, g_steal_pointer(why));
        return false;
    }
    if (!still_stands(qemu, resumed, error)) {
        return false; /* the disks would be of another time than its memory */
    }
    qemu->disks_at_stop = disks;
    bool ok = state->between(state->between_opaque, error);
    qemu->disks_at_stop = NULL;
    return ok && ff_qemu_begin_stream(qemu, error);
}

/* FALSE and ERROR: a guest that ran when its one-way save was prepared may be suspended by now.
 * QEMU has not come to its end, and must not. */
static bool stayed_awake(FfQemu *qemu, GError **error)
{
    if (!qemu->suspends || qemu->vmm.state.ends_failed || !ff_qmp_watch_any(qemu->suspends)) {
        return true;
    }
    g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                        "the guest was suspended (to RAM) right before its devices were saved: "
                        "repeat the snapshot");
    return false;
}

/* With SAVE also starts the inner migration, on the stream that was offered. */
static bool stop_guest(FfQemu *qemu, bool save, char **before, GError **error)
{
    g_autoptr(FfQmpWatch) resumed = ff_qmp_watch_new(qemu->qmp, "RESUME");
    /* While the guest still runs: for the engine that comes after a crash of this one between stop
     * and the return. */
    g_autofree char *first = ff_qemu_run_state(qemu, false, error);
    g_autoptr(GError) early = NULL;
    g_autoptr(GError) late = NULL;
    g_autoptr(GError) unseen = NULL;
    bool between = save && qemu->vmm.state.between;

    if (!first) {
        return false;
    }
    listen_from_stop(qemu);
    g_strlcpy(qemu->state->run_state, first, sizeof(qemu->state->run_state));
    /* In one go, since the guest's network goes quiet here: QEMU carries out and answers one after
     * the other. No deadline: QEMU answers stop when all I/O is drained, however long the storage
     * takes; and no cancel: what was sent to QEMU is carried out. */
    FfQmpCall *asked[] = {ff_qemu_ask(qemu, "query-status", NULL), ff_qemu_ask(qemu, "stop", NULL),
                          ff_qemu_ask(qemu, "query-status", NULL)};
    FfQmpCall *registers = ff_qemu_ask_registers(qemu);
    FfQmpCall *block =
        between && qemu->vmm.disks.plan ? ff_qemu_ask(qemu, "query-block", NULL) : NULL;
    bool saves = !save || between || ff_qemu_begin_stream(qemu, &late);
    g_autoptr(JsonNode) was = ff_qemu_answer(asked[0], "query-status", &early);
    g_autoptr(JsonNode) stopped = ff_qemu_answer(asked[1], "stop", &early);
    g_autoptr(JsonNode) is = ff_qemu_answer(asked[2], "query-status", &early);
    g_free(qemu->nested_at_stop);
    qemu->nested_at_stop = ff_qemu_take_registers(registers);
    g_autoptr(JsonNode) disks = block ? ff_qemu_answer(block, "query-block", &unseen) : NULL;
    if (early) {
        g_propagate_error(error, g_steal_pointer(&early));
        return false;
    }
    *before = stopped_state(was, is, error);
    if (!*before || !stayed_awake(qemu, error)) {
        return false;
    }
    if (between) {
        saves = come_between(qemu, resumed, disks, &unseen, &late);
    }
    if (!saves) {
        g_propagate_error(error, g_steal_pointer(&late));
        return false;
    }
    /* With SAVE QEMU would have stopped a running guest by itself, and would start it again if the
     * stream ended. */
    return still_stands(qemu, resumed, error);
}

bool ff_qemu_stop(FfVmmRun *run, char **before, GError **error)
{
    return stop_guest(ff_qemu_of_run(run), false, before, error);
}

bool ff_qemu_stop_and_save(FfVmmState *state, char **before, GError **error)
{
    return stop_guest(ff_qemu_of_state(state), true, before, error);
}

typedef struct {
    unsigned resumed;
    bool reset, completed;
    bool waited; /* QEMU stood where it had to, until it was let go */
} Heard;

/* QEMU says "active" when it has passed the place at which it must wait. Both times are of the
 * same clock: one that is set back meanwhile costs a snapshot. */
static void hear_migration(const FfQemu *qemu, JsonObject *event, Heard *h)
{
    JsonObject *stamp = ff_json_object(event, "timestamp"), *data = ff_json_object(event, "data");
    const char *status = data ? ff_json_string(data, "status") : NULL;
    const char *expected = qemu->vmm.state.ends_failed ? "failed" : "completed";

    h->completed |= !g_strcmp0(status, expected);
    h->waited |=
        stamp && !g_strcmp0(status, "active") &&
        ff_json_int(stamp, "seconds", 0) * G_USEC_PER_SEC + ff_json_int(stamp, "microseconds", 0) >=
            qemu->let_save_us;
}

static void note_event(const FfQemu *qemu, JsonObject *event, Heard *h)
{
    const char *name = ff_json_string(event, "event");

    h->resumed += !g_strcmp0(name, "RESUME");
    h->reset |= !g_strcmp0(name, "RESET");
    if (!g_strcmp0(name, "STOP") && !h->resumed) {
        h->reset = false; /* it was before ours */
    }
    if (!g_strcmp0(name, "MIGRATION")) {
        hear_migration(qemu, event, h);
    }
}

/* QEMU's events come in their order, and before the answers to what was asked after them. A RESUME
 * that is not ours: the guest has run before its devices were saved, or, which is harmless and not
 * told from it, in the moment after that. */
bool ff_qemu_stood(FfVmmRun *run, GError **error)
{
    FfQemu *qemu = ff_qemu_of_run(run);
    Heard h = {0};

    while (qemu->since_stop && ff_qmp_watch_any(qemu->since_stop)) {
        g_autoptr(JsonNode) event = ff_qmp_watch_next(qemu->since_stop, 0, NULL, NULL);
        JsonObject *o = ff_json_node_object(event);
        if (o) {
            note_event(qemu, o, &h);
        }
    }
    g_clear_pointer(&qemu->since_stop, ff_qmp_watch_free);
    if (h.resumed > qemu->conts || h.reset) {
        g_set_error_literal(
            error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
            h.reset ? "the guest was reset while its devices were saved: repeat the snapshot"
                    : resumed_in_save);
        return false;
    }
    if (h.completed && qemu->let_save_us && !h.waited) {
        ff_qemu_set_too_early(error);
        return false;
    }
    return true;
}

/* While its migration waits for SHUT, QEMU refuses cont on every monitor. */
bool ff_qemu_stands(FfVmmRun *run, GError **error)
{
    g_autofree char *state = ff_qemu_run_state(ff_qemu_of_run(run), false, error);

    if (state && strcmp(state, "finish-migrate") != 0) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "QEMU is \"%s\" in place of \"finish-migrate\": another monitor has ended its "
                    "part of the migration, or resumed the guest: repeat the migration",
                    state);
        return false;
    }
    return state != NULL;
}

/* The run state (g_free), when it is no more "inmigrate", ASKED being the first question for it.
 * QEMU sends SHUT after its change of state, so this has not been seen to wait for WATCH. */
static char *settled_state(FfQemu *qemu, FfQmpWatch *watch, FfQmpCall *asked, GError **error)
{
    for (;; asked = ff_qemu_ask(qemu, "query-status", NULL)) {
        g_autoptr(GError) local = NULL;
        g_autoptr(JsonNode) node = ff_qemu_answer(asked, "query-status", &local);
        g_autoptr(JsonNode) event = NULL;
        const char *state = ff_qemu_status_of(node);

        if (node && !state) {
            ff_qemu_set_no_status(&local);
        }
        if (local) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        if (strcmp(state, "inmigrate") != 0) {
            return g_strdup(state);
        }
        /* The watch sees the event of the end only after QEMU changed its run state. */
        event = ff_qmp_watch_next(watch, 0, NULL, error);
        if (!event) {
            return NULL;
        }
    }
}

/* Of a guest that is, or may be, suspended; FALSE and ERROR: cont would be the end of this QEMU
 * (choose_end() in settings.c). */
static bool may_continue(FfQemu *qemu, const char *state, GError **error)
{
    if (strcmp(state, "suspended") != 0 && !qemu->vmm.state.ends_failed) {
        return true;
    }
    g_autofree char *now = ff_qemu_run_state(qemu, true, error);
    if (now && strcmp(now, "postmigrate") == 0) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC, FF_QEMU_WOULD_ABORT);
        return false;
    }
    return now != NULL;
}

static bool resume_guest(FfVmmRun *run, const char *state, bool start, bool *running,
                         GError **error)
{
    FfQemu *qemu = ff_qemu_of_run(run);
    g_autoptr(FfQmpWatch) watch = ff_qmp_watch_new(qemu->qmp, "MIGRATION");
    /* "suspended": QEMU (9.0 and newer) noted in the device state that a stopped guest was
     * suspended, and cont brings it back to that. All other states came with the blob. */
    bool starts = start && ff_vmm_runs(state);

    *running = false;
    if (starts && !may_continue(qemu, state, error)) {
        return false;
    }
    /* In front of cont, in one go with it: the guest does not run before that. */
    ff_qemu_put_back(&qemu->vmm.state);
    FfQmpCall *cont = starts ? ff_qemu_ask(qemu, "cont", NULL) : NULL;
    FfQmpCall *asked = ff_qemu_ask(qemu, "query-status", NULL);
    g_autofree char *now = NULL;

    qemu->conts += starts;
    if (cont) {
        g_autoptr(GError) local = NULL;
        g_autoptr(JsonNode) reply = ff_qemu_answer(cont, "cont", &local);
        if (!reply) {
            ff_qmp_call_drop(asked);
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
    }
    ff_qemu_await_put_back(qemu);
    now = settled_state(qemu, watch, asked, error);
    *running = now && ff_vmm_runs(now);
    /* As with cont, which QEMU refuses then: its own part of the migration is not over. */
    if (now && !starts && strcmp(now, "finish-migrate") != 0) {
        ff_qemu_activate_disks(qemu);
    }
    return now != NULL;
}

bool ff_qemu_resume(FfVmmRun *run, const char *state, bool start, bool *running, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (resume_guest(run, state, start, running, &local)) {
        return true;
    }
    if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_GONE)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NOT_CONNECTED, local->message);
    } else {
        g_propagate_error(error, g_steal_pointer(&local));
    }
    return false;
}

bool ff_qemu_halt(FfVmmRun *run, GError **error)
{
    g_autoptr(JsonNode) reply = ff_qemu_call_firm(ff_qemu_of_run(run), "stop", NULL, error);

    return reply;
}

void ff_qemu_announce(FfVmmRun *run)
{
    static const char *const names[][2] = {{"announce-initial", "initial"},
                                           {"announce-max", "max"},
                                           {"announce-rounds", "rounds"},
                                           {"announce-step", "step"}};
    FfQemu *qemu = ff_qemu_of_run(run);
    g_autoptr(JsonNode) node = ff_qemu_call_firm(qemu, "query-migrate-parameters", NULL, NULL);
    JsonObject *have = ff_json_node_object(node), *args;

    if (!have) {
        return;
    }
    args = json_object_new();
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        json_object_set_int_member(args, names[i][1], ff_json_int(have, names[i][0], 0));
    }
    ff_qemu_call_and_forget(qemu, "announce-self", args, 0);
}

static int compare_index(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return x[0] < y[0] ? -1 : x[0] > y[0];
}

GArray *ff_qemu_vcpu_threads(FfVmmRun *run)
{
    FfQemu *qemu = ff_qemu_of_run(run);
    g_autoptr(JsonNode) node = ff_qemu_call(qemu, "query-cpus-fast", NULL, NULL);
    g_autoptr(GArray) cpus = g_array_new(FALSE, FALSE, 2 * sizeof(int64_t));
    GArray *threads = g_array_new(FALSE, FALSE, sizeof(int32_t));

    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *cpu = ff_json_node_nth(node, i);
        if (cpu) {
            int64_t pair[2] = {ff_json_int(cpu, "cpu-index", 0), ff_json_int(cpu, "thread-id", 0)};
            g_array_append_val(cpus, pair);
        }
    }
    g_array_sort(cpus, compare_index);
    for (guint i = 0; i < cpus->len; i++) {
        int32_t tid = ((int64_t *)(void *)cpus->data)[2 * i + 1];
        g_array_append_val(threads, tid);
    }
    return threads;
}
