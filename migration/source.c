/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's coordinator: agree with the peer, wait for the switch, hand over the right to
 * run, send pages, let go. The protocol is that of docs/architecture.md ("The right to run");
 * the one line that matters most is the store of FF_RUN_GIVEN: before it every failure rolls
 * back to a guest that runs here, after it nothing ever starts the guest here again.
 *
 * Threads: the coordinator; device_thread (device state out of QEMU).
 */
#include "migration/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* A destination that has the grant starts the guest in a few milliseconds. A QEMU that hangs there
 * gets its pages all the same. */
#define RUNNING_DEADLINE_MS 1000
/* A destination with nothing to drop is ready in about 10 ms. */
#define READY_SOON_MS 1000
/* For the destination to say, by the end of the connection, that it is completed. */
#define COMPLETED_DEADLINE_MS 5000

/* MIG_RP_MSG_SHUT with a status, as QEMU's destination sends it (migration/migration.c). */
static const uint8_t shut_good[8] = {0, 1, 0, 4, 0, 0, 0, 0};
static const uint8_t shut_bad[8] = {0, 1, 0, 4, 0, 0, 0, 1};

/* ---- device state ------------------------------------------------------------------------ */

/* QEMU's stream goes to the peer as it comes; its end need not be parsed: the peer's QEMU knows
 * it, and says so by SHUT, which becomes LOADED. */
static gpointer device_thread(gpointer p)
{
    FfMigration *m = p;
    g_autofree uint8_t *buf = g_malloc(FF_RUN_MAX_BYTES);
    FfDevicePacing pacing = {0};
    FfPacking packing = {0};
    bool broken = false;

    ff_priority_urgent();
    for (;;) {
        size_t n;
        FfIo io = ff_channel_read(m->inner, buf, FF_RUN_MAX_BYTES, &n);
        if (io == FF_IO_AGAIN) {
            int rc = ff_channel_wait_readable(m->inner, -1);
            if (rc < 0) {
                break;
            }
            continue;
        }
        if (io == FF_IO_DEAD) {
            break;
        }
        if (ff_m_events(m) & FF_EV_LOADED) {
            continue; /* the destination has all of it; the channel may be exchanged by now */
        }
        if (ff_source_send_device(m, &pacing, &packing, buf, n) < 0) {
            broken = true; /* the reader of that channel says why */
            break;
        }
        ff_count(m->stats.device_bytes, n);
        ff_m_copy_device(m, buf, n);
    }
    ff_packing_clear(&packing);
    if (pacing.delta) {
        explicit_bzero(pacing.delta, FF_RUN_MAX_BYTES);
        g_free(pacing.delta);
    }
    if (!broken && !(ff_m_events(m) & (FF_EV_LOADED | FF_EV_DEAD | FF_EV_WANT_CANCEL))) {
        ff_m_dead(m, "QEMU ended its device state early: see the log of the source QEMU");
    }
    return NULL;
}

/* ---- before the switch --------------------------------------------------------------------- */

bool ff_source_map_blocks(FfMigration *m, GError **error)
{
    for (unsigned i = 0; i < m->n_blocks; i++) {
        FfBlock *b = &m->blocks[i];
        /* Huge pages that the guest gave back may be another's: none is asked for. */
        void *p = FF_FAULT_MAP("map-ram", mmap(NULL, b->info.size, PROT_READ,
                                               MAP_SHARED | MAP_NORESERVE, b->info.memfd, 0));
        if (p == MAP_FAILED) {
            g_set_error(error, FF_M_ERROR, 0, "guest RAM '%s' cannot be mapped: %s", b->info.id,
                        g_strerror(errno));
            return false;
        }
        madvise(p, b->info.size, MADV_DONTDUMP);
        b->map = p;
        ff_bitmap_init(&b->bitmap, b->n_pages, true);
    }
    return true;
}

/* The base is read while QEMU is asked. */
static FfGuestFit check(FfMigration *m, GPtrArray **blocks, GError **error)
{
    FfVmmMemory *memory = &m->cfg.vmm->memory;
    GThread *reader = m->cfg.mem_fd >= 0 ? g_thread_new("ff-base", ff_source_read_base, m) : NULL;
    FfGuestFit fit = memory->check(memory, FF_ROLE_SOURCE, blocks, m->vm_uuid, error);

    if (reader) {
        m->device_base = g_thread_join(reader);
        ff_m_close_mem(m);
    }
    return fit;
}

