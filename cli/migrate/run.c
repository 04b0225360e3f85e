/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The course of a migration that is driven from outside.
 *
 * States are learnt from events alone: MIGRATION and MIGRATION_PASS of both sides, STOP at the
 * source, RESUME at the destination. A timer refreshes the display. Nothing waits for an answer
 * of the destination: its main loop may be waiting for a page while postcopy runs.
 *
 * A destination that has failed may live on (exit-on-error=false), and its source may have
 * completed by then: where QEMU carries the migration that only means that all was written. The
 * command takes the guest back then, if the destination says that it waits for one still: it cannot
 * run it.
 *
 * A cancel is sent only before migrate-start-postcopy was: QEMU 7.2 takes migrate_cancel in
 * postcopy too, and the guest is lost then (tried).
 *
 * One thread: the GLib main loop of the default context.
 */
#include "base/failpoint-deadline.h"
#include "cli/common/recorder.h"
#include "cli/common/words.h"
#include "cli/migrate/run.h"
#include "qmp/json.h"

#include <glib-unix.h>
#include <string.h>

#define PAUSED_INTERVAL 50   /* ms between two looks for a guest that -S keeps from running */
#define CLOSING_TIMEOUT 5000 /* ms for the last questions */
#define SLOWER_MS 5000       /* until it is said that the slower side is waited for */
#define FAILED_MS 10000      /* for a source to end whose destination has failed */
#define COUNTING_INTERVAL 10 /* ms until a source that has not counted yet is asked again */
#define COUNTING_MAX 50      /* times */

typedef struct {
    const FfMoveOptions *o;
    FfMoveEnds *ends;
    FfProgress *progress;
    FfMoveResult *result;
    gint64 started;      /* monotonic us */
    gint64 stop, resume; /* QEMU's event times, us; 0 = not seen */
    bool switch_asked;   /* migrate-start-postcopy was sent */
    bool cancel_asked;
    bool warned; /* the first signal after the switch was answered */
    bool src_completed, dst_completed, dst_gone;
    char *dst_error;         /* of a destination that has failed; NULL: it has not */
    bool dst_lives;          /* it has failed, and answers */
    bool dst_has_engine;     /* which says so; its QEMU may have the guest all the same */
    bool gives_up;           /* the cancel was sent for that reason */
    bool taking_back;        /* asks whether the source may go on, or has it go on */
    bool grace;              /* the source is through, the destination has not said so */
    bool over;               /* the outcome is known; last questions are being asked */
    bool ended;              /* and answered */
    bool asking;             /* query-migrate for the display is under way */
    bool asking_destination; /* .resume: the same there */
    FfRecorder recorder[FF_SIDES];
    bool cont_asking, cont_sent;
    bool src_stopped;  /* by a client, as far as QEMU's run state tells */
    bool stands;       /* as a client wants it: no cont */
    bool carrier_said; /* that QEMU carries it */
    bool differences_said;
    char *status;       /* .resume: of the source, what was heard last */
    bool resumed;       /* .resume: pages have moved again */
    unsigned questions; /* of the closing round, not answered yet */
    unsigned counting;  /* times that the source was asked again */
    GPtrArray *sources; /* GSource *, attached */
} Move;

static void attach_source(Move *m, GSource *source, GSourceFunc function)
{
    g_source_set_callback(source, function, m, NULL);
    g_source_attach(source, NULL);
    g_ptr_array_add(m->sources, source);
}

/* ---- the record ------------------------------------------------------------------------------ */

static gboolean on_record_time(gpointer opaque)
{
    Move *m = opaque;

    if (m->over) {
        return G_SOURCE_REMOVE; /* the last questions are asked */
    }
    ff_recorder_look(&m->recorder[FF_SIDE_SOURCE]);
    if (!m->dst_gone) {
        ff_recorder_look(&m->recorder[FF_SIDE_DESTINATION]);
    }
    return G_SOURCE_CONTINUE;
}

static void record_begin(Move *m)
{
    FfCliQmp *src = m->ends->src, *dst = m->ends->dst;
    g_autoptr(JsonNode) answer = ff_cli_qmp_call(src, "query-name", NULL, NULL);
    const char *name = ff_json_string(ff_json_node_object(answer), "name");

    ff_record_begin(m->o->record, !ff_cli_qmp_host(src) && !ff_cli_qmp_host(dst));
    ff_record_side(m->o->record, FF_SIDE_SOURCE, m->o->source, ff_cli_qmp_version(src), name);
    ff_record_side(m->o->record, FF_SIDE_DESTINATION, m->o->destination, ff_cli_qmp_version(dst),
                   NULL);
}

static bool is_ours(JsonObject *own)
{
    return !strcmp(ff_json_string_or(own, "engine", ""), "farfault");
}

