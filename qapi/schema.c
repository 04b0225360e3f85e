/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checks JSON values against the types of farfault.json.
 *
 * Follows qapi/qobject-input-visitor.c and qapi/qapi-visit-core.c of QEMU: members are visited in
 * the order of the schema, the first error wins, members nobody asked for come last. Which text
 * carries the full path ("capabilities[0].state") and which the bare name differs from error to
 * error there, hence here. Pure; any thread.
 */
#include "qapi/schema.h"

#include <inttypes.h>
#include <string.h>

static char *visit_node(const FfQapiType *type, JsonNode *node, const char *name, const char *path);

const FfQapiCommand *ff_qapi_command(const char *name)
{
    for (const FfQapiCommand *c = ff_qapi_commands; c->name; c++) {
        if (!strcmp(c->name, name)) {
            return c;
        }
    }
    return NULL;
}

const FfQapiEvent *ff_qapi_event(const char *name)
{
    for (const FfQapiEvent *e = ff_qapi_events; e->name; e++) {
        if (!strcmp(e->name, name)) {
            return e;
        }
    }
    return NULL;
}

static char *child_path(const char *path, const char *name)
{
    return *path ? g_strdup_printf("%s.%s", path, name) : g_strdup(name);
}

static char *wrong_type(const char *name, const char *expected)
{
    return g_strdup_printf("Invalid parameter type for '%s', expected: %s",
                           *name ? name : "<anonymous>", expected);
}

static bool is_integer(JsonNode *node)
{
    return JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_INT64;
}

/* json-glib keeps 64 bits; a number above INT64_MAX therefore comes as a negative one, and QEMU
 * accepts negative numbers for 64-bit unsigned members, so both read the same here. */
static char *visit_uint(const FfQapiType *type, JsonNode *node, const char *name, const char *path)
{
    if (!is_integer(node)) {
        return g_strdup_printf("Parameter '%s' expects uint64", path);
    }
    uint64_t value = (uint64_t)json_node_get_int(node);

    if (type->bits < 64 && value >> type->bits) {
        return g_strdup_printf("Parameter '%s' expects uint%u_t", name ? name : "null", type->bits);
    }
    return NULL;
}

static char *visit_int(const FfQapiType *type, JsonNode *node, const char *name, const char *path)
{
    if (!is_integer(node)) {
        return wrong_type(path, "integer");
    }
    int64_t value = json_node_get_int(node);

    if (type->bits < 64) {
        int64_t max = (INT64_C(1) << (type->bits - 1)) - 1;

        if (value > max || value < -max - 1) {
            return g_strdup_printf("Parameter '%s' expects int%u_t", name ? name : "null",
                                   type->bits);
        }
    }
    return NULL;
}

static bool is_string(JsonNode *node)
{
    return JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING;
}

static bool is_number(JsonNode *node)
{
    return is_integer(node) ||
           (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_DOUBLE);
}

static char *visit_enum(const FfQapiType *type, JsonNode *node, const char *name, const char *path)
{
    if (!is_string(node)) {
        return wrong_type(path, "string");
    }
    const char *value = json_node_get_string(node);

    if (g_strv_contains(type->values, value)) {
        return NULL;
    }
    return g_strdup_printf("Parameter '%s' does not accept value '%s'", name ? name : "null",
                           value);
}

static char *visit_array(const FfQapiType *type, JsonNode *node, const char *path)
{
    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        return wrong_type(path, "array");
    }
    JsonArray *array = json_node_get_array(node);

    for (guint i = 0; i < json_array_get_length(array); i++) {
        g_autofree char *element = g_strdup_printf("%s[%u]", path, i);
        char *error = visit_node(type->element, json_array_get_element(array, i), NULL, element);

        if (error) {
            return error;
        }
    }
    return NULL;
}

/* Visits MEMBERS of OBJECT and notes their names in SEEN. */
static char *visit_members(const FfQapiMember *members, JsonObject *object, GHashTable *seen,
                           const char *path)
{
    for (const FfQapiMember *m = members; m->name; m++) {
        g_autofree char *child = child_path(path, m->name);
        JsonNode *value = json_object_get_member(object, m->name);

        g_hash_table_add(seen, (gpointer)m->name);
        if (!value) {
            if (m->optional) {
                continue;
            }
            return g_strdup_printf("Parameter '%s' is missing", child);
        }
        char *error = visit_node(m->type, value, m->name, child);

        if (error) {
            return error;
        }
    }
    return NULL;
}

