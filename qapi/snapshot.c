/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A live snapshot as a client asks for it: migrate to a file with background-snapshot on, or
 * x-farfault-snapshot. For its client it is a migration of this guest as any other: it is looked
 * at, cancelled and slowed down by the same commands.
 *
 * QEMU takes it where the engine cannot (refused), unless the client asked for the engine's. Main
 * loop's thread.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qapi/driver-private.h"

#define BUFFER (64ull << 20)
#define OFFSET_MAX (1ull << 60)

static FfSnapshotRequest *new_request(FfCall *call)
{
    call->snapshot = g_new0(FfSnapshotRequest, 1);
    call->snapshot->fd = -1;
    return call->snapshot;
}

/* ---- its end --------------------------------------------------------------------------------- */

/* The userfaultfd goes back, or is closed: what is still registered there is let go then. */
static void give_back(FfDriver *d, bool is_free)
{
    int uffd = d->snapshot_uffd;

    d->snapshot_uffd = -1;
    d->attendant = UINT_MAX;
    if (uffd < 0) {
        return;
    }
    if (is_free) {
        ff_driver_give_uffd(d, uffd);
    } else {
        ff_driver_log(d,
                      "farfault: guest memory stays in the userfaultfd of this snapshot, which is "
                      "closed: the guest has no more live snapshots until it is started again");
        ff_driver_lose_uffd(d, uffd);
    }
}

static void on_active(FfDriver *d)
{
}

bool ff_driver_takes_snapshot(const FfDriver *d)
{
    return d->migration && d->snapshot_uffd >= 0;
}

/* The client that has the file is no more, and nobody will ever see it. */
void ff_snapshot_client_gone(FfDriver *d, unsigned mon)
{
    const FfCall *waits = d->deferred;

    if (waits && waits->mon == mon && waits->snapshot && waits->snapshot->attended) {
        ff_driver_log(d, "farfault: the live snapshot does not begin, as its client has gone");
        ff_deferred_cancel(d);
        return;
    }
    if (mon == d->attendant && ff_driver_takes_snapshot(d) && d->status != FF_STATUS_COMPLETED) {
        ff_driver_log(d, "farfault: the live snapshot is cancelled, as its client has gone");
        ff_migration_cancel(d->migration, NULL);
    }
}

static void on_done(FfDriver *d, FfMigration *m)
{
    give_back(d, ff_migration_frees_uffd(m));
}

static void on_plain(FfDriver *d, const FfPlainPeer *peer)
{
    give_back(d, true); /* refused: nothing was begun */
    ff_outgoing_start(d, peer, d->uri);
}

static const FfStartOps snapshot_ops = {.plain = on_plain, .active = on_active, .done = on_done};

/* ---- its start ------------------------------------------------------------------------------- */

static void fail_snapshot(FfCall *call, const char *why)
{
    FfDriver *d = call->driver;

    ff_driver_store_failure(d, FF_ROLE_SOURCE, why);
    ff_driver_report(d, FF_STATUS_SETUP);
    ff_driver_report(d, FF_STATUS_FAILED);
    ff_call_error(call, "%s", why);
}

/* The path of the file that came as FDNAME, if that says it: farfault snapshot's does. */
static char *name_of(char *fdname)
{
    char *path =
        fdname && g_str_has_prefix(fdname, "farfault-snapshot-") ? strchr(fdname, ':') : NULL;

    return path && path[1] == '/' ? path + 1 : NULL;
}

static void start_snapshot(FfCall *call)
{
    FfDriver *d = call->driver;
    FfSnapshotRequest *r = call->snapshot;
    g_autoptr(GError) error = NULL;
    FfMigrationConfig config = {.role = FF_ROLE_SOURCE, .fd = -1};

    if (d->migration || d->outgoing) { /* another client's, while QEMU closed its copy */
        give_back(d, true);
        ff_call_error(call, FF_MIGRATING);
        return;
    }
    if (r->attended && call->gone && !r->detached) {
        give_back(d, true);
        ff_call_error(call, "The client has gone");
        return;
    }
    d->attendant = r->attended ? call->mon : UINT_MAX;
    config.fd = call->fd;
    call->fd = -1;
    config.snapshot = (FfSnapshotConfig){.wanted = true,
                                         .path = r->path,
                                         .name = r->path ? NULL : name_of(call->target.name),
                                         .replaces = !r->own,
                                         .offset = r->offset,
                                         .buffer = r->buffer,
                                         .mapped = r->mapped,
                                         .disks = r->disks,
                                         .alone = r->own,
                                         .uffd = d->snapshot_uffd};
    g_free(d->uri);
    d->uri = g_strdup(call->target.uri);
    ff_driver_take_parameters(d, json_node_get_object(call->parameters));
    if (r->has_bandwidth) {
        d->max_bandwidth = r->bandwidth; /* every start takes the parameters again */
    }
    ff_driver_report_anew(d, FF_STATUS_NONE);
    if (!ff_driver_start(d, &config, call->capabilities, &snapshot_ops, &error)) {
        give_back(d, true);
        fail_snapshot(call, error->message);
        return;
    }
    ff_driver_report(d, FF_STATUS_SETUP);
    ff_call_return(call, NULL);
}

