/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * migrate and what follows it: who carries it, its start, the switch, the end.
 *
 * QEMU carries what the engine does not do; then the client's postcopy capabilities are given to
 * it first and its line passes as it came. Main loop's thread.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/states.h"
#include "net/sync.h"
#include "qapi/driver-private.h"

/* A farfault destination has nearly always answered by then; a QEMU that waits for its second
 * channel has not. */
#define SECOND_CHANNEL_MS 2000

/* --- what the migration tells -------------------------------------------------------------- */

static gboolean free_migration(gpointer opaque)
{
    ff_migration_free(opaque);
    return G_SOURCE_REMOVE;
}

/* While the connection is lost QEMU's main loop may wait for a page, and answer nobody. */
static bool is_lost(const FfDriver *d, FfStatus status)
{
    return d->config.state->role == FF_ROLE_DESTINATION && ff_state_is_lost(status);
}

/* A source has stopped its guest at the earliest in "active"; what fails before was no migration of
 * QEMU's. */
static bool may_begin_inner(const FfDriver *d, FfStatus status)
{
    bool earlier = d->status == FF_STATUS_NONE || d->status == FF_STATUS_SETUP;

    return d->config.state->role == FF_ROLE_DESTINATION ||
           (!earlier && status != FF_STATUS_SETUP && status != FF_STATUS_ACTIVE);
}

static void on_status(FfStatus status, void *opaque)
{
    FfDriver *d = opaque;
    uint32_t overdue = is_lost(d, status) ? FF_FILTER_OVERDUE : 0;

    d->inner_begun |= may_begin_inner(d, status);
    if (status == FF_STATUS_ACTIVE && d->incoming) {
        ff_incoming_release(d->incoming);
        /* Before on_done(): an engine that comes after the last step must not listen again, as
         * somebody runs here. */
        d->config.state->driver_flags &= ~FF_DRIVER_LISTENS;
    }
    ff_driver_filter(d, (d->filter & ~(uint32_t)FF_FILTER_OVERDUE) | overdue);
    ff_driver_report(d, status);
}

static void on_sync(void *opaque)
{
    ff_driver_send(opaque, FF_LINK_SYNC, 0, 0, NULL, 0);
}

static void on_pass(uint64_t pass, void *opaque)
{
    FfDriver *d = opaque;

    if (d->events) {
        JsonObject *data = json_object_new();

        json_object_set_int_member(data, "pass", (gint64)pass);
        ff_driver_event(d, "MIGRATION_PASS", data);
    }
}

static void on_done(void *opaque)
{
    FfDriver *d = opaque;
    FfMigration *migration = g_steal_pointer(&d->migration);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(migration);
    g_autofree char *summary = ff_info_summary(info);

    ff_driver_store_info(d, info);
    ff_driver_forget_tls(d);
    /* QEMU's last events of the inner migration may still be on their way to the relay: they are
     * dropped until QEMU carries one itself, or this engine ends. */
    ff_driver_filter(d, FF_FILTER_MIGRATION_EVENTS);
    ff_driver_log(d, "%s", summary);
    d->config.state->driver_flags &= ~FF_DRIVER_LISTENS;
    g_clear_pointer(&d->incoming, ff_incoming_free);
    g_clear_pointer(&d->socket_address, json_array_unref);
    if (ff_migration_lives_on(migration)) {
        d->parting = migration;
    } else {
        /* Not here: we are called from inside it. */
        g_idle_add(free_migration, migration);
    }
    ff_driver_touch(d);
}

static void on_parted(void *opaque)
{
    FfDriver *d = opaque;

    g_idle_add(free_migration, g_steal_pointer(&d->parting));
    ff_driver_touch(d);
}

