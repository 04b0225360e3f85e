/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns QEMU's migration capabilities and parameters around the inner migration, and the undo log.
 *
 * The log is a text in the state memfd: lines of JSON, the first with everything that QEMU had
 * (the client's values), each additional one a change that the client made since:
 *   {"capabilities": {NAME: BOOL, ...}, "parameters": {NAME: VALUE, ...}}
 *   {"capability": NAME, "value": BOOL}
 *   {"parameter": NAME, "value": VALUE}
 * It only grows: undo_len is stored (release) after the text, so an engine or relay that reads it
 * after a crash sees whole lines only, at every moment. It is written before QEMU is changed and
 * cleared after QEMU was verified to be as it was: x-ignore-shared left on would make a later
 * native migration "complete" without the guest's RAM.
 *
 * QEMU needs its other settings until it has loaded or saved the device state, and gets the
 * client's back before the guest runs (put_back): its human monitors are its own, and what savevm
 * or migrate there would save must have the guest's RAM. The log stays, as what clients are shown.
 *
 * Threads: prepare, put_back and undo on the coordinator's, or on the one that lets the guest run
 * for it; the view on any. undo_lock covers reading and appending text, and is a leaf.
 */
#include "guest/qemu/settings.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "guest/qemu/device-state.h"
#include "guest/qemu/internal.h"
#include "guest/qemu/status.h"
#include "qmp/json.h"

#define QUERY_CAPABILITIES "query-migrate-capabilities"
#define QUERY_PARAMETERS "query-migrate-parameters"
#define SET_CAPABILITIES "migrate-set-capabilities"
#define SET_PARAMETERS "migrate-set-parameters"
#define IGNORE_SHARED "x-ignore-shared"
/* Stays until undo(): what the engine still waits for are MIGRATION events. */
#define EVENTS "events"

typedef struct {
    const char *name;
    bool on;
} Capability;

/* Set for the inner migration, as far as this QEMU knows them. What is not named here (events
 * apart: dirty-bitmaps, validate-uuid, ...) stays the client's. */
static const Capability capabilities_for_inner[] = {
    {IGNORE_SHARED, true},
    {"mapped-ram", false},
    {"return-path", true},
    {"late-block-activate", true},
    {EVENTS, true}, /* waits are for MIGRATION events */
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

static JsonObject *wanted_capabilities(const FfQemu *qemu)
{
    JsonObject *o = json_object_new();

    for (unsigned i = 0; i < G_N_ELEMENTS(capabilities_for_inner); i++) {
        json_object_set_boolean_member(o, capabilities_for_inner[i].name,
                                       capabilities_for_inner[i].on);
    }
    json_object_set_boolean_member(o, "return-path",
                                   !qemu->vmm.state.one_way || qemu->vmm.state.ends_failed);
    return o;
}

#define DOWNTIME_MAX_MS 2000000 /* the most that QEMU takes */

/* Parameters for the inner migration, as far as this QEMU has them. An incoming one knows neither
 * bandwidth nor downtime, and QEMU takes a while to read what it is told. */
static JsonObject *wanted_parameters(FfRole role)
{
    JsonObject *o = json_object_new();

    if (role == FF_ROLE_SOURCE) {
        json_object_set_int_member(o, "max-bandwidth", G_MAXINT64);
        json_object_set_int_member(o, "downtime-limit", DOWNTIME_MAX_MS);
    }
    json_object_set_string_member(o, "tls-creds", "");
    json_object_set_string_member(o, "mode", "normal");
    return o;
}

static JsonNode *parse_json(const char *text, size_t len)
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
        const char *name = ff_json_string(line, kinds[i][0]);
        JsonObject *to = ff_json_object(o, kinds[i][1]);
        JsonNode *value = json_object_get_member(line, "value");
        if (name && to && value) {
            json_object_set_member(to, name, json_node_copy(value));
        }
    }
}

/* Under undo_lock. Returns the folded log, or NULL if there is none; with ERROR if it is damaged.
 */
static JsonNode *log_read(FfQemu *qemu, GError **error)
{
    FfStateHeader *state = qemu->state;
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
        g_autoptr(JsonNode) node = parse_json(p, (nl ? nl : end) - p);
        JsonObject *o = ff_json_node_object(node);
        if (!o || !nl) {
            break;
        }
        if (!base) {
            base = g_steal_pointer(&node);
        } else {
            fold_line(ff_json_node_object(base), o);
        }
        p = nl + 1;
    }
    if (p != end || !base || !ff_json_object(ff_json_node_object(base), "capabilities") ||
        !ff_json_object(ff_json_node_object(base), "parameters")) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                            "the undo log is damaged: set QEMU's migration capabilities by hand "
                            "(x-ignore-shared must be off)");
        return NULL;
    }
    return g_steal_pointer(&base);
}

