/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Before a migration: both monitors, what stands against it, capabilities, parameters, and the
 * destination's listening address.
 *
 * Every question is asked before anything is changed, so that a refusal leaves both QEMUs as
 * they were. Capabilities and parameters go to both sides (they must agree); only the
 * bandwidth is the source's alone. One thread.
 */
#include "cli/common/format.h"
#include "cli/common/options.h"
#include "cli/common/uri.h"
#include "cli/common/userfault.h"
#include "cli/common/words.h"
#include "cli/migrate/run.h"
#include "qmp/json.h"

#include <string.h>

void ff_move_ends_clear(FfMoveEnds *ends)
{
    g_clear_pointer(&ends->src, ff_cli_qmp_free);
    g_clear_pointer(&ends->dst, ff_cli_qmp_free);
    g_clear_pointer(&ends->uri, g_free);
}

/* query-commands names farfault's own there. */
static bool is_under_farfault(FfCliQmp *qmp)
{
    g_autoptr(JsonNode) answer = ff_cli_qmp_call(qmp, "query-commands", NULL, NULL);
    JsonArray *list = answer && JSON_NODE_HOLDS_ARRAY(answer) ? json_node_get_array(answer) : NULL;

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *command = ff_json_node_object(json_array_get_element(list, i));

        if (g_str_has_prefix(ff_json_string_or(command, "name", ""), "x-farfault-")) {
            return true;
        }
    }
    return false;
}

/* A QEMU that may not wait for faults; NULL: the refusal is another one (g_free). QEMU 7.2's own
 * postcopy knows no /dev/userfaultfd: its group helps where farfault is. */
static char *remedy_userfault(FfCliQmp *qmp, const char *message)
{
    if (!strstr(message, "Postcopy is not supported") && !strstr(message, "userfault")) {
        return NULL;
    }
    if (strstr(message, "no userfaultfd for this user")) {
        return g_strdup(""); /* the relay has said what helps (guest/relay/uffds.c) */
    }
    bool takes_device = !g_str_has_prefix(ff_cli_qmp_version(qmp), "7.") || is_under_farfault(qmp);
    g_autofree char *fix = ff_cli_userfault_fix_qemu(!ff_cli_qmp_host(qmp) && takes_device);

    return g_strdup_printf(": QEMU may not use userfaultfd: %s", fix);
}

/* What to do about a refusal of QEMU that people meet often; "" if nothing is known. */
static const char *remedy_for(const char *message)
{
    static const struct {
        const char *part, *remedy;
    } table[] = {
        {"preempt must be set before incoming",
         ": start the destination with -incoming defer for --preempt"},
        {"preempt not supported", ": leave out --preempt"},
        {"'postcopy-preempt'", ": this QEMU is too old for --preempt"},
        {"'-incoming' was not specified", ": start the destination with -incoming defer"},
        {"already been started", ": start the destination again; each serves one migration"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        if (strstr(message, table[i].part)) {
            return table[i].remedy;
        }
    }
    return "";
}

/* A command that must succeed; ERROR says who refused what, and the remedy. */
static bool call_or_fail(FfCliQmp *qmp, const char *role, const char *command,
                         JsonObject *arguments, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) result = ff_cli_qmp_call(qmp, command, arguments, &local);

    if (result) {
        return true;
    }
    if (ff_qmp_refused(local)) {
        g_autofree char *fault = remedy_userfault(qmp, local->message);

        g_set_error(error, local->domain, local->code, "%s refused %s: %s%s", role, command,
                    local->message, fault ? fault : remedy_for(local->message));
    } else {
        g_propagate_error(error, g_steal_pointer(&local));
    }
    return false;
}

/* The name in LIST, answers of query-migrate-capabilities or members of query-migrate-parameters,
 * that WORD was perhaps to be: one of few other letters, or the shortest that begins so. NULL: WORD
 * is one of them, or no such name is there. */
static const char *nearest_name(const char *word, GPtrArray *names)
{
    const char *longer = NULL;

    for (guint i = 0; i + 1 < names->len; i++) {
        const char *name = names->pdata[i];

        if (!strcmp(name, word)) {
            return NULL;
        }
        if (g_str_has_prefix(name, word) && (!longer || strlen(name) < strlen(longer))) {
            longer = name;
        }
    }
    const char *nearest = ff_cli_nearest(word, (const char *const *)names->pdata);

    return nearest ? nearest : longer;
}

