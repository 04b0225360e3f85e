/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's coordinator: agree with the peer, wait for the switch, hand over the right to
 * run, send pages, let go. The protocol is that of docs/architecture.md ("The right to run");
 * the one line that matters most is the store of FF_RUN_GIVEN: before it every failure rolls
 * back to a guest that runs here; after it the guest comes back only if the destination says that
 * it has ended without it, or the user does (revoke.c).
 *
 * Threads: the coordinator; device_thread (device state out of QEMU).
 */
#include "migration/source/source.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/priority.h"
#include "content/image/run-state.h"
#include "migration/common/ownership.h"
#include "migration/source/bulk.h"
#include "migration/source/device.h"
#include "migration/source/fingerprint.h"
#include "migration/source/hello.h"
#include "migration/source/precopy.h"
#include "migration/source/recover.h"
#include "migration/source/send.h"
#include "migration/source/urgent.h"

/* A destination that has the grant starts the guest in a few milliseconds. A QEMU that hangs there
 * gets its pages all the same. */
#define RUNNING_DEADLINE_MS 1000
/* What a destination has said last is here, or comes at once; the guest may stand meanwhile. */
#define LAST_WORD_MS 200
/* A destination that hears of a roll back says that it has given up, before its QEMU ends. */
#define ABORTED_DEADLINE_MS 1000
/* For the destination to say, by the end of the connection, that it is completed. */
#define COMPLETED_DEADLINE_MS 5000

/* MIG_RP_MSG_SHUT with a status, as QEMU's destination sends it (migration/migration.c). */
static const uint8_t shut_good[8] = {0, 1, 0, 4, 0, 0, 0, 0};
static const uint8_t shut_bad[8] = {0, 1, 0, 4, 0, 0, 0, 1};

/* ---- device state ---------------------------------------------------------------------------- */

/* QEMU's stream goes to the peer as it comes; its end need not be parsed: the peer's QEMU knows
 * it, and says so by SHUT, which becomes LOADED. */
static gpointer device_thread(gpointer p)
{
    FfSource *s = p;
    g_autofree uint8_t *buf = g_malloc(FF_RUN_MAX_BYTES);
    FfDevicePacing pacing = {0};
    FfCompressing packing = {0};
    FfRunStateSeeker seeker = {0};
    bool broken = false, ran = !strcmp(s->run_state, "running");

    ff_priority_urgent();
    for (;;) {
        size_t n;
        FfIo io = ff_channel_read(s->inner, buf, FF_RUN_MAX_BYTES, &n);
        if (io == FF_IO_AGAIN) {
            int rc = ff_channel_wait_readable(s->inner, -1);
            if (rc < 0) {
                break;
            }
            continue;
        }
        if (io == FF_IO_DEAD) {
            break;
        }
        if (ff_control_events(s->control) & FF_EV_LOADED) {
            continue; /* the destination has all of it; the channel may be exchanged by now */
        }
        if (!ran && ff_run_state_seek(&seeker, buf, n)) {
            ff_state_mark(s->cfg->state, FF_MARK_SUSPENDED);
        }
        if (ff_source_send_device(s, &pacing, &packing, buf, n) < 0) {
            broken = true; /* the reader of that channel says why */
            break;
        }
        ff_count(s->stats->device_bytes, n);
        ff_device_copy_write(s->copy, buf, n);
    }
    ff_compressing_clear(&packing);
    if (pacing.delta) {
        explicit_bzero(pacing.delta, FF_RUN_MAX_BYTES);
        g_free(pacing.delta);
    }
    if (!broken &&
        !(ff_control_events(s->control) & (FF_EV_LOADED | FF_EV_DEAD | FF_EV_WANT_CANCEL))) {
        ff_control_dead(s->control,
                        "QEMU ended its device state early: see the log of the source QEMU");
    }
    return NULL;
}

/* ---- before the switch ----------------------------------------------------------------------- */

/* The base is read while QEMU is asked. */
static FfGuestFit check_guest(FfSource *s, GPtrArray **blocks, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;
    GThread *reader = g_thread_new("ff-base", ff_source_read_base, s);
    FfVmmState *state = &s->cfg->vmm->state;

    memory->takes_devices = true;
    /* A device that a client has added is there by now, or was refused. */
    FfGuestFit fit = ff_control_await_words(s->control, error)
                         ? memory->check(memory, FF_ROLE_SOURCE, blocks, s->conn->vm_uuid, error)
                         : FF_GUEST_UNKNOWN;

    if (fit == FF_GUEST_FITS && state->parts) {
        s->parts = state->parts(state);
    }
    g_atomic_int_set(&s->base_unwanted, fit != FF_GUEST_FITS);
    s->device_base = g_thread_join(reader);
    ff_close_fd(&s->cfg->mem_fd);
    return fit;
}

