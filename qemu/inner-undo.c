/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns QEMU's migration capabilities and parameters around the inner migration, and the undo log.
 *
 * The log is a text in the state memfd: lines of JSON, the first with everything that QEMU had
 * (the client's values), each further one a change that the client made since:
 *   {"capabilities": {NAME: BOOL, ...}, "parameters": {NAME: VALUE, ...}}
 *   {"capability": NAME, "value": BOOL}
 *   {"parameter": NAME, "value": VALUE}
 * It only grows: undo_len is stored (release) after the text, so an engine or relay that reads it
 * after a crash sees whole lines only, at every moment. It is written before QEMU is changed and
 * cleared after QEMU was verified to be as it was: x-ignore-shared left on would make a later
 * native migration "complete" without the guest's RAM.
 *
 * Threads: prepare and undo on the coordinator's, the view on any. undo_lock covers reading and
 * appending text, and is a leaf.
 */
#include "qemu/inner-internal.h"

#include <string.h>

typedef struct {
    const char *name;
    bool on;
} Capability;

/* Set for the inner migration, as far as this QEMU knows them. What is not named here (events
 * apart: dirty-bitmaps, validate-uuid, ...) stays the client's. */
static const Capability wanted_capabilities[] = {
    {"x-ignore-shared", true},
    {"return-path", true},
    {"late-block-activate", true},
    {"events", true}, /* waits are for MIGRATION events */
    {"pause-before-switchover", false},
    {"multifd", false},
    {"compress", false},
    {"xbzrle", false},
    {"zero-copy-send", false},
    {"auto-converge", false},
    {"dirty-limit", false},
    {"release-ram", false},
    {"background-snapshot", false},
    {"switchover-ack", false},
    {"postcopy-ram", false},
    {"postcopy-preempt", false},
    {"postcopy-blocktime", false},
    {"mapped-ram", false},
    {"block", false},
    {"x-colo", false},
};

#define DOWNTIME_MAX_MS 2000000 /* the most that QEMU takes */

/* Parameters for the inner migration, as far as this QEMU has them. */
static JsonObject *wanted_parameters(void)
{
    JsonObject *o = json_object_new();

    json_object_set_int_member(o, "max-bandwidth", G_MAXINT64);
    json_object_set_int_member(o, "downtime-limit", DOWNTIME_MAX_MS);
    json_object_set_string_member(o, "tls-creds", "");
    json_object_set_string_member(o, "mode", "normal");
    return o;
}

static JsonNode *parse(const char *text, size_t len)
{
    g_autoptr(JsonParser) parser = json_parser_new();

    if (!json_parser_load_from_data(parser, text, len, NULL)) {
        return NULL;
    }
    return json_parser_steal_root(parser);
}

/* Applies one line of the log to the folded log O. */
static void fold_line(JsonObject *o, JsonObject *line)
{
    static const char *const kinds[][2] = {{"capability", "capabilities"},
                                           {"parameter", "parameters"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        const char *name = ff_json_member_string(line, kinds[i][0]);
        JsonObject *to = ff_json_member_object(o, kinds[i][1]);
        JsonNode *value = json_object_get_member(line, "value");
        if (name && to && value) {
            json_object_set_member(to, name, json_node_copy(value));
        }
    }
}

/* Under undo_lock. Returns the folded log, or NULL if there is none; with ERROR if it is damaged.
 */
static JsonNode *log_read(FfInner *inner, GError **error)
{
    FfStateHeader *state = inner->state;
    /* Acquire: pairs with the release in log_append(), of this or of an engine that died. */
    uint32_t len = __atomic_load_n(&state->undo_len, __ATOMIC_ACQUIRE);
    g_autoptr(JsonNode) base = NULL;
    const char *p = state->undo, *end;

    if (len == 0) {
        return NULL;
    }
    end = p + MIN(len, sizeof(state->undo));
    while (p < end) {
        const char *nl = memchr(p, '\n', end - p);
        g_autoptr(JsonNode) node = parse(p, (nl ? nl : end) - p);
        JsonObject *o = ff_json_object(node);
        if (!o || !nl) {
            break;
        }
        if (!base) {
            base = g_steal_pointer(&node);
        } else {
            fold_line(ff_json_object(base), o);
        }
        p = nl + 1;
    }
    if (p != end || !base || !ff_json_member_object(ff_json_object(base), "capabilities") ||
        !ff_json_member_object(ff_json_object(base), "parameters")) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                            "the undo log is damaged: set QEMU's migration capabilities by hand "
                            "(x-ignore-shared must be off)");
        return NULL;
    }
    return g_steal_pointer(&base);
}

