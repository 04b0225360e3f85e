/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault.json against the schema that the installed QEMU tells of itself: every command and
 * event of QEMU's that farfault answers has at least QEMU's members, of the same types; what
 * farfault has beyond that is optional. So a newer QEMU with a new parameter shows here first.
 */
#include <string.h>

#include "qapi/schema.h"
#include "tests/lib/vm.h"

static GHashTable *qemu; /* name -> JsonObject of query-qmp-schema */

static void compare_type(const FfQapiType *own, const char *qemu_name, bool input,
                         const char *path);

static const char *text(JsonObject *object, const char *name)
{
    return json_object_get_string_member_with_default(object, name, "");
}

/* The member NAME of TYPE or of one of its branches. */
static const FfQapiMember *own_member(const FfQapiType *type, const char *name)
{
    for (const FfQapiMember *m = type->members; m->name; m++) {
        if (!strcmp(m->name, name)) {
            return m;
        }
    }
    return NULL;
}

static bool in_members(JsonArray *members, const char *name)
{
    for (guint i = 0; i < json_array_get_length(members); i++) {
        if (!strcmp(text(json_array_get_object_element(members, i), "name"), name)) {
            return true;
        }
    }
    return false;
}

static void compare_branches(const FfQapiType *own, JsonArray *variants, bool input,
                             const char *path)
{
    for (guint i = 0; i < json_array_get_length(variants); i++) {
        JsonObject *variant = json_array_get_object_element(variants, i);
        const char *tag = text(variant, "case");
        const FfQapiMember *branch = own->branches;

        while (branch->name && strcmp(branch->name, tag)) {
            branch++;
        }
        if (!branch->name) {
            g_test_fail_printf("%s: branch '%s' is missing", path, tag);
        } else {
            compare_type(branch->type, text(variant, "type"), input, path);
        }
    }
}

static void compare_object(const FfQapiType *own, JsonObject *theirs, bool input, const char *path)
{
    JsonArray *members = json_object_get_array_member(theirs, "members");

    for (guint i = 0; i < json_array_get_length(members); i++) {
        JsonObject *member = json_array_get_object_element(members, i);
        const char *name = text(member, "name");
        const FfQapiMember *found = own_member(own, name);
        g_autofree char *child = g_strdup_printf("%s.%s", path, name);

        if (!found) {
            g_test_fail_printf("%s is missing", child);
            continue;
        }
        if (input && json_object_has_member(member, "default") && !found->optional) {
            g_test_fail_printf("%s is optional in QEMU", child);
        }
        compare_type(found->type, text(member, "type"), input, child);
    }
    for (const FfQapiMember *m = own->members; m->name; m++) {
        if (!m->optional && !in_members(members, m->name)) {
            g_test_fail_printf("%s.%s: QEMU has no such member, and it is mandatory", path,
                               m->name);
        }
    }
    if (json_object_has_member(theirs, "variants")) {
        compare_branches(own, json_object_get_array_member(theirs, "variants"), input, path);
    }
}

static void compare_enum(const FfQapiType *own, JsonObject *theirs, const char *path)
{
    JsonArray *values = json_object_get_array_member(theirs, "values");

    for (guint i = 0; i < json_array_get_length(values); i++) {
        const char *value = json_array_get_string_element(values, i);

        if (!g_strv_contains(own->values, value)) {
            g_test_fail_printf("%s: value '%s' is missing", path, value);
        }
    }
}

static bool same_kind(const FfQapiType *own, JsonObject *theirs)
{
    static const struct {
        FfQapiKind kind;
        const char *meta, *json;
    } kinds[] = {
        {FF_QAPI_INT, "builtin", "int"},       {FF_QAPI_UINT, "builtin", "int"},
        {FF_QAPI_NUMBER, "builtin", "number"}, {FF_QAPI_BOOL, "builtin", "boolean"},
        {FF_QAPI_STR, "builtin", "string"},    {FF_QAPI_NULL, "builtin", "null"},
        {FF_QAPI_ANY, "builtin", "value"},     {FF_QAPI_ENUM, "enum", ""},
        {FF_QAPI_ARRAY, "array", ""},          {FF_QAPI_STRUCT, "object", ""},
        {FF_QAPI_UNION, "object", ""},         {FF_QAPI_ALTERNATE, "alternate", ""},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (kinds[i].kind == own->kind && !strcmp(kinds[i].meta, text(theirs, "meta-type")) &&
            !strcmp(kinds[i].json, text(theirs, "json-type"))) {
            return true;
        }
    }
    return false;
}