/* ---- the end --------------------------------------------------------------------------------- */

static gboolean on_closing_timeout(gpointer opaque)
{
    Move *m = opaque;

    m->ended = true;
    return G_SOURCE_REMOVE;
}

/* The guest runs at the destination, or may have run there. */
static bool is_there(const Move *m)
{
    return m->result->postcopy || m->resume || m->cont_sent;
}

/* Its own QEMU is of no use for another try: whoever reads the reason is told which one that is. A
 * QEMU whose incoming migration has failed ends. */
static void name_destination(const Move *m)
{
    FfMoveResult *r = m->result;
    const char *status = ff_json_string_or(ff_json_node_object(r->destination_info), "status", "");
    bool ended = m->dst_gone || !r->guest_state || !strcmp(status, "failed");

    if (r->outcome == FF_OUTCOME_FAILED && r->reason && ended && !is_there(m)) {
        g_autofree char *reason = g_steal_pointer(&r->reason);

        r->reason =
            g_strdup_printf(m->dst_lives ? "%s; the destination's QEMU (%s) is of no more use: end "
                                           "it, and start it again for another try"
                                         : "%s; the destination's QEMU (%s) has ended: start it "
                                           "again for another try",
                            reason, m->o->destination);
    }
}

static void on_question_answered(Move *m)
{
    if (!--m->questions) {
        name_destination(m);
        m->ended = true;
    }
}

static gboolean on_counting_time(gpointer opaque);

/* QEMU says that it has completed, and works out its total time and its rate after that
 * (migration_completion(), migration_calculate_complete()): 0 and those of the last round until
 * then. */
static bool is_counting(Move *m, JsonNode *result)
{
    JsonObject *info = ff_json_node_object(result);

    return info && !g_strcmp0(ff_json_string(info, "status"), "completed") &&
           !ff_json_int(info, "total-time", 0) && m->counting < COUNTING_MAX;
}

/* Once. */
static void say_differences(Move *m, JsonObject *info)
{
    const char *text = ff_json_string(ff_json_object(info, "x-farfault"), "differences");

    if (text && !m->differences_said) {
        m->differences_said = true;
        ff_progress_say(m->progress, true, "the guests differ: %s", text);
    }
}

static void on_source_info(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Move *m = opaque;

    if (is_counting(m, result)) {
        m->counting++;
        attach_source(m, g_timeout_source_new(COUNTING_INTERVAL), on_counting_time);
        return;
    }
    if (result) {
        g_clear_pointer(&m->result->source_info, json_node_unref);
        m->result->source_info = json_node_copy(result);
        say_differences(m, ff_json_node_object(result));
    }
    ff_recorder_info(&m->recorder[FF_SIDE_SOURCE], result);
    on_question_answered(m);
}

static gboolean on_counting_time(gpointer opaque)
{
    Move *m = opaque;

    ff_cli_qmp_send(m->ends->src, "query-migrate", NULL, on_source_info, m);
    return G_SOURCE_REMOVE;
}

static void on_destination_info(FfQmpClient *client, JsonNode *result, const GError *error,
                                void *opaque)
{
    Move *m = opaque;

    m->result->destination_info = result ? json_node_copy(result) : NULL;
    ff_recorder_info(&m->recorder[FF_SIDE_DESTINATION], result);
    on_question_answered(m);
}

static void on_guest_state(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Move *m = opaque;

    m->result->guest_state = g_strdup(ff_json_string(ff_json_node_object(result), "status"));
    on_question_answered(m);
}

/* The outcome is known: asks for the last numbers, and ends the loop when they are there. */
static void finish_move(Move *m, FfOutcome outcome, const char *reason)
{
    FfCliQmp *src = m->ends->src, *dst = m->ends->dst;

    if (m->over) {
        return;
    }
    m->over = true;
    m->result->outcome = outcome;
    m->result->reason = g_strdup(reason);
    m->result->total_ms = (g_get_monotonic_time() - m->started) / 1000;
    if (outcome == FF_OUTCOME_LEFT) {
        m->ended = true;
        return;
    }
    m->questions = m->dst_gone ? 2 : 4; /* one of them is this function */
    ff_cli_qmp_send(src, "query-migrate", NULL, on_source_info, m);
    if (!m->dst_gone) {
        ff_cli_qmp_send(dst, "query-migrate", NULL, on_destination_info, m);
        ff_cli_qmp_send(dst, "query-status", NULL, on_guest_state, m);
    }
    attach_source(m, g_timeout_source_new(CLOSING_TIMEOUT), on_closing_timeout);
    on_question_answered(m);
}

static void leave_move(Move *m, const char *why)
{
    g_autofree char *reason = g_strdup_printf(
        "%s; the migration may continue: look at it with farfault status %s", why, m->o->source);

    finish_move(m, FF_OUTCOME_LEFT, reason);
}