/* Under undo_lock. */
static bool log_append(FfQemu *qemu, JsonObject *line, GError **error)
{
    FfStateHeader *state = qemu->state;
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

/* ---- what QEMU has --------------------------------------------------------------------------- */

/* What QEMU has, or is to have. */
typedef struct {
    JsonObject *capabilities; /* NAME -> BOOL */
    JsonObject *parameters;   /* NAME -> VALUE */
} Settings;

static void settings_clear(Settings *s)
{
    g_clear_pointer(&s->capabilities, json_object_unref);
    g_clear_pointer(&s->parameters, json_object_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Settings, settings_clear)

static FfQmpCall *ask_capabilities(FfQemu *qemu)
{
    return ff_qemu_ask(qemu, QUERY_CAPABILITIES, NULL);
}

static JsonObject *capabilities_answered(FfQmpCall *asked, GError **error)
{
    g_autoptr(JsonNode) node = ff_qemu_answer(asked, QUERY_CAPABILITIES, error);

    if (!node) {
        return NULL;
    }
    JsonObject *o = json_object_new();
    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *c = ff_json_node_nth(node, i);
        const char *name = c ? ff_json_string(c, "capability") : NULL;
        if (name) {
            json_object_set_boolean_member(o, name, ff_json_bool(c, "state"));
        }
    }
    return o;
}

static JsonObject *parameters_answered(FfQmpCall *asked, GError **error)
{
    g_autoptr(JsonNode) node = ff_qemu_answer(asked, QUERY_PARAMETERS, error);
    JsonObject *o = ff_json_node_object(node);

    if (node && !o && !*error) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_PROTOCOL,
                            QUERY_PARAMETERS ": QEMU answered no object");
    }
    return o ? json_object_ref(o) : NULL;
}

static bool query_settings(FfQemu *qemu, Settings *s, GError **error)
{
    g_autoptr(GError) local = NULL;
    FfQmpCall *capabilities = ask_capabilities(qemu);
    FfQmpCall *parameters = ff_qemu_ask(qemu, QUERY_PARAMETERS, NULL);

    s->capabilities = capabilities_answered(capabilities, &local);
    s->parameters = parameters_answered(parameters, &local);
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    return true;
}

/* ---- setting it ------------------------------------------------------------------------------ */

/* NAME as WANT (NAME -> BOOL) has it. */
static void add_capability(JsonArray *list, JsonObject *want, const char *name)
{
    JsonObject *c = json_object_new();

    json_object_set_string_member(c, "capability", name);
    json_object_set_boolean_member(c, "state", ff_json_bool(want, name));
    json_array_add_object_element(list, c);
}

/* Takes LIST. */
static FfQmpCall *send_list(FfQemu *qemu, JsonArray *list)
{
    JsonObject *args = json_object_new();

    json_object_set_array_member(args, "capabilities", list);
    return ff_qemu_ask(qemu, SET_CAPABILITIES, args);
}

/* Sends those of WANT (NAME -> BOOL) that QEMU knows and has otherwise (NOW). NULL: there are none.
 */
static FfQmpCall *send_capabilities(FfQemu *qemu, JsonObject *now, JsonObject *want)
{
    JsonArray *list = json_array_new();
    g_autoptr(GList) names = json_object_get_members(want);

    for (GList *l = names; l; l = l->next) {
        if (json_object_has_member(now, l->data) &&
            ff_json_bool(now, l->data) != ff_json_bool(want, l->data)) {
            add_capability(list, want, l->data);
        }
    }
    if (json_array_get_length(list) == 0) {
        json_array_unref(list);
        return NULL;
    }
    return send_list(qemu, list);
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

/* As send_capabilities(), for parameters (NAME -> VALUE). */
static FfQmpCall *send_parameters(FfQemu *qemu, JsonObject *now, JsonObject *want)
{
    JsonObject *args = json_object_new();
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
        return NULL;
    }
    return ff_qemu_ask(qemu, SET_PARAMETERS, args);
}

/* QEMU has taken what was SENT (NULL: nothing had to be). */
static bool was_set(FfQmpCall *sent, const char *command, GError **error)
{
    if (!sent) {
        return true;
    }
    g_autoptr(JsonNode) reply = ff_qemu_answer(sent, command, error);
    return reply != NULL;
}