/* THEIRS may be several types, of which one is that of OWN. */
static bool is_alternative(const FfQapiType *own, JsonObject *theirs)
{
    JsonArray *members =
        json_object_has_member(theirs, "members") && !strcmp(text(theirs, "meta-type"), "alternate")
            ? json_object_get_array_member(theirs, "members")
            : NULL;

    for (guint i = 0; members && i < json_array_get_length(members); i++) {
        JsonObject *member = json_array_get_object_element(members, i);

        if (same_kind(own, g_hash_table_lookup(qemu, text(member, "type")))) {
            return true;
        }
    }
    return false;
}

static void compare_type(const FfQapiType *own, const char *qemu_name, bool input, const char *path)
{
    JsonObject *theirs = g_hash_table_lookup(qemu, qemu_name);

    g_assert_nonnull(theirs);
    if (!input && is_alternative(own, theirs)) {
        return;
    }
    if (!same_kind(own, theirs)) {
        g_test_fail_printf("%s: %s here, %s %s in QEMU", path, own->name, text(theirs, "meta-type"),
                           text(theirs, "json-type"));
        return;
    }
    if (own->kind == FF_QAPI_ARRAY) {
        compare_type(own->element, text(theirs, "element-type"), input, path);
    } else if (own->kind == FF_QAPI_STRUCT || own->kind == FF_QAPI_UNION) {
        compare_object(own, theirs, input, path);
    } else if (own->kind == FF_QAPI_ENUM) {
        compare_enum(own, theirs, path);
    }
}

static void load_schema(Vm *vm)
{
    g_autoptr(JsonObject) reply = qmp_call(vm_qmp(vm), "query-qmp-schema", NULL);
    JsonArray *list = json_object_get_array_member(reply, "return");

    qemu = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)json_object_unref);
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *entry = json_array_get_object_element(list, i);

        g_hash_table_insert(qemu, (gpointer)text(entry, "name"), json_object_ref(entry));
    }
}

static void test_schema(void)
{
    g_autoptr(Vm) vm =
        vm_start(&(VmConfig){.name = "plain", .launcher = VM_PLAIN, .memory = "16M"});

    load_schema(vm);
    for (const FfQapiCommand *c = ff_qapi_commands; c->name; c++) {
        JsonObject *theirs = g_hash_table_lookup(qemu, c->name);

        if (g_str_has_prefix(c->name, "x-farfault-")) {
            g_assert_null(theirs);
            continue;
        }
        if (!theirs) {
            g_test_fail_printf("QEMU has no command %s", c->name);
            continue;
        }
        if (!c->open) {
            compare_type(c->arguments, text(theirs, "arg-type"), true, c->name);
        }
        if (c->returns) {
            compare_type(c->returns, text(theirs, "ret-type"), false, c->name);
        }
        g_assert_cmpint(c->allow_oob, ==,
                        json_object_get_boolean_member_with_default(theirs, "allow-oob", FALSE));
    }
    for (const FfQapiEvent *e = ff_qapi_events; e->name; e++) {
        JsonObject *theirs = g_hash_table_lookup(qemu, e->name);

        g_assert_nonnull(theirs);
        compare_type(e->data, text(theirs, "arg-type"), false, e->name);
    }
    g_hash_table_unref(qemu);
}

/* They are told of, each with its types. */
static void test_own_commands(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) vm = vm_start(&(VmConfig){.name = "own", .launcher = VM_RUN, .memory = "16M"});
    g_autoptr(JsonObject) reply = qmp_call(vm_qmp(vm), "query-commands", NULL);
    JsonArray *list = json_object_get_array_member(reply, "return");
    g_autoptr(GHashTable) told = g_hash_table_new(g_str_hash, g_str_equal);
    guint n = 0;

    for (guint i = 0; i < json_array_get_length(list); i++) {
        const char *name = text(json_array_get_object_element(list, i), "name");

        g_assert_true(g_hash_table_add(told, (gpointer)name));
        n += g_str_has_prefix(name, "x-farfault-");
    }
    g_assert_true(g_hash_table_contains(told, "migrate"));
    load_schema(vm);
    for (const FfQapiCommand *c = ff_qapi_commands; c->name; c++) {
        if (g_str_has_prefix(c->name, "x-farfault-")) {
            JsonObject *entry = g_hash_table_lookup(qemu, c->name);

            g_assert_true(g_hash_table_contains(told, c->name));
            g_assert_nonnull(entry);
            g_assert_cmpstr(text(entry, "meta-type"), ==, "command");
            compare_type(c->arguments, text(entry, "arg-type"), true, c->name);
            if (c->returns) {
                compare_type(c->returns, text(entry, "ret-type"), false, c->name);
            }
            n--;
        }
    }
    g_assert_cmpuint(n, ==, 0);
    g_assert_nonnull(g_hash_table_lookup(qemu, "migrate"));
    g_hash_table_unref(qemu);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi-schema/qemu", test_schema);
    g_test_add_func("/qapi-schema/own-commands", test_own_commands);
    return g_test_run();
}
