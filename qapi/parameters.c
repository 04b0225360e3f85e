/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's parameters: migrate-set-parameters and query-migrate-parameters.
 *
 * They are QEMU's, but for those that begin with x-farfault-. While the engine has changed QEMU's
 * for the inner migration, the client's view of them is in the undo log; then the ranges are
 * checked here, in QEMU's order and words, and bandwidth takes effect on the running migration at
 * once. Main loop's thread.
 */
#include <inttypes.h>
#include <string.h>

#include "net/compress.h"
#include "qapi/driver-private.h"

#define POLICY "x-farfault-policy"
#define AUTO_POSTCOPY "x-farfault-auto-postcopy"
#define PEER "x-farfault-peer"
#define PEER_TIMEOUT "x-farfault-peer-timeout"
#define CHANNELS "x-farfault-channels"
#define AUTO_RECOVER "x-farfault-auto-recover"
#define COMPRESS "x-farfault-compress"
#define ZSTD_LEVEL "x-farfault-zstd-level"
#define UNTRACKED "x-farfault-untracked"

static const char *const policy_names[] = {
    [FF_POLICY_AUTO] = "auto",
    [FF_POLICY_ALWAYS] = "always",
    [FF_POLICY_NEVER] = "never",
};

static const char *const peer_names[] = {
    [FF_PEER_WISH_AUTO] = "auto",
    [FF_PEER_WISH_REQUIRE] = "require",
    [FF_PEER_WISH_NATIVE] = "native",
};

static const char *const compress_names[] = {
    [FF_COMPRESS_NEVER] = "never",
    [FF_COMPRESS_AUTO] = "auto",
    [FF_COMPRESS_ALWAYS] = "always",
};

static const char *const untracked_names[] = {
    [FF_UNTRACKED_QEMU] = "qemu",
    [FF_UNTRACKED_POSTCOPY] = "postcopy",
    [FF_UNTRACKED_WAIT] = "wait",
};

/* The value of the argument NAME among NAMES; OLD if it is not given. The schema has checked it. */
static unsigned choice_value(JsonObject *args, const char *name, const char *const *names,
                             unsigned n, unsigned old)
{
    const char *text = ff_json_string(args, name);

    for (unsigned i = 0; text && i < n; i++) {
        if (!strcmp(text, names[i])) {
            return i;
        }
    }
    return old;
}

/* One row per check of QEMU's migrate_params_check() that needs no other parameter. */
static const struct {
    const char *name;
    uint64_t min, max;
    const char *expects; /* "Parameter '%s' expects %s"; the name is printed with '_' */
} ranges[] = {
    {"compress-level", 0, 9, "a value between 0 and 9"},
    {"compress-threads", 1, 255, "a value between 1 and 255"},
    {"decompress-threads", 1, 255, "a value between 1 and 255"},
    {"throttle-trigger-threshold", 1, 100, "an integer in the range of 1 to 100"},
    {"cpu-throttle-initial", 1, 99, "an integer in the range of 1 to 99"},
    {"cpu-throttle-increment", 1, 99, "an integer in the range of 1 to 99"},
    {"downtime-limit", 0, 2000000, "an integer in the range of 0 to (2000 * 1000) ms"},
    {"multifd-channels", 1, 255, "a value between 1 and 255"},
    {"multifd-zlib-level", 0, 9, "a value between 0 and 9"},
    {"multifd-zstd-level", 0, 20, "a value between 0 and 20"},
    {"announce-initial", 0, 100000, "a value between 0 and 100000"},
    {"announce-max", 0, 100000, "a value between 0 and 100000"},
    {"announce-rounds", 0, 1000, "a value between 0 and 1000"},
    {"announce-step", 1, 10000, "a value between 0 and 10000"},
};

unsigned ff_driver_peer_timeout(const FfDriver *d)
{
    uint32_t seconds = d->config.state->peer_timeout;

    return seconds ? seconds : FF_PEER_TIMEOUT;
}

unsigned ff_driver_channels(const FfDriver *d)
{
    uint32_t channels = d->config.state->channels;

    return channels ? channels : ff_channels_default();
}

unsigned ff_driver_zstd_level(const FfDriver *d)
{
    uint8_t level = d->config.state->zstd_level;

    return level ? level : FF_ZSTD_LEVEL_DEFAULT;
}

static bool get_uint(JsonObject *object, const char *name, uint64_t *value)
{
    JsonNode *node = object ? json_object_get_member(object, name) : NULL;

    if (!node || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_INT64) {
        return false;
    }
    *value = (uint64_t)json_node_get_int(node);
    return true;
}