/* Whether the engine can carry it. Nobody has been spoken to. */
static bool look_at_guest(FfSource *s, GError **error)
{
    GPtrArray *blocks = NULL;
    FfGuestFit fit = check_guest(s, &blocks, error);

    if (s->cfg->refusal && !g_error_matches(*error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        s->plain->unsure = fit == FF_GUEST_UNKNOWN;
        g_clear_error(error);
        g_set_error_literal(error, FF_M_ERROR, 0, s->cfg->refusal);
        return ff_plain_refuse(s->plain, error);
    }
    if (fit != FF_GUEST_FITS) {
        return fit == FF_GUEST_REFUSED && ff_plain_refuse(s->plain, error);
    }
    if (!ff_ram_set_blocks(s->ram, s->control, blocks, error) ||
        (ff_plain_possible(s->plain) && !ff_source_private_fits(s, error))) {
        return ff_plain_refuse(s->plain, error);
    }
    if (!ff_ram_map(s->ram, error)) {
        return false;
    }
    /* BUSY: a device's process still writes to a guest that stands, so QEMU must not carry it. */
    return ff_precopy_begin(s, error) || (!g_error_matches(*error, G_IO_ERROR, G_IO_ERROR_BUSY) &&
                                          ff_plain_refuse(s->plain, error));
}

static bool agree_with_destination(FfSource *s, GError **error)
{
    FF_FAULT_AT("setup");
    if ((!look_at_guest(s, error) && !ff_plain_greets(s->plain, error)) ||
        !ff_source_hello(s, error)) {
        return false;
    }
    FF_FAULT_AT("connected");
    ff_conn_store(s->conn, s->cfg->state);
    ff_ram_store(s->ram, s->cfg->state);
    ff_stamp(s->stats->setup_us);
    ff_control_set_status(s->control, FF_STATUS_ACTIVE);
    FF_FAULT_AT("active");
    ff_control_new_pass(s->control);
    return true;
}

/* ---- the switchover -------------------------------------------------------------------------- */

/* FD: QEMU's device state is read from it. */
static void hold_stream(FfSource *s, int fd)
{
    if (s->control->ops.hold) {
        /* If this process dies, QEMU must not see the end of this socket: the next engine
         * decides, by run_right, which SHUT it gets. */
        s->control->ops.hold("inner", fd, s->control->ops.opaque);
    }
    if (s->cfg->vmm->state.keep) {
        s->cfg->vmm->state.keep(&s->cfg->vmm->state);
    }
    s->inner = ff_channel_new(fd, FF_CHANNEL_MAIN);
}

/* What the guest need not stand still for. A client that is to say continue in between has it all
 * later. */
static bool offer_stream(FfSource *s, GError **error)
{
    FfVmm *vmm = s->cfg->vmm;
    int fd = -1;

    if (!vmm->state.offer || s->cfg->pause_before_switchover) {
        return true;
    }
    if (!vmm->state.offer(&vmm->state, &fd, error)) {
        return false;
    }
    s->saving = true;
    FF_FAULT_AT("offered");
    hold_stream(s, fd);
    FF_FAULT_AT("offered-held");
    return true;
}

static bool stop_guest(FfSource *s, GError **error)
{
    FfVmm *vmm = s->cfg->vmm;

    /* While the guest runs, as QEMU takes its time, and right before it is stopped: with
     * x-ignore-shared on, a snapshot (or a migration from a monitor that is QEMU's) would lack the
     * guest's memory. */
    if (!vmm->state.prepare(&vmm->state, FF_ROLE_SOURCE, error)) {
        return false;
    }
    FF_FAULT_AT("prepared");
    ff_ownership_stopped(s->cfg->state);
    FF_FAULT_AT("stopping");
    /* What clients say is ours from here on; what they have said before is QEMU's, and is carried
     * out before it is asked what the guest is. */
    ff_mutex_lock(&s->control->lock);
    s->stopped = s->control->moves = true;
    ff_mutex_unlock(&s->control->lock);
    if (!FF_FAULT_STEP("words", ff_control_await_words(s->control, error)) ||
        !offer_stream(s, error)) {
        return false;
    }
    ff_stamp(s->stats->stop_us);
    /* Before stop goes out: a cont of somebody else after it may be told of before its answer is
     * seen here. (One right in front of it costs a migration, no more.) */
    ff_mutex_lock(&s->control->lock);
    s->stopped_by_us = true;
    ff_mutex_unlock(&s->control->lock);
    if (!(s->saving ? vmm->state.stop_and_save(&vmm->state, &s->run_state, error)
                    : vmm->run.stop(&vmm->run, &s->run_state, error))) {
        return false;
    }
    FF_FAULT_AT("stopped");
    g_strlcpy(s->cfg->state->run_state, s->run_state, sizeof(s->cfg->state->run_state));
    ff_control_moved(s->control);
    return true;
}

static bool send_device_state(FfSource *s, GError **error)
{
    int fd = -1;

    if (!s->saving) {
        /* From here on QEMU may have begun its inner migration, whatever save() returns. */
        s->saving = true;
        if (!s->cfg->vmm->state.save(&s->cfg->vmm->state, &fd, error)) {
            return false;
        }
    }
    FF_FAULT_AT("saving");
    if (!s->inner) {
        hold_stream(s, fd);
    }
    FF_FAULT_AT("saving-held");
    s->device_thread = g_thread_new("ff-device", device_thread, s);
    return true;
}

/* The commit point. After TRUE the guest is the peer's. */
static bool give_right(FfSource *s, GError **error)
{
    g_autoptr(GError) moved = NULL;

    FF_FAULT_AT("loaded");
    /* With the answer comes what the VMM has said before: that somebody has resumed the guest. */
    bool stands = !s->cfg->vmm->run.stands || s->cfg->vmm->run.stands(&s->cfg->vmm->run, &moved);
    ff_mutex_lock(&s->control->lock);
    bool cancelled = s->control->events & (FF_EV_WANT_CANCEL | FF_EV_QUIT), resumed = s->resumed;
    bool dead = s->control->events & FF_EV_DEAD;
    if (cancelled) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "migration was cancelled");
    } else if (resumed) {
        g_set_error_literal(error, FF_M_ERROR, 0,
                            "the guest was resumed"); /* s->control->error has more */
    } else if (dead) {
        /* The grant would not arrive, and the guest would stand still at both sides. */
        g_set_error_literal(error, FF_M_ERROR, 0,
                            s->control->error ? s->control->error : "the connection was lost");
    } else if (!stands) {
        g_propagate_error(error, g_steal_pointer(&moved));
    } else {
        if (s->control->start_paused && ff_vmm_runs(s->run_state)) {
            /* the client has said stop meanwhile */
            g_free(s->run_state);
            s->run_state = g_strdup("paused");
            /* An engine that adopts grants that. */
            g_strlcpy(s->cfg->state->run_state, s->run_state, sizeof(s->cfg->state->run_state));
        }
        /* GIVEN is stored before GRANT can leave, so that no crash between the two can be taken
         * for a guest that is still ours. Cancel looks at `granted` under the same lock. */
        ff_ownership_give(s->cfg->state);
        s->control->granted = true;
    }
    ff_mutex_unlock(&s->control->lock);
    if (cancelled || resumed || dead || !stands) {
        return false;
    }
    FF_FAULT_AT("given");
    int rc = ff_channel_send(s->conn->main, ff_frame(FF_FRAME_GRANT, strlen(s->run_state)),
                             s->run_state, true);
    FF_FAULT_AT("granted");
    if (rc < 0) {
        ff_control_dead(s->control,
                        "the connection broke while the right to run was handed over: %s",
                        g_strerror(-rc));
    }
    return true;
}

