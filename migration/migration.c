/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind migration.h: owns the parts of a migration and says, in one table, what differs
 * between the two sides. The functions that the driver calls; those about a lost connection are in
 * recovery.c.
 *
 * Threads: the driver; the coordinator begins here.
 */
#include "migration/internal.h"
#include "migration/migration.h"

#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/priority.h"
#include "migration/adopt.h"
#include "migration/common/ownership.h"
#include "migration/common/split.h"
#include "migration/common/states.h"
#include "migration/common/tls.h"
#include "migration/destination/accept.h"
#include "migration/destination/destination.h"
#include "migration/destination/device.h"
#include "migration/destination/dump.h"
#include "migration/destination/huge.h"
#include "migration/destination/revoke.h"
#include "migration/restore/restore.h"
#include "migration/source/revoke.h"
#include "migration/source/source.h"
#include "net/tls.h"

/* ---- the source ------------------------------------------------------------------------------ */

static bool source_init(FfMigration *m, GError **error)
{
    m->source = (FfSource){.cfg = &m->cfg,
                           .control = m->control,
                           .ram = &m->ram,
                           .conn = &m->conn,
                           .stats = &m->stats,
                           .plain = &m->plain,
                           .copy = &m->copy};
    return ff_source_init(&m->source, error);
}

/* It connects. Before the coordinator: the client has its answer, and of an engine that dies from
 * here on the next one must report that it failed. */
static bool source_listen(FfMigration *m, GError **error)
{
    ff_ownership_setup(m->cfg.state);
    return true;
}

static FfStatus source_begin_adoption(FfMigration *m)
{
    return ff_adopt_source_begin(&m->source);
}

static void source_coordinate(FfMigration *m)
{
    ff_source_coordinate(&m->source);
}

static void source_adopt(FfMigration *m)
{
    ff_adopt_source(&m->source);
}

static void source_part(FfMigration *m)
{
    ff_source_tell_roll_back(&m->source);
}

static bool source_holds_guest_locked(const FfMigration *m)
{
    return m->source.stopped;
}

static bool source_cont_locked(FfMigration *m, bool *now)
{
    *now = !m->source.stopped;
    return *now;
}

static bool source_may_roll_back_locked(const FfMigration *m)
{
    return m->source.stopped_by_us && !m->control->granted;
}

static bool source_resumed_locked(FfMigration *m)
{
    static const char why[] = "the guest was resumed by another monitor during the switchover: "
                              "repeat the migration";

    if (source_may_roll_back_locked(m) && !FF_FAULT_STEP("hear-resume", false)) {
        /* Looked at under the same lock before the guest is given away. */
        m->source.resumed = true;
        ff_control_set_error_locked(m->control, why);
        m->control->events |= FF_EV_DEAD;
        ff_cond_broadcast(&m->control->changed);
    }
    return m->control->granted;
}

static bool source_lives_on(const FfMigration *m)
{
    return m->source.dest_may_be_loaded && m->control->ops.parted;
}

static bool source_speaks(FfMigration *m)
{
    return false;
}

static void source_describe_locked(const FfMigration *m, FfMigrationInfo *info)
{
    info->untracked = g_strdup(m->source.untracked);
    info->differences = g_strdup(m->source.differences);
    if (info->split) {
        info->split->peer_uri = g_strdup(m->source.peer_uri);
    }
}

static void source_clear(FfMigration *m)
{
    ff_source_clear(&m->source);
}

static const FfSideOps source_ops = {
    .name = "source",
    .obeys = FF_ORDER_SWITCH | FF_ORDER_RESUME | FF_ORDER_REVOKE,
    .init = source_init,
    .listen = source_listen,
    .begin_adoption = source_begin_adoption,
    .coordinate = source_coordinate,
    .adopt = source_adopt,
    .part = source_part,
    .holds_guest_locked = source_holds_guest_locked,
    .cont_locked = source_cont_locked,
    .resumed_locked = source_resumed_locked,
    .may_roll_back_locked = source_may_roll_back_locked,
    .lives_on = source_lives_on,
    .speaks = source_speaks,
    .describe_locked = source_describe_locked,
    .clear = source_clear,
};