/* Whether the engine can carry it. Nobody has been spoken to. */
static bool look_at_guest(FfMigration *m, GError **error)
{
    GPtrArray *blocks = NULL;
    FfGuestFit fit = check(m, &blocks, error);

    if (fit != FF_GUEST_FITS) {
        return fit == FF_GUEST_REFUSED && ff_m_refuse(m, error);
    }
    if (!ff_m_set_blocks(m, blocks, error) ||
        (ff_m_may_be_native(m) && !ff_source_private_fits(m, error))) {
        return ff_m_refuse(m, error);
    }
    if (!ff_source_map_blocks(m, error)) {
        return false;
    }
    return ff_precopy_begin(m, error) || ff_m_refuse(m, error);
}

static bool agree(FfMigration *m, GError **error)
{
    /* From the first step on, so that the engine that comes after a crash says "failed". */
    ff_journal_setup(m->cfg.state);
    FF_FAULT_AT("setup");
    if (!look_at_guest(m, error) || !ff_source_connect(m, error)) {
        return false;
    }
    FF_FAULT_AT("connected");
    ff_recovery_store_session(m);
    ff_recovery_store_blocks(m);
    ff_stamp(m->setup_us);
    ff_m_set_status(m, FF_STATUS_ACTIVE);
    FF_FAULT_AT("active");
    ff_m_new_pass(m);
    return true;
}

/* ---- the switchover ---------------------------------------------------------------------------
 */

/* FD: QEMU's device state is read from it. */
static void hold_stream(FfMigration *m, int fd)
{
    if (m->ops.hold) {
        /* If this process dies, QEMU must not see the end of this socket: the next engine
         * decides, by run_right, which SHUT it gets. */
        m->ops.hold("inner", fd, m->ops.opaque);
    }
    if (m->cfg.vmm->state.keep) {
        m->cfg.vmm->state.keep(&m->cfg.vmm->state);
    }
    m->inner = ff_channel_new(fd, FF_CHANNEL_MAIN);
}

/* What the guest need not stand still for. A client that is to say continue in between has it all
 * later. */
static bool offer_stream(FfMigration *m, GError **error)
{
    FfVmm *vmm = m->cfg.vmm;
    int fd = -1;

    if (!vmm->state.offer || m->cfg.pause_before_switchover) {
        return true;
    }
    if (!vmm->state.offer(&vmm->state, &fd, error)) {
        return false;
    }
    m->saving = true;
    FF_FAULT_AT("offered");
    hold_stream(m, fd);
    FF_FAULT_AT("offered-held");
    return true;
}

/* While the guest runs, as QEMU takes its time, and right before it is stopped: with
 * x-ignore-shared on, a snapshot (or a migration from a monitor that is QEMU's) would lack the
 * guest's memory. */
static bool prepare(FfMigration *m, GError **error)
{
    m->prepared = m->cfg.vmm->state.prepare(&m->cfg.vmm->state, FF_ROLE_SOURCE, error);
    if (m->prepared) {
        FF_FAULT_AT("prepared");
    }
    return m->prepared;
}

static bool stop_guest(FfMigration *m, GError **error)
{
    FfVmm *vmm = m->cfg.vmm;

    if (!m->prepared && !prepare(m, error)) {
        return false;
    }
    ff_journal_stopped(m->cfg.state);
    FF_FAULT_AT("stopping");
    ff_mutex_lock(&m->lock);
    m->stopped = true;
    ff_mutex_unlock(&m->lock);
    if (!offer_stream(m, error)) {
        return false;
    }
    ff_stamp(m->stop_us);
    /* Before stop goes out: a cont of somebody else behind it may be told of before its answer is
     * seen here. (One right in front of it costs a migration, no more.) */
    ff_mutex_lock(&m->lock);
    m->standing = true;
    ff_mutex_unlock(&m->lock);
    if (!(m->saving ? vmm->state.stop_and_save(&vmm->state, &m->run_state, error)
                    : vmm->run.stop(&vmm->run, &m->run_state, error))) {
        return false;
    }
    FF_FAULT_AT("stopped");
    g_strlcpy(m->cfg.state->run_state, m->run_state, sizeof(m->cfg.state->run_state));
    return true;
}