/* The engine cannot: why, one line. */
static void refuse_snapshot(FfCall *call, const char *why)
{
    if (call->snapshot->own) {
        ff_call_error(call, "%s", why);
        return;
    }
    g_free(call->snapshot->refusal);
    call->native = call->snapshot->refusal = g_strdup(why);
    ff_call_pass_native(call);
}

static void fd_closed(FfCall *call, JsonNode *result, const GError *error)
{
    start_snapshot(call); /* gone already is as good */
}

/* Of the client's file, as migrate would. */
static void close_qemus_copy(FfCall *call)
{
    if (call->fd < 0) {
        start_snapshot(call);
        return;
    }
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "fdname", call->target.name);
    ff_call_inject(call, "closefd", args, fd_closed);
}

static void uffd_taken(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (error && (d->migration || d->snapshot_uffd >= 0)) { /* another client's was faster */
        ff_call_error(call, FF_MIGRATING);
        return;
    }
    if (error) {
        call->fd = g_steal_fd(&call->snapshot->fd);
        refuse_snapshot(call, error->message);
        return;
    }
    d->snapshot_uffd = call->fd;
    call->fd = g_steal_fd(&call->snapshot->fd);
    if (d->migration || d->outgoing) {
        give_back(d, true);
        ff_call_error(call, FF_MIGRATING);
        return;
    }
    close_qemus_copy(call);
}

static void take_uffd(FfCall *call)
{
    /* call->fd is where the userfaultfd comes to. */
    call->snapshot->fd = g_steal_fd(&call->fd);
    ff_call_take_uffd(call, uffd_taken);
}

static void got_info(FfCall *call, JsonNode *result, const GError *error)
{
    JsonObject *info =
        result && JSON_NODE_HOLDS_OBJECT(result) ? json_node_get_object(result) : NULL;
    g_autofree char *why = info ? ff_blocked_by(info) : NULL;

    if (error) {
        ff_call_gerror(call, error);
    } else if (ff_blocked_by_migration(result)) {
        ff_call_error(call, FF_MIGRATING);
    } else if (why) {
        ff_call_error(call, "%s", why);
    } else if (!ff_call_too_late(call)) {
        g_clear_pointer(&call->driver->outgoing, ff_outgoing_free); /* over */
        ff_outgoing_note_older(call->driver, result);
        ff_call_when_restored(call, take_uffd);
    }
}

static void got_status(FfCall *call, JsonNode *result, const GError *error)
{
    JsonObject *object =
        result && JSON_NODE_HOLDS_OBJECT(result) ? json_node_get_object(result) : NULL;
    const char *state = object ? ff_json_string(object, "status") : NULL;

    if (error) {
        ff_call_gerror(call, error);
    } else if (!g_strcmp0(state, "inmigrate")) {
        ff_call_error(call, "Guest is waiting for an incoming migration");
    } else {
        ff_call_inner(call, "query-migrate", NULL, got_info);
    }
}

static void ask_status(FfCall *call)
{
    ff_call_inner(call, "query-status", NULL, got_status);
}

/* The wait comes before QEMU is asked for its migration: it is not to begin one in between. */
static void begin_snapshot(FfCall *call)
{
    const char *why = ff_driver_refusal(call->driver);

    if (why) {
        refuse_snapshot(call, why);
    } else {
        ff_call_after_return_path(call, ask_status);
    }
}

/* ---- what the client asked for --------------------------------------------------------------- */

static void got_capabilities(FfCall *call)
{
    ff_call_get_parameters(call, begin_snapshot);
}

/* That can be written to at any place. */
static bool has_regular_file(FfCall *call)
{
    struct stat st;

    return call->fd >= 0 && fstat(call->fd, &st) == 0 && S_ISREG(st.st_mode) &&
           !(fcntl(call->fd, F_GETFL) & O_APPEND);
}

static void get_capabilities(FfCall *call)
{
    ff_call_get_capabilities(call, got_capabilities);
}

