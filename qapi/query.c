/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * query-migrate: a snapshot of the migration, of the last one, or what QEMU says of its own. Main
 * loop's thread.
 */
#include <string.h>

#include "migration/common/states.h"
#include "qapi/driver-private.h"

static JsonNode *object_node(JsonObject *object)
{
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(node, object);
    return node;
}

/* The stored one, with what stands against a migration now: that is QEMU's to say. */
static void merge_blocked(FfCall *call, JsonNode *result, const GError *error)
{
    FfStateHeader *state = call->driver->config.state;
    gsize length = MIN(state->info_len, sizeof(state->info));
    g_autoptr(JsonNode) node = ff_json_parse(state->info, length, NULL, NULL);

    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        ff_call_forward(call, result, error);
        return;
    }
    if (!error && result && JSON_NODE_HOLDS_OBJECT(result)) {
        JsonNode *reasons = json_object_get_member(json_node_get_object(result), "blocked-reasons");

        if (reasons) {
            json_object_set_member(json_node_get_object(node), "blocked-reasons",
                                   json_node_copy(reasons));
        }
    }
    ff_call_return(call, g_steal_pointer(&node));
}

/* Why QEMU carries what the engine was asked for (g_free); NULL: it does not. */
static char *native_reason(FfDriver *d)
{
    const FfStateHeader *state = d->config.state;
    const char *refusal = ff_driver_refusal(d);

    if (state->native[0]) {
        return g_strndup(state->native, sizeof(state->native));
    }
    /* One that began before there was an engine: -incoming URI. */
    bool asked = state->policy != FF_POLICY_NEVER && state->peer != FF_PEER_WISH_NATIVE &&
                 state->client_flags & FF_CLIENT_CAP_POSTCOPY_RAM;

    return g_strdup(asked ? refusal : NULL);
}

/* QEMU's answer about a migration that it carries and that the engine was asked for, or that we
 * splice: its own address is a private one then, so the client is shown where its source
 * connected. */
static void merge_native(FfCall *call, JsonNode *result, const GError *error)
{
    JsonArray *address = call->driver->socket_address;

    if (error || !JSON_NODE_HOLDS_OBJECT(result)) {
        ff_call_forward(call, result, error);
        return;
    }
    JsonObject *object = json_object_new();
    JsonObjectIter iter;
    const char *name;
    JsonNode *value;

    json_object_iter_init_ordered(&iter, json_node_get_object(result));
    while (json_object_iter_next_ordered(&iter, &name, &value)) {
        json_object_set_member(object, name, json_node_copy(value));
    }
    if (address) {
        json_object_set_array_member(object, "socket-address", json_array_ref(address));
    }
    g_autofree char *reason = native_reason(call->driver);
    if (reason && json_object_has_member(object, "status")) {
        JsonObject *own = json_object_new();

        json_object_set_string_member(own, "engine", "qemu");
        json_object_set_string_member(own, "reason", reason);
        json_object_set_object_member(object, "x-farfault", own);
    }
    ff_call_return(call, object_node(object));
}

/* What waits for a restore, or has come to its end before it could begin. */
static JsonNode *deferred_status(FfDriver *d)
{
    const FfStateHeader *state = d->config.state;

    if (!d->deferring) {
        return ff_json_parse(state->info, MIN(state->info_len, sizeof(state->info)), NULL, NULL);
    }
    g_autoptr(FfMigrationInfo) info = d->migration ? ff_migration_info(d->migration) : NULL;

    return object_node(ff_info_beside_restore(FF_STATUS_SETUP, info));
}

void ff_handle_query_migrate(FfCall *call)
{
    FfDriver *d = call->driver;

    ff_driver_client_looked(call);
    if (d->deferring || (d->migration && d->deferred_over)) {
        ff_call_return(call, deferred_status(d));
    } else if (ff_driver_fills_unseen(d)) {
        g_autoptr(FfMigrationInfo) info = ff_migration_info(d->migration);

        ff_call_return(call, object_node(ff_info_beside_restore(FF_STATUS_COMPLETED, info)));
    } else if (d->migration) {
        /* No question to QEMU: it may hang while it waits for a page. A reason against migration
         * that has come since the start, which a QEMU that migrates would refuse, is not said. */
        g_autoptr(FfMigrationInfo) info = ff_migration_info(d->migration);

        const FfInfoView view = ff_info_view(d);

        info->status = ff_driver_client_sees(call, info->status);
        if (d->config.state->driver_flags & FF_DRIVER_AS_EAGER &&
            ff_state_is_postcopy(info->status)) {
            info->status = FF_STATUS_ACTIVE; /* a step that its client does not know */
        }
        ff_call_return(call, object_node(ff_info_to_json(info, &view)));
    } else if (d->incoming && ff_incoming_is_native(d->incoming)) {
        ff_call_inner(call, "query-migrate", NULL, merge_native);
    } else if (d->incoming) {
        JsonObject *object = json_object_new();

        if (d->socket_address) {
            json_object_set_array_member(object, "socket-address",
                                         json_array_ref(d->socket_address));
        }
        if (ff_driver_version(d) >= FF_QEMU_8_2) {
            json_object_set_string_member(object, "status", ff_status_name(FF_STATUS_SETUP));
        }
        ff_call_return(call, object_node(object));
    } else if (d->config.state->info_len) {
        ff_call_inner(call, "query-migrate", NULL, merge_blocked);
    } else {
        g_autofree char *reason = native_reason(d);

        if (reason) {
            ff_call_inner(call, "query-migrate", NULL, merge_native);
        } else {
            ff_call_pass(call);
        }
    }
}
