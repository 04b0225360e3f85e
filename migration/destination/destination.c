/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's coordinator: await the peer, empty and arm guest RAM, load device state,
 * wait for the grant, start the guest, and end when every page is here.
 *
 * A guest that is LOADED but not GRANTED never runs; before the grant every failure ends this
 * QEMU as a failed incoming migration does, after it nothing but the last page ends the
 * migration.
 *
 * Thread: the coordinator.
 */
#include "migration/destination/destination.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/trace-mark.h"
#include "contract/stderr.h"
#include "migration/common/keepalive.h"
#include "migration/common/ownership.h"
#include "migration/destination/accept.h"
#include "migration/destination/arm.h"
#include "migration/destination/device.h"
#include "migration/destination/dump.h"
#include "migration/destination/fault.h"
#include "migration/destination/hello.h"
#include "migration/destination/huge.h"
#include "migration/destination/read.h"
#include "migration/destination/received.h"
#include "migration/destination/recover.h"
#include "migration/destination/revoke.h"
#include "migration/destination/urgent.h"
#include "migration/destination/vhost-faults.h"

/* A source connects, shakes hands and has its answer within 20 s each, or does without. */
#define CHANNEL_DEADLINE_MS 90000

/* For a QEMU that is to end by itself (milliseconds). */
#define END_DEADLINE_MS 1000

/* ---- before the switch ----------------------------------------------------------------------- */

/* FALSE with *REFUSED: because of what the guest is made of. */
bool ff_dest_check_guest(FfDestination *d, bool *refused, GError **error)
{
    FfVmmMemory *memory = &d->cfg->vmm->memory;
    GPtrArray *blocks = NULL;

    memory->takes_devices = true;
    FfGuestFit fit = memory->check(memory, FF_ROLE_DESTINATION, &blocks, d->conn->vm_uuid, error);

    d->occupied = fit == FF_GUEST_OCCUPIED;
    *refused = fit == FF_GUEST_FITS || fit == FF_GUEST_REFUSED;
    if (fit != FF_GUEST_FITS || !ff_ram_set_blocks(d->ram, d->control, blocks, error) ||
        !ff_received_map(d->ram, d->control, d->cfg->state, d->cfg->state_fd, true, error)) {
        return false;
    }
    d->uffd = d->cfg->uffds[FF_KIND_MISSING];
    if (d->uffd < 0) {
        g_set_error_literal(error, FF_M_ERROR, 0,
                            "no userfaultfd was handed over by the destination QEMU: start it "
                            "through farfault, with permission for userfaultfd");
        return false;
    }
    return true;
}

static bool accept_peer(FfDestination *d, GError **error)
{
    g_autoptr(GError) local = NULL;
    bool refused = false;

    if (!ff_dest_check_guest(d, &refused, &local) &&
        !(refused && ff_plain_refuse_later(d->plain, local))) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    if (d->cfg->fd >= 0) {
        ff_mutex_lock(&d->control->lock);
        d->conn->arrived = ff_conn_channel_new(d->conn, d->cfg->fd, FF_CHANNEL_MAIN);
        d->cfg->fd = -1;
        d->control->events |= FF_EV_MAIN;
        ff_mutex_unlock(&d->control->lock);
    } else {
        d->acceptor = g_thread_new("ff-accept", ff_dest_acceptor, d);
    }
    return true;
}

/* TRUE: it was none of ours, and the right one may still come. */
static bool go_on_waiting(const FfDestination *d, const GError *error)
{
    if (!g_error_matches(error, FF_M_ERROR, FF_M_ERROR_STRAY) || d->listen_fd < 0) {
        return false;
    }
    g_message("connection refused: %s", error->message);
    return true;
}