/* Under undo_lock. */
static bool log_append(FfInner *inner, JsonObject *line, GError **error)
{
    FfStateHeader *state = inner->state;
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    uint32_t len = __atomic_load_n(&state->undo_len, __ATOMIC_RELAXED);
    g_autofree char *text = NULL;
    size_t n;

    json_node_set_object(node, line);
    text = json_to_string(node, FALSE);
    n = strlen(text);
    if (len > sizeof(state->undo) || n + 1 > sizeof(state->undo) - len) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
                            "the undo log is full: too many parameter changes during one "
                            "migration; change them after it");
        return false;
    }
    memcpy(state->undo + len, text, n);
    state->undo[len + n] = '\n';
    __atomic_store_n(&state->undo_len, len + n + 1, __ATOMIC_RELEASE);
    return true;
}

/* query-migrate-capabilities as an object NAME -> BOOL. */
static JsonObject *query_capabilities(FfInner *inner, GError **error)
{
    g_autoptr(JsonNode) node = ff_inner_call_firm(inner, "query-migrate-capabilities", NULL, error);
    JsonArray *list;
    JsonObject *o;

    if (!node) {
        return NULL;
    }
    list = JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    o = json_object_new();
    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *c = ff_json_object(json_array_get_element(list, i));
        const char *name = c ? ff_json_member_string(c, "capability") : NULL;
        if (name) {
            json_object_set_boolean_member(o, name, ff_json_member_bool(c, "state"));
        }
    }
    return o;
}

static JsonObject *query_parameters(FfInner *inner, GError **error)
{
    g_autoptr(JsonNode) node = ff_inner_call_firm(inner, "query-migrate-parameters", NULL, error);
    JsonObject *o = ff_json_object(node);

    if (node && !o) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_PROTOCOL,
                            "query-migrate-parameters: QEMU answered no object");
    }
    return o ? json_object_ref(o) : NULL;
}

/* Sends those of WANT (NAME -> BOOL) that QEMU knows and has otherwise (NOW). */
static bool set_capabilities(FfInner *inner, JsonObject *now, JsonObject *want, GError **error)
{
    JsonArray *list = json_array_new();
    JsonObject *args;
    g_autoptr(JsonNode) reply = NULL;
    g_autoptr(GList) names = json_object_get_members(want);

    for (GList *l = names; l; l = l->next) {
        bool value = ff_json_member_bool(want, l->data);
        if (json_object_has_member(now, l->data) && ff_json_member_bool(now, l->data) != value) {
            JsonObject *c = json_object_new();
            json_object_set_string_member(c, "capability", l->data);
            json_object_set_boolean_member(c, "state", value);
            json_array_add_object_element(list, c);
        }
    }
    if (json_array_get_length(list) == 0) {
        json_array_unref(list);
        return true;
    }
    args = json_object_new();
    json_object_set_array_member(args, "capabilities", list);
    reply = ff_inner_call_firm(inner, "migrate-set-capabilities", args, error);
    return reply != NULL;
}

/* json-glib has no unsigned integers: QEMU's sizes from 2^63 on come out negative, and would be
 * refused. All of them mean "no limit". */
static JsonNode *parameter_for_qemu(JsonNode *value)
{
    if (JSON_NODE_HOLDS_VALUE(value) && json_node_get_value_type(value) == G_TYPE_INT64 &&
        json_node_get_int(value) < 0) {
        return json_node_init_int(json_node_alloc(), G_MAXINT64);
    }
    return json_node_copy(value);
}

static bool set_parameters(FfInner *inner, JsonObject *now, JsonObject *want, GError **error)
{
    JsonObject *args = json_object_new();
    g_autoptr(JsonNode) reply = NULL;
    g_autoptr(GList) names = json_object_get_members(want);

    for (GList *l = names; l; l = l->next) {
        JsonNode *value = json_object_get_member(want, l->data);
        JsonNode *old = json_object_get_member(now, l->data);
        if (old && !json_node_equal(old, value)) {
            json_object_set_member(args, l->data, parameter_for_qemu(value));
        }
    }
    if (json_object_get_size(args) == 0) {
        json_object_unref(args);
        return true;
    }
    reply = ff_inner_call_firm(inner, "migrate-set-parameters", args, error);
    return reply != NULL;
}

static bool log_begin(FfInner *inner, JsonObject *capabilities, JsonObject *parameters,
                      GError **error)
{
    g_autoptr(JsonObject) line = json_object_new();
    bool ok = true;

    json_object_set_object_member(line, "capabilities", json_object_ref(capabilities));
    json_object_set_object_member(line, "parameters", json_object_ref(parameters));
    ff_mutex_lock(&inner->undo_lock);
    /* A log that is there already tells what the client had; QEMU now has our values. */
    if (__atomic_load_n(&inner->state->undo_len, __ATOMIC_ACQUIRE) == 0) {
        ok = log_append(inner, line, error);
    }
    ff_mutex_unlock(&inner->undo_lock);
    return ok;
}