/* It loads the guest, or its main loop is busy. That it has completed is not ours to guess: the
 * source's QEMU would be ended, and the guest with it. */
static gboolean on_destination_slow(gpointer opaque)
{
    Move *m = opaque;

    if (!m->over && !m->dst_completed) {
        ff_progress_say(m->progress, true,
                        "the source has sent everything, and the destination has not said yet that "
                        "it has the guest: it is waited for; Ctrl-C leaves");
    }
    return G_SOURCE_REMOVE;
}

/* ---- a destination that has failed, and lives ------------------------------------------------ */

/* The source has written all, and does not run the guest. NEXT: what becomes of it. */
static void finish_unloaded(Move *m, FfOutcome outcome, const char *next)
{
    g_autofree char *reason =
        g_strdup_printf("the source has sent everything, but the destination has failed: %s; %s",
                        m->dst_error, next);

    finish_move(m, outcome, reason);
}

#define ONLY_THEN                                                                                  \
    "if the guest does not run at the destination, and only then, \"cont\" at the source "         \
    "continues"

static void on_taken_back(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Move *m = opaque;
    g_autofree char *refused =
        error
            ? g_strdup_printf("it does not continue at the source: %s; " ONLY_THEN, error->message)
            : NULL;

    finish_unloaded(m, FF_OUTCOME_FAILED, refused ? refused : "the guest continues at the source");
}

/* A QEMU that waits for a guest and says that it has failed to load it never runs it: not even by
 * cont. */
static void on_failed_state(FfQmpClient *client, JsonNode *result, const GError *error,
                            void *opaque)
{
    Move *m = opaque;
    const char *state = ff_json_string_or(ff_json_node_object(result), "status", "");

    if (m->over) {
        return;
    }
    m->dst_lives = result;
    if (strcmp(state, "inmigrate") != 0 || m->dst_has_engine || is_there(m)) {
        finish_unloaded(m, FF_OUTCOME_FAILED, ONLY_THEN);
    } else if (!m->ends->was_running || m->src_stopped || m->o->no_cont) {
        finish_unloaded(m, FF_OUTCOME_FAILED, "the guest stands at the source: " FF_WORDS_CONT);
    } else {
        ff_cli_qmp_send(m->ends->src, "cont", NULL, on_taken_back, m);
    }
}

static void on_unloaded_info(FfQmpClient *client, JsonNode *result, const GError *error,
                             void *opaque)
{
    Move *m = opaque;

    if (m->over) {
        return;
    }
    if (!result || is_ours(ff_json_object(ff_json_node_object(result), "x-farfault"))) {
        finish_unloaded(m, FF_OUTCOME_LEFT, ONLY_THEN); /* its engine knows who has the guest */
        return;
    }
    ff_cli_qmp_send(m->ends->dst, "query-status", NULL, on_failed_state, m);
}

static void take_back(Move *m)
{
    if (m->taking_back) {
        return;
    }
    m->taking_back = true;
    if (is_there(m)) {
        finish_unloaded(m, FF_OUTCOME_LEFT,
                        "the guest had been switched: do not continue it at the source before it "
                        "is known that it does not run at the destination");
        return;
    }
    ff_cli_qmp_send(m->ends->src, "query-migrate", NULL, on_unloaded_info, m);
}

static void check_completed(Move *m)
{
    if (!m->src_completed || m->over) {
        return;
    }
    if (m->dst_error && !m->dst_completed) {
        take_back(m);
        return;
    }
    if (m->dst_completed && m->cont_asking) {
        return; /* its answer comes back here, after a cont that the last questions follow */
    }
    if (m->dst_completed) {
        finish_move(m, FF_OUTCOME_COMPLETED, NULL);
    } else if (m->dst_gone && is_there(m)) {
        ff_progress_say(m->progress, true,
                        "the destination's monitor was closed: the guest is there all the same, or "
                        "has ended there; do not continue it at the source");
        finish_move(m, FF_OUTCOME_COMPLETED, NULL);
    } else if (m->dst_gone) {
        finish_move(
            m, FF_OUTCOME_FAILED,
            "the source has sent everything, but the destination's monitor was closed before "
            "it said that it had loaded it: see its error output; if that QEMU has ended, and "
            "only then, \"cont\" at the source continues");
    } else if (!m->grace) {
        m->grace = true;
        /* It completes a moment after the source. */
        attach_source(m, g_timeout_source_new(ff_deadline_ms("slower", SLOWER_MS)),
                      on_destination_slow);
    }
}

/* ---- the guest at the destination ------------------------------------------------------------ */

/* Of a source that has said STOP. QEMU's own for a migration is finish-migrate, then postmigrate.
 */
