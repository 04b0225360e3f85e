/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * migrate-pause, migrate-recover, and migrate with resume=true: a lost connection is made again.
 *
 * At the destination nothing here waits for QEMU: its main loop may sit in a page fault, and
 * recovery is what ends that. Main loop's thread.
 */
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/address.h"
#include "qapi/driver-private.h"

/* postcopy-recover-setup came with QEMU 9.1. */
#define RECOVER_SETUP_SINCE 9001

static void answer_recover(FfCall *call, bool ok, const GError *error)
{
    if (ok) {
        ff_call_return(call, NULL);
    } else {
        ff_call_error(call, "%s", error->message);
    }
}

void ff_handle_pause(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;

    if (!d->migration) {
        ff_call_pass(call);
        return;
    }
    bool ok = ff_migration_pause(d->migration, &error);

    if (!ok && ff_driver_version(d) < FF_QEMU_8_2) {
        ff_call_error(call, "migrate-pause is currently only supported during postcopy-active "
                            "state");
    } else {
        answer_recover(call, ok, error);
    }
}

/* ---- what the client's URI names ------------------------------------------------------------- */

static void on_fd_closed(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_return(call, NULL);
}

/* QEMU's copy of an fd that is ours now. The client's own command does not wait for it. */
static void close_qemus_copy(FfCall *call)
{
    FfCall *own = ff_call_new_own(call->driver);
    JsonObject *args = json_object_new();

    own->mon = call->mon;
    json_object_set_string_member(args, "fdname", call->target.name);
    ff_call_inject(own, "closefd", args, on_fd_closed);
}

static bool take_socket(FfCall *call, int *fd)
{
    struct stat st;

    *fd = call->fd;
    if (*fd < 0) {
        ff_call_error(call, "File descriptor named '%s' has not been found", call->target.name);
        return false;
    }
    if (fstat(*fd, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        ff_call_error(call, "File descriptor named '%s' is no socket", call->target.name);
        return false;
    }
    call->fd = -1;
    close_qemus_copy(call);
    return true;
}

/* Those of the migration, if it has any. */
static bool has_credentials(FfCall *call)
{
    g_autoptr(GError) error = NULL;

    if (!ff_driver_read_tls_again(call->driver, &error)) {
        ff_call_error(call, "%s", error->message);
        return false;
    }
    return true;
}

static bool is_possible(FfCall *call)
{
    if (call->target.kind != FF_URI_TCP && call->target.kind != FF_URI_UNIX &&
        call->target.kind != FF_URI_FD) {
        ff_call_error(
            call, "a paused migration continues over tcp:HOST:PORT, unix:PATH or fd:NAME, or at "
                  "the destination from its source's dump (file:DIRECTORY), only");
        return false;
    }
    if (!ff_uri_make_absolute(&call->target, call->driver->config.qemu_pid)) {
        ff_call_error(call, "%s", FF_URI_NOT_ABSOLUTE);
        return false;
    }
    return has_credentials(call);
}

/* ---- migrate-recover ------------------------------------------------------------------------- */

/* What query-migrate shows, with the port that was chosen. */
static void show_address(FfDriver *d, const FfUri *target)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->migration);
    g_auto(FfUri) at = {.kind = FF_URI_NONE};

    g_clear_pointer(&d->socket_address, json_array_unref);
    if (target->kind == FF_URI_FD || !info->socket_address) {
        return;
    }
    ff_uri_parse(&at, info->socket_address);
    JsonObject *address = json_object_new();

    if (at.kind == FF_URI_TCP) {
        json_object_set_string_member(address, "port", at.port);
        json_object_set_string_member(address, "host", at.host);
        json_object_set_string_member(address, "type", "inet");
    } else {
        json_object_set_string_member(address, "path", ff_uri_said_path(target));
        json_object_set_string_member(address, "type", "unix");
    }
    d->socket_address = json_array_new();
    json_array_add_object_element(d->socket_address, address);
}

static void recover_migration(FfCall *call, const char *uri, int fd)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;

    if (!d->migration) {
        if (fd >= 0) {
            close(fd);
        }
        ff_call_error(call, "Migrate recover can only be run when postcopy is paused.");
        return;
    }
    bool ok = ff_migration_recover(d->migration, uri, fd, &error);

    if (ok) {
        show_address(d, &call->target);
    }
    answer_recover(call, ok, error);
}

static void recover_at(FfCall *call, const struct addrinfo *list, const GError *unknown)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfAddress) address = unknown ? NULL : ff_address_parse(call->target.uri, &error);
    int fd = address ? ff_address_listen_at(address, list, &error) : -1;

    if (fd >= 0) {
        recover_migration(call, call->target.uri, fd);
    } else {
        ff_call_error(call, "%s", unknown ? unknown->message : error->message);
    }
}

static void recover_by_fd(FfCall *call)
{
    int fd;

    if (take_socket(call, &fd)) {
        recover_migration(call, NULL, fd);
    }
}

/* The source is gone, and its dump is not. */
static void recover_from_dump(FfCall *call)
{
    g_autoptr(GError) error = NULL;

    if (call->target.offset) {
        ff_call_error(call, "a dump is a directory, and has no offset");
    } else {
        bool ok = ff_migration_recover_dump(call->driver->migration, call->target.path, &error);

        answer_recover(call, ok, error);
    }
}

