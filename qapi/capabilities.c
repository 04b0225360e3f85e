/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's capabilities: migrate-set-capabilities and query-migrate-capabilities.
 *
 * postcopy-ram, postcopy-preempt and postcopy-blocktime are farfault's: kept in the state memfd
 * and hidden from QEMU, unless QEMU itself carries a migration for which they are set. So is
 * x-ignore-shared, which QEMU is never told, of a guest whose memory farfault has made: it is
 * shared for that alone, and nothing else would save it. All others are QEMU's; while the engine
 * has changed QEMU's for the inner migration, the client's view of them is in the undo log.
 *
 * What was typed at a human monitor of QEMU's own counts as what a client has sent: each time that
 * QEMU's list is read, and is not changed by the engine, ours that are other there than at the last
 * look become the client's (take_typed()).
 *
 * What a client has set while no engine could be started only QEMU knows. It is asked for that
 * before the next command is looked at, and stays as it is: an inner migration switches ours off
 * and undoes that, so QEMU has the client's word still if there is no engine once more.
 *
 * Main loop's thread.
 */
#include <string.h>

#include "qapi/caps-check.h"
#include "qapi/driver-private.h"

static const char *const ours[FF_CLIENT_CAPS] = FF_CLIENT_CAP_NAMES; /* bit I: ours[I] */

/* Whether bit I is ours, of this guest. */
static bool is_ours(const FfDriver *d, unsigned i)
{
    return 1u << i != FF_CLIENT_CAP_IGNORE_SHARED || d->config.shares_ram;
}

static uint32_t our_flag(const FfDriver *d, const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(ours); i++) {
        if (!strcmp(ours[i], name)) {
            return is_ours(d, i) ? 1u << i : 0;
        }
    }
    return 0;
}

const char *ff_driver_refusal(FfDriver *d)
{
    if (d->config.engine_refused) {
        return d->config.engine_refused;
    }
    /* A source needs none. */
    return d->config.incoming && d->config.uffd_error ? d->config.uffd_error[FF_KIND_MISSING]
                                                      : NULL;
}

static JsonObject *status_new(const char *name, bool state)
{
    JsonObject *status = json_object_new();

    json_object_set_boolean_member(status, "state", state);
    json_object_set_string_member(status, "capability", name);
    return status;
}

/* The status of NAME in a list as query-migrate-capabilities returns it, or NULL. */
static JsonObject *find_status(JsonArray *list, const char *name)
{
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonNode *element = json_array_get_element(list, i);

        if (JSON_NODE_HOLDS_OBJECT(element) &&
            !g_strcmp0(ff_json_string(json_node_get_object(element), "capability"), name)) {
            return json_node_get_object(element);
        }
    }
    return NULL;
}

static bool array_capability(JsonArray *list, const char *name)
{
    JsonObject *status = find_status(list, name);

    return status && ff_json_bool(status, "state");
}

bool ff_capability(JsonNode *capabilities, const char *name)
{
    return array_capability(json_node_get_array(capabilities), name);
}

/* QEMU's list as the client is to see it: a copy with ours put in their places. */
static JsonNode *client_list(FfDriver *d, JsonArray *inner)
{
    JsonArray *list = json_array_new();
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);

    for (guint i = 0; i < json_array_get_length(inner); i++) {
        JsonNode *element = json_array_get_element(inner, i);
        const char *name = JSON_NODE_HOLDS_OBJECT(element)
                               ? ff_json_string(json_node_get_object(element), "capability")
                               : NULL;

        if (name) {
            uint32_t flag = our_flag(d, name);

            json_array_add_object_element(
                list,
                status_new(name, flag ? (d->config.state->client_flags & flag) != 0
                                      : ff_json_bool(json_node_get_object(element), "state")));
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(ours); i++) {
        if (is_ours(d, i) && !find_status(list, ours[i])) {
            json_array_add_object_element(
                list, status_new(ours[i], d->config.state->client_flags & 1u << i));
        }
    }
    json_node_take_array(node, list);
    return node;
}