/* Those of farfault's that are numbers. */
static const struct {
    const char *name;
    uint64_t min, max;
} own_ranges[] = {
    {PEER_TIMEOUT, 5, 86400},
    {CHANNELS, 1, FF_CHANNELS_MAX},
    {AUTO_RECOVER, 0, 86400},
    {ZSTD_LEVEL, FF_ZSTD_LEVEL_MIN, FF_ZSTD_LEVEL_MAX},
};

static char *check_own_ranges(JsonObject *parameters)
{
    uint64_t value;

    for (unsigned i = 0; i < G_N_ELEMENTS(own_ranges); i++) {
        if (get_uint(parameters, own_ranges[i].name, &value) &&
            (value < own_ranges[i].min || value > own_ranges[i].max)) {
            return g_strdup_printf("Parameter '%s' expects a value between %" PRIu64
                                   " and %" PRIu64,
                                   own_ranges[i].name, own_ranges[i].min, own_ranges[i].max);
        }
    }
    /* QEMU 10.2 and newer would become another program, beside a relay that it cannot hear. */
    if (!g_strcmp0(ff_json_string(parameters, "mode"), "cpr-exec")) {
        return g_strdup("mode cpr-exec is not possible under farfault: farfault upgrade changes "
                        "the QEMU under a guest");
    }
    return NULL;
}

static char *expects_error(const char *name, const char *what)
{
    g_autofree char *printed = g_strdelimit(g_strdup(name), "-", '_');

    return g_strdup_printf("Parameter '%s' expects %s", printed, what);
}

/* NULL if PARAMETERS are within QEMU's ranges. CURRENT is what holds now. */
static char *check_ranges(JsonObject *parameters, JsonObject *current)
{
    uint64_t value, initial = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(ranges); i++) {
        if (get_uint(parameters, ranges[i].name, &value) &&
            (value < ranges[i].min || value > ranges[i].max)) {
            return expects_error(ranges[i].name, ranges[i].expects);
        }
    }
    if (get_uint(parameters, "xbzrle-cache-size", &value) &&
        (value < 4096 || (value & (value - 1)))) {
        return expects_error("xbzrle-cache-size",
                             "a power of two no less than the target page size");
    }
    if (get_uint(parameters, "max-cpu-throttle", &value)) {
        if (!get_uint(parameters, "cpu-throttle-initial", &initial)) {
            get_uint(current, "cpu-throttle-initial", &initial);
        }
        if (value < initial || value > 99) {
            return expects_error("max-cpu-throttle",
                                 "an integer in the range of cpu_throttle_initial to 99");
        }
    }
    return NULL;
}

void ff_driver_take_parameters(FfDriver *d, JsonObject *parameters)
{
    get_uint(parameters, "max-bandwidth", &d->max_bandwidth);
    get_uint(parameters, "max-postcopy-bandwidth", &d->max_postcopy_bandwidth);
    get_uint(parameters, "downtime-limit", &d->downtime_limit);
    get_uint(parameters, "avail-switchover-bandwidth", &d->switchover_bandwidth);
    if (json_object_has_member(parameters, AUTO_POSTCOPY)) {
        uint32_t *flags = &d->config.state->driver_flags;

        *flags = ff_json_bool(parameters, AUTO_POSTCOPY) ? *flags | FF_DRIVER_AUTO_POSTCOPY
                                                         : *flags & ~FF_DRIVER_AUTO_POSTCOPY;
    }
    uint64_t seconds;

    if (get_uint(parameters, PEER_TIMEOUT, &seconds)) {
        d->config.state->peer_timeout = (uint32_t)seconds;
    }
    if (get_uint(parameters, AUTO_RECOVER, &seconds)) {
        d->config.state->auto_recover = (uint32_t)seconds;
    }
    if (d->migration) {
        ff_migration_set_auto_recover(d->migration, d->config.state->auto_recover);
        ff_migration_set_bandwidth(d->migration, d->max_bandwidth, d->max_postcopy_bandwidth);
        ff_migration_set_switchover(d->migration, d->downtime_limit, d->switchover_bandwidth,
                                    d->config.state->driver_flags & FF_DRIVER_AUTO_POSTCOPY);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

static void got_parameters(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
        return;
    }
    if (!result || !JSON_NODE_HOLDS_OBJECT(result)) {
        ff_call_error(call, "QEMU's answer to query-migrate-parameters is no object");
        return;
    }
    FfDriver *d = call->driver;
    const FfStateHeader *state = d->config.state;

    g_clear_pointer(&call->parameters, json_node_unref);
    call->parameters = json_node_copy(result);
    JsonObject *object = json_node_get_object(call->parameters);
    json_object_set_string_member(object, POLICY, policy_names[state->policy]);
    json_object_set_boolean_member(object, AUTO_POSTCOPY,
                                   (state->driver_flags & FF_DRIVER_AUTO_POSTCOPY) != 0);
    json_object_set_string_member(object, PEER, peer_names[state->peer]);
    json_object_set_int_member(object, PEER_TIMEOUT, ff_driver_peer_timeout(d));
    json_object_set_int_member(object, CHANNELS, ff_driver_channels(d));
    json_object_set_int_member(object, AUTO_RECOVER, state->auto_recover);
    json_object_set_string_member(object, COMPRESS, compress_names[state->compress]);
    json_object_set_int_member(object, ZSTD_LEVEL, ff_driver_zstd_level(d));
    json_object_set_string_member(object, UNTRACKED, untracked_names[state->untracked]);
    call->next(call);
}

void ff_call_get_parameters(FfCall *call, FfHandler next)
{
    FfDriver *d = call->driver;
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, true);

    call->next = next;
    if (view) {
        got_parameters(call, view, NULL);
    } else {
        ff_call_inner(call, "query-migrate-parameters", NULL, got_parameters);
    }
}