/* ---- the destination ------------------------------------------------------------------------- */

static bool dest_init(FfMigration *m, GError **error)
{
    m->dest = (FfDestination){.cfg = &m->cfg,
                              .control = m->control,
                              .ram = &m->ram,
                              .conn = &m->conn,
                              .stats = &m->stats,
                              .plain = &m->plain,
                              .copy = &m->copy};
    m->conn.incoming = m->copy.until_grant = true;
    ff_close_fd(&m->cfg.mem_fd);
    ff_dest_init(&m->dest);
    if (m->cfg.restore.wanted) {
        ff_restore_init(&m->dest, &m->cfg.restore);
    }
    return true;
}

static bool dest_listen(FfMigration *m, GError **error)
{
    if (m->dest.origin) {
        /* Nobody comes. Before the coordinator: an engine that dies from here on has begun, and
         * nobody else would say that it came to nothing. */
        ff_ownership_setup(m->cfg.state);
        return true;
    }
    if (ff_address_is_listening(m->cfg.fd)) {
        ff_dest_set_listener(&m->dest, m->cfg.fd);
        m->cfg.fd = -1;
    }
    return m->dest.listen_fd >= 0 || m->cfg.fd >= 0 || ff_dest_listen(&m->dest, error);
}

static FfStatus dest_begin_adoption(FfMigration *m)
{
    if (ff_state_is_marked(m->cfg.state, FF_MARK_FILE)) {
        ff_restore_adopt_init(&m->dest, &m->cfg.restore);
    } else if (ff_state_is_marked(m->cfg.state, FF_MARK_DUMP)) {
        ff_dest_dump_adopt_init(&m->dest, g_steal_fd(&m->cfg.restore.fd));
    } else if (m->cfg.restore.fd >= 0) {
        ff_dest_dump_not_begun(&m->dest, g_steal_fd(&m->cfg.restore.fd));
    }
    return ff_adopt_destination_begin(&m->dest);
}

static void dest_coordinate(FfMigration *m)
{
    if (m->dest.origin) {
        ff_restore_coordinate(&m->dest);
    } else {
        ff_dest_coordinate(&m->dest);
    }
}

static void dest_adopt(FfMigration *m)
{
    ff_adopt_destination(&m->dest);
}

static void dest_part(FfMigration *m)
{
    ff_dest_huge_finish(&m->dest);
}

static bool dest_holds_guest_locked(const FfMigration *m)
{
    return !m->control->granted;
}

static bool dest_cont_locked(FfMigration *m, bool *now)
{
    *now = m->control->granted;
    m->control->client_cont |= !*now;
    m->control->start_paused &= !*now; /* an engine that adopts may not have come to start it */
    return true;
}

static bool dest_may_roll_back_locked(const FfMigration *m)
{
    return false;
}

static bool dest_resumed_locked(FfMigration *m)
{
    m->dest.has_run |= m->control->granted;
    return !m->control->granted;
}

static bool dest_lives_on(const FfMigration *m)
{
    return ff_dest_huge_is_left(&m->dest);
}

static bool dest_speaks(FfMigration *m)
{
    return ff_dest_speaks(&m->dest);
}

static void dest_vmm_ended(FfMigration *m)
{
    ff_dest_vmm_ended(&m->dest);
}

static void dest_describe_locked(const FfMigration *m, FfMigrationInfo *info)
{
    info->socket_address = g_strdup(m->dest.socket_address);
    if (m->dest.origin) {
        ff_restore_describe_locked(&m->dest, info);
    }
    if (info->split) {
        info->split->may_run = m->control->granted;
        info->split->peer_uri =
            m->dest.origin ? ff_restore_uri(&m->dest) : g_strdup(m->dest.dump_uri);
    }
}

static const FfWaits *dest_waits(const FfMigration *m)
{
    const FfSpace *s = __atomic_load_n(&m->dest.placer.space, __ATOMIC_ACQUIRE);

    return s ? ff_space_waits(s) : NULL;
}

static void dest_clear(FfMigration *m)
{
    ff_restore_clear(&m->dest);
    ff_dest_clear(&m->dest);
}