static void got_fd(FfCall *call)
{
    if (!has_regular_file(call)) {
        ff_call_error(call,
                      "File descriptor named '%s' is not that of a regular file, or one that only "
                      "appends",
                      call->target.name);
    } else if (!ff_call_after_restore(call, get_capabilities)) {
        get_capabilities(call);
    }
}

/* NULL: the disks are left alone. */
static GPtrArray *disks_of(JsonArray *list)
{
    GPtrArray *disks = list ? g_ptr_array_new_with_free_func(ff_disk_free) : NULL;

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *o = json_array_get_object_element(list, i);
        FfDisk *d = g_new0(FfDisk, 1);

        d->device = g_strdup(ff_json_string_or(o, "device", ""));
        d->node = g_strdup(ff_json_string_or(o, "node", ""));
        d->overlay = g_strdup(ff_json_string_or(o, "overlay", ""));
        d->size = (uint64_t)ff_json_int(o, "size", 0);
        g_ptr_array_add(disks, d);
    }
    return disks;
}

void ff_handle_snapshot(FfCall *call)
{
    FfDriver *d = call->driver;

    if (ff_call_when_over(call, ff_handle_snapshot) ||
        ff_call_when_guest_is_here(call, ff_handle_snapshot)) {
        return;
    }
    if (d->taking_back) { /* nobody who asks now need hear of it */
        ff_call_when_restored(call, ff_handle_snapshot);
        return;
    }
    FfSnapshotRequest *r = new_request(call);
    const char *file = ff_json_string(call->args, "file");
    const char *name = ff_json_string(call->args, "fdname");

    r->own = true;
    r->mapped = g_strcmp0(ff_json_string(call->args, "format"), "stream") != 0;
    r->offset = json_object_get_int_member_with_default(call->args, "offset", 0);
    r->buffer = json_object_get_int_member_with_default(call->args, "buffer", BUFFER);
    r->attended = json_object_get_boolean_member_with_default(call->args, "attended", FALSE);
    r->disks = disks_of(ff_json_array(call->args, "disks"));
    r->has_bandwidth = json_object_has_member(call->args, "max-bandwidth");
    r->bandwidth = json_object_get_int_member_with_default(call->args, "max-bandwidth", 0);

    if ((d->migration && !ff_restore_is_under_way(d)) || d->incoming || d->deferring) {
        ff_call_error(call, FF_MIGRATING);
    } else if (r->offset > OFFSET_MAX || r->buffer > OFFSET_MAX) {
        ff_call_error(call, "'offset' and 'buffer' have to be less than 2^60 bytes");
    } else if (!file == !name) {
        ff_call_error(call, "x-farfault-snapshot needs 'file' or 'fdname'");
    } else if (file && !g_path_is_absolute(file)) {
        ff_call_error(call, "'file' has to be an absolute path");
    } else if (name) {
        call->target.name = g_strdup(name);
        ff_call_take_fd(call, name, got_fd);
    } else {
        r->path = g_strdup(file);
        if (!ff_call_after_restore(call, get_capabilities)) {
            get_capabilities(call);
        }
    }
}

/* Another path begins where QEMU stands, and not the engine: QEMU's. */
static bool is_for_engine(const FfUri *target)
{
    return target->kind == FF_URI_FD ||
           (target->kind == FF_URI_FILE && g_path_is_absolute(target->path));
}

bool ff_snapshot_is_wanted(FfCall *call)
{
    return is_for_engine(&call->target) &&
           call->driver->config.state->peer != FF_PEER_WISH_NATIVE &&
           ff_capability(call->capabilities, "background-snapshot");
}

static void got_migrate_fd(FfCall *call)
{
    if (has_regular_file(call)) {
        off_t at = lseek(call->fd, 0, SEEK_CUR); /* where QEMU would begin */

        call->snapshot->offset = at > 0 ? (uint64_t)at : 0;
        begin_snapshot(call);
        return;
    }
    /* A pipe or a socket, whose reader may stop reading. QEMU's own copy is untouched. */
    if (call->fd >= 0) {
        close(call->fd);
        call->fd = -1;
    }
    ff_call_pass_native(call);
}

void ff_snapshot_migrate(FfCall *call)
{
    FfSnapshotRequest *r = new_request(call);

    r->path = g_strdup(call->target.path);
    r->offset = call->target.offset;
    r->buffer = BUFFER;
    r->mapped = ff_capability(call->capabilities, "mapped-ram");
    if (r->path) {
        begin_snapshot(call);
    } else {
        ff_call_take_fd(call, call->target.name, got_migrate_fd);
    }
}