/* What QEMU has, by QUESTION; ended by NULL. Empty if it does not say. */
static GPtrArray *names_of(FfCliQmp *qmp, const char *question)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(JsonNode) answer = ff_cli_qmp_call(qmp, question, NULL, NULL);
    JsonObject *members = ff_json_node_object(answer);
    JsonArray *list = answer && JSON_NODE_HOLDS_ARRAY(answer) ? json_node_get_array(answer) : NULL;
    g_autoptr(GList) keys = members ? json_object_get_members(members) : NULL;

    for (GList *k = keys; k; k = k->next) {
        g_ptr_array_add(names, g_strdup(k->data));
    }
    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *one = ff_json_node_object(json_array_get_element(list, i));

        g_ptr_array_add(names, g_strdup(ff_json_string_or(one, "capability", "")));
    }
    g_ptr_array_add(names, NULL);
    return names;
}

/* GIVEN, NAME or NAME=VALUE of OPTION, was refused, as ERROR says: if it was misspelled, ERROR says
 * that as well. */
static bool explain_refused(FfCliQmp *qmp, const char *option, char *const *given, GError **error)
{
    g_autoptr(GPtrArray) names =
        names_of(qmp, !strcmp(option, "--parameter") ? "query-migrate-parameters"
                                                     : "query-migrate-capabilities");

    for (; given && *given; given++) {
        g_autofree char *word = g_strndup(*given, strcspn(*given, "="));
        const char *name = nearest_name(word, names);

        if (name) {
            g_autofree char *message = g_steal_pointer(&(*error)->message);

            (*error)->message =
                g_strdup_printf("%s: %s %s: did you mean %s?", message, option, word, name);
            break;
        }
    }
    return false;
}

static char *run_state(FfCliQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) result = ff_cli_qmp_call(qmp, "query-status", NULL, error);

    return result ? g_strdup(ff_json_string_or(ff_json_node_object(result), "status", "unknown"))
                  : NULL;
}

static bool check_source(FfMoveEnds *ends, const FfMoveOptions *o, GError **error)
{
    g_autofree char *state = run_state(ends->src, error);
    g_autoptr(JsonNode) info = NULL;
    const char *status;

    if (!state) {
        return false;
    }
    if (!strcmp(state, "inmigrate")) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "source %s waits for an incoming migration itself: are source and "
                    "destination swapped?",
                    o->source);
        return false;
    }
    if (!strcmp(state, "postmigrate")) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "source %s has given its guest away already (postmigrate)", o->source);
        return false;
    }
    info = ff_cli_qmp_call(ends->src, "query-migrate", NULL, error);
    if (!info) {
        return false;
    }
    status = ff_json_string_or(ff_json_node_object(info), "status", "none");
    if (!g_strv_contains((const char *const[]){"none", "completed", "failed", "cancelled", NULL},
                         status)) {
        FfWordsKind kind = ff_words_kind(ff_json_node_object(info));

        if (kind == FF_WORDS_MIGRATION) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                        "source %s is migrating already (%s): look at it with farfault status %s",
                        o->source, status, o->source);
        } else {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                        "source %s: its %s is under way (%s): wait for its end, or look at it with "
                        "farfault status %s",
                        o->source, ff_words_kind_name(kind), status, o->source);
        }
        return false;
    }
    ends->was_running = !strcmp(state, "running");
    return true;
}

static bool check_destination(FfMoveEnds *ends, const FfMoveOptions *o, GError **error)
{
    g_autofree char *state = run_state(ends->dst, error);

    if (!state) {
        return false;
    }
    if (strcmp(state, "inmigrate")) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "destination %s does not wait for a migration (its guest is %s): start it "
                    "with -incoming defer",
                    o->destination, state);
        return false;
    }
    return true;
}

static void add_capability(JsonArray *list, const char *name, bool state)
{
    JsonObject *one = json_object_new();

    json_object_set_string_member(one, "capability", name);
    json_object_set_boolean_member(one, "state", state);
    json_array_add_object_element(list, one);
}

static bool set_capabilities(FfCliQmp *qmp, const char *role, const FfMoveOptions *o,
                             GError **error)
{
    JsonArray *list = json_array_new();
    JsonObject *arguments = json_object_new();

    json_object_set_array_member(arguments, "capabilities", list);
    add_capability(list, "events", true);
    /* An earlier migration, perhaps in the other direction, has left them as it needed them. */
    add_capability(list, "postcopy-ram", o->mode != FF_MOVE_PRECOPY);
    add_capability(list, "postcopy-preempt", o->preempt);
    for (char **c = o->capabilities; c && *c; c++) {
        g_auto(GStrv) part = g_strsplit(*c, "=", 2);
        add_capability(list, part[0], !part[1] || strcmp(part[1], "off"));
    }
    return call_or_fail(qmp, role, "migrate-set-capabilities", arguments, error) ||
           explain_refused(qmp, "--capability", o->capabilities, error);
}