static bool agree_with_source(FfDestination *d, GError **error)
{
    g_autoptr(GError) local = NULL;

    while (!ff_control_await(d->control, FF_EV_MAIN, &local) || !ff_dest_hello(d, &local)) {
        if (!go_on_waiting(d, local)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        g_clear_error(&local);
    }
    d->stderr_before = ff_stderr_written(d->cfg->discard_fd);
    /* Stored first: what prepare() leaves half done is the next engine's to undo. Until here
     * nothing was changed, and the next one continues to listen. */
    ff_state_unmark(d->cfg->state, FF_MARK_FILE | FF_MARK_DUMP);
    ff_ownership_setup(d->cfg->state);
    FF_FAULT_AT("setup");
    ff_conn_store(d->conn, d->cfg->state);
    FF_FAULT_AT("greeted");
    /* The source continues meanwhile: READY, for which it waits, comes later. */
    if (!d->cfg->vmm->state.prepare(&d->cfg->vmm->state, FF_ROLE_DESTINATION, error)) {
        return false;
    }
    FF_FAULT_AT("prepared");
    ff_stamp(d->stats->setup_us);
    ff_control_set_status(d->control, FF_STATUS_ACTIVE);
    FF_FAULT_AT("active");
    return true;
}

/* ---- the switchover -------------------------------------------------------------------------- */

static void know_vcpus(FfDestination *d)
{
    g_autoptr(GArray) tids = d->cfg->vmm->run.vcpu_threads(&d->cfg->vmm->run);

    uint32_t n = MIN(tids->len, FF_MAX_VCPUS);
    for (unsigned i = 0; i < n; i++) {
        d->stats->vcpu_tid[i] = g_array_index(tids, int32_t, i);
    }
    /* Observer: the driver's statistics. */
    __atomic_store_n(&d->stats->n_vcpus, n, __ATOMIC_RELEASE);
}

/* NULL: it shares the main channel. */
static void join_urgent(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    d->conn->urgent = g_steal_pointer(&d->conn->arrived_urgent);
    ff_mutex_unlock(&d->control->lock);
    if (d->conn->urgent) {
        d->conn->urgent_thread = g_thread_new("ff-urgent", ff_dest_urgent_reader, d);
    }
}

/* The source has all its channels, and is looked after from here on. */
static bool await_channel(FfDestination *d, GError **error)
{
    unsigned end = FF_EV_DEAD | FF_EV_WANT_CANCEL | FF_EV_QUIT;
    int64_t until = g_get_monotonic_time() + CHANNEL_DEADLINE_MS * 1000LL;

    if (!ff_control_wait_until(d->control, FF_EV_CHANNEL | end, until)) {
        ff_control_dead(d->control, "the source opened no urgent channel within %d s",
                        CHANNEL_DEADLINE_MS / 1000);
    }
    if (!ff_control_await(d->control, FF_EV_CHANNEL, error)) {
        return false;
    }
    join_urgent(d);
    ff_keepalive_start(d->conn, d->ram, d->stats, NULL);
    return true;
}

/* What is missing from RAM is gone and armed before the first byte of device state: loading it
 * reads guest RAM. QEMU is asked to load (and waits for bytes) before that, because from the arming
 * on its main loop may wait for a page, which nobody can send before the source has stopped. */
bool ff_dest_begin_load(FfDestination *d, GError **error)
{
    int fd = -1;

    /* A client's cont that QEMU carried out after our stop would have it start the guest by
     * itself.
     */
    if (!ff_control_await_words(d->control, error)) {
        return false;
    }
    know_vcpus(d);
    /* What it has said of other things, an hour ago, is no reason. */
    d->stderr_before = ff_stderr_written(d->cfg->discard_fd);
    ff_ownership_loading(d->cfg->state);
    FF_FAULT_AT("loading");
    if (!d->cfg->vmm->state.load(&d->cfg->vmm->state, &fd, error)) {
        return false;
    }
    if (d->control->ops.hold) {
        d->control->ops.hold("inner", fd, d->control->ops.opaque);
    }
    ff_dest_hold_listener(d);
    FF_FAULT_AT("loading-held");
    if (!d->origin) {
        ff_device_copy_begin(d->copy);
    }
    d->inner = ff_channel_new(fd, FF_CHANNEL_MAIN);
    d->feeder = g_thread_new("ff-feeder", ff_dest_feeder, d);
    d->return_path = g_thread_new("ff-return", ff_dest_return_path, d);
    if (!ff_dest_arm(d, error)) {
        return false;
    }
    FF_FAULT_AT("armed");
    return true;
}

static bool prepare_load(FfDestination *d, GError **error)
{
    if (!await_channel(d, error) || !ff_control_await(d->control, FF_EV_PREPARE, error) ||
        !ff_dest_begin_load(d, error)) {
        return false;
    }
    int rc = ff_channel_send(d->conn->main, ff_frame(FF_FRAME_READY, 0), NULL, true);
    if (rc < 0) {
        g_set_error(error, FF_M_ERROR, 0, "lost the connection to the source: %s", g_strerror(-rc));
        return false;
    }
    ff_stamp(d->stats->stop_us);
    return true;
}

bool ff_dest_await_loaded(FfDestination *d, GError **error)
{
    if (!ff_control_await(d->control, FF_EV_SHUT, error)) {
        return false;
    }
    ff_dest_put_back(d);
    return true;
}

void ff_dest_put_back(FfDestination *d)
{
    FfVmmState *state = &d->cfg->vmm->state;

    if (state->put_back && !FF_FAULT_STEP("put-back", false)) {
        state->put_back(state);
    }
}

static bool load_devices(FfDestination *d, GError **error)
{
    if (!prepare_load(d, error) || !ff_dest_await_loaded(d, error)) {
        return false;
    }
    if (d->conn->complete_at_grant && !ff_control_await(d->control, FF_EV_ALL, error)) {
        return false;
    }
    FF_FAULT_AT("shut");
    if (ff_conn_vmm_ended(d->conn, 0)) {
        g_autofree char *text = ff_dest_end_text(d);
        g_set_error_literal(error, FF_M_ERROR, 0, text);
        return false;
    }
    ff_ownership_loaded(d->cfg->state);
    FF_FAULT_AT("loaded");
    FfFrame f = ff_frame(FF_FRAME_LOADED, 0);
    f.epoch = d->conn->epoch;
    int rc = ff_channel_send(d->conn->main, f, NULL, true);
    if (rc < 0) {
        /* Not a whole frame has left: the source cannot have given the guest away. */
        g_set_error(error, FF_M_ERROR, 0, "lost the connection to the source: %s", g_strerror(-rc));
    }
    return rc == 0;
}

/* The connection, or what stands in its place. FALSE: the engine ends. */
static bool await_source(FfDestination *d)
{
    return d->origin ? d->origin->again(d) : d->dump ? ff_dest_dump_again(d) : ff_dest_reconnect(d);
}

/* From here on the grant may be on its way, whatever becomes of the connection: only the source
 * knows whether it was given. So this side stays, paused, until the source says so. */
static bool await_grant(FfDestination *d, GError **error)
{
    while (!ff_control_await(d->control, FF_EV_GRANT, error)) {
        if (ff_control_events(d->control) & (FF_EV_ABORTED | FF_EV_QUIT)) {
            return false;
        }
        g_clear_error(error);
        if (!await_source(d)) {
            g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "the engine ends");
            return false;
        }
        d->conn->complete_at_grant = false; /* its status is one of postcopy's by now */
    }
    return true;
}