/* LIST is QEMU's own. x-ignore-shared is left to who typed it there. */
static void take_typed(FfDriver *d, JsonArray *list)
{
    FfStateHeader *state = d->config.state;
    uint32_t flags = state->client_flags;

    for (unsigned i = 0; i < G_N_ELEMENTS(ours); i++) {
        uint32_t flag = 1u << i, known = FF_CLIENT_CAP_IN_QEMU(flag);
        JsonObject *status = find_status(list, ours[i]);
        bool on = status && ff_json_bool(status, "state");

        if (flag == FF_CLIENT_CAP_IGNORE_SHARED || !status || on == !!(flags & known)) {
            continue;
        }
        flags = on ? flags | flag | known : flags & ~(flag | known);
    }
    state->client_flags = flags;
    d->blocktime = flags & FF_CLIENT_CAP_POSTCOPY_BLOCKTIME;
}

static void use_list(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
        return;
    }
    if (!result || !JSON_NODE_HOLDS_ARRAY(result)) {
        ff_call_error(call, "QEMU's answer to query-migrate-capabilities is no list");
        return;
    }
    g_clear_pointer(&call->inner_capabilities, json_node_unref);
    g_clear_pointer(&call->capabilities, json_node_unref);
    call->inner_capabilities = json_node_copy(result);
    call->capabilities = client_list(call->driver, json_node_get_array(result));
    call->next(call);
}

/* Meanwhile the engine may have begun to change QEMU's. */
static void got_list(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, false);

    if (!view && !d->migration && result && JSON_NODE_HOLDS_ARRAY(result)) {
        take_typed(d, json_node_get_array(result));
    }
    use_list(call, result, error);
}

void ff_call_get_capabilities(FfCall *call, FfHandler next)
{
    FfDriver *d = call->driver;
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, false);

    call->next = next;
    if (view) {
        use_list(call, view, NULL);
    } else {
        ff_call_inner(call, "query-migrate-capabilities", NULL, got_list);
    }
}

static void query_answer(FfCall *call)
{
    ff_call_return(call, g_steal_pointer(&call->capabilities));
}

void ff_handle_query_capabilities(FfCall *call)
{
    ff_call_get_capabilities(call, query_answer);
}

/* ---- what was set without an engine ---------------------------------------------------------- */

/* Something is marked so, and QEMU's are the client's. */
static bool only_qemu_knows(FfDriver *d)
{
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, false);

    return ff_state_is_marked(d->config.state, FF_MARK_CAPS) && !view && !d->migration &&
           !d->outgoing;
}

static void let_waiting_go(FfDriver *d, const GError *error)
{
    GQueue waiting = d->waiting_caps;
    FfCall *call;

    g_queue_init(&d->waiting_caps);
    while ((call = g_queue_pop_head(&waiting))) {
        if (error) {
            ff_call_gerror(call, error);
        } else {
            ff_call_dispatch(call);
        }
    }
}

static void qemu_said(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    FfStateHeader *state = d->config.state;
    bool known = !error && result && JSON_NODE_HOLDS_ARRAY(result);

    d->asking_caps = false;
    for (unsigned i = 0; known && i < G_N_ELEMENTS(ours); i++) {
        uint32_t flag = 1u << i;

        if (ff_state_is_marked(state, FF_MARK_CAP(flag))) {
            bool on = is_ours(d, i) && ff_capability(result, ours[i]);

            state->client_flags = on ? state->client_flags | flag : state->client_flags & ~flag;
            ff_state_unmark(state, FF_MARK_CAP(flag));
        }
    }
    g_autoptr(GError) unknown =
        known ? NULL
              : g_error_new(FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC,
                            "capabilities were set without an engine, and QEMU does not say which: "
                            "%s",
                            error ? error->message : "its answer is no list");
    let_waiting_go(d, unknown);
    ff_call_return(call, NULL);
}