static void query_answer(FfCall *call)
{
    ff_call_return(call, g_steal_pointer(&call->parameters));
}

void ff_handle_query_parameters(FfCall *call)
{
    ff_call_get_parameters(call, query_answer);
}

/* ---- setting --------------------------------------------------------------------------------- */

/* The arguments without what is farfault's. SPLICED: QEMU's migration is inside of our TLS, and
 * must begin none. */
static JsonObject *qemu_arguments(JsonObject *args, bool spliced)
{
    JsonObject *copy = json_object_new();
    JsonObjectIter iter;
    const char *name;
    JsonNode *value;

    json_object_iter_init_ordered(&iter, args);
    while (json_object_iter_next_ordered(&iter, &name, &value)) {
        bool to_empty = JSON_NODE_HOLDS_NULL(value); /* tls-*: null means "" */

        if (g_str_has_prefix(name, "x-farfault-") || (spliced && !strcmp(name, "tls-creds"))) {
            continue;
        }
        if (to_empty) {
            json_object_set_string_member(copy, name, "");
        } else {
            json_object_set_member(copy, name, json_node_copy(value));
        }
    }
    return copy;
}

static void commit_parameters(FfCall *call)
{
    FfDriver *d = call->driver;
    FfStateHeader *state = d->config.state;

    state->policy =
        choice_value(call->args, POLICY, policy_names, G_N_ELEMENTS(policy_names), state->policy);
    state->peer = choice_value(call->args, PEER, peer_names, G_N_ELEMENTS(peer_names), state->peer);
    state->compress = choice_value(call->args, COMPRESS, compress_names,
                                   G_N_ELEMENTS(compress_names), state->compress);
    state->untracked = choice_value(call->args, UNTRACKED, untracked_names,
                                    G_N_ELEMENTS(untracked_names), state->untracked);
    uint64_t number;

    if (get_uint(call->args, CHANNELS, &number)) {
        d->config.state->channels = number;
    }
    if (get_uint(call->args, ZSTD_LEVEL, &number)) {
        d->config.state->zstd_level = number;
    }
    ff_driver_take_parameters(d, call->args);
    ff_call_return(call, NULL);
}

static void set_view(FfCall *call, JsonNode *view)
{
    FfDriver *d = call->driver;
    g_autofree char *wrong = check_ranges(call->args, json_node_get_object(view));
    g_autoptr(JsonNode) changes = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(GError) error = NULL;

    if (wrong) {
        ff_call_error(call, "%s", wrong);
        return;
    }
    json_node_take_object(changes, qemu_arguments(call->args, false));
    if (d->config.port->set_view(d->config.port_opaque, true, changes, &error)) {
        commit_parameters(call);
    } else {
        ff_call_gerror(call, error);
    }
}

static void on_forwarded(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, true);

    if (error) {
        ff_call_gerror(call, error);
    } else if (view) {
        set_view(call, view); /* the switchover began meanwhile, or we splice */
    } else {
        commit_parameters(call);
    }
}

void ff_handle_set_parameters(FfCall *call)
{
    FfDriver *d = call->driver;

    if (ff_call_when_taken_over(call, ff_handle_set_parameters)) {
        return;
    }
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, true);

    if (!call->args) {
        ff_call_pass(call);
        return;
    }
    g_autofree char *wrong = check_own_ranges(call->args);

    if (wrong) {
        ff_call_error(call, "%s", wrong);
        return;
    }
    bool spliced = view && ff_driver_splices(d);

    if (view && !spliced) {
        set_view(call, view);
        return;
    }
    JsonObject *args = qemu_arguments(call->args, spliced);

    if (!json_object_get_size(args)) {
        json_object_unref(args);
        on_forwarded(call, NULL, NULL);
    } else {
        ff_call_inner(call, "migrate-set-parameters", args, on_forwarded);
    }
}