static bool set_settings(FfQemu *qemu, const Settings *now, const Settings *want, GError **error)
{
    g_autoptr(GError) local = NULL;
    FfQmpCall *capabilities = send_capabilities(qemu, now->capabilities, want->capabilities);
    FfQmpCall *parameters = send_parameters(qemu, now->parameters, want->parameters);

    was_set(capabilities, SET_CAPABILITIES, &local);
    was_set(parameters, SET_PARAMETERS, &local);
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    return true;
}

static bool log_begin(FfQemu *qemu, const Settings *now, GError **error)
{
    g_autoptr(JsonObject) line = json_object_new();
    bool ok = true;

    json_object_set_object_member(line, "capabilities", json_object_ref(now->capabilities));
    json_object_set_object_member(line, "parameters", json_object_ref(now->parameters));
    ff_mutex_lock(&qemu->undo_lock);
    /* A log that is there already tells what the client had; QEMU now has our values. */
    if (__atomic_load_n(&qemu->state->undo_len, __ATOMIC_ACQUIRE) == 0) {
        ok = log_append(qemu, line, error);
    }
    ff_mutex_unlock(&qemu->undo_lock);
    return ok;
}

/* ---- back, before the guest runs ------------------------------------------------------------- */

/* LOG: what it is to have. Nobody waits: what QEMU refuses here undo() tries once more, one by one.
 */
static void put_back_capabilities(FfQemu *qemu, JsonObject *log)
{
    JsonArray *list = json_array_new();

    for (unsigned i = 0; i < G_N_ELEMENTS(capabilities_for_inner); i++) {
        const char *name = capabilities_for_inner[i].name;

        if (json_object_has_member(log, name) && strcmp(name, IGNORE_SHARED) != 0 &&
            strcmp(name, EVENTS) != 0) {
            add_capability(list, log, name);
        }
    }
    ff_qmp_call_drop(send_list(qemu, list));
}

/* As put_back_capabilities(). */
static void put_back_parameters(FfQemu *qemu, JsonObject *log)
{
    g_autoptr(JsonObject) changed = wanted_parameters(FF_ROLE_SOURCE);
    g_autoptr(GList) names = json_object_get_members(changed);
    JsonObject *args = json_object_new();

    for (GList *l = names; l; l = l->next) {
        JsonNode *value = json_object_get_member(log, l->data);

        if (value) {
            json_object_set_member(args, l->data, parameter_for_qemu(value));
        }
    }
    ff_qmp_call_drop(ff_qemu_ask(qemu, SET_PARAMETERS, args));
}

static void forget_put_back(FfQemu *qemu)
{
    qemu->is_put_back = false;
    g_clear_pointer(&qemu->memory_back, ff_qmp_call_drop);
}

void ff_qemu_put_back(FfVmmState *state)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    g_autoptr(JsonNode) log = NULL;

    ff_mutex_lock(&qemu->undo_lock);
    log = log_read(qemu, NULL);
    ff_mutex_unlock(&qemu->undo_lock);
    if (!log || qemu->is_put_back) {
        return;
    }
    JsonArray *memory = json_array_new();
    JsonObject *capabilities = ff_json_object(ff_json_node_object(log), "capabilities");

    /* By itself: another one that this QEMU refuses must not keep it. */
    add_capability(memory, capabilities, IGNORE_SHARED);
    qemu->memory_back = send_list(qemu, memory);
    put_back_capabilities(qemu, capabilities);
    put_back_parameters(qemu, ff_json_object(ff_json_node_object(log), "parameters"));
    qemu->is_put_back = true;
}

void ff_qemu_await_put_back(FfQemu *qemu)
{
    g_autoptr(GError) error = NULL;

    if (qemu->memory_back &&
        !was_set(g_steal_pointer(&qemu->memory_back), SET_CAPABILITIES, &error) &&
        ff_qmp_refused(error)) {
        g_warning("QEMU's x-ignore-shared is on until the migration is over: what savevm, or "
                  "migrate at a human monitor, saves until then lacks the guest's memory: %s",
                  error->message);
    }
}

/* ---- the inner migration's ------------------------------------------------------------------- */

bool ff_qemu_unset_tls(FfVmmState *state, GError **error)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    g_auto(Settings) now = {0};
    g_auto(Settings) want = {json_object_new(), json_object_new()};

    json_object_set_string_member(want.parameters, "tls-creds", "");
    return query_settings(qemu, &now, error) && log_begin(qemu, &now, error) &&
           set_settings(qemu, &now, &want, error);
}