/* Nothing of CALL depends on a capability, and a QEMU that waits for a page may be what it is for:
 * that one answers nothing but what is asked out of band. */
static bool does_without(const FfCall *call)
{
    static const char *const names[] = {"migrate-recover", "migrate-pause", "query-migrate", NULL};

    return call->oob || g_strv_contains(names, call->name);
}

bool ff_capabilities_hold(FfCall *call)
{
    FfDriver *d = call->driver;

    if (does_without(call) || (!d->asking_caps && !only_qemu_knows(d))) {
        return false;
    }
    g_queue_push_tail(&d->waiting_caps, call);
    if (!d->asking_caps) {
        d->asking_caps = true;
        ff_call_inner(ff_call_new_own(d), "query-migrate-capabilities", NULL, qemu_said);
    }
    return true;
}

void ff_capabilities_forget(FfDriver *d)
{
    FfCall *call;

    while ((call = g_queue_pop_head(&d->waiting_caps))) {
        if (call->oob) {
            ff_call_free(call); /* the others are in their clients' queues */
        }
    }
}

/* ---- setting --------------------------------------------------------------------------------- */

static bool is_native(FfDriver *d)
{
    return d->config.state->policy == FF_POLICY_NEVER ||
           d->config.state->driver_flags & FF_DRIVER_NATIVE_INCOMING || ff_driver_refusal(d);
}

static JsonArray *changes_of(FfCall *call)
{
    return json_object_get_array_member(call->args, "capabilities");
}

/* A client that knows the guest by the process of another QEMU asks for what that one knew: what is
 * off is off also where it is not known any more (libvirt says it of each before a migration). */
static void drop_unknown(FfCall *call)
{
    JsonArray *changes = changes_of(call), *known = json_node_get_array(call->capabilities);

    for (guint i = json_array_get_length(changes); i-- > 0;) {
        JsonObject *status = json_array_get_object_element(changes, i);

        if (!ff_json_bool(status, "state") &&
            !find_status(known, ff_json_string_or(status, "capability", ""))) {
            json_array_remove_element(changes, i);
        }
    }
}

/* What CALL asks for, for the checks. */
static FfCapsCheck check_of(FfCall *call)
{
    FfDriver *d = call->driver;

    return (FfCapsCheck){
        .changes = changes_of(call),
        .current = json_node_get_array(call->capabilities),
        .version = ff_driver_version(d),
        .incoming_started =
            d->incoming || (d->migration && d->config.state->role == FF_ROLE_DESTINATION),
        .one_channel = !d->socket_address,
        .may_restore = d->config.incoming && !strcmp(d->config.incoming, "defer") &&
                       d->config.state->role != FF_ROLE_SOURCE && !d->config.state->info_len &&
                       !is_native(d),
    };
}

/* With -incoming URI, from the start: no other command of the client's comes by here. */
static bool qemu_listens(const FfDriver *d)
{
    return d->config.incoming && strcmp(d->config.incoming, "defer") && !d->config.incoming_taken;
}

/* Stores the client's wish for ours: from here on it is what queries show. */
static void commit_capabilities(FfCall *call)
{
    FfDriver *d = call->driver;
    uint32_t flags = d->config.state->client_flags;
    FfCapsCheck check = check_of(call);

    for (unsigned i = 0; i < G_N_ELEMENTS(ours); i++) {
        bool on = is_ours(d, i) && ff_caps_after(&check, ours[i]);

        /* "off" is QEMU's as well: it was passed if it had it on. */
        flags = on ? flags | 1u << i : flags & ~(1u << i | FF_CLIENT_CAP_IN_QEMU(1u << i));
    }
    if (flags & ~d->config.state->client_flags & FF_CLIENT_CAP_POSTCOPY_RAM && qemu_listens(d) &&
        ff_driver_refusal(d)) {
        ff_driver_log(d, "farfault: QEMU carries the migration: %s", ff_driver_refusal(d));
    }
    if (flags & ~d->config.state->client_flags & FF_CLIENT_CAP_IGNORE_SHARED) {
        ff_driver_log(d,
                      "farfault: x-ignore-shared is noted, and QEMU is not told: guest memory is "
                      "shared by farfault's doing, and is saved and migrated as ever");
    }
    d->config.state->client_flags = flags;
    d->blocktime = flags & FF_CLIENT_CAP_POSTCOPY_BLOCKTIME;
    if (d->migration || d->incoming) {
        bool needed = d->migration && d->start_ops->needs_events;

        ff_driver_want_events(d, needed || ff_caps_after(&check, "events"));
    }
    ff_call_return(call, NULL);
}