void ff_handle_recover(FfCall *call)
{
    FfDriver *d = call->driver;

    if (!d->migration) {
        ff_call_restore(call, ff_call_pass); /* QEMU is to listen with its own tls-creds */
        return;
    }
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->migration);

    if (info->role != FF_ROLE_DESTINATION ||
        (info->status != FF_STATUS_POSTCOPY_PAUSED && info->status != FF_STATUS_COMPLETED)) {
        ff_call_error(call, "Migrate recover can only be run when postcopy is paused.");
        return;
    }
    ff_uri_parse(&call->target, ff_json_string(call->args, "uri"));
    if (ff_migration_is_restore(d->migration)) {
        ff_restore_recover(call);
        return;
    }
    if (call->target.kind == FF_URI_FILE) {
        recover_from_dump(call);
        return;
    }
    if (!is_possible(call)) {
        return;
    }
    if (call->target.kind == FF_URI_FD) {
        ff_call_take_fd(call, call->target.name, recover_by_fd);
    } else if (call->target.kind == FF_URI_TCP) {
        ff_call_resolve(call, call->target.host, call->target.port, ff_uri_family(&call->target),
                        recover_at);
    } else {
        recover_migration(call, call->target.uri, -1);
    }
}

/* ---- x-farfault-revoke ----------------------------------------------------------------------- */

static void do_reclaim(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;
    bool ok = ff_migration_reclaim(d->config.state, ff_json_bool(call->args, "force"), &error);

    if (ok) {
        ff_driver_log(d, "farfault: the user says that the guest has ended at the destination: "
                         "cont continues it here");
    }
    answer_recover(call, ok, error);
}

/* Of a guest with which QEMU would end itself. Its memory is all that is left of it. */
static void looked_at_suspended(FfCall *call, JsonNode *result, const GError *error)
{
    JsonObject *o = result && JSON_NODE_HOLDS_OBJECT(result) ? json_node_get_object(result) : NULL;

    if (error) {
        ff_call_gerror(call, error);
    } else if (!g_strcmp0(o ? ff_json_string(o, "status") : NULL, "postmigrate")) {
        ff_call_error(call,
                      "The guest is suspended, and QEMU aborts when such a guest is continued "
                      "after a migration: system_reset, this again, then cont start it "
                      "afresh");
    } else {
        do_reclaim(call); /* it was reset */
    }
}

/* The migration is over, and the guest the destination's. */
static void reclaim_guest(FfCall *call)
{
    if (ff_json_bool(call->args, "force") &&
        ff_state_is_marked(call->driver->config.state, FF_MARK_SUSPENDED)) {
        ff_call_inner(call, "query-status", NULL, looked_at_suspended);
    } else {
        do_reclaim(call);
    }
}

static void take_back(FfCall *call, const char *uri, int fd)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;

    if (!d->migration) {
        if (fd >= 0) {
            close(fd);
        }
        reclaim_guest(call);
        return;
    }
    bool ok = ff_migration_revoke(d->migration, uri, fd, ff_json_bool(call->args, "force"), &error);

    answer_recover(call, ok, error);
}

static void revoke_by_fd(FfCall *call)
{
    int fd;

    if (take_socket(call, &fd)) {
        take_back(call, NULL, fd);
    }
}

void ff_handle_revoke(FfCall *call)
{
    const char *uri = ff_json_string(call->args, "uri");
    bool force = ff_json_bool(call->args, "force");

    if (ff_call_when_over(call, ff_handle_revoke)) {
        return;
    }
    if (!uri && !force && !has_credentials(call)) {
        return;
    }
    if (!uri || force) {
        take_back(call, NULL, -1);
        return;
    }
    ff_uri_parse(&call->target, uri);
    if (!is_possible(call)) {
        return;
    }
    if (call->target.kind == FF_URI_FD) {
        ff_call_take_fd(call, call->target.name, revoke_by_fd);
    } else {
        take_back(call, call->target.uri, -1);
    }
}

/* ---- migrate with resume=true ---------------------------------------------------------------- */

static bool knows_recover_setup(JsonNode *version)
{
    JsonObject *object =
        version && JSON_NODE_HOLDS_OBJECT(version) ? json_node_get_object(version) : NULL;
    JsonNode *node = object ? json_object_get_member(object, "qemu") : NULL;

    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        return false;
    }
    object = json_node_get_object(node);
    return json_object_get_int_member_with_default(object, "major", 0) * 1000 +
               json_object_get_int_member_with_default(object, "minor", 0) >=
           RECOVER_SETUP_SINCE;
}

static void got_version(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) own = NULL;
    bool by_fd = call->target.kind == FF_URI_FD;
    int fd = -1;

    if (!d->migration) {
        ff_call_error(call, "Cannot resume if there is no paused migration");
        return;
    }
    if (by_fd && !take_socket(call, &fd)) {
        return;
    }
    bool ok = ff_migration_resume(d->migration, by_fd ? NULL : call->target.uri, fd,
                                  knows_recover_setup(result), &own);

    if (ok) {
        ff_driver_client_is(call);
        ff_driver_hold_resume(call);
    } else {
        ff_call_error(call, "%s", own->message);
    }
}

static void ask_version(FfCall *call)
{
    ff_call_inner(call, "query-version", NULL, got_version);
}

void ff_resume_migration(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->migration);

    if (info->role != FF_ROLE_SOURCE || info->status != FF_STATUS_POSTCOPY_PAUSED) {
        ff_call_error(call, "Cannot resume if there is no paused migration");
        return;
    }
    ff_uri_from_arguments(&call->target, call->args);
    if (!is_possible(call)) {
        return;
    }
    if (call->target.kind == FF_URI_FD) {
        ff_call_take_fd(call, call->target.name, ask_version);
    } else {
        ask_version(call);
    }
}