/* QEMU from 9.0 on remembers of a guest that it has stopped that it was suspended, says so to
 * nobody, and with cont makes it "suspended" again. From "postmigrate" there is no way to that: it
 * aborts. A migration that fails leaves the guest "paused", from where there is. So the save of a
 * guest that may be suspended fails when all is written (send_stream()). One that runs is not
 * suspended, if it is not by the time of the stop (stop_guest()). */
static bool choose_end(FfQemu *qemu, GError **error)
{
    qemu->vmm.state.ends_failed = false;
    g_clear_pointer(&qemu->suspends, ff_qmp_watch_free);
    if (!qemu->vmm.state.one_way || !ff_qemu_keeps_suspended(&qemu->vmm.state)) {
        return true;
    }
    qemu->suspends = ff_qmp_watch_new(qemu->qmp, "SUSPEND");
    g_autofree char *run_state = ff_qemu_run_state(qemu, false, error);
    qemu->vmm.state.ends_failed = run_state && strcmp(run_state, "running") != 0;
    return run_state != NULL;
}

bool ff_qemu_prepare(FfVmmState *state, FfRole role, GError **error)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    g_auto(Settings) now = {0};
    g_auto(Settings) want = {0};

    if (!query_settings(qemu, &now, error) || !choose_end(qemu, error)) {
        return false;
    }
    if (!json_object_has_member(now.capabilities, IGNORE_SHARED) ||
        !json_object_has_member(now.capabilities, "return-path")) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                            "this QEMU lacks the migration capability x-ignore-shared or "
                            "return-path: use QEMU 7.2 or newer");
        return false;
    }
    /* The memory of a guest that the engine moves is shared by farfault's doing: whoever has set
     * it at a monitor of QEMU's own loses that memory by it, and gets it back off. */
    json_object_set_boolean_member(now.capabilities, IGNORE_SHARED, FALSE);
    if (!log_begin(qemu, &now, error)) {
        return false;
    }
    forget_put_back(qemu);
    want.capabilities = wanted_capabilities(qemu);
    want.parameters = wanted_parameters(role);
    return set_settings(qemu, &now, &want, error);
}

/* One by one, for when QEMU refused the whole: e.g. a QEMU that has loaded a guest takes no more
 * "multifd". What is refused is said once, and stays as it is. */
static void restore_each(FfQemu *qemu, const char *command, JsonObject *now, JsonObject *want,
                         FfQmpCall *(*send)(FfQemu *, JsonObject *, JsonObject *))
{
    g_autoptr(GList) names = json_object_get_members(want);

    for (GList *l = names; l; l = l->next) {
        g_autoptr(JsonObject) one = json_object_new();
        g_autoptr(GError) error = NULL;
        json_object_set_member(one, l->data, json_node_copy(json_object_get_member(want, l->data)));
        if (!was_set(send(qemu, now, one), command, &error)) {
            g_message("%s: the client's %s could not be restored: %s", qemu->name,
                      (const char *)l->data, error->message);
        }
    }
}

/* Sets both and asks for the capabilities after that, in one go: QEMU answers in order. Returns
 * what it has then; NULL and ERROR. */
static JsonObject *restore_to(FfQemu *qemu, const Settings *now, const Settings *want,
                              GError **error)
{
    g_autoptr(GError) local = NULL;
    FfQmpCall *sent_c = send_capabilities(qemu, now->capabilities, want->capabilities);
    FfQmpCall *sent_p = send_parameters(qemu, now->parameters, want->parameters);
    FfQmpCall *asked = ask_capabilities(qemu);
    bool set_c = was_set(sent_c, SET_CAPABILITIES, NULL);
    bool set_p = was_set(sent_p, SET_PARAMETERS, NULL);
    g_autoptr(JsonObject) after = capabilities_answered(asked, &local);

    if (!set_c) {
        restore_each(qemu, SET_CAPABILITIES, now->capabilities, want->capabilities,
                     send_capabilities);
    }
    if (!set_p) {
        restore_each(qemu, SET_PARAMETERS, now->parameters, want->parameters, send_parameters);
    }
    if (!set_c) {
        g_clear_pointer(&after, json_object_unref);
        g_clear_error(&local);
        after = capabilities_answered(ask_capabilities(qemu), &local);
    }
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
    }
    return g_steal_pointer(&after);
}

