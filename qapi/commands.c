/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * migrate and what follows it: who carries it, its start, the switch (what it tells then:
 * migration-ops.c).
 *
 * QEMU carries what the engine does not do; then the client's postcopy capabilities are given to
 * it first and its line passes as it came. Main loop's thread.
 */
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/common/states.h"
#include "qapi/driver-private.h"

/* The destination has no farfault, or this side is refused. */
static void on_plain(FfDriver *d, const FfPlainPeer *peer)
{
    /* QEMU connects itself to what the client wrote. */
    ff_outgoing_start(d, peer, peer->channel ? d->uri : d->client_uri);
}

const FfStartOps ff_migrate_ops = {
    .plain = on_plain,
    .active = ff_incoming_active,
    .done = ff_incoming_done,
};

static void start_migration(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;
    FfMigrationConfig config = {.role = FF_ROLE_SOURCE, .fd = -1, .refusal = call->native};

    if (ff_call_too_late(call)) {
        return;
    }
    if (d->outgoing) { /* another client's, and QEMU has begun */
        ff_call_error(call, FF_MIGRATING);
        return;
    }
    if (call->target.kind == FF_URI_FD) {
        config.fd = call->fd;
        call->fd = -1;
    } else {
        config.uri = call->target.uri;
    }
    g_free(d->uri);
    d->uri = g_strdup(config.uri);
    g_free(d->client_uri);
    d->client_uri = g_strdup(call->target.said ? call->target.said : config.uri);
    ff_driver_use_tls(call, &config);
    ff_driver_take_parameters(d, json_node_get_object(call->parameters));
    ff_driver_report_anew(d, FF_STATUS_NONE);
    ff_driver_client_is(call);
    if (!ff_driver_start(d, &config, call->capabilities, &ff_migrate_ops, &error)) {
        ff_driver_store_failure(d, FF_ROLE_SOURCE, error->message);
        ff_driver_report(d, FF_STATUS_SETUP);
        ff_driver_report(d, FF_STATUS_FAILED);
        ff_call_error(call, "%s", error->message);
        return;
    }
    ff_driver_report(d, FF_STATUS_SETUP);
    ff_call_return(call, NULL);
}

/* ---- the checks before it -------------------------------------------------------------------- */

static void fd_closed(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_when_restored(call, start_migration); /* gone already is as good */
}

static void got_info(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
        return;
    }
    if (ff_blocked_by_migration(result)) {
        ff_call_pass_native(call); /* one that QEMU carries: it says that it is in progress */
        return;
    }
    if (ff_call_too_late(call)) {
        return;
    }
    g_clear_pointer(&call->driver->outgoing, ff_outgoing_free); /* over */
    ff_outgoing_note_older(call->driver, result);
    if (result && JSON_NODE_HOLDS_OBJECT(result)) {
        g_autofree char *why = ff_blocked_by(json_node_get_object(result));

        if (why) {
            ff_call_error(call, "%s", why);
            return;
        }
    }
    if (call->target.kind == FF_URI_FD) {
        JsonObject *args = json_object_new();

        /* Ours is a copy: QEMU's would keep the connection open. */
        json_object_set_string_member(args, "fdname", call->target.name);
        ff_call_inject(call, "closefd", args, fd_closed);
    } else {
        ff_call_when_restored(call, start_migration);
    }
}

static void got_status(FfCall *call, JsonNode *result, const GError *error)
{
    JsonObject *object =
        result && JSON_NODE_HOLDS_OBJECT(result) ? json_node_get_object(result) : NULL;
    const char *state = object ? ff_json_string(object, "status") : NULL;

    if (error) {
        ff_call_gerror(call, error);
        return;
    }
    call->driver->has_singlestep = object && json_object_has_member(object, "singlestep");
    if (!g_strcmp0(state, "inmigrate")) {
        ff_call_error(call, "Guest is waiting for an incoming migration");
    } else if (!g_strcmp0(state, "postmigrate")) {
        ff_call_error(call, "Can't migrate the vm that was paused due to previous migration");
    } else {
        ff_call_inner(call, "query-migrate", NULL, got_info);
    }
}