/* The destination drops what is stale and arms while the guest still runs here. Twice: dropping
 * much takes a while, in which the guest continues to write; the second time it is little. */
static bool prepare_peer(FfSource *s, GError **error)
{
    FfFrame f = ff_frame(FF_FRAME_PREPARE, 0);

    ff_device_copy_begin(s->copy);
    if (!ff_precopy_tell(s, error)) {
        return false;
    }
    if (!s->precopy) {
        ff_source_send_base(s, NULL);
    }
    f.flags = s->conn->complete_at_grant ? FF_PREPARE_COMPLETE : 0;
    /* A failed send is followed by the reader's word of why. */
    ff_channel_send(s->conn->main, f, NULL, true);
    return ff_control_await(s->control, FF_EV_READY, error) && ff_precopy_tell_again(s, error);
}

static bool switch_over(FfSource *s, GError **error)
{
    if (!ff_precopy_run(s, error) || !prepare_peer(s, error) || !stop_guest(s, error) ||
        !ff_precopy_freeze(s, error)) {
        return false;
    }
    ff_fingerprint_take(s);
    FF_FAULT_AT("frozen");
    /* RAM is frozen: requests may be answered from now on. */
    s->conn->urgent_thread = g_thread_new("ff-urgent", ff_source_urgent, s);
    if (s->conn->complete_at_grant) {
        s->bulk_thread = g_thread_new("ff-bulk", ff_source_bulk, s);
    }
    if (s->cfg->pause_before_switchover) {
        ff_control_set_status(s->control, FF_STATUS_PRE_SWITCHOVER);
        if (!ff_control_await(s->control, FF_EV_WANT_CONTINUE, error)) {
            return false;
        }
    }
    ff_control_set_status(s->control, FF_STATUS_DEVICE);
    ff_control_new_pass(s->control);
    return send_device_state(s, error) && ff_control_await(s->control, FF_EV_LOADED, error) &&
           give_right(s, error);
}