static bool restore_settings(FfQemu *qemu, JsonObject *log, GError **error)
{
    /* Borrowed. */
    const Settings want = {ff_json_object(log, "capabilities"), ff_json_object(log, "parameters")};
    g_auto(Settings) now = {0};
    g_autoptr(JsonObject) after = NULL;

    if (!query_settings(qemu, &now, error)) {
        return false;
    }
    after = restore_to(qemu, &now, &want, error);
    if (!after) {
        return false;
    }
    if (ff_json_bool(after, IGNORE_SHARED) != ff_json_bool(want.capabilities, IGNORE_SHARED)) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                            "QEMU's x-ignore-shared could not be set back: a native migration or "
                            "save would lose the guest's memory, and is refused");
        return false;
    }
    return true;
}

bool ff_qemu_undo(FfVmmState *state, GError **error)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    g_autoptr(GError) local = NULL;

    ff_qemu_forget_kept(state);
    forget_put_back(qemu);
    for (;;) {
        g_autoptr(JsonNode) log = NULL;
        uint32_t len;
        bool cleared;

        ff_mutex_lock(&qemu->undo_lock);
        len = __atomic_load_n(&qemu->state->undo_len, __ATOMIC_ACQUIRE);
        log = log_read(qemu, &local);
        ff_mutex_unlock(&qemu->undo_lock);
        if (local) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        if (!log) {
            return true;
        }
        /* Not under the lock: the view must answer while QEMU is slow. */
        if (!restore_settings(qemu, ff_json_node_object(log), error)) {
            return false;
        }
        ff_mutex_lock(&qemu->undo_lock);
        cleared = __atomic_load_n(&qemu->state->undo_len, __ATOMIC_ACQUIRE) == len;
        if (cleared) {
            __atomic_store_n(&qemu->state->undo_len, 0, __ATOMIC_RELEASE);
        }
        ff_mutex_unlock(&qemu->undo_lock);
        if (cleared) {
            return true;
        }
        /* The client changed something meanwhile: once more. */
    }
}

/* A copy of member NAME of the folded log; NULL if there is no log. */
static JsonNode *view_of(FfQemu *qemu, const char *name)
{
    g_autoptr(JsonNode) log = NULL;
    JsonObject *o;

    ff_mutex_lock(&qemu->undo_lock);
    log = log_read(qemu, NULL);
    ff_mutex_unlock(&qemu->undo_lock);
    o = ff_json_node_object(log);
    return o ? json_node_copy(json_object_get_member(o, name)) : NULL;
}

JsonNode *ff_qemu_view_parameters(FfQemu *qemu)
{
    return view_of(qemu, "parameters");
}

JsonNode *ff_qemu_view_capabilities(FfQemu *qemu)
{
    g_autoptr(JsonNode) node = view_of(qemu, "capabilities");
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
                                       ff_json_bool(json_node_get_object(node), l->data));
        json_object_set_string_member(c, "capability", l->data);
        json_array_add_object_element(list, c);
    }
    result = json_node_new(JSON_NODE_ARRAY);
    json_node_take_array(result, list);
    return result;
}

/* Appends a change of NAME (in KIND) to the log, unless it is none. */
static bool view_set(FfQemu *qemu, const char *kind, const char *kinds, const char *name,
                     JsonNode *value, GError **error)
{
    g_autoptr(JsonObject) line = json_object_new();
    g_autoptr(JsonNode) log = NULL;
    JsonNode *old;
    bool ok;

    json_object_set_string_member(line, kind, name);
    json_object_set_member(line, "value", json_node_copy(value));
    ff_mutex_lock(&qemu->undo_lock);
    log = log_read(qemu, NULL);
    if (!log) {
        ff_mutex_unlock(&qemu->undo_lock);
        return false;
    }
    old = json_object_get_member(ff_json_object(ff_json_node_object(log), kinds), name);
    ok = old && json_node_equal(old, value) ? true : log_append(qemu, line, error);
    ff_mutex_unlock(&qemu->undo_lock);
    return ok;
}

bool ff_qemu_view_set_capability(FfQemu *qemu, const char *name, bool value, GError **error)
{
    g_autoptr(JsonNode) view = view_of(qemu, "capabilities");
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
    return view_set(qemu, "capability", "capabilities", name, node, error);
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

bool ff_qemu_view_set_parameter(FfQemu *qemu, const char *name, JsonNode *value, GError **error)
{
    g_autoptr(JsonNode) view = view_of(qemu, "parameters");
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
    return view_set(qemu, "parameter", "parameters", name, copy, error);
}