/* VALUE as QMP wants it: on/off and true/false, numbers, else a string. */
static JsonNode *parameter_value(const char *value)
{
    gint64 number;

    if (!strcmp(value, "on") || !strcmp(value, "true")) {
        return json_node_init_boolean(json_node_alloc(), TRUE);
    }
    if (!strcmp(value, "off") || !strcmp(value, "false")) {
        return json_node_init_boolean(json_node_alloc(), FALSE);
    }
    if (g_ascii_string_to_signed(value, 10, G_MININT64, G_MAXINT64, &number, NULL)) {
        return json_node_init_int(json_node_alloc(), number);
    }
    return json_node_init_string(json_node_alloc(), value);
}

static bool set_parameters(FfMoveEnds *ends, const FfMoveOptions *o, GError **error)
{
    g_autoptr(JsonObject) both = json_object_new();
    g_autoptr(JsonObject) source = json_object_new();

    for (char **p = o->parameters; p && *p; p++) {
        g_auto(GStrv) part = g_strsplit(*p, "=", 2);
        json_object_set_member(both, part[0], parameter_value(part[1]));
    }
    if (o->bandwidth) {
        json_object_set_int_member(source, "max-bandwidth", o->bandwidth);
    }
    if (o->postcopy_bandwidth) {
        json_object_set_int_member(source, "max-postcopy-bandwidth", o->postcopy_bandwidth);
    }
    if (json_object_get_size(both) &&
        !call_or_fail(ends->dst, "destination", "migrate-set-parameters", json_object_ref(both),
                      error)) {
        return explain_refused(ends->dst, "--parameter", o->parameters, error);
    }
    if (json_object_get_size(both) && !call_or_fail(ends->src, "source", "migrate-set-parameters",
                                                    json_object_ref(both), error)) {
        return explain_refused(ends->src, "--parameter", o->parameters, error);
    }
    return !json_object_get_size(source) ||
           call_or_fail(ends->src, "source", "migrate-set-parameters", g_steal_pointer(&source),
                        error);
}

/* Where the destination listens now; NULL without ERROR if it does not yet. */
static bool listening_uri(FfCliQmp *dst, char **uri, GError **error)
{
    g_autoptr(JsonNode) info = ff_cli_qmp_call(dst, "query-migrate", NULL, error);

    if (!info) {
        return false;
    }
    *uri = ff_uri_from_info(ff_json_node_object(info));
    return true;
}

/* A destination that cannot listen at WANTED, which QEMU does not name. */
static void name_address(const char *wanted, GError **error)
{
    if (strstr((*error)->message, "Address already in use")) {
        g_autofree char *text = g_strdup_printf(
            "%s: %s is another program's: name another port with --uri (port 0: any that is free), "
            "or end what listens there (ss -ltnp)",
            (*error)->message, wanted);

        g_free((*error)->message);
        (*error)->message = g_steal_pointer(&text);
    }
}

static bool listen_at(FfMoveEnds *ends, const FfMoveOptions *o, GError **error)
{
    const char *dst_host = ff_cli_qmp_host(ends->dst);
    g_autofree char *wanted = NULL, *actual = NULL;
    JsonObject *arguments;

    if (!listening_uri(ends->dst, &actual, error)) {
        return false;
    }
    if (!actual) {
        wanted = o->listen ? g_strdup(o->listen)
                           : ff_uri_default_listen(ff_cli_qmp_host(ends->src), dst_host, error);
        if (!wanted) {
            return false;
        }
        arguments = json_object_new();
        json_object_set_string_member(arguments, "uri", wanted);
        if (!call_or_fail(ends->dst, "destination", "migrate-incoming", arguments, error)) {
            name_address(wanted, error);
            return false;
        }
        if (!listening_uri(ends->dst, &actual, error)) {
            return false;
        }
    }
    if (o->connect) {
        ends->uri = g_strdup(o->connect);
    } else if (o->listen && !ff_uri_any_port(o->listen)) {
        ends->uri = ff_uri_for_source(o->listen, dst_host);
    } else if (actual) {
        ends->uri = ff_uri_for_source(actual, dst_host);
    } else {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "destination %s does not say where it listens: say what the source is to "
                    "connect to with --connect URI",
                    o->destination);
        return false;
    }
    return true;
}

bool ff_move_prepare(const FfMoveOptions *o, FfMoveEnds *ends, GError **error)
{
    ends->src = ff_cli_qmp_open(o->source, "source", error);
    if (!ends->src) {
        return false;
    }
    ends->dst = ff_cli_qmp_open(o->destination, "destination", error);
    if (!ends->dst) {
        return false;
    }
    return check_source(ends, o, error) && check_destination(ends, o, error) &&
           set_capabilities(ends->dst, "destination", o, error) &&
           set_capabilities(ends->src, "source", o, error) && set_parameters(ends, o, error) &&
           listen_at(ends, o, error);
}