/* ---- roll back ------------------------------------------------------------------------------- */

static void end_threads(FfSource *s)
{
    ff_conn_shutdown(s->conn);
    if (s->inner) {
        ff_channel_shutdown(s->inner);
    }
    ff_control_join(&s->device_thread);
    ff_source_end_connection(s);
}

static bool tell_peer(FfSource *s, const char *why)
{
    size_t len = MIN(strlen(why), FF_FRAME_MAX_TEXT);

    return s->conn->main && len &&
           ff_channel_send_last(s->conn->main, ff_frame(FF_FRAME_ABORT, len), why, 0);
}

/* A destination that has loaded all it was sent waits for a grant, unless it has heard the ABORT:
 * it answers with one of its own. What was written to a connection that has just ended came to
 * nobody.
 */
static bool waits_for_grant(FfSource *s, bool told)
{
    if (!s->device_thread || s->revoked) {
        return false;
    }
    if (told) {
        ff_control_wait_until(s->control, FF_EV_ABORTED | FF_EV_MAIN_ENDED | FF_EV_QUIT,
                              g_get_monotonic_time() + ABORTED_DEADLINE_MS * 1000);
    }
    return !(ff_control_events(s->control) & FF_EV_ABORTED);
}

void ff_source_release_guest(FfSource *s)
{
    g_autoptr(GError) error = NULL;

    ff_mutex_lock(&s->control->lock);
    /* Whatever it is by now: it may never have been stopped. */
    if (s->control->start_paused) {
        ff_mutex_unlock(&s->control->lock);
        if (!s->cfg->vmm->run.halt(&s->cfg->vmm->run, &error)) {
            g_warning("roll back: the guest could not be stopped again: %s", error->message);
        }
        ff_mutex_lock(&s->control->lock);
    }
    /* An engine that comes before the phase is IDLE must not start a guest that a client stops from
     * here on. */
    s->cfg->state->run_state[0] = 0;
    s->stopped = false;
    ff_mutex_unlock(&s->control->lock);
    ff_control_moved(s->control);
}

static bool resume_guest(FfSource *s, bool start, bool *running, GError **error)
{
    FfVmmRun *run = &s->cfg->vmm->run;

    if (FF_FAULT_CALL("resume", 0) < 0) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NOT_CONNECTED, g_strerror(errno));
        return false;
    }
    /* The answer to stop may be what has not come. */
    const char *state = s->run_state ? s->run_state : s->cfg->state->run_state;
    return !*state || run->resume(run, state, start, running, error);
}

/* The peer hears WHY first (*TOLD): nobody else can say it, and it waits, loaded. FALSE: it is not
 * for the next engine. */
static bool leave_to_next(FfSource *s, const GError *error, const GError *why, bool *told)
{
    if (!g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_CONNECTED)) {
        return false;
    }
    g_message("roll back: %s", why->message);
    *told = tell_peer(s, why->message);
    return ff_control_fail_unheard(s->control, s->cfg->pidfd, error);
}