/* What QEMU is to be told: all that is not ours; ours only where QEMU carries the migration, or
 * has one on that the client now wants off. */
static bool is_forwarded(const FfCall *call, const char *name, bool state)
{
    uint32_t flag = our_flag(call->driver, name);

    return !flag || (flag != FF_CLIENT_CAP_IGNORE_SHARED && is_native(call->driver)) ||
           (!state && ff_capability(call->inner_capabilities, name));
}

static JsonArray *to_forward(FfCall *call)
{
    JsonArray *changes = changes_of(call);
    JsonArray *list = json_array_new();

    for (guint i = 0; i < json_array_get_length(changes); i++) {
        JsonObject *status = json_array_get_object_element(changes, i);
        const char *name = ff_json_string(status, "capability");
        bool state = ff_json_bool(status, "state");

        if (is_forwarded(call, name, state)) {
            json_array_add_object_element(list, status_new(name, state));
        }
    }
    return list;
}

static void set_view(FfCall *call, JsonArray *list)
{
    FfDriver *d = call->driver;
    g_autoptr(JsonNode) changes = json_node_new(JSON_NODE_ARRAY);
    g_autoptr(GError) error = NULL;

    json_node_take_array(changes, list);
    if (d->config.port->set_view(d->config.port_opaque, false, changes, &error)) {
        commit_capabilities(call);
    } else {
        ff_call_gerror(call, error);
    }
}

void ff_call_postcopy_error(FfCall *call, const GError *error, const char *why)
{
    if (why && strstr(error->message, "ostcopy")) {
        ff_call_error(call, "%s: %s", error->message, why);
    } else {
        ff_call_gerror(call, error);
    }
}

/* QEMU was asked for the reason that the engine cannot, and cannot either. */
static void on_forwarded(FfCall *call, JsonNode *result, const GError *error)
{
    g_autoptr(JsonNode) view =
        call->driver->config.port->view(call->driver->config.port_opaque, false);

    if (error) {
        ff_call_postcopy_error(call, error, ff_driver_refusal(call->driver));
    } else if (view) {
        /* What is put back at the end is this: the switchover began meanwhile, or we splice. */
        set_view(call, to_forward(call));
    } else {
        commit_capabilities(call);
    }
}

/* QEMU's postcopy into such memory fails when the guest has been switched, and it is lost. From 8.1
 * on QEMU refuses it itself. */
static bool would_lose_guest(FfDriver *d)
{
    const char *refused = d->config.engine_refused;

    return d->config.incoming && ff_driver_version(d) < FF_QEMU_8_1 && refused &&
           strstr(refused, FF_RAM_ON_DISK);
}

/* NULL: nothing that QEMU would not say itself is wrong. What it would say comes first. */
static const char *check_ours(FfCall *call)
{
    FfDriver *d = call->driver;
    FfCapsCheck check = check_of(call);
    const char *theirs = ff_caps_check(&check);
    bool begins = ff_caps_after(&check, "postcopy-ram") &&
                  !(d->config.state->client_flags & FF_CLIENT_CAP_POSTCOPY_RAM);

    /* QEMU would carry it, which the client has ruled out, or which must not be. */
    if (!theirs && begins && ff_driver_refusal(d) &&
        (d->config.state->peer == FF_PEER_WISH_REQUIRE || would_lose_guest(d))) {
        return ff_driver_refusal(d);
    }
    return theirs;
}

