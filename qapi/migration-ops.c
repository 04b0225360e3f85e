/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration as the driver holds it: its start, its adoption, and what it tells until its end.
 * What is of one side alone is done by the side that starts it (FfStartOps). Main loop's thread.
 */
#include <fcntl.h>
#include <string.h>

#include "base/failpoints.h"
#include "migration/common/states.h"
#include "qapi/driver-private.h"

/* A farfault destination has nearly always answered by then; a QEMU that waits for its second
 * channel has not. */
#define SECOND_CHANNEL_MS 2000

/* ---- what the migration tells ---------------------------------------------------------------- */

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

/* The guest of a restore whose client takes it for QEMU's own has been started, or stands as it is
 * to: for that client it is over. */
static void say_over(FfDriver *d)
{
    FfStateHeader *state = d->config.state;
    uint32_t flags = state->driver_flags;

    if (flags & FF_DRIVER_AS_EAGER && !(flags & FF_DRIVER_SWITCHED) &&
        state->phase >= FF_PHASE_GRANTED && __atomic_load_n(&state->resumed, __ATOMIC_ACQUIRE)) {
        if (!d->deferring) {
            ff_driver_report(d, FF_STATUS_COMPLETED);
        }
        FF_FAULT_AT("said-over");
        /* After it: an engine that follows rather says it once more than not at all. */
        state->driver_flags |= FF_DRIVER_SWITCHED;
    }
}

/* Of such a restore nobody is told that it is a lazy one, but of a pause: from then on it is one as
 * any other. */
static bool is_unseen(FfDriver *d, FfStatus status)
{
    uint32_t *flags = &d->config.state->driver_flags;

    if (status == FF_STATUS_POSTCOPY_PAUSED) {
        *flags &= ~(uint32_t)FF_DRIVER_AS_EAGER;
    }
    if (!(*flags & FF_DRIVER_AS_EAGER)) {
        return false;
    }
    say_over(d);
    return *flags & FF_DRIVER_SWITCHED || ff_state_is_postcopy(status);
}

bool ff_driver_fills_unseen(const FfDriver *d)
{
    const uint32_t both = FF_DRIVER_AS_EAGER | FF_DRIVER_SWITCHED;

    return d->migration && (d->config.state->driver_flags & both) == both;
}

static void on_status(FfStatus status, void *opaque)
{
    FfDriver *d = opaque;
    uint32_t overdue = is_lost(d, status) ? FF_FILTER_OVERDUE : 0;

    d->inner_begun |= may_begin_inner(d, status);
    if (status == FF_STATUS_ACTIVE) {
        d->start_ops->active(d);
    }
    ff_driver_filter(d, (d->filter & ~(uint32_t)FF_FILTER_OVERDUE) | overdue);
    ff_totals_status(d, status);
    if (status == FF_STATUS_POSTCOPY_PAUSED) {
        ff_deferred_fail(d, "the restore that it waited for has paused: see query-migrate");
        d->deferred_over = false; /* the pause must be seen */
    }
    if (status == FF_STATUS_POSTCOPY_PAUSED && d->taking_back) {
        /* It is not: a call that waits for that is told what there is. */
        d->taking_back = false;
        ff_driver_go_on(d);
    }
    if (!is_unseen(d, status) &&
        !d->deferring) { /* else: nobody may take the end of the restore for that of what waits */
        ff_driver_report(d, status);
    }
    if (overdue) {
        ff_driver_moved(d); /* how long that takes nobody knows */
    }
}

static void on_sync(void *opaque)
{
    ff_driver_send(opaque, FF_LINK_SYNC, 0, 0, NULL, 0);
}

static void on_words(void *opaque)
{
    ff_driver_await_words(opaque);
}

static void on_moved(void *opaque)
{
    FfDriver *d = opaque;

    if (d->config.state->role == FF_ROLE_DESTINATION &&
        ff_state_is_marked(d->config.state, FF_MARK_UPGRADE)) {
        ff_driver_send(d, FF_LINK_TAKEN, 0, 0, NULL, 0);
    }
    say_over(opaque);
    ff_driver_moved(opaque);
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

    if (!d->deferred_over) {
        ff_driver_store_info(d, info);
    }
    d->config.state->driver_flags &= ~(uint32_t)FF_DRIVER_AS_EAGER;
    ff_totals_end(d, info);
    ff_driver_forget_tls(d);
    /* QEMU's last events of the inner migration may still be on their way to the relay: they are
     * dropped until QEMU carries one itself, or this engine ends. */
    ff_driver_filter(d, FF_FILTER_MIGRATION_EVENTS);
    /* One that was refused has said why, and has no numbers. */
    if (!info->restore || info->status != FF_STATUS_FAILED || info->bytes_wire) {
        ff_driver_log(d, "%s", summary);
    }
    d->start_ops->done(d, migration);
    if (ff_migration_lives_on(migration) && !(d->hurried && ff_migration_is_spare(migration))) {
        d->parting = migration;
    } else {
        /* Not here: we are called from inside it. */
        g_idle_add(free_migration, migration);
    }
    d->taking_back = false;
    ff_driver_go_on(d);
    ff_driver_moved(d);
    ff_driver_migration_over(d);
    ff_driver_touch(d);
}