static void on_stock(const FfStockPeer *peer, void *opaque)
{
    FfDriver *d = opaque;
    FfMigration *migration = g_steal_pointer(&d->migration);

    ff_driver_forget_tls(d); /* nobody adopts a migration of QEMU's */
    if (d->config.state->role == FF_ROLE_DESTINATION) {
        ff_incoming_stock(d, peer);
    } else {
        ff_outgoing_start(d, peer, d->uri);
    }
    g_idle_add(free_migration, migration);
    ff_driver_touch(d);
}

static void on_kill(const char *why, void *opaque)
{
    FfDriver *d = opaque;

    d->config.port->send(d->config.port_opaque, FF_LINK_KILL_QEMU, 0, 0, why, strlen(why), -1);
}

/* What is to be kept beyond a crash: said by the coordinator's thread, sent by ours. */
typedef struct {
    FfMutex lock;
    FfCond changed;
    bool sent; /* lock */
} Sent;

typedef struct {
    FfDriver *driver;
    char *name;
    int fd;     /* -1: drop */
    Sent *sent; /* of the thread that waits for it */
} Kept;

static void kept_free(gpointer opaque)
{
    Kept *kept = opaque;

    if (kept->fd >= 0) {
        close(kept->fd);
    }
    ff_mutex_lock(&kept->sent->lock);
    kept->sent->sent = true;
    ff_cond_broadcast(&kept->sent->changed);
    ff_mutex_unlock(&kept->sent->lock);
    g_free(kept->name);
    g_free(kept);
}

static gboolean send_kept(gpointer opaque)
{
    Kept *kept = opaque;
    const FfDriverConfig *config = &kept->driver->config;

    if (kept->fd < 0) {
        config->port->send(config->port_opaque, FF_LINK_DROP, 0, 0, kept->name, strlen(kept->name),
                           -1);
    } else {
        g_autoptr(GString) json = g_string_new("{\"name\": ");

        ff_dialect_print_string(json, kept->name);
        g_string_append_c(json, '}');
        config->port->send(config->port_opaque, FF_LINK_HOLD, 0, 0, json->str, json->len, kept->fd);
    }
    return G_SOURCE_REMOVE;
}

/* Returns when it is in the relay's socket, so that what the coordinator does next (give the guest
 * away) never finds the fd lost with this process. Nobody on the main loop's thread waits for a
 * coordinator that has not said done(). */
void ff_driver_keep(FfDriver *d, const char *name, int fd)
{
    Kept *kept = g_new0(Kept, 1);
    Sent sent = {.sent = false};

    ff_mutex_init(&sent.lock);
    ff_cond_init(&sent.changed);
    kept->driver = d;
    kept->name = g_strdup(name);
    kept->fd = fd;
    kept->sent = &sent;
    g_main_context_invoke_full(NULL, G_PRIORITY_HIGH, send_kept, kept, kept_free);
    ff_mutex_lock(&sent.lock);
    while (!sent.sent) {
        ff_cond_wait(&sent.changed, &sent.lock);
    }
    ff_mutex_unlock(&sent.lock);
    ff_mutex_clear(&sent.lock);
    ff_cond_clear(&sent.changed);
}

static void on_hold(const char *name, int fd, void *opaque)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy >= 0) {
        ff_driver_keep(opaque, name, copy);
    }
}

static void on_drop(const char *name, void *opaque)
{
    ff_driver_keep(opaque, name, -1);
}

/* --- the start ----------------------------------------------------------------------------- */

static const FfMigrationOps *driver_ops(FfDriver *d, FfMigrationOps *ops)
{
    *ops = (FfMigrationOps){
        .status = on_status,
        .sync = on_sync,
        .pass = on_pass,
        .done = on_done,
        .stock = on_stock,
        .kill_vmm = on_kill,
        .hold = on_hold,
        .drop = on_drop,
        .parted = on_parted,
        .opaque = d,
    };
    return ops;
}