/* Of what failed: WHY. FALSE: the next engine does it, and nothing may be done any more. */
static bool restart_guest(FfSource *s, const GError *why, bool *told)
{
    FF_FAULT_AT("rolling-back");
    FfVmm *vmm = s->cfg->vmm;
    g_autoptr(GError) error = NULL;
    bool running = false;

    if (s->saving) {
        if (s->inner) {
            struct iovec iov = {(void *)shut_bad, sizeof(shut_bad)};
            ff_channel_write_all(s->inner, &iov, 1, true);
            /* QEMU may sit in a write that nobody reads any more. */
            ff_channel_shutdown(s->inner);
        }
        if (!vmm->state.wait_saved(&vmm->state, 1, &error)) {
            g_warning("roll back: %s", error->message);
            g_clear_error(&error);
        }
    }
    /* One look decides; a client that says stop after it is answered when the guest has been
     stopped again.
     */
    ff_mutex_lock(&s->control->lock);
    bool start = !s->control->start_paused;
    s->control->moves = true;
    ff_mutex_unlock(&s->control->lock);
    if (!resume_guest(s, start, &running, &error)) {
        if (leave_to_next(s, error, why, told)) {
            return false;
        }
        g_warning("roll back: the guest could not be resumed: %s", error->message);
        g_clear_error(&error);
    }
    if (running) {
        vmm->run.announce(&vmm->run);
    }
    ff_source_release_guest(s);
    return true;
}

/* Of a destination that has given up a writer may see the end first. Why is what the main reader
 * has still to read, and whether it was given up decides what may have become of the guest there.
 */
static void hear_out(FfSource *s)
{
    ff_mutex_lock(&s->control->lock);
    bool reads = s->control->only_lost && s->conn->main_reader;
    ff_mutex_unlock(&s->control->lock);
    if (reads) {
        ff_control_wait_until(s->control, FF_EV_MAIN_ENDED | FF_EV_WANT_CANCEL | FF_EV_QUIT,
                              g_get_monotonic_time() + LAST_WORD_MS * 1000);
    }
}

void ff_source_roll_back(FfSource *s, const GError *why)
{
    g_autoptr(GError) error = NULL;
    bool told = false;

    ff_mutex_lock(&s->control->lock);
    s->stopped_by_us = false;
    ff_mutex_unlock(&s->control->lock);
    hear_out(s);
    /* A cancel shuts the connections, which is then what the steps fail with. Of a guest that was
     * taken back it comes too late: it was granted, and is not as before. */
    bool cancelled = !s->revoked && (g_error_matches(why, G_IO_ERROR, G_IO_ERROR_CANCELLED) ||
                                     (ff_control_events(s->control) & FF_EV_WANT_CANCEL));
    if (cancelled) {
        ff_control_set_status(s->control, FF_STATUS_CANCELLING);
    } else {
        ff_control_set_error(s->control, why->message);
    }
    if (s->stopped && !restart_guest(s, why, &told)) {
        end_threads(s);
        return;
    }
    told = told || tell_peer(s, why->message);
    s->dest_may_be_loaded = waits_for_grant(s, told);
    end_threads(s);
    ff_precopy_end(s, true);
    ff_device_copy_end(s->copy);
    if (!s->cfg->vmm->state.undo(&s->cfg->vmm->state, &error)) {
        g_warning("roll back: %s", error->message);
    }
    if (s->control->ops.drop && s->saving) {
        s->control->ops.drop("inner", s->control->ops.opaque);
    }
    ff_ownership_idle(s->cfg->state);
    ff_control_set_status(s->control, cancelled ? FF_STATUS_CANCELLED : FF_STATUS_FAILED);
}

/* ---- postcopy -------------------------------------------------------------------------------- */

/* A client that sees a precopy, and starts the guest at the destination itself, may find that it
 * cannot, and continue here: libvirt. QEMU cannot continue one that was suspended. */
static void note_standing(FfSource *s)
{
    ff_mutex_lock(&s->control->lock);
    bool stands = s->stands_there;
    ff_mutex_unlock(&s->control->lock);
    if (stands && s->conn->complete_at_grant && s->run_state && !strcmp(s->run_state, "running")) {
        ff_state_mark(s->cfg->state, FF_MARK_STANDS_THERE);
    } else {
        ff_state_unmark(s->cfg->state, FF_MARK_STANDS_THERE); /* of an engine that died since */
    }
}