static void on_parted(void *opaque)
{
    FfDriver *d = opaque;

    g_idle_add(free_migration, g_steal_pointer(&d->parting));
    ff_driver_touch(d);
}

static void on_plain(const FfPlainPeer *peer, void *opaque)
{
    FfDriver *d = opaque;
    FfMigration *migration = g_steal_pointer(&d->migration);

    ff_driver_forget_tls(d); /* nobody adopts a migration of QEMU's */
    ff_totals_drop(d);
    d->start_ops->plain(d, peer);
    g_idle_add(free_migration, migration);
    ff_driver_touch(d);
}

static void on_kill(const char *why, void *opaque)
{
    FfDriver *d = opaque;

    d->config.port->send(d->config.port_opaque, FF_LINK_KILL_QEMU, 0, 0, why, strlen(why), -1);
}

static void on_fail(const char *why, void *opaque)
{
    ff_driver_log(opaque, "farfault: engine: %s: the next one tries again", why);
    ff_driver_fail(opaque);
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

/* ---- the start ------------------------------------------------------------------------------- */

static const FfMigrationOps *driver_ops(FfDriver *d, FfMigrationOps *ops)
{
    *ops = (FfMigrationOps){
        .status = on_status,
        .sync = on_sync,
        .pass = on_pass,
        .done = on_done,
        .plain = on_plain,
        .kill_vmm = on_kill,
        .fail = on_fail,
        .hold = on_hold,
        .drop = on_drop,
        .parted = on_parted,
        .words = on_words,
        .moved = on_moved,
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
    config->uffd_error = d->config.uffd_error;
    config->pagemap_fd = d->config.pagemap_fd;
    config->maps_fd = d->config.maps_fd;
    config->discard_fd = d->config.discard_fd;
    config->sharers_fd = d->config.sharers_fd;
    config->upgrade.taps_fd = d->config.taps_fd;
    config->discard_error = d->config.discard_error;
    config->mem_fd = g_steal_fd(&d->config.mem_fd);
    config->pidfd = d->config.pidfd;
    config->vmm = d->config.port->vmm(d->config.port_opaque);
    config->auto_recover_s = d->config.state->auto_recover;
    config->peer_timeout_ms = ff_driver_peer_timeout(d) * 1000;
    config->channels = ff_driver_channels(d);
    config->compress = d->config.state->compress;
    config->zstd_level = ff_driver_zstd_level(d);
    /* Before the engine touches QEMU: nothing of what it does there may reach a client. */
    ff_driver_filter(d, FF_FILTER_RUN_STATE | FF_FILTER_MIGRATION_EVENTS);
}

static FfUse use_of(const FfMigrationConfig *config)
{
    return config->snapshot.wanted               ? FF_USE_SNAPSHOT
           : config->restore.wanted              ? FF_USE_RESTORE
           : config->role == FF_ROLE_DESTINATION ? FF_USE_INCOMING
                                                 : FF_USE_OUTGOING;
}

bool ff_driver_start(FfDriver *d, FfMigrationConfig *config, JsonNode *capabilities,
                     const FfStartOps *start_ops, GError **error)
{
    FfMigrationOps ops;

    /* Whatever begins here stores a right, and would forget that the guest is elsewhere. */
    if (config->role == FF_ROLE_SOURCE && ff_state_is_given(d->config.state)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                            "The guest has moved away from here, and the destination has it");
        return false;
    }
    /* A peer that listens where that one went must not be disturbed. */
    g_clear_pointer(&d->parting, ff_migration_free);
    d->hurried = false;
    config->pause_before_switchover = ff_capability(capabilities, "pause-before-switchover");
    config->release_ram = ff_capability(capabilities, "release-ram");
    config->blocktime = ff_capability(capabilities, "postcopy-blocktime");
    config->validate_uuid = ff_capability(capabilities, "validate-uuid");
    config->plain = d->config.state->peer == FF_PEER_WISH_AUTO && !config->snapshot.alone &&
                    !config->restore.wanted && !config->upgrade.wanted;
    if (config->plain && ff_capability(capabilities, "multifd")) {
        config->silence = "Or it is a QEMU without farfault, which with multifd answers only when "
                          "all its channels are there: switch multifd off, or set x-farfault-peer "
                          "to native";
    } else if (config->plain && ff_capability(capabilities, "postcopy-preempt")) {
        config->second_ms = SECOND_CHANNEL_MS;
    }
    config->answered_first = config->plain && ff_policy_answered_first(d, capabilities);
    config->max_bandwidth = d->max_bandwidth;
    config->max_postcopy_bandwidth = d->max_postcopy_bandwidth;
    config->downtime_limit = d->downtime_limit;
    config->switchover_bandwidth = d->switchover_bandwidth;
    config->auto_postcopy = d->config.state->driver_flags & FF_DRIVER_AUTO_POSTCOPY;
    config->untracked = d->config.state->untracked;
    config->client_switches = ff_capability(capabilities, "postcopy-ram");
    d->blocktime = config->blocktime;
    ff_driver_want_events(d, config->upgrade.wanted || ff_capability(capabilities, "events"));
    ff_driver_store_info(d, NULL);
    if (!config->upgrade.wanted) {
        /* Of an engine that died between the phase and the mark. */
        ff_state_unmark(d->config.state, FF_MARK_UPGRADE);
    }
    d->config.state->role = config->role;
    d->start_ops = start_ops;
    fill_config(d, config);
    if (config->role == FF_ROLE_SOURCE) {
        /* The guest may have come in by this engine: how that was to fail is no matter any more. */
        config->vmm->state.keep_failed = config->vmm->state.one_way = false;
        config->vmm->state.ends_failed = false;
    }
    ff_totals_begin(d, use_of(config));
    d->migration = ff_migration_start(config, driver_ops(d, &ops), error);
    if (!d->migration) {
        ff_totals_drop(d);
        ff_driver_forget_tls(d);
        ff_driver_filter(d, 0);
        return false;
    }
    ff_deferred_begun(d);
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
    /* An upgrade's guest is as it was, whatever the new QEMU was started with. */
    return state->role == FF_ROLE_DESTINATION && !ff_state_is_marked(state, FF_MARK_UPGRADE) &&
           ff_driver_begins_paused(d);
}

void ff_driver_adopt(FfDriver *d, const FfStartOps *start_ops)
{
    FfMigrationConfig config = {
        .role = d->config.state->role,
        .fd = d->config.inner_fd,
        .listen_fd = d->config.listener_fd,
        .device_fd = d->config.device_fd,
        .restore = {.fd = d->config.file_fd,
                    .lease_fd = d->config.lease_fd,
                    .as_eager = d->config.state->driver_flags & FF_DRIVER_AS_EAGER},
        .upgrade = {.wanted = ff_state_is_marked(d->config.state, FF_MARK_UPGRADE),
                    .adopts = true,
                    .uffd = -1,
                    .pact_fd = d->config.pact_fd,
                    .heir_fd = d->config.heir_fd},
        .start_paused = ff_driver_adopts_paused(d),
        /* Of a live snapshot: nobody else takes a cont while the guest stands. */
        .client_cont = d->config.state->role == FF_ROLE_SOURCE &&
                       d->config.state->driver_flags & FF_DRIVER_CLIENT_CONT};
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
    d->start_ops = start_ops;
    fill_config(d, &config);
    d->inner_begun = true;
    d->taking_back = config.role == FF_ROLE_SOURCE && (d->config.state->phase == FF_PHASE_SETUP ||
                                                       d->config.state->phase == FF_PHASE_STOPPED);
    ff_totals_adopt(d);
    if ((d->config.state->driver_flags & FF_DRIVER_AS_EAGER) &&
        (d->config.state->driver_flags & FF_DRIVER_SWITCHED)) {
        d->status = FF_STATUS_COMPLETED; /* as was said */
    }
    d->migration = ff_migration_adopt(&config, driver_ops(d, &ops), &error);
    ff_tls_choice_clear(&tls);
    if (!d->migration) {
        ff_driver_log(d, "farfault: engine: %s", error->message);
        ff_driver_fail(d);
        return;
    }
    ff_driver_touch(d);
}