/* What every migration of this guest has in common. */
static void fill_config(FfDriver *d, FfMigrationConfig *config)
{
    config->state = d->config.state;
    config->state_fd = d->config.state_fd;
    config->uffds = d->config.uffds;
    config->n_uffds = d->config.n_uffds;
    config->pagemap_fd = d->config.pagemap_fd;
    config->maps_fd = d->config.maps_fd;
    config->mem_fd = g_steal_fd(&d->config.mem_fd);
    config->pidfd = d->config.pidfd;
    config->vmm = d->config.port->vmm(d->config.port_opaque);
    config->auto_recover_s = d->config.state->auto_recover;
    config->peer_timeout_ms = ff_driver_peer_timeout(d) * 1000;
    config->channels = ff_driver_channels(d);
    config->compress = d->config.state->compress;
    config->zstd_level = ff_driver_zstd_level(d);
    /* Before the engine touches QEMU: nothing of what it does there is to reach a client. */
    ff_driver_filter(d, FF_FILTER_RUN_STATE | FF_FILTER_MIGRATION_EVENTS);
}

bool ff_driver_start(FfDriver *d, FfMigrationConfig *config, JsonNode *capabilities, GError **error)
{
    FfMigrationOps ops;

    /* Whoever listens where that one went is not to be disturbed. */
    g_clear_pointer(&d->parting, ff_migration_free);
    config->pause_before_switchover = ff_capability(capabilities, "pause-before-switchover");
    config->release_ram = ff_capability(capabilities, "release-ram");
    config->blocktime = ff_capability(capabilities, "postcopy-blocktime");
    config->validate_uuid = ff_capability(capabilities, "validate-uuid");
    config->stock = d->config.state->peer == FF_PEER_WISH_AUTO;
    if (config->stock && ff_capability(capabilities, "multifd")) {
        config->silence = "Or it is a QEMU without farfault, which with multifd answers only when "
                          "all its channels are there: switch multifd off, or set x-farfault-peer "
                          "to native";
    } else if (config->stock && ff_capability(capabilities, "postcopy-preempt")) {
        config->second_ms = SECOND_CHANNEL_MS;
    }
    config->max_bandwidth = d->max_bandwidth;
    config->max_postcopy_bandwidth = d->max_postcopy_bandwidth;
    config->downtime_limit = d->downtime_limit;
    config->switchover_bandwidth = d->switchover_bandwidth;
    config->auto_postcopy = d->config.state->driver_flags & FF_DRIVER_AUTO_POSTCOPY;
    config->untracked = d->config.state->untracked;
    config->client_switches = ff_capability(capabilities, "postcopy-ram");
    d->blocktime = config->blocktime;
    ff_driver_want_events(d, ff_capability(capabilities, "events"));
    ff_driver_store_info(d, NULL);
    d->config.state->role = config->role;
    fill_config(d, config);
    if (config->role == FF_ROLE_SOURCE) {
        /* The guest may have come in by this engine: how that was to fail is no matter any more. */
        config->vmm->state.keep_failed = false;
    }
    d->migration = ff_migration_start(config, driver_ops(d, &ops), error);
    if (!d->migration) {
        ff_driver_forget_tls(d);
        ff_driver_filter(d, 0);
        return false;
    }
    ff_driver_touch(d);
    return true;
}

bool ff_driver_begins_paused(const FfDriver *d)
{
    uint8_t said = d->config.state->said;

    return said == FF_SAID_NOTHING ? d->config.start_paused : said == FF_SAID_STOP;
}

bool ff_driver_adopts_paused(const FfDriver *d)
{
    const FfStateHeader *state = d->config.state;

    if (state->driver_flags & (FF_DRIVER_CLIENT_CONT | FF_DRIVER_CLIENT_STOP)) {
        return state->driver_flags & FF_DRIVER_CLIENT_STOP;
    }
    return state->role == FF_ROLE_DESTINATION && ff_driver_begins_paused(d);
}

