/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault migrate --resume, before its migrate: looks whether there is a paused migration between
 * the two monitors, and has the destination listen where it does not.
 *
 * It sends what docs/recovery.md has for a person to type, and nothing else that changes something:
 * query-migrate at both, migrate-recover at the destination if it needs it. Of a side that does not
 * answer nothing is said; of the other one what it says itself. Whether the two are the halves of
 * one guest, and who may run it, the engines decide: a source is told by the session's secret, and
 * one that comes to another guest is sent away. QEMU's own migrations have no such check, so they
 * are left to the person who types. One thread.
 */
#include <string.h>

#include "cli/common/uri.h"
#include "cli/migrate/run.h"
#include "qmp/json.h"

typedef struct {
    const FfMoveOptions *o;
    JsonNode *source, *destination; /* query-migrate */
} Look;

static void look_clear(Look *look)
{
    g_clear_pointer(&look->source, json_node_unref);
    g_clear_pointer(&look->destination, json_node_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Look, look_clear)

static bool refuse_resume(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static bool refuse_resume(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, text);
    return false;
}

static const char *status_of(JsonNode *info)
{
    return ff_json_string_or(ff_json_node_object(info), "status", "none");
}

static JsonObject *own_of(JsonNode *info)
{
    return ff_json_object(ff_json_node_object(info), "x-farfault");
}

static JsonObject *half_of(JsonNode *info)
{
    return ff_json_object(own_of(info), "half");
}

static bool is_half(JsonNode *info, const char *role)
{
    return !strcmp(ff_json_string_or(half_of(info), "role", ""), role);
}

static bool is_one_of(const char *status, const char *const *list)
{
    return g_strv_contains(list, status);
}

/* Between the switch and its end, and not an engine's. */
static bool is_qemus(JsonNode *info)
{
    return g_str_has_prefix(status_of(info), "postcopy-") && !half_of(info);
}

/* ---- is there something to resume? ----------------------------------------------------------- */

/* Before the switch, and where it was undone, the guest is here. After it a VMM that is no source
 * may wait for a page: it is not asked. QMP: its monitor. */
static bool refuse_not_paused(const Look *look, FfCliQmp *qmp, GError **error)
{
    const char *address = look->o->source;
    bool moved = half_of(look->source) || is_qemus(look->source);
    g_autoptr(JsonNode) node = moved ? NULL : ff_cli_qmp_call(qmp, "query-status", NULL, NULL);
    const char *state = ff_json_string_or(ff_json_node_object(node), "status", "");

    return refuse_resume(
        error, "nothing is paused: the migration of source %s is \"%s\"%s: farfault status %s",
        address, status_of(look->source),
        !strcmp(state, "running") ? ", and the guest runs there" : "", address);
}

/* QMP: its monitor. */
static bool check_source(const Look *look, FfCliQmp *qmp, GError **error)
{
    const char *address = look->o->source, *status = status_of(look->source);

    if (is_half(look->source, "destination")) {
        return refuse_resume(error,
                             "source %s is the destination of its migration: are source and "
                             "destination swapped?",
                             address);
    }
    if (is_one_of(status,
                  (const char *const[]){"postcopy-recover", "postcopy-recover-setup", NULL})) {
        return refuse_resume(error,
                             "nothing is paused: source %s is connecting again already (%s): "
                             "farfault status %s",
                             address, status, address);
    }
    if (strcmp(status, "postcopy-paused") != 0) {
        return refuse_not_paused(look, qmp, error);
    }
    if (is_qemus(look->source)) {
        return refuse_resume(
            error,
            "source %s: QEMU carries this migration itself, and does not see whether a "
            "destination is that of its guest: type migrate-recover and migrate with "
            "resume=true yourself",
            address);
    }
    if (ff_json_bool(half_of(look->source), "peer-ended")) {
        return refuse_resume(error,
                             "the destination's QEMU has ended after it was given the guest: "
                             "nothing can be resumed (farfault status %s)",
                             address);
    }
    return true;
}

/* A destination that has all has ended its half, and lets the source come once more. */
static bool is_complete(const Look *look)
{
    return !strcmp(status_of(look->destination), "completed") &&
           !strcmp(ff_json_string_or(own_of(look->destination), "engine", ""), "farfault") &&
           !ff_json_object(own_of(look->destination), "restore") &&
           !ff_json_object(ff_json_node_object(look->destination), "ram");
}

static bool check_half(const Look *look, GError **error)
{
    const char *address = look->o->destination;
    JsonObject *half = half_of(look->destination);
    const char *file = ff_json_string(half, "peer");

    if (ff_json_bool(half, "peer-ended")) {
        return refuse_resume(
            error,
            "the QEMU that was the source of destination %s has ended, so %s is another "
            "one: farfault status %s says what is lost, and farfault recover --from "
            "DIRECTORY %s continues from its dump",
            address, look->o->source, address, address);
    }
    if (file) {
        return refuse_resume(error,
                             "destination %s gets its memory from %s, not from a source: farfault "
                             "status %s",
                             address, file, address);
    }
    return true;
}

static bool check_destination(const Look *look, GError **error)
{
    const char *address = look->o->destination, *status = status_of(look->destination);
    bool waits =
        is_one_of(status, (const char *const[]){"postcopy-paused", "postcopy-recover", NULL});

    if (is_complete(look)) {
        return true;
    }
    if (is_half(look->destination, "destination") && waits) {
        return check_half(look, error);
    }
    if (is_half(look->destination, "destination")) {
        return refuse_resume(
            error,
            "destination %s is not paused (%s): it has not noticed yet that the "
            "connection broke, or is not the other half of source %s: try again in some "
            "seconds",
            address, status, look->o->source);
    }
    if (is_half(look->destination, "source")) {
        return refuse_resume(error,
                             "destination %s is the source of its migration: farfault status %s",
                             address, address);
    }
    if (is_qemus(look->destination)) {
        return refuse_resume(error,
                             "destination %s: QEMU carries its migration itself: it is not the "
                             "other half of source %s",
                             address, look->o->source);
    }
    return refuse_resume(
        error,
        "destination %s has nothing of a paused migration: its own is \"%s\": farfault "
        "status %s",
        address, status, address);
}

/* ---- both monitors --------------------------------------------------------------------------- */

static void add_to_error(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void add_to_error(GError **error, const char *format, ...)
{
    g_autofree char *message = g_steal_pointer(&(*error)->message);
    va_list args;

    va_start(args, format);
    g_autofree char *more = g_strdup_vprintf(format, args);
    va_end(args);
    (*error)->message = g_strdup_printf("%s. %s", message, more);
}

/* What is said of the one side that answers is what it says itself: it may be no half of anything.
 */
static void add_said(GError **error, GError *said)
{
    g_autoptr(GError) owned = said;

    add_to_error(error, "%c%s", g_ascii_toupper(*owned->message), owned->message + 1);
}

static void add_destination(Look *look, GError **error)
{
    const char *address = look->o->destination;
    g_autoptr(GError) said = NULL;
    g_autoptr(FfCliQmp) qmp = ff_cli_qmp_open(address, "destination", &said);

    look->destination = qmp ? ff_cli_qmp_call(qmp, "query-migrate", NULL, &said) : NULL;
    if (!look->destination) {
        add_said(error, g_steal_pointer(&said));
    } else if (is_complete(look)) {
        add_to_error(error,
                     "Destination %s has all of the guest's memory, and needs no source any more",
                     address);
    } else if (!check_destination(look, &said) &&
               !ff_json_bool(half_of(look->destination), "peer-ended")) {
        add_said(error, g_steal_pointer(&said));
    } else {
        add_to_error(
            error,
            "If the source has ended for good: farfault status %s says what is lost, and farfault "
            "recover --from DIRECTORY %s continues from its dump",
            address, address);
    }
}

static void add_source(Look *look, FfCliQmp *qmp, GError **error)
{
    const char *address = look->o->source;
    g_autoptr(GError) said = NULL;

    look->source = ff_cli_qmp_call(qmp, "query-migrate", NULL, &said);
    if (!look->source) {
        add_said(error, g_steal_pointer(&said));
    } else if (is_half(look->source, "source")) {
        add_to_error(error,
                     "The source keeps what it has, and does not run the guest: farfault status %s",
                     address);
    } else if (!check_source(look, qmp, &said)) {
        add_said(error, g_steal_pointer(&said));
    }
}

static bool open_both(Look *look, FfMoveEnds *ends, GError **error)
{
    const FfMoveOptions *o = look->o;

    ends->src = ff_cli_qmp_open(o->source, "source", error);
    if (!ends->src) {
        add_destination(look, error);
        return false;
    }
    ends->dst = ff_cli_qmp_open(o->destination, "destination", error);
    if (!ends->dst) {
        add_source(look, ends->src, error);
        return false;
    }
    return true;
}

static bool ask_both(Look *look, FfMoveEnds *ends, GError **error)
{
    look->source = ff_cli_qmp_call(ends->src, "query-migrate", NULL, error);
    look->destination =
        look->source ? ff_cli_qmp_call(ends->dst, "query-migrate", NULL, error) : NULL;
    return look->destination;
}

/* ---- where the destination listens ----------------------------------------------------------- */

/* NULL: nowhere, as far as it says (g_free). */
static char *listening_uri(const Look *look)
{
    const char *listens = ff_json_string(half_of(look->destination), "listens");

    return listens ? g_strdup(listens) : ff_uri_from_info(ff_json_node_object(look->destination));
}

static bool have_it_listen(Look *look, FfMoveEnds *ends, GError **error)
{
    const FfMoveOptions *o = look->o;
    JsonObject *arguments = json_object_new();
    g_autofree char *uri = o->listen ? g_strdup(o->listen)
                                     : ff_uri_default_listen(ff_cli_qmp_host(ends->src),
                                                             ff_cli_qmp_host(ends->dst), error);
    g_autoptr(JsonNode) answer = NULL;

    if (!uri) {
        json_object_unref(arguments);
        return false;
    }
    json_object_set_string_member(arguments, "uri", uri);
    answer = ff_cli_qmp_call(ends->dst, "migrate-recover", arguments, error);
    if (!answer) {
        g_prefix_error(error, "the destination does not listen at %s: ", uri);
        return false;
    }
    g_clear_pointer(&look->destination, json_node_unref);
    look->destination = ff_cli_qmp_call(ends->dst, "query-migrate", NULL, error);
    return look->destination;
}

/* Where the source connected to before holds where the destination listens at the same port: it is
 * the way that it knows, through a forwarding, too. */
static char *way_back(const Look *look, const FfMoveEnds *ends, const char *listens)
{
    const char *before = ff_json_string(half_of(look->source), "peer");

    if (look->o->connect) {
        return g_strdup(look->o->connect);
    }
    if (before && (!listens || (!look->o->listen && ff_uri_same_port(before, listens)))) {
        return g_strdup(before);
    }
    return listens ? ff_uri_for_source(listens, ff_cli_qmp_host(ends->dst)) : NULL;
}

bool ff_resume_prepare(const FfMoveOptions *o, FfMoveEnds *ends, GError **error)
{
    g_auto(Look) look = {.o = o};

    if (!open_both(&look, ends, error) || !ask_both(&look, ends, error) ||
        !check_source(&look, ends->src, error) || !check_destination(&look, error)) {
        return false;
    }
    ends->destination_completed = is_complete(&look);
    g_autofree char *now = listening_uri(&look);
    bool paused = !strcmp(status_of(look.destination), "postcopy-paused");

    if ((o->listen || (!now && paused)) && !have_it_listen(&look, ends, error)) {
        return false;
    }
    g_autofree char *listens = listening_uri(&look);

    ends->uri = way_back(&look, ends, listens);
    if (!ends->uri) {
        return refuse_resume(
            error,
            "destination %s does not say where it listens: give --uri "
            "tcp:ADDRESS:PORT, or with --connect URI what the source is to connect to",
            o->destination);
    }
    return true;
}