static const FfSideOps dest_ops = {
    .name = "destination",
    .obeys = FF_ORDER_RECOVER,
    .receives = true,
    .init = dest_init,
    .listen = dest_listen,
    .begin_adoption = dest_begin_adoption,
    .coordinate = dest_coordinate,
    .adopt = dest_adopt,
    .part = dest_part,
    .holds_guest_locked = dest_holds_guest_locked,
    .cont_locked = dest_cont_locked,
    .resumed_locked = dest_resumed_locked,
    .may_roll_back_locked = dest_may_roll_back_locked,
    .lives_on = dest_lives_on,
    .speaks = dest_speaks,
    .vmm_ended = dest_vmm_ended,
    .describe_locked = dest_describe_locked,
    .waits = dest_waits,
    .clear = dest_clear,
};

/* ---- a live snapshot ------------------------------------------------------------------------- */

static bool snapshot_init(FfMigration *m, GError **error)
{
    m->snapshot = (FfSnapshot){.cfg = &m->cfg,
                               .control = m->control,
                               .ram = &m->ram,
                               .stats = &m->stats,
                               .plain = &m->plain};
    ff_close_fd(&m->cfg.mem_fd);
    ff_snapshot_init(&m->snapshot);
    return true;
}

static void snapshot_coordinate(FfMigration *m)
{
    ff_snapshot_coordinate(&m->snapshot);
}

static bool snapshot_holds_guest_locked(const FfMigration *m)
{
    return m->snapshot.stopped;
}

/* It stands for some milliseconds. */
static bool snapshot_cont_locked(FfMigration *m, bool *now)
{
    *now = !m->snapshot.stopped;
    if (!*now) {
        m->control->client_cont = true;
        m->control->start_paused = false;
    }
    return true;
}

static bool snapshot_resumed_locked(FfMigration *m)
{
    static const char why[] = "the guest was resumed by another monitor while its devices were "
                              "saved: repeat the snapshot";

    if (m->snapshot.stopped_by_us && !FF_FAULT_STEP("hear-resume", false)) {
        ff_control_set_error_locked(m->control, why);
        m->control->events |= FF_EV_DEAD;
        ff_cond_broadcast(&m->control->changed);
    }
    return false; /* it may run here at any time */
}

static bool snapshot_may_roll_back_locked(const FfMigration *m)
{
    /* That its VMM's part fails can be as it is to be: what it has written tells. */
    return m->snapshot.stopped_by_us && !m->cfg.vmm->state.ends_failed;
}

static void snapshot_cancel_locked(FfMigration *m)
{
    ff_snapshot_cancel_locked(&m->snapshot);
}

static void snapshot_set_bandwidth_locked(FfMigration *m)
{
    if (m->snapshot.capture) {
        ff_capture_set_bandwidth(m->snapshot.capture, m->cfg.max_bandwidth);
    }
}

static bool snapshot_lives_on(const FfMigration *m)
{
    return false;
}

static void snapshot_describe_locked(const FfMigration *m, FfMigrationInfo *info)
{
    ff_snapshot_describe_locked(&m->snapshot, info);
}

static void snapshot_clear(FfMigration *m)
{
    ff_snapshot_clear(&m->snapshot);
}

/* What an engine finds that adopts is a source that has given nothing. */
static const FfSideOps snapshot_ops = {
    .name = "snapshot",
    .init = snapshot_init,
    .listen = source_listen,
    .coordinate = snapshot_coordinate,
    .holds_guest_locked = snapshot_holds_guest_locked,
    .cont_locked = snapshot_cont_locked,
    .resumed_locked = snapshot_resumed_locked,
    .may_roll_back_locked = snapshot_may_roll_back_locked,
    .cancel_locked = snapshot_cancel_locked,
    .set_bandwidth_locked = snapshot_set_bandwidth_locked,
    .lives_on = snapshot_lives_on,
    .speaks = source_speaks,
    .describe_locked = snapshot_describe_locked,
    .clear = snapshot_clear,
};

/* ---- the driver's side ----------------------------------------------------------------------- */