void ff_driver_adopt(FfDriver *d)
{
    FfMigrationConfig config = {.role = d->config.state->role,
                                .fd = d->config.inner_fd,
                                .listen_fd = d->config.listener_fd,
                                .device_fd = d->config.device_fd,
                                .start_paused = ff_driver_adopts_paused(d)};
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, false);
    g_autoptr(JsonNode) parameters = d->config.port->view(d->config.port_opaque, true);
    g_autoptr(GError) error = NULL;
    FfTlsChoice tls = {0};
    FfMigrationOps ops;

    d->events = d->config.state->driver_flags & FF_DRIVER_EVENTS;
    d->blocktime = d->config.state->client_flags & FF_CLIENT_CAP_POSTCOPY_BLOCKTIME;
    if (parameters && JSON_NODE_HOLDS_OBJECT(parameters)) {
        ff_driver_take_parameters(d, json_node_get_object(parameters));
    }
    config.max_bandwidth = d->max_bandwidth;
    config.max_postcopy_bandwidth = d->max_postcopy_bandwidth;
    config.release_ram = view && ff_capability(view, "release-ram");
    ff_driver_adopt_tls(d, &config, &tls);
    fill_config(d, &config);
    d->inner_begun = true;
    d->migration = ff_migration_adopt(&config, driver_ops(d, &ops), &error);
    ff_tls_choice_clear(&tls);
    if (!d->migration) {
        ff_driver_log(d, "farfault: engine: %s", error->message);
    }
    ff_driver_touch(d);
}

bool ff_call_too_late(FfCall *call)
{
    FfDriver *d = call->driver;

    if (!d->migration && !(d->outgoing && !ff_outgoing_has_begun(d->outgoing))) {
        return false;
    }
    ff_call_error(call, "There's a migration process in progress");
    return true;
}

static void start(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;
    FfMigrationConfig config = {.role = FF_ROLE_SOURCE, .fd = -1};

    if (ff_call_too_late(call)) {
        return;
    }
    if (d->outgoing) { /* another client's, and QEMU has begun */
        ff_call_error(call, "There's a migration process in progress");
        return;
    }
    if (call->target.kind == FF_TARGET_FD) {
        config.fd = call->fd;
        call->fd = -1;
    } else {
        config.uri = call->target.uri;
    }
    g_free(d->uri);
    d->uri = g_strdup(config.uri);
    ff_driver_use_tls(call, &config);
    ff_driver_take_parameters(d, json_node_get_object(call->parameters));
    ff_driver_report_anew(d, FF_STATUS_NONE);
    if (!ff_driver_start(d, &config, call->capabilities, &error)) {
        ff_driver_store_failure(d, FF_ROLE_SOURCE, error->message);
        ff_driver_report(d, FF_STATUS_SETUP);
        ff_driver_report(d, FF_STATUS_FAILED);
        ff_call_error(call, "%s", error->message);
        return;
    }
    ff_driver_report(d, FF_STATUS_SETUP);
    ff_call_return(call, NULL);
}

/* --- the checks before it ------------------------------------------------------------------ */

/* QEMU's migration_is_blocked() names the first reason; query-migrate lists it last. */
static char *blocked_by(JsonObject *info)
{
    static const char device[] = "non-migratable device: ";
    JsonNode *node = json_object_get_member(info, "blocked-reasons");
    JsonArray *reasons = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    guint n = reasons ? json_array_get_length(reasons) : 0;

    if (!n) {
        return NULL;
    }
    JsonNode *last = json_array_get_element(reasons, n - 1);
    const char *text = JSON_NODE_HOLDS_VALUE(last) ? json_node_get_string(last) : NULL;

    if (text && g_str_has_prefix(text, device)) {
        return g_strdup_printf("State blocked by non-migratable device '%s'",
                               text + strlen(device));
    }
    return g_strdup(text ? text : "QEMU gives no reason");
}

static void fd_closed(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_when_settled(call, start); /* gone already is as good */
}

static bool is_under_way(const char *status)
{
    static const char *const over[] = {"none", "completed", "failed", "cancelled"};

    for (unsigned i = 0; status && i < G_N_ELEMENTS(over); i++) {
        if (!strcmp(status, over[i])) {
            return false;
        }
    }
    return status;
}