static void on_stopped_state(FfQmpClient *client, JsonNode *result, const GError *error,
                             void *opaque)
{
    Move *m = opaque;

    m->src_stopped =
        !strcmp(ff_json_string_or(ff_json_node_object(result), "status", ""), "paused");
}

/* Before the source has said that it is through, a precopy of QEMU's own can still be cancelled,
 * and the guest then runs there, though it stands complete at the destination. An engine that is
 * told too early starts the guest when it has the right to. */
static bool may_continue(const Move *m, JsonObject *own)
{
    bool lost = m->over && m->result->outcome != FF_OUTCOME_COMPLETED;

    return !lost && (m->src_completed || m->result->postcopy || is_ours(own));
}

/* It is paused there; why? An engine knows it. */
static void on_cont_info(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Move *m = opaque;
    JsonObject *own = ff_json_object(ff_json_node_object(result), "x-farfault");

    m->cont_asking = false;
    if (!m->cont_sent && !m->resume && may_continue(m, own)) {
        bool stopped = ff_json_bool(own, "client-stopped") || (!is_ours(own) && m->src_stopped);

        m->stands = stopped || error;
        m->cont_sent = !m->stands;
        if (m->cont_sent) {
            ff_cli_qmp_send(m->ends->dst, "cont", NULL, NULL, NULL);
        }
        ff_progress_say(
            m->progress, m->stands, "%s",
            stopped ? "the guest stands at the destination: somebody has said stop"
            : error ? "the guest stands at the destination, which does not say why: " FF_WORDS_CONT
                    : "the destination was started with -S: sent cont");
    }
    check_completed(m);
}

static void on_cont_state(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Move *m = opaque;
    const char *state = ff_json_string_or(ff_json_node_object(result), "status", "");

    if (!strcmp(state, "paused") && !m->cont_sent && !m->resume) {
        ff_cli_qmp_send(m->ends->dst, "query-migrate", NULL, on_cont_info, m);
        return;
    }
    m->cont_asking = false;
    check_completed(m);
}

/*
 * A destination that was started with -S stays paused, with no event that says so, and the
 * guest's downtime runs: if the guest ran at the source, it must run again. cont cannot be
 * sent earlier: QEMU activates the disks for it even while a migration is coming in.
 */
static void look_for_paused(Move *m)
{
    if (m->o->no_cont || !m->ends->was_running || m->resume || m->cont_sent || m->stands ||
        m->cont_asking || m->dst_gone) {
        return;
    }
    m->cont_asking = true;
    ff_cli_qmp_send(m->ends->dst, "query-status", NULL, on_cont_state, m);
}