/* Main loop: QEMU is to carry the migration. */
static void give_back(gpointer p)
{
    FfMigration *m = p;

    if (ff_control_events(m->control) & FF_EV_WANT_CANCEL) {
        /* Asked for after the coordinator had come to its end. */
        ff_ownership_idle(m->cfg.state);
        ff_control_set_status(m->control, FF_STATUS_CANCELLING);
        ff_control_set_status(m->control, FF_STATUS_CANCELLED);
        ff_control_tell_done(m->control);
    } else {
        ff_plain_give_back(&m->plain);
    }
}

static gpointer run_coordinator(gpointer p)
{
    FfMigration *m = p;

    /* The guest stands still while this thread and those of the device state work. */
    ff_priority_urgent();
    if (m->adopting) {
        m->side->adopt(m);
    } else {
        FF_FAULT_AT("begins");
        m->side->coordinate(m);
    }
    if (m->plain.carried) {
        ff_control_call(m->control, give_back, m);
    } else {
        ff_control_tell_done(m->control);
    }
    if (ff_migration_lives_on(m)) {
        m->side->part(m);
        ff_control_tell_parted(m->control);
    }
    return NULL;
}

bool ff_migration_lives_on(FfMigration *m)
{
    return m->side->lives_on(m);
}

bool ff_migration_is_spare(const FfMigration *m)
{
    return m->cfg.role == FF_ROLE_DESTINATION;
}

static const FfSideOps *side_of(const FfMigrationConfig *config)
{
    if (config->role == FF_ROLE_DESTINATION) {
        return config->upgrade.wanted ? &ff_new_side_ops : &dest_ops;
    }
    return config->upgrade.wanted    ? &ff_old_side_ops
           : config->snapshot.wanted ? &snapshot_ops
                                     : &source_ops;
}

static FfMigration *migration_new(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                  GError **error)
{
    FfMigration *m = g_new0(FfMigration, 1);
    bool source = config->role == FF_ROLE_SOURCE;

    m->side = side_of(config);
    FF_FAULT_SIDE(m->side->name);
    m->cfg = *config;
    m->cfg.listen_fd = -1; /* taken when nothing can fail any more */
    m->cfg.uri = g_strdup(config->uri);
    m->cfg.snapshot.path = g_strdup(config->snapshot.path);
    m->cfg.snapshot.name = g_strdup(config->snapshot.name);
    m->cfg.snapshot.disks = config->snapshot.disks ? g_ptr_array_ref(config->snapshot.disks) : NULL;
    m->cfg.tls = ff_tls_ref(config->tls);
    m->cfg.tls_hostname = g_strdup(config->tls_hostname);
    m->cfg.tls_refusal = g_strdup(config->tls_refusal);
    m->control = ff_control_new(ops);
    m->control->role = config->role;
    m->control->auto_recover_s = config->auto_recover_s;
    m->control->start_paused = config->start_paused;
    m->conn = (FfConnection){.cfg = &m->cfg,
                             .control = m->control,
                             .side = source ? (gpointer)&m->source : &m->dest,
                             .peer = source ? dest_ops.name : source_ops.name,
                             .epoch = 1};
    m->plain = (FfPlain){.cfg = &m->cfg,
                         .control = m->control,
                         .conn = &m->conn,
                         .began_paused = config->start_paused};
    m->copy = (FfDeviceCopy){.control = m->control, .fd = -1};
    m->stats.expected_ms = -1;
    ff_stamp(m->stats.start_us);
    if (!m->side->init(m, error)) {
        g_clear_pointer(&m, ff_migration_free);
    }
    return m;
}

static FfMigration *start_coordinator(FfMigration *m, FfStatus first)
{
    ff_control_set_status(m->control, first);
    m->coordinator = g_thread_new("ff-coordinator", run_coordinator, m);
    return m;
}

FfMigration *ff_migration_start(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error)
{
    FfMigration *m = migration_new(config, ops, error);

    /* Here, before any thread of the migration: the driver reads it without a lock. */
    config->state->role = config->role;
    if (!m) {
        return NULL;
    }
    if (!m->side->listen(m, error)) {
        ff_migration_free(m);
        return NULL;
    }
    return start_coordinator(m, FF_STATUS_SETUP);
}