static bool resume_guest(FfDestination *d, bool *running, GError **error)
{
    FfVmmRun *run = &d->cfg->vmm->run;

    if (d->control->adopts && FF_FAULT_CALL("resume-again", 0) < 0) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NOT_CONNECTED, g_strerror(errno));
        return false;
    }
    return run->resume(run, d->cfg->state->run_state, d->starts, running, error);
}

/* QEMU may be unable to answer before it has a page, which only a connection brings; and it is the
 * coordinator that makes connections. So it does not wait for the answer alone. */
static gpointer start_guest(gpointer p)
{
    FfDestination *d = p;
    g_autoptr(GError) error = NULL;
    bool running = false;

    if (!resume_guest(d, &running, &error)) {
        /* No page can be lost by it: what comes over a connection that is there by now is named as
         * missing in the next RESUME. */
        if (d->control->adopts && ff_control_fail_unheard(d->control, d->cfg->pidfd, error)) {
            return NULL;
        }
        g_warning("the guest could not be started: %s; try the monitor's cont", error->message);
        ff_control_set_error(d->control, error->message);
    }
    FF_FAULT_AT("resumed");
    __atomic_store_n(&d->cfg->state->resumed, 1, __ATOMIC_RELEASE);
    FF_FAULT_AT("running");
    ff_stamp(d->stats->running_us);
    FF_MARK1(resumed, running);
    d->runs = running;
    ff_control_moved(d->control);
    ff_control_event(d->control, FF_EV_RESUMED);
    ff_device_copy_end(d->copy); /* the guest continues from it */
    return NULL;
}