static const FfQapiType *branch_type(const FfQapiType *type, JsonObject *object)
{
    const char *tag = json_object_get_string_member_with_default(object, type->discriminator, "");

    for (const FfQapiMember *b = type->branches; b->name; b++) {
        if (!strcmp(b->name, tag)) {
            return b->type;
        }
    }
    return NULL;
}

/* The members of a struct, or of a union and of the branch that OBJECT chose. */
static char *visit_object(const FfQapiType *type, JsonObject *object, GHashTable *seen,
                          const char *path)
{
    char *error = visit_members(type->members, object, seen, path);

    if (error || type->kind != FF_QAPI_UNION) {
        return error;
    }
    const FfQapiType *branch = branch_type(type, object);

    return branch ? visit_object(branch, object, seen, path) : NULL;
}

static char *visit_struct(const FfQapiType *type, JsonNode *node, const char *path)
{
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        return wrong_type(path, "object");
    }
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    JsonObject *object = json_node_get_object(node);
    char *error = visit_object(type, object, seen, path);

    if (error) {
        return error;
    }
    JsonObjectIter iter;
    const char *name;

    json_object_iter_init_ordered(&iter, object);
    while (json_object_iter_next_ordered(&iter, &name, NULL)) {
        if (!g_hash_table_contains(seen, name)) {
            g_autofree char *child = child_path(path, name);

            return g_strdup_printf("Parameter '%s' is unexpected", child);
        }
    }
    return NULL;
}

static char *visit_alternate(const FfQapiType *type, JsonNode *node, const char *name,
                             const char *path)
{
    for (const FfQapiMember *m = type->members; m->name; m++) {
        g_autofree char *error = visit_node(m->type, node, name, path);

        if (!error) {
            return NULL;
        }
    }
    return wrong_type(name ? name : "null", type->name);
}

static char *visit_node(const FfQapiType *type, JsonNode *node, const char *name, const char *path)
{
    switch (type->kind) {
    case FF_QAPI_INT:
        return visit_int(type, node, name, path);
    case FF_QAPI_UINT:
        return visit_uint(type, node, name, path);
    case FF_QAPI_NUMBER:
        return is_number(node) ? NULL : wrong_type(path, "number");
    case FF_QAPI_BOOL:
        return JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_BOOLEAN
                   ? NULL
                   : wrong_type(path, "boolean");
    case FF_QAPI_STR:
        return is_string(node) ? NULL : wrong_type(path, "string");
    case FF_QAPI_NULL:
        return JSON_NODE_HOLDS_NULL(node) ? NULL : wrong_type(path, "null");
    case FF_QAPI_ANY:
        return NULL;
    case FF_QAPI_ENUM:
        return visit_enum(type, node, name, path);
    case FF_QAPI_ARRAY:
        return visit_array(type, node, path);
    case FF_QAPI_STRUCT:
    case FF_QAPI_UNION:
        return visit_struct(type, node, path);
    case FF_QAPI_ALTERNATE:
        return visit_alternate(type, node, name, path);
    }
    g_assert_not_reached();
}

char *ff_qapi_check(const FfQapiType *type, JsonNode *value)
{
    return visit_node(type, value, NULL, "");
}

char *ff_qapi_check_arguments(const FfQapiCommand *command, JsonObject *arguments)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

    if (command->open) {
        return NULL;
    }
    if (arguments) {
        json_node_set_object(node, arguments);
    } else {
        json_node_take_object(node, json_object_new());
    }
    return ff_qapi_check(command->arguments, node);
}

const FfQapiType *ff_qapi_member_type(const FfQapiType *type, const char *name, JsonObject *value)
{
    for (; type && (type->kind == FF_QAPI_STRUCT || type->kind == FF_QAPI_UNION);
         type = type->kind == FF_QAPI_UNION && value ? branch_type(type, value) : NULL) {
        for (const FfQapiMember *m = type->members; m->name; m++) {
            if (!strcmp(m->name, name)) {
                return m->type;
            }
        }
    }
    return NULL;
}