bool ff_inner_unset_tls(FfVmm *vmm, GError **error)
{
    FfInner *inner = (FfInner *)vmm;
    g_autoptr(JsonObject) capabilities = query_capabilities(inner, error);
    g_autoptr(JsonObject) parameters = capabilities ? query_parameters(inner, error) : NULL;
    g_autoptr(JsonObject) want = json_object_new();

    json_object_set_string_member(want, "tls-creds", "");
    return parameters && log_begin(inner, capabilities, parameters, error) &&
           set_parameters(inner, parameters, want, error);
}

bool ff_inner_prepare(FfVmm *vmm, FfRole role, GError **error)
{
    FfInner *inner = (FfInner *)vmm;
    g_autoptr(JsonObject) capabilities = query_capabilities(inner, error);
    g_autoptr(JsonObject) parameters = capabilities ? query_parameters(inner, error) : NULL;
    g_autoptr(JsonObject) want = NULL;
    g_autoptr(JsonObject) want_parameters = NULL;

    if (!parameters) {
        return false;
    }
    if (!json_object_has_member(capabilities, "x-ignore-shared") ||
        !json_object_has_member(capabilities, "return-path")) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                            "this QEMU lacks the migration capability x-ignore-shared or "
                            "return-path: use QEMU 7.2 or newer");
        return false;
    }
    if (!log_begin(inner, capabilities, parameters, error)) {
        return false;
    }
    want = json_object_new();
    for (unsigned i = 0; i < G_N_ELEMENTS(wanted_capabilities); i++) {
        json_object_set_boolean_member(want, wanted_capabilities[i].name,
                                       wanted_capabilities[i].on);
    }
    want_parameters = wanted_parameters();
    return set_capabilities(inner, capabilities, want, error) &&
           set_parameters(inner, parameters, want_parameters, error);
}

/* One by one, for when QEMU refused the whole: e.g. a QEMU that has loaded a guest takes no more
 * "multifd". What is refused is said once, and stays as it is. */
static void restore_each(FfInner *inner, JsonObject *now, JsonObject *want,
                         bool (*set)(FfInner *, JsonObject *, JsonObject *, GError **))
{
    g_autoptr(GList) names = json_object_get_members(want);

    for (GList *l = names; l; l = l->next) {
        g_autoptr(JsonObject) one = json_object_new();
        g_autoptr(GError) error = NULL;
        json_object_set_member(one, l->data, json_node_copy(json_object_get_member(want, l->data)));
        if (!set(inner, now, one, &error)) {
            g_message("%s: the client's %s could not be restored: %s", inner->name,
                      (const char *)l->data, error->message);
        }
    }
}

static bool restore(FfInner *inner, JsonObject *log, GError **error)
{
    JsonObject *capabilities = ff_json_member_object(log, "capabilities");
    JsonObject *parameters = ff_json_member_object(log, "parameters");
    g_autoptr(JsonObject) now_c = query_capabilities(inner, error);
    g_autoptr(JsonObject) now_p = now_c ? query_parameters(inner, error) : NULL;
    g_autoptr(JsonObject) after = NULL;

    if (!now_p) {
        return false;
    }
    if (!set_capabilities(inner, now_c, capabilities, NULL)) {
        restore_each(inner, now_c, capabilities, set_capabilities);
    }
    if (!set_parameters(inner, now_p, parameters, NULL)) {
        restore_each(inner, now_p, parameters, set_parameters);
    }
    after = query_capabilities(inner, error);
    if (!after) {
        return false;
    }
    if (ff_json_member_bool(after, "x-ignore-shared") !=
        ff_json_member_bool(capabilities, "x-ignore-shared")) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                            "QEMU's x-ignore-shared could not be set back: a native migration or "
                            "save would lose the guest's memory, and is refused");
        return false;
    }
    return true;
}

bool ff_inner_undo(FfVmm *vmm, GError **error)
{
    FfInner *inner = (FfInner *)vmm;
    g_autoptr(GError) local = NULL;

    ff_inner_forget_kept(inner);
    for (;;) {
        g_autoptr(JsonNode) log = NULL;
        uint32_t len;
        bool cleared;

        ff_mutex_lock(&inner->undo_lock);
        len = __atomic_load_n(&inner->state->undo_len, __ATOMIC_ACQUIRE);
        log = log_read(inner, &local);
        ff_mutex_unlock(&inner->undo_lock);
        if (local) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        if (!log) {
            return true;
        }
        /* Not under the lock: the view must answer while QEMU is slow. */
        if (!restore(inner, ff_json_object(log), error)) {
            return false;
        }
        ff_mutex_lock(&inner->undo_lock);
        cleared = __atomic_load_n(&inner->state->undo_len, __ATOMIC_ACQUIRE) == len;
        if (cleared) {
            __atomic_store_n(&inner->state->undo_len, 0, __ATOMIC_RELEASE);
        }
        ff_mutex_unlock(&inner->undo_lock);
        if (cleared) {
            return true;
        }
        /* The client changed something meanwhile: once more. */
    }
}