static bool send_device_state(FfMigration *m, GError **error)
{
    int fd = -1;

    if (!m->saving) {
        /* From here on QEMU may have begun its inner migration, whatever save() returns. */
        m->saving = true;
        if (!m->cfg.vmm->state.save(&m->cfg.vmm->state, &fd, error)) {
            return false;
        }
    }
    FF_FAULT_AT("saving");
    if (!m->inner) {
        hold_stream(m, fd);
    }
    FF_FAULT_AT("saving-held");
    m->device_thread = g_thread_new("ff-device", device_thread, m);
    return true;
}

/* The commit point. After TRUE the guest is the peer's. */
static bool give(FfMigration *m, GError **error)
{
    g_autoptr(GError) moved = NULL;

    FF_FAULT_AT("loaded");
    /* With the answer comes what the VMM has said before: that somebody has resumed the guest. */
    bool stands = !m->cfg.vmm->run.stands || m->cfg.vmm->run.stands(&m->cfg.vmm->run, &moved);
    ff_mutex_lock(&m->lock);
    bool cancelled = m->events & (FF_EV_WANT_CANCEL | FF_EV_QUIT), resumed = m->resumed;
    bool dead = m->events & FF_EV_DEAD;
    if (cancelled) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "migration was cancelled");
    } else if (resumed) {
        g_set_error_literal(error, FF_M_ERROR, 0, "the guest was resumed"); /* m->error has more */
    } else if (dead) {
        /* The grant would not arrive, and the guest would stand still at both sides. */
        g_set_error_literal(error, FF_M_ERROR, 0, m->error ? m->error : "the connection was lost");
    } else if (!stands) {
        g_propagate_error(error, g_steal_pointer(&moved));
    } else {
        if (m->cfg.start_paused && !strcmp(m->run_state, "running")) {
            /* the client has said stop meanwhile */
            g_free(m->run_state);
            m->run_state = g_strdup("paused");
            /* An engine that adopts grants that. */
            g_strlcpy(m->cfg.state->run_state, m->run_state, sizeof(m->cfg.state->run_state));
        }
        /* GIVEN is stored before GRANT can leave, so that no crash between the two can be taken
         * for a guest that is still ours. Cancel looks at `given` under the same lock. */
        ff_journal_give(m->cfg.state);
        m->given = true;
    }
    ff_mutex_unlock(&m->lock);
    if (cancelled || resumed || dead || !stands) {
        return false;
    }
    FF_FAULT_AT("given");
    int rc = ff_channel_send(m->main, ff_frame(FF_FRAME_GRANT, strlen(m->run_state)), m->run_state,
                             true);
    FF_FAULT_AT("granted");
    if (rc < 0) {
        ff_m_dead(m, "the connection broke while the right to run was handed over: %s",
                  g_strerror(-rc));
    }
    return true;
}

/* While the peer does so as well. Behind precopy that may take long, as there is much to drop. If
 * it does all the same, QEMU gets its settings back, and ours right before the stop. */
static bool prepare_meanwhile(FfMigration *m, GError **error)
{
    unsigned over = FF_EV_READY | FF_EV_DEAD | FF_EV_WANT_CANCEL | FF_EV_QUIT;

    if (m->precopy) {
        return true;
    }
    if (!prepare(m, error)) {
        return false;
    }
    m->prepared = ff_m_wait_until(m, over, g_get_monotonic_time() + READY_SOON_MS * 1000LL);
    return m->prepared || m->cfg.vmm->state.undo(&m->cfg.vmm->state, error);
}

/* The destination drops what is stale and arms while the guest still runs here. Twice: dropping
 * much takes a while, in which the guest goes on writing; the second time it is little. */
static bool prepare_peer(FfMigration *m, GError **error)
{
    FfFrame f = ff_frame(FF_FRAME_PREPARE, 0);

    ff_m_begin_device_copy(m);
    if (!ff_precopy_tell(m, error)) {
        return false;
    }
    if (!m->precopy) {
        ff_source_send_base(m);
    }
    f.flags = m->whole ? FF_PREPARE_WHOLE : 0;
    /* A failed send is followed by the reader's word of why. */
    ff_channel_send(m->main, f, NULL, true);
    return prepare_meanwhile(m, error) && ff_m_await(m, FF_EV_READY, error) &&
           ff_precopy_tell_again(m, error);
}