static void got_fd(FfCall *call)
{
    struct stat st;

    if (call->fd < 0 || fstat(call->fd, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        /* A pipe or a file: virsh save, dump. Or no such name: QEMU says so. Its own copy of
         * the fd is untouched. */
        if (call->fd >= 0) {
            close(call->fd);
            call->fd = -1;
        }
        ff_call_pass_native(call);
        return;
    }
    ff_call_inner(call, "query-status", NULL, got_status);
}

/* Where the engine is to ask only, what stands in its way is no reason against QEMU's migration. */
static bool can_ask(FfCall *call)
{
    const FfDriver *d = call->driver;

    if (call->native && call->tls.error) {
        return false;
    }
    if (!ff_uri_make_absolute(&call->target, d->config.qemu_pid)) {
        call->native = call->native ? call->native : FF_URI_NOT_ABSOLUTE;
        return d->config.state->peer == FF_PEER_WISH_REQUIRE; /* it fails */
    }
    return true;
}

static void others_known(FfCall *call)
{
    g_autofree char *lost = ff_policy_would_lose(call->driver, call->others, call->why);

    if (lost) {
        ff_call_error(call, "%s", lost);
    } else {
        ff_call_pass_native(call);
    }
}

/* To QEMU, over what it can switch on. WHY it is QEMU's. */
static void pass_or_refuse(FfCall *call, const char *why)
{
    call->why = why;
    ff_call_when_others_known(call, others_known);
}

static void pass_migration(FfCall *call)
{
    if (call->target.kind == FF_URI_FILE) {
        ff_call_pass_native(call);
    } else {
        pass_or_refuse(call, call->native ? call->native : "its capabilities make it QEMU's");
    }
}

static void decide_migration(FfCall *call)
{
    if (ff_snapshot_is_wanted(call)) {
        ff_snapshot_migrate(call);
    } else if (!ff_policy_engine_begins(call) || call->tls.native ||
               call->target.kind == FF_URI_FILE || !can_ask(call)) {
        pass_migration(call);
    } else if (call->tls.error) {
        ff_call_error(call, "%s", call->tls.error->message);
    } else if (call->target.kind == FF_URI_FD) {
        ff_call_take_fd(call, call->target.name, got_fd);
    } else {
        ff_call_inner(call, "query-status", NULL, got_status);
    }
}

static void got_parameters(FfCall *call)
{
    ff_call_get_tls(call, false, decide_migration);
}

static void got_capabilities(FfCall *call)
{
    ff_call_get_parameters(call, got_parameters);
}

static bool is_number(const char *name)
{
    return strspn(name, "0123456789") == strlen(name);
}

static void look_at_uri(FfCall *call)
{
    FfDriver *d = call->driver;

    if (call->target.kind == FF_URI_FD && is_number(call->target.name)) {
        pass_or_refuse(call, "a socket by its number is not farfault's to use");
    } else if (call->target.kind == FF_URI_OTHER || d->config.state->policy == FF_POLICY_NEVER ||
               ff_json_bool(call->args, "blk") || ff_json_bool(call->args, "inc")) {
        ff_call_pass_native(call);
    } else {
        ff_call_get_capabilities(call, got_capabilities);
    }
}

static void begin_migrate(FfCall *call)
{
    ff_call_after_return_path(call, look_at_uri);
}

void ff_handle_migrate(FfCall *call)
{
    FfDriver *d = call->driver;
    bool resume = ff_json_bool(call->args, "resume");

    if (d->taking_back) {
        ff_call_when_restored(call, ff_handle_migrate);
        return;
    }
    if (resume && d->migration) {
        ff_resume_migration(call);
        return;
    }
    if (ff_call_when_whole(call, ff_handle_migrate) || ff_call_when_over(call, ff_handle_migrate) ||
        ff_call_when_guest_is_here(call, ff_handle_migrate)) {
        return;
    }
    if (d->migration && !ff_restore_is_under_way(d)) {
        ff_call_error(call, d->config.state->role == FF_ROLE_SOURCE
                                ? FF_MIGRATING
                                : "Guest is waiting for an incoming migration");
        return;
    }
    if (resume) {
        ff_call_restore(call, ff_call_pass); /* QEMU's own: it has the capabilities already */
        return;
    }
    ff_uri_from_arguments(&call->target, call->args);
    if (call->target.kind == FF_URI_NONE) {
        ff_call_pass(call); /* QEMU refuses it: each version in its own words */
    } else if (!ff_call_after_restore(call, begin_migrate)) {
        begin_migrate(call);
    }
}

/* ---- while it runs --------------------------------------------------------------------------- */

/* The engine has never carried a migration here, or QEMU has carried one since. */
static bool qemu_knows(FfDriver *d)
{
    return !d->migration && !d->config.state->info_len;
}

/* Ends CALL by what a function of the migration said. */
static void answer_migrate(FfCall *call, bool ok, const GError *error)
{
    if (ok) {
        ff_call_return(call, NULL);
    } else {
        ff_call_error(call, "%s", error->message);
    }
}

void ff_handle_start_postcopy(FfCall *call)
{
    FfDriver *d = call->driver;

    if (!(d->config.state->client_flags & FF_CLIENT_CAP_POSTCOPY_RAM)) {
        ff_call_error(call, "Enable postcopy with migrate_set_capability before the start of "
                            "migration");
    } else if (d->migration && d->config.state->role == FF_ROLE_SOURCE) {
        /* Fails where it is over: no error, that would be a race, says QEMU. */
        ff_migration_start_postcopy(d->migration, NULL);
        ff_call_return(call, NULL);
    } else if (d->migration || d->incoming) {
        ff_call_error(call, "Postcopy must be started after migration has been started");
    } else if (qemu_knows(d)) {
        /* QEMU carries it, or there is none; if it was never given the capability, its text
         * would name the wrong thing. */
        ff_call_inner(call, "migrate-start-postcopy", NULL, ff_call_forward);
    } else {
        ff_call_return(call, NULL); /* over */
    }
}

void ff_handle_cancel(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;

    if (ff_deferred_cancel(d)) {
        ff_call_return(call, NULL);
    } else if (d->migration && d->config.state->role == FF_ROLE_SOURCE &&
               d->status != FF_STATUS_COMPLETED) {
        bool ok = ff_migration_cancel(d->migration, &error);

        answer_migrate(call, ok, error);
    } else if (d->migration) {
        ff_call_return(call, NULL); /* as QEMU: cancelling is the source's business */
    } else {
        ff_call_pass(call);
    }
}

/* The status of the outgoing migration as migrate-continue compares it. */
static char *source_status(FfDriver *d)
{
    if (d->config.state->role != FF_ROLE_SOURCE) {
        return g_strdup(ff_status_name(FF_STATUS_NONE));
    }
    if (d->migration) {
        g_autoptr(FfMigrationInfo) info = ff_migration_info(d->migration);

        return g_strdup(ff_status_name(info->status));
    }
    return ff_driver_stored_status(d);
}

void ff_handle_continue(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;

    if (qemu_knows(d)) {
        ff_call_pass(call);
        return;
    }
    g_autofree char *now = source_status(d);

    if (g_strcmp0(ff_json_string(call->args, "state"), now)) {
        ff_call_error(call, "Migration not in expected state: %s", now);
    } else if (!d->migration || strcmp(now, ff_status_name(FF_STATUS_PRE_SWITCHOVER))) {
        ff_call_return(call, NULL); /* nothing waits for it */
    } else {
        bool ok = ff_migration_continue(d->migration, FF_STATUS_PRE_SWITCHOVER, &error);

        answer_migrate(call, ok, error);
    }
}