FfMigration *ff_migration_adopt(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error)
{
    FF_FAULT_STATE("adopting");
    FfMigration *m = migration_new(config, ops, error);

    if (!m) {
        return NULL;
    }
    ff_close_fd(&m->cfg.mem_fd);
    m->adopting = m->control->adopts = true;
    m->copy.fd = config->device_fd;
    m->cfg.listen_fd = m->side->receives ? config->listen_fd : -1;
    /* Clients that look in this moment must not see a migration begin. */
    return start_coordinator(m, m->side->begin_adoption(m));
}

static bool refuse_call(GError **error, const char *text)
{
    g_set_error_literal(error, FF_M_ERROR, 0, text);
    return false;
}

bool ff_migration_start_postcopy(FfMigration *m, GError **error)
{
    ff_mutex_lock(&m->control->lock);
    FfStatus s = m->control->status;
    ff_mutex_unlock(&m->control->lock);
    if (!(m->side->obeys & FF_ORDER_SWITCH) || s == FF_STATUS_NONE || ff_state_is_final(s)) {
        return refuse_call(error, "Must be started before start-postcopy");
    }
    ff_control_event(m->control, FF_EV_WANT_POSTCOPY);
    return true;
}

bool ff_migration_continue(FfMigration *m, FfStatus from, GError **error)
{
    ff_mutex_lock(&m->control->lock);
    FfStatus s = m->control->status;
    ff_mutex_unlock(&m->control->lock);
    if (s != from) {
        g_set_error(error, FF_M_ERROR, 0, "Migration not in expected state: %s", ff_status_name(s));
        return false;
    }
    ff_control_event(m->control, FF_EV_WANT_CONTINUE);
    return true;
}

bool ff_migration_cancel(FfMigration *m, GError **error)
{
    ff_mutex_lock(&m->control->lock);
    if (m->control->granted) {
        ff_mutex_unlock(&m->control->lock);
        return refuse_call(error, "Postcopy migration in progress, cannot cancel.");
    }
    m->control->events |= FF_EV_WANT_CANCEL;
    /* With device state on its way the coordinator waits for events alone, and must still tell the
     * destination: one that has loaded it cannot know otherwise that the guest stays here. */
    bool tell = m->control->status == FF_STATUS_DEVICE;
    if (m->side->cancel_locked) {
        m->side->cancel_locked(m);
    }
    ff_cond_broadcast(&m->control->changed);
    ff_mutex_unlock(&m->control->lock);
    g_cancellable_cancel(m->control->cancel);
    if (!tell) {
        ff_conn_shutdown(&m->conn);
    }
    return true;
}

bool ff_migration_client_cont(FfMigration *m, bool *now, GError **error)
{
    ff_mutex_lock(&m->control->lock);
    bool ok = m->side->cont_locked(m, now);
    ff_mutex_unlock(&m->control->lock);
    return ok || refuse_call(error, "Migration is not finalized yet");
}

FfStopSaid ff_migration_client_stop(FfMigration *m, bool *holds, GError **error)
{
    ff_mutex_lock(&m->control->lock);
    *holds = m->side->holds_guest_locked(m);
    bool ok = !*holds || !m->side->stop_locked || m->side->stop_locked(m);
    bool moves = m->control->moves;
    /* D: after the grant for an engine that adopts, and has not come to start it. What waits for a
     * move is said again after it. */
    if (ok && (*holds || (m->side->receives && !moves))) {
        m->control->client_cont = false;
        m->control->start_paused = true;
    }
    ff_mutex_unlock(&m->control->lock);
    if (!ok) {
        refuse_call(error, "The guest is in its new QEMU by now: connect again, and repeat it");
        return FF_STOP_REFUSED;
    }
    return moves ? FF_STOP_LATER : *holds ? FF_STOP_STANDS : FF_STOP_IS_VMMS;
}

void ff_migration_words_heard(FfMigration *m)
{
    ff_control_event(m->control, FF_EV_WORDS);
}

bool ff_migration_resumed(FfMigration *m)
{
    ff_mutex_lock(&m->control->lock);
    bool rogue = m->side->resumed_locked(m);
    ff_mutex_unlock(&m->control->lock);
    return rogue;
}

