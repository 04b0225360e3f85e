/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The course of a live snapshot that is asked for from outside; see run.h.
 *
 * How it ends is learnt from MIGRATION events, for which the capability "events" is switched on and
 * afterwards put back as it was. A timer refreshes the display. The file is ours until the engine
 * has said "completed": whatever comes instead, it is closed without a name.
 *
 * One thread: the GLib main loop of the default context.
 */
#include "base/failpoints.h"
#include "cli/common/recorder.h"
#include "cli/snapshot/disks.h"
#include "cli/snapshot/overlays.h"
#include "cli/snapshot/run.h"
#include "cli/watch/status-guests.h"
#include "content/image/output.h"
#include "content/image/seekable-write.h"
#include "qmp/json.h"

#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define GIVEN "the client's file" /* what the engine calls a file that came with getfd */

typedef enum { GOING, COMPLETED, FAILED, CANCELLED, LEFT } End;

typedef struct {
    const FfTakeOptions *o;
    FfProgress *progress;
    FfTakeResult *result;
    FfCliQmp *qmp;
    FfOutput *output;        /* NULL: the engine makes the file */
    char *fdname;            /* what QEMU knows .output by; NULL */
    FfCliOverlays *overlays; /* NULL: the disks are left alone */
    FfOverlaysEnd disks_end; /* what became of them */
    bool left;               /* a second signal came */
    bool asked;              /* for the snapshot */
    bool events_set;         /* by us: to be put back */
    bool begun;              /* the engine has said so, or its first event has come */
    bool unattended;         /* the engine is an older one, and does not know "attended" */
    bool interrupted;        /* a signal came */
    bool asking;             /* query-migrate for the display is under way */
    FfRecorder recorder;
    gint64 stop, resume; /* QEMU's event times, us; 0 = not seen */
    End end;
    char *why;          /* of FAILED, one line; NULL: the engine knows */
    GPtrArray *sources; /* GSource *, attached */
} Take;

void ff_take_result_clear(FfTakeResult *result)
{
    g_clear_pointer(&result->path, g_free);
    g_clear_pointer(&result->info, json_node_unref);
    g_clear_pointer(&result->disks, g_free);
    g_clear_pointer(&result->manifest, g_free);
    g_clear_pointer(&result->left_out, g_free);
    g_clear_pointer(&result->other, g_free);
    g_clear_pointer(&result->qemu, g_free);
    g_clear_pointer(&result->cwd, g_free);
    g_clear_pointer(&result->options, g_free);
}

FfRestoreHint ff_take_file(const FfTakeOptions *o, const FfTakeResult *r)
{
    return (FfRestoreHint){.path = r->path,
                           .offset = o->offset,
                           .mapped = !strcmp(o->format, "mapped-ram"),
                           .compressed = o->compress,
                           .changes = r->left_out || r->other,
                           .qemu = r->qemu,
                           .cwd = r->cwd,
                           .options = r->options,
                           .folder = r->manifest ? o->disks : NULL};
}

static bool set_failure(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static bool set_failure(GError **error, const char *format, ...)
{
    va_list args;
    g_autofree char *text = NULL;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, text);
    return false;
}

/* ---- before: nothing is changed but the capability "events" ---------------------------------- */

/* An engine has given the guest away, with all its memory. Of what QEMU carried by itself it can
 * have been a file that it went to. */
static bool is_given_away(JsonObject *info)
{
    JsonObject *own = ff_json_object(info, "x-farfault");

    return !strcmp(ff_json_string_or(info, "status", ""), "completed") &&
           !strcmp(ff_json_string_or(own, "engine", ""), "farfault") &&
           !ff_json_object(own, "snapshot") && !ff_json_object(own, "restore");
}

/* Nothing is begun then: query-migrate would say no more where the guest is. */
static bool check_here(const Take *t, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(t->qmp, "query-migrate", NULL, error);
    g_autofree char *where = node ? ff_status_moved_to(t->qmp, t->o->address) : NULL;

    if (!node) {
        return false;
    }
    if (where || is_given_away(ff_json_node_object(node))) {
        return set_failure(error, "%s: the guest runs elsewhere%s%s: take the snapshot there",
                           t->o->address, where ? ", it has moved to " : "", where ? where : "");
    }
    return true;
}

