/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * migrate-incoming: of a migration that QEMU carries it passes to QEMU as it came; all else is
 * listened for here (incoming-decide.c). Main loop's thread.
 */
#include "qapi/incoming.h"

#include <string.h>
#include <unistd.h>

#include "net/address.h"

static bool wants_to_live(FfCall *call)
{
    JsonNode *node = json_object_get_member(call->args, "exit-on-error");

    return node && !json_node_get_boolean(node);
}

static void fd_closed(FfCall *call, JsonNode *result, const GError *error)
{
    int fd = call->fd;

    call->fd = -1;
    ff_incoming_begin_connected(call->driver, fd, wants_to_live(call));
    ff_call_return(call, NULL);
}

static void got_fd(FfCall *call)
{
    if (ff_incoming_is_socket(call->fd)) {
        JsonObject *args = json_object_new();

        json_object_set_string_member(args, "fdname", call->target.name);
        ff_call_inject(call, "closefd", args, fd_closed);
        return;
    }
    if (call->fd >= 0) {
        close(call->fd);
        call->fd = -1;
    }
    ff_incoming_pass_native(call); /* a pipe or a file; or no such name, QEMU says so */
}

/* Meanwhile another client may have been faster. */
static void command_found(FfCall *call, const struct addrinfo *list, const GError *unknown)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;

    if (unknown) {
        ff_call_gerror(call, unknown);
    } else if (d->incoming || d->migration) {
        ff_call_error(call, "The incoming migration has already been started");
    } else if (ff_incoming_begin_listening(d, &call->target, list, wants_to_live(call), &error)) {
        ff_call_return(call, NULL);
    } else {
        ff_call_error(call, "%s", error->message);
    }
}

/* Else QEMU listens, which is in that folder. */
static bool can_be_named(FfCall *call)
{
    if (ff_uri_make_absolute(&call->target, call->driver->config.qemu_pid)) {
        return true;
    }
    call->native = FF_URI_NOT_ABSOLUTE;
    return false;
}

static void command_decide(FfCall *call)
{
    FfDriver *d = call->driver;

    d->events = ff_capability(call->capabilities, "events");
    if (d->incoming || d->migration) {
        ff_call_error(call, "The incoming migration has already been started");
    } else if (ff_restore_is_wanted(call)) {
        ff_restore_incoming(call);
    } else if (ff_restore_is_asked(call)) {
        ff_restore_asked(call);
    } else if (!ff_policy_engine_carries(call) || call->tls.native ||
               call->target.kind == FF_URI_FILE || !can_be_named(call)) {
        ff_incoming_pass_native(call);
    } else if (call->tls.error) {
        ff_call_error(call, "%s", call->tls.error->message);
    } else if (call->target.kind == FF_URI_FD) {
        ff_call_take_fd(call, call->target.name, got_fd);
    } else {
        ff_incoming_find(call, command_found);
    }
}

static void command_parameters(FfCall *call)
{
    ff_call_get_tls(call, true, command_decide);
}

static void command_capabilities(FfCall *call)
{
    ff_call_get_parameters(call, command_parameters);
}

static void command_status(FfCall *call, JsonNode *result, const GError *error)
{
    JsonObject *object =
        result && JSON_NODE_HOLDS_OBJECT(result) ? json_node_get_object(result) : NULL;

    if (error) {
        ff_call_gerror(call, error);
    } else if (!object || g_strcmp0(ff_json_string(object, "status"), "inmigrate")) {
        ff_call_pass(call); /* too late or too early: QEMU says which */
    } else {
        ff_call_get_capabilities(call, command_capabilities);
    }
}

void ff_handle_incoming(FfCall *call)
{
    FfDriver *d = call->driver;
    const FfDriverConfig *config = &d->config;

    if (d->incoming || (d->migration && config->state->role == FF_ROLE_DESTINATION)) {
        ff_call_error(call, "The incoming migration has already been started");
        return;
    }
    if (d->migration) {
        /* A source; QEMU's own migration commands are locked now. */
        ff_call_error(call, config->incoming ? "The incoming migration has already been started"
                                             : "'-incoming' was not specified on the command line");
        return;
    }
    if (config->state->role == FF_ROLE_DESTINATION && config->state->info_len) {
        ff_call_error(call, "The incoming migration has already been started");
        return;
    }
    if (ff_driver_version(d) < FF_QEMU_9_1 && call->args &&
        json_object_has_member(call->args, "exit-on-error")) {
        ff_call_pass(call); /* QEMU does not know it, and says so */
        return;
    }
    ff_uri_from_arguments(&call->target, call->args);
    if (!config->incoming || (strcmp(config->incoming, "defer") && !config->incoming_taken) ||
        call->target.kind == FF_URI_NONE || config->state->info_len ||
        config->state->driver_flags & FF_DRIVER_NATIVE_INCOMING) {
        ff_call_pass(call); /* QEMU refuses it, and knows why */
    } else if (strcmp(config->incoming, "defer")) {
        ff_call_error(call, "The incoming migration has already been started");
    } else if (ff_restore_is_asked(call)) {
        ff_call_inner(call, "query-status", NULL, command_status);
    } else if (config->state->policy == FF_POLICY_NEVER || call->target.kind == FF_URI_OTHER ||
               (call->target.kind == FF_URI_FILE &&
                !(config->state->client_flags & FF_CLIENT_CAP_POSTCOPY_RAM)) ||
               (call->target.kind == FF_URI_FD && g_ascii_isdigit(call->target.name[0]))) {
        ff_incoming_pass_native(call);
    } else {
        ff_call_inner(call, "query-status", NULL, command_status);
    }
}
