/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See json.h. Pure; any thread. */
#include "qapi/json.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <string.h>

static void keep_id(const FfDialectValue *value, void *opaque)
{
    char **id = opaque;

    if (value->depth == 1 && !g_strcmp0(value->key[0], "id")) {
        *id = g_strndup(value->text, value->len);
    }
}

char *ff_json_strict(const char *text, gsize length, char **id_text, GError **error)
{
    FfDialectError wrong;
    g_autofree char *id = NULL;
    GString *strict = ff_dialect_read(text, length, 0, keep_id, &id, &wrong);

    if (!strict) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "JSON: %s at byte %zu", wrong.why,
                    wrong.at);
        return NULL;
    }
    if (id_text) {
        *id_text = g_steal_pointer(&id);
    }
    return g_string_free(strict, FALSE);
}

JsonNode *ff_json_parse(const char *text, gsize length, char **id_text, GError **error)
{
    g_autofree char *id = NULL;
    g_autofree char *strict = ff_json_strict(text, length, &id, error);

    if (!strict) {
        return NULL;
    }
    g_autoptr(JsonParser) parser = json_parser_new();

    if (!json_parser_load_from_data(parser, strict, -1, error)) {
        return NULL;
    }
    if (id_text) {
        *id_text = g_steal_pointer(&id);
    }
    return json_parser_steal_root(parser);
}

static void print_number(GString *out, JsonNode *node, const FfQapiType *type)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];

    if (json_node_get_value_type(node) == G_TYPE_DOUBLE) {
        g_string_append(out,
                        g_ascii_formatd(text, sizeof(text), "%.17g", json_node_get_double(node)));
    } else if (type && type->kind == FF_QAPI_UINT) {
        g_string_append_printf(out, "%" PRIu64, (uint64_t)json_node_get_int(node));
    } else {
        g_string_append_printf(out, "%" PRId64, json_node_get_int(node));
    }
}

static void print_value(GString *out, JsonNode *node, const FfQapiType *type)
{
    GType value = json_node_get_value_type(node);

    if (value == G_TYPE_STRING) {
        ff_dialect_print_string(out, json_node_get_string(node));
    } else if (value == G_TYPE_BOOLEAN) {
        g_string_append(out, json_node_get_boolean(node) ? "true" : "false");
    } else {
        print_number(out, node, type);
    }
}

static void print_object(GString *out, JsonObject *object, const FfQapiType *type)
{
    const char *separator = "";
    const char *name;
    JsonNode *value;
    JsonObjectIter iter;

    g_string_append_c(out, '{');
    json_object_iter_init_ordered(&iter, object);
    while (json_object_iter_next_ordered(&iter, &name, &value)) {
        g_string_append(out, separator);
        ff_dialect_print_string(out, name);
        g_string_append(out, ": ");
        ff_json_print(out, value, ff_qapi_member_type(type, name, object));
        separator = ", ";
    }
    g_string_append_c(out, '}');
}

void ff_json_print(GString *out, JsonNode *node, const FfQapiType *type)
{
    switch (json_node_get_node_type(node)) {
    case JSON_NODE_OBJECT:
        print_object(out, json_node_get_object(node), type);
        break;
    case JSON_NODE_ARRAY: {
        JsonArray *array = json_node_get_array(node);
        const FfQapiType *element = type && type->kind == FF_QAPI_ARRAY ? type->element : NULL;

        g_string_append_c(out, '[');
        for (guint i = 0; i < json_array_get_length(array); i++) {
            g_string_append(out, i ? ", " : "");
            ff_json_print(out, json_array_get_element(array, i), element);
        }
        g_string_append_c(out, ']');
        break;
    }
    case JSON_NODE_VALUE:
        print_value(out, node, type);
        break;
    case JSON_NODE_NULL:
        g_string_append(out, "null");
        break;
    }
}