static bool check_guest(Take *t, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(t->qmp, "query-status", NULL, error);
    const char *state = ff_json_string_or(ff_json_node_object(node), "status", "unknown");

    if (!node) {
        return false;
    }
    if (!strcmp(state, "inmigrate")) {
        return set_failure(error, "%s waits for an incoming migration: it has no guest to save yet",
                           t->o->address);
    }
    t->result->was_running = !strcmp(state, "running");
    return strcmp(state, "postmigrate") != 0 || check_here(t, error);
}

static bool check_idle(Take *t, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(t->qmp, "query-migrate", NULL, error);
    const char *status = ff_json_string_or(ff_json_node_object(node), "status", "none");

    if (!node) {
        return false;
    }
    if (!g_strv_contains((const char *const[]){"none", "completed", "failed", "cancelled", NULL},
                         status)) {
        bool switched = g_str_has_prefix(status, "postcopy-");

        return set_failure(
            error, "%s: %s is under way (%s): wait for its end%s (farfault status %s)",
            t->o->address, switched ? "a migration" : "a migration or another snapshot", status,
            switched ? "" : ", or cancel it", t->o->address);
    }
    return true;
}

static bool set_events(Take *t, bool on, GError **error)
{
    JsonObject *arguments = json_object_new(), *one = json_object_new();
    JsonArray *list = json_array_new();

    json_object_set_string_member(one, "capability", "events");
    json_object_set_boolean_member(one, "state", on);
    json_array_add_object_element(list, one);
    json_object_set_array_member(arguments, "capabilities", list);

    g_autoptr(JsonNode) result =
        ff_cli_qmp_call(t->qmp, "migrate-set-capabilities", arguments, error);
    return result;
}

static bool has_events(JsonNode *capabilities)
{
    JsonArray *list =
        JSON_NODE_HOLDS_ARRAY(capabilities) ? json_node_get_array(capabilities) : NULL;

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *one = ff_json_node_object(json_array_get_element(list, i));

        if (!strcmp(ff_json_string_or(one, "capability", ""), "events")) {
            return ff_json_bool(one, "state");
        }
    }
    return false;
}

static bool want_events(Take *t, GError **error)
{
    g_autoptr(JsonNode) list = ff_cli_qmp_call(t->qmp, "query-migrate-capabilities", NULL, error);

    if (!list) {
        return false;
    }
    t->events_set = !has_events(list);
    return !t->events_set || set_events(t, true, error);
}

/* ---- the file -------------------------------------------------------------------------------- */

/* LOCAL: why there is none. */
static bool no_file(const Take *t, const GError *local, GError **error)
{
    const char *path = t->result->path;
    g_autofree char *folder = g_path_get_dirname(path);

    if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_EXISTS)) {
        return set_failure(error, "%s", local->message);
    }
    if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED)) {
        return set_failure(
            error, "%s: you may not make a file in %s: give another folder, or be a user who may",
            path, folder);
    }
    if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_NOT_FOUND) ||
        g_error_matches(local, G_IO_ERROR, G_IO_ERROR_NOT_DIRECTORY)) {
        bool there = g_file_test(folder, G_FILE_TEST_IS_DIR);

        bool other = !there && g_file_test(folder, G_FILE_TEST_EXISTS);

        return set_failure(error, "%s: %s %s: %s", path,
                           there   ? "no file can be made in"
                           : other ? "there is no folder, but a file,"
                                   : "there is no folder",
                           folder, there || other ? "give another folder" : "make it first");
    }
    return set_failure(error, "%s", local->message);
}

/* What is to be compressed is written whole first, so that the guest need not wait for that. */
static bool make_nameless(Take *t, GError **error)
{
    const char *path = t->result->path;
    g_autoptr(GError) local = NULL;

    if (g_file_test(path, G_FILE_TEST_EXISTS)) {
        g_set_error_literal(&local, G_IO_ERROR, G_IO_ERROR_EXISTS, "");
    } else {
        t->output = ff_output_new_nameless(path, &local);
    }
    return t->output || no_file(t, local, error);
}

static bool make_file(Take *t, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (!ff_cli_qmp_host(t->qmp)) {
        t->result->path = g_canonicalize_filename(t->o->file, NULL);
        if (t->o->compress) {
            return make_nameless(t, error);
        }
        t->output = ff_output_new(t->result->path, &local);
        return t->output || no_file(t, local, error);
    }
    if (t->o->compress) {
        return set_failure(error,
                           "--compress: through a TCP monitor no file can be passed: use a unix "
                           "socket on the guest's host, or farfault convert --compress afterwards");
    }
    if (!g_path_is_absolute(t->o->file)) {
        return set_failure(
            error,
            "%s: give an absolute path: through a TCP monitor no file can be passed, so "
            "the guest's host makes it, with QEMU's rights",
            t->o->file);
    }
    t->result->path = g_strdup(t->o->file);
    return true;
}

