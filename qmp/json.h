/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lenient reads of JSON objects: a member that is absent or of another type yields NULL, FALSE or
 * the given default. What QEMU sends is not trusted to have any shape. OBJECT and NODE can be NULL;
 * what is returned is borrowed. No state; any thread.
 */
#ifndef FF_QMP_JSON_H
#define FF_QMP_JSON_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <string.h>

static inline JsonNode *ff_json_get(JsonObject *object, const char *name, JsonNodeType type)
{
    JsonNode *node = object ? json_object_get_member(object, name) : NULL;

    return node && json_node_get_node_type(node) == type ? node : NULL;
}

static inline JsonNode *ff_json_value(JsonObject *object, const char *name, GType type)
{
    JsonNode *node = ff_json_get(object, name, JSON_NODE_VALUE);

    return node && json_node_get_value_type(node) == type ? node : NULL;
}

static inline JsonObject *ff_json_object(JsonObject *object, const char *name)
{
    JsonNode *node = ff_json_get(object, name, JSON_NODE_OBJECT);

    return node ? json_node_get_object(node) : NULL;
}

static inline JsonArray *ff_json_array(JsonObject *object, const char *name)
{
    JsonNode *node = ff_json_get(object, name, JSON_NODE_ARRAY);

    return node ? json_node_get_array(node) : NULL;
}

/* OBJECT, which is one, has no members but those of NAMES (NULL-terminated). */
static inline bool ff_json_has_only(JsonObject *object, const char *const *names)
{
    g_autoptr(GList) members = json_object_get_members(object);

    for (GList *l = members; l; l = l->next) {
        if (!g_strv_contains(names, (const char *)l->data)) {
            return false;
        }
    }
    return true;
}

static inline gint64 ff_json_int(JsonObject *object, const char *name, gint64 otherwise)
{
    JsonNode *node = ff_json_value(object, name, G_TYPE_INT64);

    return node ? json_node_get_int(node) : otherwise;
}

/* Of any number. */
static inline double ff_json_double(JsonObject *object, const char *name, double otherwise)
{
    JsonNode *node = ff_json_value(object, name, G_TYPE_DOUBLE);

    node = node ? node : ff_json_value(object, name, G_TYPE_INT64);
    return node ? json_node_get_double(node) : otherwise;
}

static inline bool ff_json_bool(JsonObject *object, const char *name)
{
    JsonNode *node = ff_json_value(object, name, G_TYPE_BOOLEAN);

    return node && json_node_get_boolean(node);
}

static inline const char *ff_json_string_or(JsonObject *object, const char *name,
                                            const char *otherwise)
{
    JsonNode *node = ff_json_value(object, name, G_TYPE_STRING);

    return node ? json_node_get_string(node) : otherwise;
}

static inline const char *ff_json_string(JsonObject *object, const char *name)
{
    return ff_json_string_or(object, name, NULL);
}

static inline JsonObject *ff_json_node_object(JsonNode *node)
{
    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* Arrays and objects at most in a text that somebody else may have written: more than any of ours
 * has. json-glib's parser recurses for each of them that is in another one, and has no limit of its
 * own. Those in strings are counted as well: where a string begins is the parser's to say. */
#define FF_JSON_NESTS_MAX 4096

static inline bool ff_json_is_modest(const char *text, size_t len)
{
    unsigned n = 0;

    for (size_t i = 0; i < len && n <= FF_JSON_NESTS_MAX; i++) {
        n += text[i] == '[' || text[i] == '{';
    }
    return n <= FF_JSON_NESTS_MAX;
}

/* What TEXT says, whoever has written it (json_node_unref()); NULL: it is no JSON, or too much. */
static inline JsonNode *ff_json_from_text(const char *text)
{
    return ff_json_is_modest(text, strlen(text)) ? json_from_string(text, NULL) : NULL;
}

/* How many elements a list has; 0: it is none. */
static inline guint ff_json_node_length(JsonNode *node)
{
    return node && JSON_NODE_HOLDS_ARRAY(node) ? json_array_get_length(json_node_get_array(node))
                                               : 0;
}

/* The Ith of them; NULL: it is no object. */
static inline JsonObject *ff_json_node_nth(JsonNode *node, guint i)
{
    return ff_json_node_object(json_array_get_element(json_node_get_array(node), i));
}

#endif