static void got_info(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
        return;
    }
    if (result && JSON_NODE_HOLDS_OBJECT(result) &&
        is_under_way(ff_json_string(json_node_get_object(result), "status"))) {
        ff_call_pass_native(call); /* one that QEMU carries: it says that it is in progress */
        return;
    }
    if (ff_call_too_late(call)) {
        return;
    }
    g_clear_pointer(&call->driver->outgoing, ff_outgoing_free); /* over */
    if (result && JSON_NODE_HOLDS_OBJECT(result)) {
        g_autofree char *why = blocked_by(json_node_get_object(result));

        if (why) {
            ff_call_error(call, "%s", why);
            return;
        }
    }
    if (call->target.kind == FF_TARGET_FD) {
        JsonObject *args = json_object_new();

        /* Ours is a copy: QEMU's would keep the connection open. */
        json_object_set_string_member(args, "fdname", call->target.name);
        ff_call_inject(call, "closefd", args, fd_closed);
    } else {
        ff_call_when_settled(call, start);
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

static void decide(FfCall *call)
{
    if (!ff_engine_fits(call) || call->tls.native) {
        ff_call_pass_native(call);
    } else if (call->tls.error) {
        ff_call_error(call, "%s", call->tls.error->message);
    } else if (call->target.kind == FF_TARGET_FD) {
        ff_call_take_fd(call, call->target.name, got_fd);
    } else {
        ff_call_inner(call, "query-status", NULL, got_status);
    }
}

static void got_parameters(FfCall *call)
{
    ff_call_get_tls(call, false, decide);
}

static void got_capabilities(FfCall *call)
{
    ff_call_get_parameters(call, got_parameters);
}

static bool number(const char *name)
{
    return strspn(name, "0123456789") == strlen(name);
}

void ff_handle_migrate(FfCall *call)
{
    FfDriver *d = call->driver;
    bool resume = ff_json_bool(call->args, "resume");

    if (resume && d->migration) {
        ff_resume_migration(call);
        return;
    }
    if (d->migration && d->status == FF_STATUS_COMPLETED) {
        /* A guest that came in and is whole: only its source does not know it yet. It has no
         * claim to more time. */
        ff_migration_stop_waiting(d->migration);
    }
    if (d->migration) {
        ff_call_error(call, d->config.state->role == FF_ROLE_SOURCE
                                ? "There's a migration process in progress"
                                : "Guest is waiting for an incoming migration");
        return;
    }
    if (resume) {
        ff_call_restore(call, ff_call_pass); /* QEMU's own: it has the capabilities already */
        return;
    }
    ff_target_from_arguments(&call->target, call->args);
    if (call->target.kind == FF_TARGET_NONE) {
        ff_call_pass(call); /* QEMU refuses it: each version in its own words */
    } else if (call->target.kind == FF_TARGET_OTHER || d->config.state->policy == FF_POLICY_NEVER ||
               ff_json_bool(call->args, "blk") || ff_json_bool(call->args, "inc") ||
               (call->target.kind == FF_TARGET_FD && number(call->target.name))) {
        ff_call_pass_native(call);
    } else {
        ff_call_get_capabilities(call, got_capabilities);
    }
}

/* --- while it runs ------------------------------------------------------------------------- */

/* The engine has never carried a migration here, or QEMU has carried one since. */
static bool qemu_knows(FfDriver *d)
{
    return !d->migration && !d->config.state->info_len;
}

/* Ends CALL by what a function of the migration said. */
static void answer(FfCall *call, bool ok, const GError *error)
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

    if (d->migration && d->config.state->role == FF_ROLE_SOURCE &&
        d->status != FF_STATUS_COMPLETED) {
        bool ok = ff_migration_cancel(d->migration, &error);

        answer(call, ok, error);
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

        answer(call, ok, error);
    }
}