/* A file description that nobody else uses, so that the engine may write past the page cache. -1:
 * the file system has no such thing. */
static int open_direct(const Take *t)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", ff_output_fd(t->output));

    return open(self, O_RDWR | O_DIRECT | O_CLOEXEC);
}

static bool pass_file(Take *t, GError **error)
{
    if (!t->output) {
        return true;
    }
    const char *path = t->result->path;
    bool named = path && g_utf8_validate(path, -1, NULL); /* JSON has no others */
    /* The engine's messages have the file by its path. */
    g_autofree char *name = g_strdup_printf("farfault-snapshot-%d%s%s", (int)getpid(),
                                            named ? ":" : "", named ? path : "");
    int direct = open_direct(t);
    bool ok =
        ff_cli_qmp_pass_fd(t->qmp, name, direct >= 0 ? direct : ff_output_fd(t->output), error);

    if (direct >= 0) {
        close(direct);
    }
    if (!ok) {
        return false;
    }
    t->fdname = g_steal_pointer(&name);
    return true;
}

/* ---- how it ends ----------------------------------------------------------------------------- */

static void end_snapshot(Take *t, End end, char *why)
{
    if (t->end == GOING) {
        t->end = end;
        t->why = why;
    } else {
        g_free(why);
    }
}

/* The file by its name, which the engine does not know (g_free). */
static char *name_file(const Take *t, const char *message)
{
    return g_str_has_prefix(message, GIVEN)
               ? g_strconcat(t->result->path, message + strlen(GIVEN), NULL)
               : g_strdup(message);
}

static void note_status(Take *t, const char *status)
{
    if (!t->begun) {
        return; /* another client's, which was over before ours began */
    }
    if (!strcmp(status, "completed")) {
        end_snapshot(t, COMPLETED, NULL);
    } else if (!strcmp(status, "failed")) {
        end_snapshot(t, FAILED, NULL);
    } else if (!strcmp(status, "cancelled")) {
        end_snapshot(t, CANCELLED, NULL);
    }
}

static gint64 event_time(JsonObject *event)
{
    JsonObject *stamp = ff_json_object(event, "timestamp");

    return ff_json_int(stamp, "seconds", 0) * G_USEC_PER_SEC +
           ff_json_int(stamp, "microseconds", 0);
}

/* Nobody says when they go on: before this command is over. */
static void tell_standing(Take *t)
{
    if (t->result->other) {
        ff_progress_say(
            t->progress, true,
            "%s (vhost-user) stands while the memory is written, and is not saved: a copy of its "
            "image is of the same instant if the guest is stopped for both",
            t->result->other);
    }
}

static void on_event(JsonObject *event, const GError *error, void *opaque)
{
    Take *t = opaque;
    const char *name = ff_json_string_or(event, "event", "");

    ff_recorder_event(&t->recorder, event);
    if (!event) {
        end_snapshot(t, FAILED, g_strdup(error->message));
    } else if (!strcmp(name, "MIGRATION")) {
        note_status(t, ff_json_string_or(ff_json_object(event, "data"), "status", ""));
    } else if (t->begun && !strcmp(name, "STOP") && !t->stop) {
        t->stop = event_time(event);
    } else if (t->stop && !strcmp(name, "RESUME") && !t->resume) {
        t->resume = event_time(event);
        tell_standing(t);
    }
}

/* ---- the display, signals -------------------------------------------------------------------- */

static void on_display(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Take *t = opaque;
    JsonObject *info = ff_json_node_object(result);

    t->asking = false;
    if (info && t->end == GOING) {
        ff_progress_update(t->progress, info);
        note_status(t,
                    ff_json_string_or(info, "status", "")); /* another client may put events off */
    }
}

static gboolean on_refresh(gpointer opaque)
{
    Take *t = opaque;

    if (t->begun && !t->asking && t->end == GOING) {
        t->asking = true;
        ff_cli_qmp_send(t->qmp, "query-migrate", NULL, on_display, t);
    }
    return G_SOURCE_CONTINUE;
}