static bool switch_over(FfMigration *m, GError **error)
{
    if (!ff_precopy_run(m, error) || !prepare_peer(m, error) || !stop_guest(m, error) ||
        !ff_precopy_freeze(m, error)) {
        return false;
    }
    ff_fingerprint_take(m);
    FF_FAULT_AT("frozen");
    /* RAM is frozen: requests may be answered from now on. */
    m->urgent_thread = g_thread_new("ff-urgent", ff_source_urgent, m);
    if (m->whole) {
        m->bulk_thread = g_thread_new("ff-bulk", ff_source_bulk, m);
    }
    if (m->cfg.pause_before_switchover) {
        ff_m_set_status(m, FF_STATUS_PRE_SWITCHOVER);
        if (!ff_m_await(m, FF_EV_WANT_CONTINUE, error)) {
            return false;
        }
    }
    ff_m_set_status(m, FF_STATUS_DEVICE);
    ff_m_new_pass(m);
    return send_device_state(m, error) && ff_m_await(m, FF_EV_LOADED, error) && give(m, error);
}

/* ---- roll back
 * ----------------------------------------------------------------------------------- */

static void end_threads(FfMigration *m)
{
    ff_m_shutdown_channels(m);
    if (m->inner) {
        ff_channel_shutdown(m->inner);
    }
    ff_m_join(&m->device_thread);
    ff_source_end_connection(m);
}

static void tell_peer(FfMigration *m, const char *why)
{
    size_t len = MIN(strlen(why), FF_FRAME_MAX_TEXT);

    if (m->main && len) {
        ff_channel_send_last(m->main, ff_frame(FF_FRAME_ABORT, len), why, 0);
    }
}

void ff_source_release_guest(FfMigration *m, bool running)
{
    g_autoptr(GError) error = NULL;

    ff_mutex_lock(&m->lock);
    if (running && m->cfg.start_paused) {
        ff_mutex_unlock(&m->lock);
        if (!m->cfg.vmm->run.halt(&m->cfg.vmm->run, &error)) {
            g_warning("roll back: the guest could not be stopped again: %s", error->message);
        }
        ff_mutex_lock(&m->lock);
    }
    m->stopped = false;
    ff_mutex_unlock(&m->lock);
}

static void restart_guest(FfMigration *m)
{
    FF_FAULT_AT("rolling-back");
    FfVmm *vmm = m->cfg.vmm;
    g_autoptr(GError) error = NULL;
    bool running = false;

    if (m->saving) {
        if (m->inner) {
            struct iovec iov = {(void *)shut_bad, sizeof(shut_bad)};
            ff_channel_write_all(m->inner, &iov, 1, true);
            /* QEMU may sit in a write that nobody reads any more. */
            ff_channel_shutdown(m->inner);
        }
        if (!vmm->state.wait_saved(&vmm->state, 1, &error)) {
            g_warning("roll back: %s", error->message);
            g_clear_error(&error);
        }
    }
    if (m->run_state &&
        !vmm->run.resume(&vmm->run, m->run_state, !ff_m_client_stopped(m), &running, &error)) {
        g_warning("roll back: the guest could not be resumed: %s", error->message);
        g_clear_error(&error);
    }
    if (running) {
        vmm->run.announce(&vmm->run);
    }
    ff_source_release_guest(m, running);
}

void ff_source_roll_back(FfMigration *m, const GError *why)
{
    g_autoptr(GError) error = NULL;
    /* A cancel shuts the connections, which is then what the steps fail with. */
    bool cancelled = g_error_matches(why, G_IO_ERROR, G_IO_ERROR_CANCELLED) ||
                     (ff_m_events(m) & FF_EV_WANT_CANCEL);

    ff_mutex_lock(&m->lock);
    m->standing = false;
    ff_mutex_unlock(&m->lock);
    if (cancelled) {
        ff_m_set_status(m, FF_STATUS_CANCELLING);
    } else {
        ff_m_set_error(m, why->message);
    }
    if (m->stopped) {
        restart_guest(m);
    }
    /* A lost connection carries no ABORT. */
    m->in_doubt =
        m->saving && !m->revoked && (ff_m_events(m) & (FF_EV_DEAD | FF_EV_ABORTED)) == FF_EV_DEAD;
    tell_peer(m, why->message);
    end_threads(m);
    ff_precopy_end(m, true);
    ff_m_end_device_copy(m);
    if (!m->cfg.vmm->state.undo(&m->cfg.vmm->state, &error)) {
        g_warning("roll back: %s", error->message);
    }
    if (m->ops.drop && m->saving) {
        m->ops.drop("inner", m->ops.opaque);
    }
    ff_journal_idle(m->cfg.state);
    ff_m_set_status(m, cancelled ? FF_STATUS_CANCELLED : FF_STATUS_FAILED);
}

