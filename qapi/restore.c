/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A lazy restore as a client asks for it: migrate-incoming from a file with mapped-ram and
 * postcopy-ram on, or x-farfault-restore. For its client it is an incoming migration as any other.
 *
 * Stock QEMU has no such thing: where the engine cannot, the answer is an error. Main loop's
 * thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "migration/restore/file.h"
#include "qapi/incoming.h"

#define OFFSET_MAX (1ull << 60)
#define STARTED "The incoming migration has already been started"

/* ---- its start ------------------------------------------------------------------------------- */

static bool is_export(const FfCall *call)
{
    return !call->target.name && ff_restore_is_uri(call->target.path);
}

/* FALSE: that was the answer. A URI that is cut leads to another server. */
static bool is_short(FfCall *call, const char *uri)
{
    const size_t most = sizeof(call->driver->config.state->peer_uri);

    if (strlen(uri) >= most) {
        ff_call_error(call, "the URI has to be shorter than %zu bytes", most);
        return false;
    }
    return true;
}

/* FALSE: that was the answer. */
static bool has_file(FfCall *call)
{
    struct stat st;

    if (is_export(call)) {
        return is_short(call, call->target.path);
    }
    if (call->fd < 0 && call->target.name) {
        ff_call_error(call, "File descriptor named '%s' has not been found", call->target.name);
        return false;
    }
    if (call->fd < 0) {
        call->fd = open(call->target.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    }
    if (call->fd < 0 || fstat(call->fd, &st) < 0) {
        ff_call_error(call, "%s: %s", call->target.path, g_strerror(errno));
        return false;
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        ff_call_error(call, "%s: not a regular file", call->target.path);
        return false;
    }
    return true;
}

/* What came without a name has no other file beside it. */
static FfUseSet use_of_set(const FfCall *call)
{
    const char *use = ff_json_string(call->args, "working-set");

    return call->target.name || is_export(call) || !g_strcmp0(use, "ignore") ? FF_SET_IGNORE
           : !g_strcmp0(use, "learn")                                        ? FF_SET_LEARN
                                                                             : FF_SET_USE;
}

/* FALSE: that was the answer. Another client may have been faster. */
static bool is_free(FfCall *call)
{
    if (call->driver->incoming || call->driver->migration) {
        ff_call_error(call, STARTED);
        return false;
    }
    return true;
}

static void start_restore(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;
    JsonNode *lives = json_object_get_member(call->args, "exit-on-error");
    FfMigrationConfig config = {
        .role = FF_ROLE_DESTINATION, .fd = -1, .start_paused = ff_driver_begins_paused(d)};

    if (!is_free(call)) {
        return;
    }
    config.restore =
        (FfRestoreConfig){.wanted = true,
                          .path = call->target.path,
                          .fd = g_steal_fd(&call->fd),
                          .lease_fd = -1,
                          .offset = call->target.offset ? (int64_t)call->target.offset : -1,
                          .set = use_of_set(call),
                          .as_eager = call->as_eager};
    d->config.port->vmm(d->config.port_opaque)->state.keep_failed =
        lives && !json_node_get_boolean(lives);
    ff_driver_take_parameters(d, json_node_get_object(call->parameters));
    ff_driver_report_anew(d, FF_STATUS_NONE);
    d->config.state->driver_flags |= call->as_eager ? FF_DRIVER_AS_EAGER : 0;
    if (!ff_driver_start(d, &config, call->capabilities, &ff_incoming_ops, &error)) {
        d->config.state->driver_flags &= ~(uint32_t)FF_DRIVER_AS_EAGER;
        ff_call_error(call, "%s", error->message);
        return;
    }
    ff_driver_report(d, FF_STATUS_SETUP);
    ff_call_return(call, NULL);
}

void ff_restore_start(FfCall *call)
{
    if (!is_free(call) || !has_file(call)) {
        return;
    }
    if (is_export(call)) { /* no FILE.disks is beside it */
        start_restore(call);
    } else {
        ff_restore_check_disks(call, start_restore);
    }
}

static void fd_closed(FfCall *call, JsonNode *result, const GError *error)
{
    ff_restore_start(call); /* gone already is as good */
}

static void close_qemus_copy(FfCall *call)
{
    JsonObject *args = json_object_new();

    if (!call->target.name || call->fd < 0) {
        json_object_unref(args);
        ff_restore_start(call);
        return;
    }
    json_object_set_string_member(args, "fdname", call->target.name);
    ff_call_inject(call, "closefd", args, fd_closed);
}

/* ---- what the client asked for --------------------------------------------------------------- */

bool ff_restore_is_wanted(FfCall *call)
{
    return call->target.kind == FF_URI_FILE &&
           call->driver->config.state->policy != FF_POLICY_NEVER &&
           call->driver->config.state->peer != FF_PEER_WISH_NATIVE &&
           ff_capability(call->capabilities, "postcopy-ram") &&
           ff_capability(call->capabilities, "mapped-ram");
}

void ff_restore_incoming(FfCall *call)
{
    const char *why = ff_driver_refusal(call->driver);

    if (why) {
        ff_call_error(call, "%s", why);
    } else if (call->target.name) {
        ff_call_take_fd(call, call->target.name, close_qemus_copy);
    } else {
        ff_restore_start(call);
    }
}

static void got_capabilities(FfCall *call)
{
    ff_call_get_parameters(call, ff_restore_incoming);
}

static void got_status(FfCall *call, JsonNode *result, const GError *error)
{
    JsonObject *object =
        result && JSON_NODE_HOLDS_OBJECT(result) ? json_node_get_object(result) : NULL;

    if (error) {
        ff_call_gerror(call, error);
    } else if (!object || g_strcmp0(ff_json_string(object, "status"), "inmigrate")) {
        ff_call_error(call, "the guest does not wait for an incoming migration: start QEMU with "
                            "-incoming defer");
    } else {
        ff_call_get_capabilities(call, got_capabilities);
    }
}

void ff_handle_restore(FfCall *call)
{
    FfDriver *d = call->driver;
    const char *file = ff_json_string(call->args, "file");
    const char *name = ff_json_string(call->args, "fdname");

    call->target.kind = FF_URI_FILE;
    call->target.path = g_strdup(file ? file : name);
    call->target.name = g_strdup(name);
    call->target.offset = json_object_get_int_member_with_default(call->args, "offset", 0);
    call->patient = true; /* nothing has begun: a QEMU that is slow is none that refuses */
    if (d->migration || d->incoming || d->config.state->info_len) {
        ff_call_error(call, d->config.state->role == FF_ROLE_SOURCE ? FF_MIGRATING : STARTED);
    } else if (!d->config.incoming || strcmp(d->config.incoming, "defer") != 0) {
        ff_call_error(call, "the guest does not wait for an incoming migration: start QEMU with "
                            "-incoming defer");
    } else if (call->target.offset > OFFSET_MAX) {
        ff_call_error(call, "'offset' has to be less than 2^60 bytes");
    } else if (!file == !name) {
        ff_call_error(call, "x-farfault-restore needs 'file' or 'fdname'");
    } else if ((name || is_export(call)) &&
               !g_strcmp0(ff_json_string(call->args, "working-set"), "learn")) {
        ff_call_error(call, "a working set is written beside the file: it needs 'file'");
    } else {
        ff_call_inner(call, "query-status", NULL, got_status);
    }
}

/* ---- while it fills -------------------------------------------------------------------------- */

void ff_restore_recover(FfCall *call)
{
    g_autoptr(GError) error = NULL;
    const char *uri = ff_json_string(call->args, "uri");
    bool far = uri && ff_restore_is_uri(uri);

    if (call->target.kind != FF_URI_FILE && !far) {
        ff_call_error(call, "this guest is restored from a file: name it again (file:PATH, or its "
                            "nbd:// URI)");
    } else if (far && !is_short(call, uri)) {
        return;
    } else if (ff_migration_recover_file(call->driver->migration, far ? uri : call->target.path,
                                         &error)) {
        ff_call_return(call, NULL);
    } else {
        ff_call_error(call, "%s", error->message);
    }
}
