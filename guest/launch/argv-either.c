/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See ff_opts_read() and ff_opt_monitor() in argv-opts.h. Pure; any thread. */
#include "guest/launch/argv-opts.h"

#include <json-glib/json-glib.h>

static void add_node(GPtrArray *opts, char *key, JsonNode *node);

static void add_array(GPtrArray *opts, const char *key, JsonArray *array)
{
    for (guint i = 0; i < json_array_get_length(array); i++) {
        add_node(opts, g_strdup_printf("%s.%u", key, i), json_array_get_element(array, i));
    }
}

static void add_object(GPtrArray *opts, const char *key, JsonObject *object)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;

    json_object_iter_init_ordered(&iter, object);
    while (json_object_iter_next_ordered(&iter, &name, &node)) {
        add_node(opts, key ? g_strdup_printf("%s.%s", key, name) : g_strdup(name), node);
    }
}

/* g_free. */
static char *text_of(JsonNode *node)
{
    switch (json_node_get_value_type(node)) {
    case G_TYPE_STRING:
        return json_node_dup_string(node);
    case G_TYPE_BOOLEAN:
        return g_strdup(json_node_get_boolean(node) ? "on" : "off");
    default:
        return json_to_string(node, FALSE);
    }
}

/* Takes KEY. */
static void add_node(GPtrArray *opts, char *key, JsonNode *node)
{
    if (JSON_NODE_HOLDS_VALUE(node)) {
        ff_opts_add(opts, key, text_of(node), false);
        return;
    }
    if (JSON_NODE_HOLDS_ARRAY(node)) {
        add_array(opts, key, json_node_get_array(node));
    } else if (JSON_NODE_HOLDS_OBJECT(node)) {
        add_object(opts, key, json_node_get_object(node));
    }
    g_free(key);
}

GPtrArray *ff_opts_read(const char *text, const char *implied)
{
    if (*text != '{') {
        return ff_opts_parse(text, implied);
    }
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    GPtrArray *opts = ff_opts_new();

    if (node && JSON_NODE_HOLDS_OBJECT(node)) {
        add_object(opts, NULL, json_node_get_object(node));
    }
    return opts;
}

char *ff_opt_monitor(const FfOption *option, const char *value, bool *control)
{
    bool is_object = option->kind == FF_OPT_OBJECT;
    g_autoptr(GPtrArray) opts = is_object                    ? ff_opts_read(value, "qom-type")
                                : option->kind == FF_OPT_MON ? ff_opts_parse(value, "chardev")
                                                             : NULL;
    const char *type = opts && is_object ? ff_opts_get(opts, "qom-type") : NULL;

    if (!opts || (is_object && !ff_opt_is_monitor_type(type))) {
        return NULL;
    }
    *control = is_object ? g_str_equal(type, FF_QMP_MONITOR_TYPE)
                         : !g_strcmp0(ff_opts_get(opts, "mode"), "control");
    return g_strdup(ff_opts_get(opts, "chardev"));
}
