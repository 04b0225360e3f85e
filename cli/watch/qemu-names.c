/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The names in a QEMU's schema. Members of migration's commands are found by walking from the
 * command through the types of its arguments: the types themselves have numbers for names there.
 *
 * Threads: the only one.
 */
#include "cli/watch/qemu-names.h"

#include <json-glib/json-glib.h>
#include <string.h>

#include "guest/launch/argv-ask.h"

/* Deeper than any address within the channels of "migrate". */
#define MAX_DEPTH 8

/* ---- walking --------------------------------------------------------------------------------- */

typedef struct {
    GHashTable *types; /* name -> JsonObject */
    GHashTable *names; /* that were found */
} Walk;

static const char *text_of(JsonObject *o, const char *member)
{
    return json_object_get_string_member_with_default(o, member, "");
}

static void walk_type(Walk *w, const char *type, const char *path, unsigned depth);

static void walk_members(Walk *w, JsonObject *o, const char *path, unsigned depth)
{
    JsonArray *members = json_object_get_array_member(o, "members");

    for (guint i = 0; i < json_array_get_length(members); i++) {
        JsonObject *member = json_array_get_object_element(members, i);
        const char *dot = g_str_has_suffix(path, ":") ? "" : ".";
        char *child = g_strconcat(path, dot, text_of(member, "name"), NULL);

        g_hash_table_add(w->names, child);
        walk_type(w, text_of(member, "type"), child, depth + 1);
    }
    JsonArray *variants =
        json_object_has_member(o, "variants") ? json_object_get_array_member(o, "variants") : NULL;

    for (guint i = 0; variants && i < json_array_get_length(variants); i++) {
        walk_type(w, text_of(json_array_get_object_element(variants, i), "type"), path, depth + 1);
    }
}

static void walk_values(Walk *w, JsonObject *o, const char *path)
{
    JsonArray *values = json_object_get_array_member(o, "values");

    for (guint i = 0; i < json_array_get_length(values); i++) {
        g_hash_table_add(w->names,
                         g_strconcat(path, "=", json_array_get_string_element(values, i), NULL));
    }
}

static void walk_type(Walk *w, const char *type, const char *path, unsigned depth)
{
    JsonObject *o = g_hash_table_lookup(w->types, type);
    const char *meta = o ? text_of(o, "meta-type") : "";

    if (depth > MAX_DEPTH) {
        return;
    }
    if (!strcmp(meta, "object")) {
        walk_members(w, o, path, depth);
    } else if (!strcmp(meta, "array")) {
        walk_type(w, text_of(o, "element-type"), path, depth + 1);
    } else if (!strcmp(meta, "enum")) {
        walk_values(w, o, path);
    }
}

/* "capability:NAME" in place of where the name stands in the arguments. */
static void add_capabilities(Walk *w, JsonObject *command)
{
    Walk all = {w->types, g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL)};
    GHashTableIter iter;
    gpointer name;

    walk_type(&all, text_of(command, "arg-type"), "", 0);
    g_hash_table_iter_init(&iter, all.names);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        const char *value = strchr(name, '=');

        if (value) {
            g_hash_table_add(w->names, g_strconcat("capability:", value + 1, NULL));
        }
    }
    g_hash_table_unref(all.names);
}

static void add_entry(Walk *w, JsonObject *entry)
{
    static const struct {
        const char *command, *type, *path;
    } roots[] = {
        {"migrate", "arg-type", "migrate:"},
        {"migrate-set-parameters", "arg-type", "parameter:"},
        {"query-migrate", "ret-type", "query-migrate:"},
    };
    const char *name = text_of(entry, "name"), *meta = text_of(entry, "meta-type");

    if (strcmp(meta, "command") != 0 && strcmp(meta, "event") != 0) {
        return;
    }
    g_hash_table_add(w->names, g_strdup(name));
    if (!strcmp(name, "migrate-set-capabilities")) {
        add_capabilities(w, entry);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(roots); i++) {
        if (!strcmp(name, roots[i].command)) {
            walk_type(w, text_of(entry, roots[i].type), roots[i].path, 0);
        }
    }
}

GHashTable *ff_qemu_names(const char *qemu)
{
    g_autoptr(JsonNode) schema = ff_ask_list(qemu, "query-qmp-schema");

    if (!schema) {
        return NULL;
    }
    JsonArray *list = json_node_get_array(schema);
    Walk w = {g_hash_table_new(g_str_hash, g_str_equal),
              g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL)};

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *entry = json_array_get_object_element(list, i);

        g_hash_table_insert(w.types, (gpointer)text_of(entry, "name"), entry);
    }
    for (guint i = 0; i < json_array_get_length(list); i++) {
        add_entry(&w, json_array_get_object_element(list, i));
    }
    g_hash_table_unref(w.types);
    return w.names;
}