/* ---- postcopy
 * --------------------------------------------------------------------------------------- */

/* Everything is at the destination: QEMU may end its migration. */
static void let_go(FfMigration *m)
{
    g_autoptr(GError) error = NULL;
    FfVmm *vmm = m->cfg.vmm;
    struct iovec iov = {(void *)shut_good, sizeof(shut_good)};

    ff_journal_done(m->cfg.state);
    FF_FAULT_AT("done");
    if (!m->inner || ff_channel_write_all(m->inner, &iov, 1, true) < 0 ||
        !vmm->state.wait_saved(&vmm->state, 0, &error)) {
        g_warning("the source QEMU did not end its migration: %s",
                  error ? error->message : "its socket is closed");
        g_clear_error(&error);
    }
    FF_FAULT_AT("saved");
    if (!vmm->state.undo(&vmm->state, &error)) {
        g_warning("%s", error->message);
    }
    FF_FAULT_AT("undone");
    ff_m_event(m, FF_EV_FINISHED);
    if (m->main && ff_channel_send(m->main, ff_frame(FF_FRAME_FINISHED, 0), NULL, true) == 0) {
        /* The destination ends the connection when it is completed, and not before. */
        ff_m_wait_until(m, FF_EV_MAIN_ENDED | FF_EV_QUIT,
                        g_get_monotonic_time() + COMPLETED_DEADLINE_MS * 1000LL);
    }
    ff_m_end_device_copy(m);
    if (m->ops.drop) {
        m->ops.drop("inner", m->ops.opaque);
    }
}

void ff_source_see_through(FfMigration *m)
{
    ff_fingerprint_take(m); /* an engine that adopted has none yet */
    /* Not at the end: whoever is told that the destination is whole may end QEMU at once. */
    ff_precopy_end(m, false);
    if (!ff_source_persist(m)) {
        if (m->revoked) {
            g_autoptr(GError) why =
                g_error_new_literal(FF_M_ERROR, 0, "the guest was taken back from the destination");
            ff_source_roll_back(m, why);
        } else {
            end_threads(m);
        }
        return;
    }
    ff_stamp(m->end_us); /* what follows is QEMU's cleaning up, and ours */
    ff_fingerprint_check(m);
    let_go(m);
    FF_FAULT_AT("finished");
    end_threads(m);
    ff_journal_idle(m->cfg.state);
    ff_m_set_status(m, FF_STATUS_COMPLETED);
}

gpointer ff_source_coordinator(gpointer p)
{
    FfMigration *m = p;
    g_autoptr(GError) error = NULL;

    if (agree(m, &error) && switch_over(m, &error)) {
        if (!m->whole) {
            ff_m_set_status(m, FF_STATUS_POSTCOPY_ACTIVE);
            /* Bulk would take processor and link from the last steps of the blackout: they are
             * short, and what they need is asked for. */
            ff_m_wait_until(m, FF_EV_RUNNING | FF_EV_DEAD | FF_EV_QUIT,
                            g_get_monotonic_time() + RUNNING_DEADLINE_MS * 1000LL);
            FF_FAULT_AT("running");
            m->bulk_thread = g_thread_new("ff-bulk", ff_source_bulk, m);
        }
        ff_source_see_through(m);
        return NULL;
    }
    if (ff_m_is_stock(error)) {
        /* QEMU has its own ways of tracking, and mappings that it may want to register. */
        ff_precopy_end(m, true);
        ff_precopy_free(m);
    }
    if (!ff_m_hand_over(m, error)) {
        ff_source_roll_back(m, error);
    }
    return NULL;
}