void ff_migration_vmm_failed(FfMigration *m)
{
    ff_mutex_lock(&m->control->lock);
    bool back = m->side->may_roll_back_locked(m);
    ff_mutex_unlock(&m->control->lock);
    /* Given between the two, which takes a destination that has loaded the state of a QEMU that
     * failed to write it, or an end of ours: then it is a lost connection, and is recovered. */
    if (back) {
        ff_control_dead(m->control,
                        "the source QEMU could not write its device state: see its log");
    }
}

bool ff_migration_holds_guest(FfMigration *m)
{
    ff_mutex_lock(&m->control->lock);
    bool holds = m->side->holds_guest_locked(m);
    ff_mutex_unlock(&m->control->lock);
    return holds;
}

/* The coordinator says so when it ends the connection, which it does before it changes the
 * status. */
static bool is_telling(FfMigration *m)
{
    FfControl *c = m->control;

    ff_mutex_lock(&c->lock);
    bool postcopy = c->granted && c->status == FF_STATUS_POSTCOPY_ACTIVE;
    bool over = c->events & (FF_EV_ALL | FF_EV_DONE | FF_EV_QUIT | FF_EV_TOLD);
    ff_mutex_unlock(&c->lock);
    return postcopy && !over && ff_conn_vmm_ended(&m->conn, 0);
}

void ff_migration_vmm_ended(FfMigration *m)
{
    if (is_telling(m)) {
        ff_control_dead(m->control, "this QEMU has ended");
    } else if (m->side->vmm_ended) {
        m->side->vmm_ended(m);
    }
}

bool ff_migration_speaks(FfMigration *m)
{
    return is_telling(m) || m->side->speaks(m);
}

bool ff_migration_frees_uffd(const FfMigration *m)
{
    return (m->side == &snapshot_ops && m->snapshot.uffd_is_free) ||
           (m->side == &ff_new_side_ops && m->takeover.uffd_is_free);
}

bool ff_migration_lacks_tls(FfMigration *m)
{
    return ff_conn_lacks_tls(&m->conn);
}

void ff_migration_set_tls(FfMigration *m, FfTls *tls, const char *hostname)
{
    ff_conn_set_tls(&m->conn, tls, hostname);
}

void ff_migration_set_bandwidth(FfMigration *m, uint64_t max_bandwidth,
                                uint64_t max_postcopy_bandwidth)
{
    ff_mutex_lock(&m->control->lock);
    m->cfg.max_bandwidth = max_bandwidth;
    m->cfg.max_postcopy_bandwidth = max_postcopy_bandwidth;
    if (m->side->set_bandwidth_locked) {
        m->side->set_bandwidth_locked(m);
    }
    ff_cond_broadcast(&m->control->changed);
    ff_mutex_unlock(&m->control->lock);
}

void ff_migration_set_switchover(FfMigration *m, uint64_t downtime_limit,
                                 uint64_t switchover_bandwidth, bool auto_postcopy)
{
    ff_mutex_lock(&m->control->lock);
    m->cfg.downtime_limit = downtime_limit;
    m->cfg.switchover_bandwidth = switchover_bandwidth;
    m->cfg.auto_postcopy = auto_postcopy;
    ff_cond_broadcast(&m->control->changed);
    ff_mutex_unlock(&m->control->lock);
}

void ff_migration_synced(FfMigration *m)
{
    ff_control_event(m->control, FF_EV_SYNCED);
}

/* ---- looking at it --------------------------------------------------------------------------- */

/* Megabits per second since the last look that is at least 100 ms back. */
static double recent_mbps(FfMigration *m, uint64_t bytes, int64_t now)
{
    if (!m->rate_us) {
        m->rate_us = m->stats.start_us;
    }
    int64_t dt = now - m->rate_us;
    if (dt >= 100000) {
        m->rate_x100 = (bytes - m->rate_bytes) * 800 / dt;
        m->rate_bytes = bytes;
        m->rate_us = now;
    }
    return m->rate_x100 / 100.0;
}

static int64_t span_ms(int64_t from, int64_t to)
{
    return from && to > from ? (to - from + 500) / 1000 : 0;
}

