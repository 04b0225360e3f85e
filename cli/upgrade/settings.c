/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See settings.h. A client that stays connected (guest/relay/clients.h) has set them once, and
 * relies on them: libvirt waits for the events that the capability "events" brings.
 *
 * What the new QEMU does not know it could not obey either: of that nothing is said.
 */
#include "cli/upgrade/settings.h"

#include <gio/gio.h>

#include "qmp/json.h"

static void note_refused(GString *said, const char *name, const GError *error)
{
    g_string_append_printf(said, "%smigration setting '%s' is not carried over: %s",
                           said->len ? "; " : "", name, error->message);
}

/* ---- capabilities ---------------------------------------------------------------------------- */

/* Of CAPABILITIES, as QEMU answers; *STATE is set if it is one. */
static bool find_capability(JsonNode *capabilities, const char *name, bool *state)
{
    JsonArray *all = capabilities && JSON_NODE_HOLDS_ARRAY(capabilities)
                         ? json_node_get_array(capabilities)
                         : NULL;

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(all, i));

        if (o && !g_strcmp0(ff_json_string(o, "capability"), name)) {
            *state = ff_json_bool(o, "state");
            return true;
        }
    }
    return false;
}

static void set_capability(FfCliQmp *qmp, const char *name, bool state, GString *said)
{
    g_autoptr(GError) error = NULL;
    JsonObject *one = json_object_new(), *arguments = json_object_new();
    JsonArray *list = json_array_new();

    json_object_set_string_member(one, "capability", name);
    json_object_set_boolean_member(one, "state", state);
    json_array_add_object_element(list, one);
    json_object_set_array_member(arguments, "capabilities", list);
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "migrate-set-capabilities", arguments, &error);
    if (!node) {
        note_refused(said, name, error);
    }
}

static void carry_capabilities(FfCliQmp *running, FfCliQmp *prepared, GString *said)
{
    g_autoptr(JsonNode) from = ff_cli_qmp_call(running, "query-migrate-capabilities", NULL, NULL);
    g_autoptr(JsonNode) to = ff_cli_qmp_call(prepared, "query-migrate-capabilities", NULL, NULL);
    JsonArray *all = from && JSON_NODE_HOLDS_ARRAY(from) ? json_node_get_array(from) : NULL;

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(all, i));
        const char *name = ff_json_string_or(o, "capability", "");
        bool wanted = ff_json_bool(o, "state"), has = false;

        if (find_capability(to, name, &has) && has != wanted) {
            set_capability(prepared, name, wanted, said);
        }
    }
}

/* ---- parameters ------------------------------------------------------------------------------ */

static void set_parameter(FfCliQmp *qmp, const char *name, JsonNode *value, GString *said)
{
    g_autoptr(GError) error = NULL;
    JsonObject *arguments = json_object_new();

    json_object_set_member(arguments, name, json_node_copy(value));
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "migrate-set-parameters", arguments, &error);
    if (!node) {
        note_refused(said, name, error);
    }
}

static void carry_parameters(FfCliQmp *running, FfCliQmp *prepared, GString *said)
{
    g_autoptr(JsonNode) from = ff_cli_qmp_call(running, "query-migrate-parameters", NULL, NULL);
    g_autoptr(JsonNode) to = ff_cli_qmp_call(prepared, "query-migrate-parameters", NULL, NULL);
    JsonObject *wanted = ff_json_node_object(from), *has = ff_json_node_object(to);
    JsonObjectIter iter;
    const char *name;
    JsonNode *value;

    if (!wanted || !has) {
        return;
    }
    json_object_iter_init_ordered(&iter, wanted);
    while (json_object_iter_next_ordered(&iter, &name, &value)) {
        JsonNode *other = json_object_get_member(has, name);

        if (other && !json_node_equal(value, other)) {
            set_parameter(prepared, name, value, said);
        }
    }
}

char *ff_upgrade_carry_settings(FfCliQmp *running, FfCliQmp *prepared)
{
    GString *said = g_string_new(NULL);

    /* Some capabilities are refused while a parameter has another value, and none the other way
     * round. */
    carry_parameters(running, prepared, said);
    carry_capabilities(running, prepared, said);
    return g_string_free(said, !said->len);
}