static void set_checked(FfCall *call)
{
    FfDriver *d = call->driver;

    if (d->config.front >= 0) {
        drop_unknown(call);
    }
    FfCapsCheck check = check_of(call);
    const char *unknown = ff_caps_unknown(&check);
    const char *wrong = unknown ? NULL : check_ours(call);
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, false);

    if (unknown && view) {
        ff_call_error(call, "Parameter 'capability' does not accept value '%s'", unknown);
        return;
    }
    if (wrong) {
        ff_call_error(call, "%s", wrong);
        return;
    }
    JsonArray *list = to_forward(call);

    if (!json_array_get_length(list)) {
        json_array_unref(list);
        commit_capabilities(call);
    } else if (view && !ff_driver_splices(d)) {
        set_view(call, list);
    } else {
        JsonObject *args = json_object_new();

        json_object_set_array_member(args, "capabilities", list);
        ff_call_inner(call, "migrate-set-capabilities", args, on_forwarded);
    }
}

void ff_handle_set_capabilities(FfCall *call)
{
    FfDriver *d = call->driver;

    if (ff_call_when_over(call, ff_handle_set_capabilities) ||
        ff_call_when_taken_over(call, ff_handle_set_capabilities)) {
        return;
    }
    if (d->migration && d->config.state->role == FF_ROLE_SOURCE) {
        ff_call_error(call, FF_MIGRATING);
        return;
    }
    ff_call_get_capabilities(call, set_checked);
}

/* ---- a migration that QEMU carries ----------------------------------------------------------- */

/* WHICH of ours, on if they are among FLAGS. */
static void set_qemus(FfCall *call, uint32_t which, uint32_t flags, FfCallInner next)
{
    JsonObject *args = json_object_new();
    JsonArray *list = json_array_new();

    for (unsigned i = 0; i < G_N_ELEMENTS(ours); i++) {
        if (which & 1u << i && is_ours(call->driver, i)) {
            json_array_add_object_element(list, status_new(ours[i], flags & 1u << i));
        }
    }
    json_object_set_array_member(args, "capabilities", list);
    ff_call_inner(call, "migrate-set-capabilities", args, next);
}

/* Those that a client has set, and QEMU may have. */
static uint32_t postcopy_flags(const FfDriver *d)
{
    return d->config.state->client_flags & ((1u << FF_CLIENT_CAPS) - 1) &
           ~(uint32_t)FF_CLIENT_CAP_IGNORE_SHARED;
}

bool ff_call_has_capabilities(const FfCall *call)
{
    const FfDriver *d = call->driver;

    /* What was switched on at a monitor of QEMU's own is in the list that QEMU has answered, if it
     * was asked. */
    return postcopy_flags(d) ||
           (d->config.shares_ram && (d->config.state->client_flags & FF_CLIENT_CAP_IGNORE_SHARED ||
                                     !call->inner_capabilities ||
                                     ff_capability(call->inner_capabilities, "x-ignore-shared")));
}

/* None is switched off but x-ignore-shared: a client's "off" was passed to a QEMU that had it on,
 * and of a stream that came to QEMU's own -incoming some may be on that were typed. */
void ff_call_give_capabilities(FfCall *call, FfCallInner next)
{
    uint32_t flags = postcopy_flags(call->driver);

    set_qemus(call, flags | FF_CLIENT_CAP_IGNORE_SHARED, flags, next);
}

void ff_call_take_capabilities(FfCall *call, FfCallInner next)
{
    uint32_t flags = postcopy_flags(call->driver);

    call->driver->config.state->client_flags &= ~FF_CLIENT_CAP_IN_QEMU(flags);
    set_qemus(call, flags | FF_CLIENT_CAP_IGNORE_SHARED, 0, next);
}