static gboolean on_record_time(gpointer opaque)
{
    Take *t = opaque;

    if (t->begun && t->end == GOING) {
        ff_recorder_look(&t->recorder);
    }
    return G_SOURCE_CONTINUE;
}

static gboolean on_signal(gpointer opaque)
{
    Take *t = opaque;

    if (t->interrupted) {
        t->left = true;
        end_snapshot(t, LEFT, NULL);
        return G_SOURCE_CONTINUE;
    }
    t->interrupted = true;
    ff_progress_say(t->progress, true, "interrupted: cancelling");
    if (t->begun && t->end == GOING) {
        ff_cli_qmp_send(t->qmp, "migrate_cancel", NULL, NULL, NULL);
    }
    return G_SOURCE_CONTINUE;
}

static void attach_source(Take *t, GSource *source, GSourceFunc function)
{
    g_source_set_callback(source, function, t, NULL);
    g_source_attach(source, NULL);
    g_ptr_array_add(t->sources, source);
}

static void attach_all(Take *t)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    t->sources = g_ptr_array_new();
    for (gsize i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct sigaction now;

        if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN) {
            attach_source(t, g_unix_signal_source_new(signals[i]), on_signal);
        }
    }
    attach_source(t, g_timeout_source_new(ff_progress_interval(t->progress)), on_refresh);
    if (t->o->record) {
        attach_source(t, g_timeout_source_new(FF_RECORD_INTERVAL), on_record_time);
    }
}

static void detach_all(Take *t)
{
    for (guint i = 0; t->sources && i < t->sources->len; i++) {
        GSource *source = g_ptr_array_index(t->sources, i);

        g_source_destroy(source);
        g_source_unref(source);
    }
    g_clear_pointer(&t->sources, g_ptr_array_unref);
}

/* ---- from the request to the end ------------------------------------------------------------- */

static char *explain_refusal(const Take *t, const GError *error)
{
    g_autofree char *message = name_file(t, error->message);

    if (t->overlays && strstr(message, "'disks'")) {
        return g_strdup_printf("%s: --disks: an older farfault has started this guest: start it "
                               "again, or leave its disks alone",
                               t->o->address);
    }

    if (g_error_matches(error, FF_QMP_ERROR, FF_QMP_ERROR_COMMAND_NOT_FOUND)) {
        return g_strdup_printf("%s: no farfault has this monitor, or one that takes no live "
                               "snapshots: the guest has to be started by farfault run",
                               t->o->address);
    }
    return ff_qmp_refused(error) ? g_strdup_printf("%s: refused: %s", t->o->address, message)
                                 : g_strdup(message);
}

static void send_snapshot(Take *t);

static void on_begun(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Take *t = opaque;

    if (error && !t->unattended && strstr(error->message, "'attended'")) {
        t->unattended = true;
        send_snapshot(t);
        return;
    }
    if (error) {
        end_snapshot(t, FAILED, explain_refusal(t, error));
        return;
    }
    t->begun = true;
    g_clear_pointer(&t->fdname, g_free); /* the engine has taken it */
    if (t->interrupted) {
        ff_cli_qmp_send(t->qmp, "migrate_cancel", NULL, NULL, NULL);
    }
}

static JsonObject *snapshot_arguments(const Take *t)
{
    const FfTakeOptions *o = t->o;
    JsonObject *a = json_object_new();

    json_object_set_string_member(a, t->fdname ? "fdname" : "file",
                                  t->fdname ? t->fdname : t->result->path);
    json_object_set_string_member(a, "format", o->format);
    json_object_set_int_member(a, "offset", (gint64)o->offset);
    json_object_set_int_member(a, "max-bandwidth", (gint64)o->bandwidth);
    if (t->fdname && !t->unattended) {
        json_object_set_boolean_member(a, "attended", TRUE); /* the file's name comes from us */
    }
    if (t->overlays) {
        json_object_set_array_member(a, "disks", ff_cli_overlays_argument(t->overlays));
    }
    if (o->buffer >= 0) {
        json_object_set_int_member(a, "buffer", o->buffer);
    }
    return a;
}

static void send_snapshot(Take *t)
{
    FF_FAULT_AT("asking");
    t->asked = true;
    ff_cli_qmp_send(t->qmp, "x-farfault-snapshot", snapshot_arguments(t), on_begun, t);
}