static gboolean on_paused_time(gpointer opaque)
{
    Move *m = opaque;

    look_for_paused(m);
    return m->resume || m->cont_sent || m->stands || m->over ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

/* ---- events ---------------------------------------------------------------------------------- */

static gint64 event_time(JsonObject *event)
{
    JsonObject *stamp = ff_json_object(event, "timestamp");

    return ff_json_int(stamp, "seconds", 0) * G_USEC_PER_SEC +
           ff_json_int(stamp, "microseconds", 0);
}

static void on_switch_reply(FfQmpClient *client, JsonNode *result, const GError *error,
                            void *opaque)
{
    Move *m = opaque;

    /* No answer is no refusal: it may come to pass. */
    if (ff_qmp_refused(error) && !m->over) {
        /* Not switched: a cancel is safe again. */
        m->switch_asked = false;
        ff_progress_say(m->progress, true, "the source refused to switch to postcopy: %s",
                        error->message);
    }
}

static void switch_over(Move *m)
{
    if (m->switch_asked || m->cancel_asked || m->over) {
        return;
    }
    m->switch_asked = true;
    ff_cli_qmp_send(m->ends->src, "migrate-start-postcopy", NULL, on_switch_reply, m);
}

static gboolean on_switch_time(gpointer opaque)
{
    switch_over(opaque);
    return G_SOURCE_REMOVE;
}

static void fail_with_reason(FfQmpClient *client, JsonNode *result, const GError *error,
                             void *opaque)
{
    Move *m = opaque;
    const char *desc = ff_json_string(ff_json_node_object(result), "error-desc");
    bool engines = is_ours(ff_json_object(ff_json_node_object(result), "x-farfault"));
    g_autofree char *there = m->dst_error && !engines /* which tell one another */
                                 ? g_strdup_printf("; the destination says: %s", m->dst_error)
                                 : g_strdup("");
    g_autofree char *reason = g_strdup_printf(
        "the source says: %s%s", desc ? desc : "nothing more; see both QEMUs' error output", there);

    finish_move(m, FF_OUTCOME_FAILED, reason);
}

/* QEMU carries it, as far as query-migrate has said so already: --resume is the engines'. */
static bool is_qemus(const Move *m)
{
    JsonObject *info = ff_json_node_object(m->result->source_info);

    return info && strcmp(ff_json_string_or(ff_json_object(info, "x-farfault"), "engine", ""),
                          "farfault") != 0;
}

/* INFO: of the source; NULL: it says nothing more (g_free). */
static char *what_next(const Move *m, JsonObject *info)
{
    const char *source = m->o->source, *status = ff_json_string_or(info, "status", "");

    if (!info) {
        return g_strdup_printf("What it has now: farfault status %s", source);
    }
    if (strcmp(status, "postcopy-paused") != 0) {
        return g_strdup_printf("Its migration is \"%s\" now: farfault status %s", status, source);
    }
    if (ff_json_bool(ff_json_object(ff_json_object(info, "x-farfault"), "half"), "peer-ended")) {
        return g_strdup_printf("It had been given the guest: nothing can be resumed (farfault "
                               "status %s)",
                               source);
    }
    if (m->dst_gone) {
        return g_strdup_printf("The destination's monitor is closed: if its QEMU has ended, what "
                               "the guest did there is lost, and the source does not run it; "
                               "farfault status %s",
                               source);
    }
    return g_strdup_printf("While both QEMUs live nothing is lost: farfault migrate --resume %s %s "
                           "tries again, with --uri over another network",
                           source, m->o->destination);
}

/* WHY: what the source says; can be NULL. INFO: its query-migrate; NULL: it says nothing more. */
static void finish_not_resumed(Move *m, const char *why, JsonObject *info)
{
    const char *status = ff_json_string_or(info, "status", "postcopy-paused");
    bool undone = !strcmp(status, "failed") || !strcmp(status, "cancelled");
    g_autofree char *next = what_next(m, info);
    g_autofree char *reason = g_strdup_printf(
        "%s over %s: %s. %s", m->resumed ? "resumed, and broken again," : "not resumed",
        m->ends->uri, why ? why : "the source says nothing more", next);

    finish_move(m,
                undone                               ? FF_OUTCOME_FAILED
                : !strcmp(status, "postcopy-paused") ? FF_OUTCOME_PAUSED
                                                     : FF_OUTCOME_LEFT,
                reason);
}

static void paused_again(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    JsonObject *info = ff_json_node_object(result);

    finish_not_resumed(opaque, ff_json_string(info, "error-desc"), info);
}

static void finish_paused(Move *m)
{
    if (m->o->resume) {
        ff_cli_qmp_send(m->ends->src, "query-migrate", NULL, paused_again, m);
        return;
    }
    g_autofree char *reason =
        m->dst_gone ? g_strdup_printf(
                          "the connection broke after the switch, and the destination's monitor "
                          "is closed: if its QEMU has ended, what the guest did there is lost, "
                          "and the source does not run it; farfault status %s",
                          m->o->source)
        : is_qemus(m)
            ? g_strdup_printf("the connection broke after the switch; the source's QEMU lives: "
                              "migrate-recover at the destination, then migrate with resume=true "
                              "at the source (farfault status %s)",
                              m->o->destination)
            : g_strdup_printf("the connection broke after the switch; nothing is lost while both "
                              "QEMUs live: farfault migrate --resume %s %s (farfault status %s)",
                              m->o->source, m->o->destination, m->o->destination);

    finish_move(m, FF_OUTCOME_PAUSED, reason);
}

static void source_status(Move *m, const char *status)
{
    if (!strcmp(status, "postcopy-active")) {
        m->result->postcopy = m->resumed = true;
        attach_source(m, g_timeout_source_new(PAUSED_INTERVAL), on_paused_time);
        ff_progress_say(m->progress, false,
                        m->o->resume ? "resumed: the rest of the guest's memory moves now"
                                     : "switched to postcopy: the guest moves now");
    } else if (!strcmp(status, "pre-switchover")) {
        JsonObject *arguments = json_object_new();

        json_object_set_string_member(arguments, "state", status);
        ff_cli_qmp_send(m->ends->src, "migrate-continue", arguments, NULL, NULL);
    } else if (!strcmp(status, "completed")) {
        m->src_completed = true;
        if (m->dst_completed) {
            look_for_paused(m);
        }
        check_completed(m);
    } else if (!strcmp(status, "cancelled") && m->gives_up) {
        g_autofree char *reason = g_strdup_printf(
            "the destination has failed: %s; the guest continues at the source", m->dst_error);

        finish_move(m, FF_OUTCOME_FAILED, reason);
    } else if (!strcmp(status, "cancelled")) {
        finish_move(m, FF_OUTCOME_CANCELLED, "the guest continues at the source");
    } else if (!strcmp(status, "failed")) {
        ff_cli_qmp_send(m->ends->src, "query-migrate", NULL, fail_with_reason, m);
    } else if (!strcmp(status, "postcopy-paused")) {
        finish_paused(m);
    }
}

/* Of a migration that is resumed: by events, which may be off, and by query-migrate. The pause
 * before it may be heard late. */
static void learn_source(Move *m, const char *status)
{
    if (strcmp(m->status, status) != 0) {
        g_free(m->status);
        m->status = g_strdup(status);
        source_status(m, status);
    }
}

/* The source's monitor is closed: it can tell no more, and its QEMU may have ended. */
static void leave_source(Move *m, const char *why)
{
    if (!is_there(m) || m->dst_gone) {
        leave_move(m, why);
        return;
    }
    g_autofree char *reason = g_strdup_printf(
        "%s. The guest has been switched: if the source's QEMU has ended, the pages that are still "
        "there are lost. Look at the destination: farfault status %s",
        why, m->o->destination);

    finish_move(m, FF_OUTCOME_LEFT, reason);
}

static void on_source(JsonObject *event, const GError *error, void *opaque)
{
    Move *m = opaque;
    const char *name = ff_json_string_or(event, "event", "");
    JsonObject *data = ff_json_object(event, "data");

    ff_recorder_event(&m->recorder[FF_SIDE_SOURCE], event);
    if (!event) {
        if (!m->src_completed) {
            leave_source(m, error->message); /* the migration may continue, whoever has closed it */
        }
        return;
    }
    if (!strcmp(name, "MIGRATION") && m->o->resume) {
        learn_source(m, ff_json_string_or(data, "status", ""));
    } else if (!strcmp(name, "MIGRATION")) {
        source_status(m, ff_json_string_or(data, "status", ""));
    } else if (!strcmp(name, "MIGRATION_PASS")) {
        if (m->o->mode == FF_MOVE_AFTER_PASSES && ff_json_int(data, "pass", 0) > m->o->after) {
            switch_over(m);
        }
    } else if (!strcmp(name, "STOP")) {
        m->stop = m->stop ? m->stop : event_time(event);
        ff_cli_qmp_send(m->ends->src, "query-status", NULL, on_stopped_state, m);
    } else if (!strcmp(name, "RESUME")) {
        m->src_stopped = false;
        m->ends->was_running = true;
    }
}

static void destination_completed(Move *m)
{
    m->dst_completed = true;
    look_for_paused(m);
    check_completed(m);
}

static void cancel_move(Move *m, const char *why);
static gboolean on_failed_time(gpointer opaque);

static void await_source(Move *m)
{
    attach_source(m, g_timeout_source_new(ff_deadline_ms("failed-there", FAILED_MS)),
                  on_failed_time);
}

/* The source has not ended what its destination has. */
static gboolean on_failed_time(gpointer opaque)
{
    Move *m = opaque;

    if (m->over || m->src_completed) {
        return G_SOURCE_REMOVE;
    }
    g_autofree char *why = g_strdup_printf("the destination has failed (%s)", m->dst_error);

    if (m->switch_asked || m->cancel_asked) {
        g_autofree char *still = g_strdup_printf("%s, and the source has not ended its migration%s",
                                                 why, m->cancel_asked ? " when cancelled" : "");

        leave_move(m, still);
    } else {
        m->gives_up = true;
        m->dst_lives = !m->dst_gone;
        cancel_move(m, why);
        await_source(m);
    }
    return G_SOURCE_REMOVE;
}

/* INFO: its query-migrate. The source mostly ends by itself, and says more. */
static void destination_failed(Move *m, JsonObject *info)
{
    if (m->over || m->dst_completed || m->dst_error) {
        return;
    }
    m->dst_error = g_strdup(ff_json_string_or(info, "error-desc", "it does not say why"));
    m->dst_has_engine = ff_json_object(info, "x-farfault");
    if (m->src_completed) {
        check_completed(m);
    } else {
        await_source(m);
    }
}

static void on_destination_failed(FfQmpClient *client, JsonNode *result, const GError *error,
                                  void *opaque)
{
    Move *m = opaque;

    if (result) { /* else it has ended, of which the listener hears */
        destination_failed(m, ff_json_node_object(result));
    }
}

static void on_destination(JsonObject *event, const GError *error, void *opaque)
{
    Move *m = opaque;
    const char *name = ff_json_string_or(event, "event", "");
    const char *status = ff_json_string_or(ff_json_object(event, "data"), "status", "");

    ff_recorder_event(&m->recorder[FF_SIDE_DESTINATION], event);
    if (!event) {
        /* The source's own status follows and has the reason. */
        m->dst_gone = true;
        check_completed(m);
    } else if (!strcmp(name, "RESUME") && !m->resume) {
        m->resume = event_time(event);
    } else if (!strcmp(name, "MIGRATION") && !strcmp(status, "completed")) {
        destination_completed(m);
    } else if (!strcmp(name, "MIGRATION") && !strcmp(status, "failed")) {
        ff_cli_qmp_send(m->ends->dst, "query-migrate", NULL, on_destination_failed, m);
    }
}

/* ---- the display, signals, time -------------------------------------------------------------- */

/* An engine that cannot track the guest's writes sends nothing before the switch, and says so: the
 * event that would end the wait may never come. One that has merely sent nothing yet is waited for.
 */
static void check_passes(Move *m, JsonObject *info)
{
    const char *why = ff_json_string(ff_json_object(info, "x-farfault"), "no-precopy");

    if (why && m->o->mode == FF_MOVE_AFTER_PASSES && !m->switch_asked &&
        !strcmp(ff_json_string_or(info, "status", ""), "active")) {
        ff_progress_say(m->progress, true,
                        "the source's engine makes no pass before the switch (%s): switching now",
                        why);
        switch_over(m);
    }
}

/* Once. */
static void say_carrier(Move *m, JsonObject *info)
{
    const char *reason = ff_json_string(ff_json_object(info, "x-farfault"), "reason");

    if (reason && !m->carrier_said) {
        m->carrier_said = true;
        ff_progress_say(m->progress, true, "QEMU carries the migration: %s", reason);
    }
}

/* Asked after migrate was answered: a source that is paused then is so again. */
static void look_at_source(Move *m, JsonObject *info)
{
    const char *status = ff_json_string_or(info, "status", "");

    if (!strcmp(status, "postcopy-paused")) {
        finish_not_resumed(m, ff_json_string(info, "error-desc"), info);
    } else {
        learn_source(m, status);
    }
}

static void on_display(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Move *m = opaque;

    m->asking = false;
    if (!result || m->over) {
        return;
    }
    g_clear_pointer(&m->result->source_info, json_node_unref);
    m->result->source_info = json_node_copy(result);
    ff_progress_update(m->progress, ff_json_node_object(result));
    say_carrier(m, ff_json_node_object(result));
    say_differences(m, ff_json_node_object(result));
    check_passes(m, ff_json_node_object(result));
    if (m->o->resume) {
        look_at_source(m, ff_json_node_object(result));
    }
}

static void on_destination_look(FfQmpClient *client, JsonNode *result, const GError *error,
                                void *opaque)
{
    Move *m = opaque;

    JsonObject *info = ff_json_node_object(result);
    const char *status = ff_json_string_or(info, "status", "");

    m->asking_destination = false;
    if (!m->over && !m->dst_completed && !strcmp(status, "completed")) {
        destination_completed(m);
    } else if (m->grace && !strcmp(status, "failed")) {
        destination_failed(m, info);
    }
}

/* Its events may be off. */
static void look_at_destination(Move *m)
{
    if (!m->dst_gone && !m->asking_destination) {
        m->asking_destination = true;
        ff_cli_qmp_send(m->ends->dst, "query-migrate", NULL, on_destination_look, m);
    }
}

static gboolean on_refresh(gpointer opaque)
{
    Move *m = opaque;

    if (m->over) {
        return G_SOURCE_REMOVE;
    }
    if (!m->asking) {
        m->asking = true;
        ff_cli_qmp_send(m->ends->src, "query-migrate", NULL, on_display, m);
    }
    if (m->o->resume || m->grace) {
        look_at_destination(m);
    }
    return G_SOURCE_CONTINUE;
}

static void cancel_move(Move *m, const char *why)
{
    m->cancel_asked = true;
    ff_progress_say(
        m->progress, true,
        "%s: cancelling; the guest stays at the source. The destination's QEMU ends, if "
        "the source had reached it: start it again for another try",
        why);
    ff_cli_qmp_send(m->ends->src, "migrate_cancel", NULL, NULL, NULL);
}

#define HAS_NOT_SAID                                                                               \
    "the source has sent everything, and the destination has not said that it has the guest: do "  \
    "not end the source before it has"

static gboolean on_signal(gpointer opaque)
{
    Move *m = opaque;

    if (m->over) {
        m->ended = true;
    } else if (m->grace) {
        leave_move(m, HAS_NOT_SAID);
    } else if (!m->switch_asked) {
        if (!m->cancel_asked) {
            cancel_move(m, "interrupted");
        } else {
            leave_move(m, "the cancel is not through yet");
        }
    } else if (!m->warned) {
        m->warned = true;
        ff_progress_say(
            m->progress, true,
            "%s: the migration continues, also without this program (farfault status %s "
            "shows it); Ctrl-C again leaves",
            m->result->postcopy ? "the guest has been switched and cannot go back"
                                : "the switch was asked for, and a cancel could lose the guest now",
            m->o->source);
    } else {
        leave_move(m, "left on request");
    }
    return G_SOURCE_CONTINUE;
}

static gboolean on_timeout(gpointer opaque)
{
    Move *m = opaque;

    if (m->over) {
        return G_SOURCE_REMOVE;
    }
    if (m->grace) {
        leave_move(m, HAS_NOT_SAID);
    } else if (m->switch_asked) {
        leave_move(m, "the time is up");
    } else {
        cancel_move(m, "the time is up");
    }
    return G_SOURCE_REMOVE;
}

static void attach_signals(Move *m)
{
    attach_source(m, g_unix_signal_source_new(SIGINT), on_signal);
    attach_source(m, g_unix_signal_source_new(SIGTERM), on_signal);
}

static void attach_all(Move *m)
{
    attach_source(m, g_timeout_source_new(ff_progress_interval(m->progress)), on_refresh);
    if (m->o->record) {
        attach_source(m, g_timeout_source_new(FF_RECORD_INTERVAL), on_record_time);
    }
    if (m->o->timeout) {
        attach_source(m, g_timeout_source_new_seconds(m->o->timeout), on_timeout);
    }
    if (m->o->mode == FF_MOVE_AFTER_SECONDS) {
        attach_source(m, g_timeout_source_new_seconds(m->o->after), on_switch_time);
    }
}

static void detach_all(Move *m)
{
    FfCliQmp *const ends[] = {m->ends->src, m->ends->dst};

    for (guint i = 0; i < G_N_ELEMENTS(ends); i++) {
        ff_cli_qmp_listen(ends[i], NULL, NULL);
        ff_cli_qmp_forget(ends[i], m);
        ff_recorder_forget(&m->recorder[i]);
    }
    for (guint i = 0; i < m->sources->len; i++) {
        GSource *source = g_ptr_array_index(m->sources, i);

        g_source_destroy(source);
        g_source_unref(source);
    }
    g_ptr_array_unref(m->sources);
    g_free(m->status);
    g_free(m->dst_error);
}

static bool start_move(Move *m, GError **error)
{
    JsonObject *arguments = json_object_new();
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) started = NULL;

    if (m->o->record) {
        record_begin(m);
    }
    m->started = g_get_monotonic_time();
    json_object_set_string_member(arguments, "uri", m->ends->uri);
    if (m->o->resume) {
        json_object_set_boolean_member(arguments, "resume", TRUE);
    }
    started = ff_cli_qmp_call(m->ends->src, "migrate", arguments, &local);
    if (!started && !ff_qmp_refused(local)) {
        leave_move(m, local->message); /* it was sent, and may be carried out */
        return true;
    }
    if (!started && m->o->resume) {
        /* Somebody else may have resumed it meanwhile, or taken the guest back. */
        g_autoptr(JsonNode) now = ff_cli_qmp_call(m->ends->src, "query-migrate", NULL, NULL);

        finish_not_resumed(m, local->message, ff_json_node_object(now));
        return true;
    }
    if (!started) {
        g_propagate_prefixed_error(error, g_steal_pointer(&local),
                                   "the source refused to migrate to %s: ", m->ends->uri);
        return false;
    }
    if (m->o->mode == FF_MOVE_NOW && !m->o->resume) {
        switch_over(m);
    }
    return true;
}