/* Everything is at the destination: QEMU may end its migration. */
static void let_go(FfSource *s)
{
    g_autoptr(GError) error = NULL;
    FfVmm *vmm = s->cfg->vmm;
    struct iovec iov = {(void *)shut_good, sizeof(shut_good)};

    note_standing(s);
    ff_ownership_done(s->cfg->state);
    FF_FAULT_AT("done");
    if (!s->inner || ff_channel_write_all(s->inner, &iov, 1, true) < 0 ||
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
    ff_control_event(s->control, FF_EV_FINISHED);
    if (s->conn->main &&
        ff_channel_send(s->conn->main, ff_frame(FF_FRAME_FINISHED, 0), NULL, true) == 0) {
        /* The destination ends the connection when it is completed, and not before. */
        ff_control_wait_until(s->control, FF_EV_MAIN_ENDED | FF_EV_QUIT,
                              g_get_monotonic_time() + COMPLETED_DEADLINE_MS * 1000LL);
    }
    ff_device_copy_end(s->copy);
    if (s->control->ops.drop) {
        s->control->ops.drop("inner", s->control->ops.opaque);
    }
}

void ff_source_see_through(FfSource *s)
{
    ff_fingerprint_take(s); /* an engine that adopted has none yet */
    /* Not at the end: a client that is told that the destination is whole may end QEMU at once. */
    ff_precopy_end(s, false);
    if (!ff_source_persist(s)) {
        if (s->revoked) {
            g_autoptr(GError) why =
                g_error_new_literal(FF_M_ERROR, 0, "the guest was taken back from the destination");
            ff_source_roll_back(s, why);
        } else {
            end_threads(s);
        }
        return;
    }
    ff_stamp(s->control->end_us); /* what follows is QEMU's cleaning up, and ours */
    ff_fingerprint_check(s);
    let_go(s);
    FF_FAULT_AT("finished");
    end_threads(s);
    ff_ownership_idle(s->cfg->state);
    ff_control_set_status(s->control, FF_STATUS_COMPLETED);
}

void ff_source_coordinate(FfSource *s)
{
    g_autoptr(GError) error = NULL;

    if (agree_with_destination(s, &error) && switch_over(s, &error)) {
        if (!s->conn->complete_at_grant) {
            ff_control_set_status(s->control, FF_STATUS_POSTCOPY_ACTIVE);
            /* Bulk would take processor and link from the last steps of the blackout: they are
             * short, and what they need is asked for. */
            ff_control_wait_until(s->control, FF_EV_RUNNING | FF_EV_DEAD | FF_EV_QUIT,
                                  g_get_monotonic_time() + RUNNING_DEADLINE_MS * 1000LL);
            FF_FAULT_AT("running");
            s->bulk_thread = g_thread_new("ff-bulk", ff_source_bulk, s);
        }
        ff_source_see_through(s);
        return;
    }
    if (ff_plain_is(error)) {
        /* QEMU has its own ways of tracking, and mappings that it may want to register. */
        ff_precopy_end(s, true);
        ff_precopy_free(s);
    }
    if (!ff_plain_hand_over(s->plain, error)) {
        ff_source_roll_back(s, error);
    }
}

/* ---- beginning and end ----------------------------------------------------------------------- */

bool ff_source_init(FfSource *s, GError **error)
{
    s->bulk_pace = (FfPace){.control = s->control, .limit = &s->cfg->max_postcopy_bandwidth};
    ff_source_begin_sent(s);
    s->urgent_wake = FF_FAULT_CALL("urgent-wake", eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (s->urgent_wake < 0) {
        g_set_error(error, FF_M_ERROR, 0, "eventfd: %s", g_strerror(errno));
    }
    return s->urgent_wake >= 0;
}

void ff_source_clear(FfSource *s)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(s->sent); i++) {
        ff_sent_clear(&s->sent[i]);
    }
    ff_precopy_free(s);
    ff_channel_free(s->inner);
    ff_feed_free(s->feed);
    if (s->urgent_wake >= 0) {
        close(s->urgent_wake);
    }
    g_free(s->peer_uri);
    g_free(s->run_state);
    g_free(s->untracked);
    g_free(s->differences);
    g_free(s->parts);
    g_clear_pointer(&s->hot, g_array_unref);
    ff_frequency_free(s->heat);
    ff_delta_free(s->device_base);
}