static void begin_record(Take *t)
{
    if (!t->o->record) {
        return;
    }
    g_autoptr(JsonNode) node = ff_cli_qmp_call(t->qmp, "query-name", NULL, NULL);

    ff_record_begin(t->o->record, true);
    ff_record_side(t->o->record, FF_SIDE_SOURCE, t->o->address, ff_cli_qmp_version(t->qmp),
                   ff_json_string(ff_json_node_object(node), "name"));
}

static void wait_for_end(Take *t)
{
    begin_record(t);
    ff_cli_qmp_listen(t->qmp, on_event, t);
    send_snapshot(t);
    while (t->end == GOING) {
        g_main_context_iteration(NULL, TRUE);
    }
    ff_cli_qmp_listen(t->qmp, NULL, NULL);
    ff_cli_qmp_forget(t->qmp, t);
    ff_recorder_forget(&t->recorder);
    ff_progress_clear(t->progress);
}

/* QEMU's copy of a file that nobody has taken. */
static void close_fd(Take *t)
{
    if (!t->fdname) {
        return;
    }
    JsonObject *a = json_object_new();

    json_object_set_string_member(a, "fdname", t->fdname);
    g_autoptr(JsonNode) result = ff_cli_qmp_call(t->qmp, "closefd", a, NULL);
}

static bool drop_qemus_copy(Take *t, GError **error)
{
    const char *desc = ff_json_string(ff_json_node_object(t->result->info), "error-desc");

    if (t->why && t->begun && !t->output) {
        return set_failure(error, "%s; the snapshot may continue, and %s be there in the end",
                           t->why, t->result->path);
    }
    if (t->why) {
        return set_failure(error, "%s", t->why);
    }
    g_autofree char *message =
        name_file(t, desc ? desc : "the engine says nothing more; see QEMU's error output");
    return set_failure(error, "the snapshot failed, and the guest %s: %s",
                       t->result->was_running ? "continues" : "is as it was", message);
}

static const char *what_is_gone(const Take *t)
{
    return t->result->manifest ? "snapshot" : "file";
}

static bool is_interrupted(void *opaque)
{
    Take *t = opaque;

    g_main_context_iteration(NULL, FALSE);
    return t->interrupted;
}

/* The guest has its memory for itself again, and nobody waits. */
static bool write_compressed(Take *t, GError **error)
{
    g_autoptr(GError) local = NULL;

    ff_progress_say(t->progress, false, "compressing");
    FF_FAULT_AT("compressing");
    if (t->result->disks) {
        ff_progress_say(t->progress, true, "%s", t->result->disks);
    }
    g_autoptr(FfOutput) packed = ff_output_new(t->result->path, &local);
    if (packed && ff_seekable_write(t->output, packed, is_interrupted, t, &local) &&
        ff_output_commit(packed, &local)) {
        return true;
    }
    return set_failure(error, "no %s is left, and the guest continues: compressing it: %s%s",
                       what_is_gone(t), local->message,
                       g_error_matches(local, G_IO_ERROR, G_IO_ERROR_NO_SPACE)
                           ? ": there must be room for the plain file and the compressed one"
                           : "");
}

static bool conclude_snapshot(Take *t, GError **error)
{
    g_autoptr(GError) local = NULL;

    switch (t->end) {
    case COMPLETED:
        if (!t->output) {
            return true;
        }
        if (t->interrupted) {
            break;
        }
        if (t->o->compress) {
            return write_compressed(t, error);
        }
        return ff_output_commit(t->output, &local) || no_file(t, local, error);
    case FAILED:
        return drop_qemus_copy(t, error);
    case LEFT:
        return set_failure(error, "left before the cancel was through: farfault status %s",
                           t->o->address);
    default:
        break;
    }
    return set_failure(error, "the snapshot was cancelled%s; no %s is left",
                       t->interrupted ? "" : " by another client", what_is_gone(t));
}

static void ask_last(Take *t)
{
    g_autoptr(GError) local = NULL;

    if (t->end != LEFT && t->begun) {
        t->result->info = ff_cli_qmp_call(t->qmp, "query-migrate", NULL, &local);
        if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_GONE) && t->end == FAILED &&
            !t->why) {
            t->why = g_strdup(local->message); /* of a QEMU that has ended the engine says first */
        }
        ff_recorder_info(&t->recorder, t->result->info);
    }
    if (t->resume > t->stop) {
        t->result->stood_us = t->resume - t->stop;
    }
}