void ff_dest_start_guest(FfDestination *d, bool start)
{
    d->starts = start;
    d->starter = g_thread_new("ff-start", start_guest, d);
}

/* The commit point of this side. */
static void take_over(FfDestination *d)
{
    FF_FAULT_AT("grant");
    /* Stored first: an engine that comes after a crash must know that the guest may run. */
    ff_ownership_grant(d->cfg->state, d->granted_state);
    FF_FAULT_AT("granted");
    ff_mutex_lock(&d->control->lock);
    /* A cont that comes from now on goes to QEMU; one that came before is carried out here. So is a
     * stop, when QEMU has carried out ours: in front of it, it would be undone. */
    d->control->granted = d->control->moves = true;
    bool start = !d->control->start_paused || d->control->client_cont;
    ff_mutex_unlock(&d->control->lock);
    if (!d->conn->complete_at_grant) {
        ff_control_set_status(d->control, FF_STATUS_POSTCOPY_ACTIVE);
    }
    ff_dest_start_guest(d, start);
    bool resumed =
        ff_control_wait(d->control, FF_EV_RESUMED | FF_EV_DEAD | FF_EV_QUIT) & FF_EV_RESUMED;
    if (d->origin) {
        d->origin->granted(d);
    } else if (resumed) {
        FfFrame f = ff_frame(FF_FRAME_RUNNING, 0);
        f.page = d->runs;
        ff_channel_send(d->conn->main, f, NULL, true);
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

static void end_threads(FfDestination *d)
{
    ff_control_event(d->control, FF_EV_QUIT);
    ff_conn_shutdown(d->conn);
    if (d->inner) {
        ff_channel_shutdown(d->inner);
    }
    g_async_queue_push(d->device_queue, g_bytes_new(NULL, 0));
    ff_dest_fault_end(d);
    ff_dest_stop_listening(d, NULL);
    ff_keepalive_end(d->conn);
    ff_control_join(&d->starter);
    ff_control_join(&d->conn->main_reader);
    ff_control_join(&d->conn->urgent_thread);
    ff_conn_end_bulk(d->conn);
    ff_control_join(&d->feeder);
    ff_control_join(&d->return_path);
    ff_control_join(&d->fault_thread);
    ff_dest_huge_end(d);
    ff_dest_dump_end(d, false);
    if (d->origin) {
        d->origin->end(d);
    }
}

static void tell_source(FfDestination *d, const char *why)
{
    const char *text = d->refusal ? d->refusal : why;
    FfFrame f = ff_frame(d->refusal ? FF_FRAME_HELLO_REPLY : FF_FRAME_ABORT,
                         MIN(strlen(text), FF_FRAME_MAX_TEXT));

    f.page = d->refusal != NULL;
    if (d->conn->main && f.length) {
        ff_channel_send_last(d->conn->main, f, text, 0);
    }
}

/* A client that learns from the source that it failed may end this QEMU at once, and expects the
 * status of a failure. So QEMU ends first, where there is time for it: the guest runs at the
 * source. */
static void end_vmm(FfDestination *d)
{
    struct pollfd p = {.fd = d->cfg->pidfd, .events = POLLIN};

    if (!d->cfg->vmm->state.doom) {
        return;
    }
    d->cfg->vmm->state.doom(&d->cfg->vmm->state);
    if (!d->inner && p.fd >= 0) {
        poll(&p, 1, END_DEADLINE_MS);
    }
}

/* Of a QEMU that has begun to load, REASON has its last words, and they came before. */
static void say_cannot_come_in(const FfDestination *d, const char *reason)
{
    /* QEMU's own words name what does not fit, and no remedy. */
    bool unlike = d->origin && strstr(reason, "could not load the device state");

    g_message("the %s cannot come in: %s%s%s", d->origin ? "saved guest" : "migration", reason,
              unlike ? ": start QEMU as the saved guest was started" : "",
              d->inner ? "" : "; this QEMU is ended (ignore its next lines)");
}

void ff_dest_give_up(FfDestination *d, const GError *why)
{
    FfVmm *vmm = d->cfg->vmm;

    bool quits = ff_control_events(d->control) & FF_EV_QUIT;
    /* The relay may have seen QEMU's end first. */
    bool ended = quits && ff_ownership_phase(d->cfg->state) == FF_PHASE_LOADING &&
                 ff_conn_vmm_ended(d->conn, 0);
    g_autofree char *reason = ended   ? ff_dest_end_text(d)
                              : quits ? g_strdup(why->message)
                                      : ff_dest_reason(d, why);

    ff_control_set_error(d->control, reason);
    if (ended) {
        say_cannot_come_in(d, reason);
    }
    if (quits) {
        tell_source(d, reason);
        end_threads(d); /* the engine ends with its QEMU: nothing is left to tell */
        return;
    }
    if (d->occupied) {
        /* Nothing was touched, and the guest that runs here is not this source's. */
        end_threads(d);
        ff_control_set_status(d->control, FF_STATUS_FAILED);
        return;
    }
    /* Device state may be half loaded, and RAM is gone: such a QEMU must never run. */
    g_assert(!d->control->granted);
    ff_mutex_lock(&d->control->lock);
    d->parting = true;
    ff_mutex_unlock(&d->control->lock);
    /* One that has loaded all of it would obey cont. */
    bool lives_on = vmm->state.keep_failed &&
                    ff_ownership_phase(d->cfg->state) != FF_PHASE_LOADED &&
                    !(ff_control_events(d->control) & FF_EV_SHUT);
    ff_ownership_dead(d->cfg->state);
    if (lives_on && d->placer.space) {
        ff_dest_disarm(d); /* with empty memory: nothing in it may wait for a page */
    }
    /* The engine ends with its QEMU, perhaps before it has said more than this. */
    say_cannot_come_in(d, reason);
    if (!lives_on) {
        ff_control_set_status(d->control, FF_STATUS_FAILED);
        end_vmm(d);
    }
    tell_source(d, reason);
    ff_control_event(d->control, FF_EV_TOLD);
    g_main_context_wakeup(d->control->driver_ctx);
    vmm->state.abandon(&vmm->state);
    if (lives_on) {
        ff_ownership_idle(d->cfg->state);
        if (d->origin) {
            d->origin->over(d);
        }
    } else {
        ff_dest_answer_revoke(d, ff_dest_ensure_end(d));
    }
    end_threads(d);
    ff_control_set_status(d->control, FF_STATUS_FAILED);
}

/* Nobody misses a page any more. */
static void leave_dump(FfDestination *d)
{
    if (d->dump) {
        ff_dest_fault_end(d);
        ff_control_join(&d->fault_thread);
        ff_dest_dump_end(d, true);
    }
}

static void complete_migration(FfDestination *d)
{
    g_autoptr(GError) error = NULL;

    if (d->origin) {
        d->origin->all(d); /* first: what follows may wait for QEMU */
    }
    FF_FAULT_AT("all");
    ff_control_join(&d->starter); /* it waits for nothing here any more */
    ff_dest_disarm(d);
    FF_FAULT_AT("disarmed");
    ff_ownership_done(d->cfg->state);
    FF_FAULT_AT("done");
    if (d->cfg->vmm->memory.all_here) {
        d->cfg->vmm->memory.all_here(&d->cfg->vmm->memory);
    }
    bool connected = d->conn->main && !d->dump;
    leave_dump(d);
    if (ff_conn_vmm_ended(d->conn, 0)) {
        /* A guest that has ended has no use for its pages, and its source must not say that it is
         * well. This engine ends, too. */
        end_threads(d);
        return;
    }
    if (connected) {
        FfFrame f = ff_frame(FF_FRAME_DONE, 0);
        ff_mutex_lock(&d->control->lock);
        f.page = d->runs || d->has_run;
        ff_mutex_unlock(&d->control->lock);
        ff_channel_send(d->conn->main, f, NULL, true);
    }
    /* While the source cleans up as well. It is completed when this side is. */
    if (!d->cfg->vmm->state.undo(&d->cfg->vmm->state, &error)) {
        g_warning("%s", error->message);
    }
    FF_FAULT_AT("undone");
    bool known = d->origin || (connected && ff_dest_hear_finished(d));
    if (!known) {
        /* Everything is here: the guest needs nobody any more, only the source may not know. */
        ff_dest_end_connection(d); /* a client that sees the status may come back at once */
        ff_control_set_status(d->control, FF_STATUS_COMPLETED);
        ff_dest_linger(d);
    }
    FF_FAULT_AT("finished");
    /* Its end tells the source that this side is completed: a client that sees that the source is
     * may ask here at once (QEMU's tests do). */
    ff_mutex_lock(&d->control->lock);
    d->conn->keep_main = d->control->events & FF_EV_FINISHED;
    ff_mutex_unlock(&d->control->lock);
    end_threads(d);
    if (d->control->ops.drop) {
        d->control->ops.drop("inner", d->control->ops.opaque);
    }
    ff_ownership_idle(d->cfg->state);
    if (d->origin) {
        d->origin->over(d);
    }
    FF_FAULT_AT("idle");
    ff_control_set_status(d->control, FF_STATUS_COMPLETED);
    ff_mutex_lock(&d->control->lock);
    d->conn->keep_main = false;
    ff_mutex_unlock(&d->control->lock);
    ff_conn_shutdown(d->conn);
}

void ff_dest_see_through(FfDestination *d)
{
    ff_dest_huge_begin(d);
    for (;;) {
        unsigned visit = d->dump ? FF_EV_MAIN : 0;
        unsigned got = ff_control_wait(d->control, FF_EV_ALL | FF_EV_DEAD | FF_EV_QUIT | visit);

        if (got & FF_EV_ALL) {
            complete_migration(d);
            return;
        }
        if (got == FF_EV_MAIN) {
            ff_dest_send_away(d);
            continue;
        }
        /* The fault thread continues: a thread that touches a missing page waits, and is never
         * shown zeros. */
        if (ff_control_events(d->control) & FF_EV_QUIT || !await_source(d)) {
            end_threads(d);
            return;
        }
    }
}

void ff_dest_end_loaded(FfDestination *d)
{
    g_autoptr(GError) error = NULL;

    if (!await_grant(d, &error)) {
        ff_dest_give_up(d, error);
        return;
    }
    take_over(d);
    ff_dest_see_through(d);
}

void ff_dest_coordinate(FfDestination *d)
{
    g_autoptr(GError) error = NULL;

    if (!accept_peer(d, &error) || !agree_with_source(d, &error) || !load_devices(d, &error)) {
        if (ff_plain_hand_over(d->plain, error)) {
            end_threads(d);
        } else {
            ff_dest_give_up(d, error);
        }
    } else {
        ff_dest_end_loaded(d);
    }
}

/* ---- beginning and end ----------------------------------------------------------------------- */

void ff_dest_init(FfDestination *d)
{
    d->listen_fd = d->uffd = -1;
    d->device_queue = g_async_queue_new_full((GDestroyNotify)g_bytes_unref);
}

void ff_dest_clear(FfDestination *d)
{
    ff_channel_free(d->inner);
    ff_channel_free(d->revoker);
    ff_dest_vhost_faults_end(d);
    ff_space_free(d->placer.space);
    ff_address_free(d->listen_address);
    ff_delta_free(d->device_base);
    g_async_queue_unref(d->device_queue);
    if (d->listen_fd >= 0) {
        close(d->listen_fd);
    }
    g_free(d->refusal);
    g_free(d->suspects);
    g_free(d->socket_address);
    g_free(d->listen_path);
    g_free(d->granted_state);
    g_free(d->dump_uri);
    g_free(d->dump_order);
    ff_dest_huge_clear(d);
}