bool ff_move_run(const FfMoveOptions *options, FfMoveEnds *ends, FfProgress *progress,
                 FfMoveResult *result, GError **error)
{
    Move m = {.o = options, .ends = ends, .progress = progress, .result = result};
    bool local = !ff_cli_qmp_host(ends->src) && !ff_cli_qmp_host(ends->dst);

    result->stopped_us = -1;
    m.recorder[FF_SIDE_SOURCE] = (FfRecorder){options->record, FF_SIDE_SOURCE, ends->src, false};
    m.recorder[FF_SIDE_DESTINATION] =
        (FfRecorder){options->record, FF_SIDE_DESTINATION, ends->dst, false};
    m.sources = g_ptr_array_new();
    if (options->resume) {
        m.status = g_strdup("postcopy-paused");
        m.switch_asked = result->postcopy = true; /* long ago: nothing cancels it */
        m.dst_completed = ends->destination_completed;
    }
    attach_signals(&m); /* first: a migration that is asked for is not left without a word */
    bool started = start_move(&m, error);
    if (!started || m.ended) {
        detach_all(&m);
        return started;
    }
    attach_all(&m);
    /* The events that came meanwhile are delivered at once. */
    ff_cli_qmp_listen(ends->src, on_source, &m);
    ff_cli_qmp_listen(ends->dst, on_destination, &m);
    while (!m.ended) {
        g_main_context_iteration(NULL, TRUE);
    }
    detach_all(&m);
    ff_progress_clear(progress);
    if (local && m.stop && m.resume >= m.stop) {
        result->stopped_us = m.resume - m.stop;
    }
    return true;
}
