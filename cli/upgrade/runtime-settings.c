/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See runtime-settings.h. One thread; no state. */
#include "cli/upgrade/runtime-settings.h"

#include <gio/gio.h>
#include <string.h>

#include "qmp/json.h"

#define FOLDER "/machine/peripheral"
#define INTERVAL "guest-stats-polling-interval"

char *ff_upgrade_carry_actions(JsonArray *actions, FfCliQmp *prepared)
{
    JsonObject *arguments = json_object_new();
    g_autoptr(GError) error = NULL;

    for (guint i = 0; actions && i < json_array_get_length(actions); i++) {
        const char *text = json_array_get_string_element(actions, i);
        const char *equals = text ? strchr(text, '=') : NULL;

        if (equals) {
            g_autofree char *kind = g_strndup(text, (gsize)(equals - text));

            json_object_set_string_member(arguments, kind, equals + 1);
        }
    }
    if (!json_object_get_size(arguments)) {
        json_object_unref(arguments);
        return NULL;
    }
    g_autoptr(JsonNode) node = ff_cli_qmp_call(prepared, "set-action", arguments, &error);
    return node ? NULL : g_strdup_printf("what was said by set-action is lost: %s", error->message);
}

/* ---- balloons -------------------------------------------------------------------------------- */

static void clear_balloon(gpointer p)
{
    g_free(((FfBalloon *)p)->path);
}

static JsonObject *property_of(const char *path)
{
    JsonObject *arguments = json_object_new();

    json_object_set_string_member(arguments, "path", path);
    json_object_set_string_member(arguments, "property", INTERVAL);
    return arguments;
}

GArray *ff_upgrade_balloons(FfCliQmp *running)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(FfBalloon));
    JsonObject *arguments = json_object_new();

    g_array_set_clear_func(all, clear_balloon);
    json_object_set_string_member(arguments, "path", FOLDER);
    g_autoptr(JsonNode) list = ff_cli_qmp_call(running, "qom-list", arguments, NULL);
    JsonArray *children = list && JSON_NODE_HOLDS_ARRAY(list) ? json_node_get_array(list) : NULL;
    for (guint i = 0; children && i < json_array_get_length(children); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(children, i));

        if (!o || !g_str_has_prefix(ff_json_string_or(o, "type", ""), "child<virtio-balloon")) {
            continue;
        }
        FfBalloon balloon = {g_strdup_printf(FOLDER "/%s", ff_json_string_or(o, "name", "")), 0};
        g_autoptr(JsonNode) value =
            ff_cli_qmp_call(running, "qom-get", property_of(balloon.path), NULL);
        balloon.seconds = value && JSON_NODE_HOLDS_VALUE(value) ? json_node_get_int(value) : 0;
        g_array_append_val(all, balloon);
    }
    return all;
}

void ff_upgrade_poll_balloons(const GArray *balloons, FfCliQmp *qmp)
{
    for (guint i = 0; i < balloons->len; i++) {
        const FfBalloon *balloon = &g_array_index(balloons, FfBalloon, i);

        if (balloon->seconds) {
            JsonObject *arguments = property_of(balloon->path);

            json_object_set_int_member(arguments, "value", balloon->seconds);
            g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "qom-set", arguments, NULL);
        }
    }
}