/* A copy of member NAME of the folded log; NULL if there is no log. */
static JsonNode *view_of(FfInner *inner, const char *name)
{
    g_autoptr(JsonNode) log = NULL;
    JsonObject *o;

    ff_mutex_lock(&inner->undo_lock);
    log = log_read(inner, NULL);
    ff_mutex_unlock(&inner->undo_lock);
    o = ff_json_object(log);
    return o ? json_node_copy(json_object_get_member(o, name)) : NULL;
}

JsonNode *ff_inner_view_parameters(FfVmm *vmm)
{
    return view_of((FfInner *)vmm, "parameters");
}

JsonNode *ff_inner_view_capabilities(FfVmm *vmm)
{
    g_autoptr(JsonNode) node = view_of((FfInner *)vmm, "capabilities");
    g_autoptr(GList) names = NULL;
    JsonNode *result;
    JsonArray *list;

    if (!node) {
        return NULL;
    }
    list = json_array_new();
    names = json_object_get_members(json_node_get_object(node));
    for (GList *l = names; l; l = l->next) {
        JsonObject *c = json_object_new();
        json_object_set_boolean_member(c, "state",
                                       ff_json_member_bool(json_node_get_object(node), l->data));
        json_object_set_string_member(c, "capability", l->data);
        json_array_add_object_element(list, c);
    }
    result = json_node_new(JSON_NODE_ARRAY);
    json_node_take_array(result, list);
    return result;
}

/* Appends a change of NAME (in KIND) to the log, unless it is none. */
static bool view_set(FfInner *inner, const char *kind, const char *kinds, const char *name,
                     JsonNode *value, GError **error)
{
    g_autoptr(JsonObject) line = json_object_new();
    g_autoptr(JsonNode) log = NULL;
    JsonNode *old;
    bool ok;

    json_object_set_string_member(line, kind, name);
    json_object_set_member(line, "value", json_node_copy(value));
    ff_mutex_lock(&inner->undo_lock);
    log = log_read(inner, NULL);
    if (!log) {
        ff_mutex_unlock(&inner->undo_lock);
        return false;
    }
    old = json_object_get_member(ff_json_member_object(ff_json_object(log), kinds), name);
    ok = old && json_node_equal(old, value) ? true : log_append(inner, line, error);
    ff_mutex_unlock(&inner->undo_lock);
    return ok;
}

bool ff_inner_view_set_capability(FfVmm *vmm, const char *name, bool value, GError **error)
{
    FfInner *inner = (FfInner *)vmm;
    g_autoptr(JsonNode) view = view_of(inner, "capabilities");
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_VALUE);

    if (!view) {
        return false;
    }
    if (!json_object_has_member(json_node_get_object(view), name)) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "Parameter 'capability' does not accept value '%s'", name);
        return false;
    }
    json_node_set_boolean(node, value);
    return view_set(inner, "capability", "capabilities", name, node, error);
}

/* QEMU's name of the type that OLD has, for its wording of a type error. */
static const char *type_name(JsonNode *old)
{
    if (!JSON_NODE_HOLDS_VALUE(old)) {
        return JSON_NODE_HOLDS_ARRAY(old) ? "array" : "object";
    }
    switch (json_node_get_value_type(old)) {
    case G_TYPE_STRING:
        return "string";
    case G_TYPE_BOOLEAN:
        return "boolean";
    default:
        return "integer";
    }
}

bool ff_inner_view_set_parameter(FfVmm *vmm, const char *name, JsonNode *value, GError **error)
{
    FfInner *inner = (FfInner *)vmm;
    g_autoptr(JsonNode) view = view_of(inner, "parameters");
    g_autoptr(JsonNode) copy = NULL;
    JsonNode *old;

    if (!view) {
        return false;
    }
    old = json_object_get_member(json_node_get_object(view), name);
    if (!old && strcmp(name, "block-bitmap-mapping") != 0) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC, "Parameter '%s' is unexpected",
                    name);
        return false;
    }
    if (JSON_NODE_HOLDS_NULL(value) && g_str_has_prefix(name, "tls-")) {
        /* QEMU: null means the default, and is shown as "". */
        copy = json_node_init_string(json_node_alloc(), "");
    } else {
        copy = json_node_copy(value);
    }
    if (old && (JSON_NODE_TYPE(old) != JSON_NODE_TYPE(copy) ||
                json_node_get_value_type(old) != json_node_get_value_type(copy))) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "Invalid parameter type for '%s', expected: %s", name, type_name(old));
        return false;
    }
    return view_set(inner, "parameter", "parameters", name, copy, error);
}