/* ---- the disks ------------------------------------------------------------------------------- */

/* Whoever restores this file would take it for its own. */
static bool has_no_manifest(const Take *t, GError **error)
{
    g_autofree char *path = ff_disks_file_name(t->result->path);

    return !g_file_test(path, G_FILE_TEST_EXISTS) ||
           set_failure(
               error,
               "%s is there already, and says which images another snapshot has: give another "
               "name",
               path);
}

static bool make_overlays(Take *t, GError **error)
{
    if (!t->o->disks) {
        return has_no_manifest(t, error);
    }
    g_autofree char *folder = g_canonicalize_filename(t->o->disks, NULL);
    FfRestoreHint file = ff_take_file(t->o, t->result);
    file.folder = folder;
    g_autofree char *command = file.qemu ? ff_restore_hint_command(&file) : NULL;
    t->overlays =
        ff_cli_overlays_new(t->qmp, t->o->disks, t->result->path, command, &t->left, error);
    return t->overlays;
}

/* Also of a snapshot that has failed: the guest may have continued with them, and nobody else says
 * so. */
static void settle_disks(Take *t)
{
    g_autoptr(GError) local = NULL;

    if (!t->overlays) {
        t->result->left_out = t->end == COMPLETED ? ff_cli_disks_names(t->qmp) : NULL;
        return;
    }
    t->disks_end = ff_cli_overlays_settle(t->overlays, t->end == COMPLETED,
                                          t->end != LEFT || !t->asked, &local);
    if (local && t->disks_end != FF_OVERLAYS_UNKNOWN) {
        ff_progress_say(t->progress, true, "%s", local->message);
    }
    t->result->disks = g_strdup(ff_cli_overlays_line(t->overlays));
    t->result->manifest = g_strdup(ff_cli_overlays_manifest(t->overlays));
    if (!t->result->disks && t->end == COMPLETED) {
        t->result->disks =
            g_strdup("the guest has no disk that it can write to: it is started with "
                     "what it had");
    }
}

/* There is no file, but what the guest needs stays, and the line says it. */
static void fail_disks(Take *t, GError **error)
{
    if (!t->overlays || !ff_cli_overlays_manifest(t->overlays)) {
        return;
    }
    ff_cli_overlays_fail(t->overlays);
    g_free(t->result->disks);
    g_free(t->result->manifest);
    t->result->disks = g_strdup(ff_cli_overlays_line(t->overlays));
    t->result->manifest = g_strdup(ff_cli_overlays_manifest(t->overlays));

    g_autoptr(GError) why = g_steal_pointer(error);
    set_failure(error, "%s; the overlays stay, because the guest %s them: %s lists them",
                why->message, t->disks_end == FF_OVERLAYS_UNKNOWN ? "may use" : "uses",
                t->result->manifest);
}

bool ff_take_run(const FfTakeOptions *options, FfProgress *progress, FfTakeResult *result,
                 GError **error)
{
    Take t = {.o = options, .progress = progress, .result = result};
    bool ok;

    result->stood_us = -1;
    t.qmp = ff_cli_qmp_open(options->address, NULL, error);
    if (!t.qmp) {
        return false;
    }
    t.recorder = (FfRecorder){options->record, FF_SIDE_SOURCE, t.qmp, false};
    ok = check_guest(&t, error) && check_idle(&t, error) && make_file(&t, error);
    if (ok) {
        attach_all(&t); /* from here on a signal waits for us, and finds a file to give up */
        result->other = ff_cli_disks_other(t.qmp, NULL);
        result->qemu = ff_restore_hint_qemu(t.qmp, &result->cwd, &result->options);
        ok = make_overlays(&t, error) && want_events(&t, error) && pass_file(&t, error);
    }
    if (ok && t.interrupted) {
        ok = set_failure(error, "interrupted before it began");
    }
    if (ok) {
        wait_for_end(&t);
        ask_last(&t);
    }
    settle_disks(&t);
    ok = ok && conclude_snapshot(&t, error);
    if (!ok) {
        fail_disks(&t, error);
    }
    close_fd(&t);
    if (t.events_set && t.end != LEFT) {
        set_events(&t, false, NULL);
    }
    ff_output_free(t.output);
    detach_all(&t);
    ff_cli_overlays_free(t.overlays);
    ff_cli_qmp_free(t.qmp);
    g_free(t.fdname);
    g_free(t.why);
    return ok;
}