FfMigrationInfo *ff_migration_info(FfMigration *m)
{
    FfMigrationInfo *info = g_new0(FfMigrationInfo, 1);
    int64_t now = g_get_monotonic_time();

    ff_stats_fill(&m->stats, info);
    info->role = m->cfg.role;
    info->split = ff_split_new(m->control, &m->ram, m->side->waits ? m->side->waits(m) : NULL,
                               m->cfg.state, &m->copy);
    ff_mutex_lock(&m->control->lock);
    info->status = m->control->status;
    info->all_here = m->control->events & FF_EV_ALL;
    info->error_desc = g_strdup(m->control->error);
    info->bytes_wire = ff_conn_bytes_locked(&m->conn);
    info->urgent_shared = m->conn.urgent_shared;
    info->ram_total = m->ram.total_bytes;
    info->page_size = m->ram.n_blocks ? m->ram.frame_blocks[0].page_size : 4096;
    ff_mutex_unlock(&m->control->lock);

    int64_t end = ff_counted(m->control->end_us), stop = ff_counted(m->stats.stop_us);
    int64_t running = ff_counted(m->stats.running_us);
    info->total_time = span_ms(m->stats.start_us, end ? end : now);
    info->setup_time = span_ms(m->stats.start_us, ff_counted(m->stats.setup_us));
    /* A destination does not know when the guest was stopped; a restore has none that was. */
    bool knows = m->cfg.role == FF_ROLE_SOURCE && running && stop;
    info->downtime = knows ? span_ms(stop, running) : -1;
    uint64_t done = ff_counted(m->ram.done_bytes);
    info->ram_remaining = info->ram_total - MIN(info->ram_total, done);
    info->ram_transferred = info->bytes_wire;
    info->dirty_sync_count = ff_counted(m->control->pass);
    uint64_t precopy = ff_counted(m->stats.precopy_bytes);
    bool after = stop && !m->conn.complete_at_grant && info->bytes_wire > precopy;
    info->postcopy_bytes = after ? info->bytes_wire - precopy : 0;
    info->dirty_pages_rate = ff_counted(m->stats.dirty_rate);
    info->expected_downtime = ff_counted(m->stats.expected_ms);
    ff_mutex_lock(&m->control->lock);
    m->side->describe_locked(m, info);
    ff_mutex_unlock(&m->control->lock);
    info->mbps = end ? info->bytes_wire * 8.0 / MAX(1, end - m->stats.start_us)
                     : recent_mbps(m, info->bytes_wire, now);
    return info;
}

void ff_migration_info_free(FfMigrationInfo *info)
{
    if (info) {
        g_free(info->error_desc);
        g_free(info->untracked);
        g_free(info->differences);
        g_free(info->not_started);
        g_free(info->socket_address);
        g_free(info->vcpu_blocktime_ms);
        g_free(info->vcpu_latency_ns);
        ff_split_free(info->split);
        g_free(info);
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

void ff_migration_free(FfMigration *m)
{
    if (!m) {
        return;
    }
    ff_control_event(m->control, FF_EV_QUIT | FF_EV_FREED);
    g_cancellable_cancel(m->control->cancel);
    if (m->side->cancel_locked) {
        ff_mutex_lock(&m->control->lock);
        m->side->cancel_locked(m);
        ff_mutex_unlock(&m->control->lock);
    }
    ff_conn_shutdown(&m->conn);
    ff_control_join(&m->coordinator);
    ff_conn_clear(&m->conn);
    m->side->clear(m);
    ff_plain_clear(&m->plain);
    ff_ram_clear(&m->ram);
    ff_close_fd(&m->copy.fd);
    ff_close_fd(&m->cfg.listen_fd);
    ff_close_fd(&m->cfg.fd); /* it failed before there was a channel */
    ff_close_fd(&m->cfg.mem_fd);
    g_free(m->cfg.uri);
    g_free(m->cfg.snapshot.path);
    g_free(m->cfg.snapshot.name);
    g_clear_pointer(&m->cfg.snapshot.disks, g_ptr_array_unref);
    g_free(m->cfg.tls_hostname);
    g_free(m->cfg.tls_refusal);
    ff_tls_unref(m->cfg.tls);
    ff_control_free(m->control);
    g_free(m);
}
