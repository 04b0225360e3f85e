/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a new engine does with a migration whose engine died: it looks at the phase and at the
 * right to run in the state memfd, and at nothing else.
 *
 *   source, not given   QEMU gets SHUT(1), everything is undone, the guest runs here again
 *   source, done        every page is there: QEMU's migration is ended, completed
 *   source, given       the guest is the peer's: everything is kept, postcopy-paused, recoverable
 *   destination before  LOADED: this QEMU is killed
 *   destination loaded  the grant may be on its way: kept, postcopy-paused, recoverable; it never
 *                       runs without the grant
 *   destination granted kept, postcopy-paused, recoverable: a thread that needs a missing page
 *                       waits, since QEMU and the relay hold the userfaultfd open. With a dump in
 *                       the source's place that is read on, and nobody is asked
 *   destination done    every page is here: what was left over is undone, completed; a source that
 *                       does not know it yet can resume
 *
 * A guest that may be at both sides is never given up: where the new engine lacks something it is
 * paused, and tries again. A guest that stands, and cannot be started as QEMU cannot be asked, is
 * left as it is: this engine ends by a failure, and the next one does it.
 *
 * Thread: the coordinator.
 */
#include "migration/adopt.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>

#include "base/failpoints.h"
#include "migration/common/ownership.h"
#include "migration/destination/destination.h"
#include "migration/destination/dump.h"
#include "migration/destination/received.h"
#include "migration/destination/recover.h"
#include "migration/snapshot/devices.h"
#include "migration/source/precopy.h"
#include "migration/source/recover.h"
#include "migration/source/source.h"

#include "uffd/uffd.h"

#define DIED "the migration engine ended unexpectedly"
/* Between two attempts to take its place (seconds). */
#define LONGEST_PAUSE_S 60

static void undo_settings(FfVmm *vmm)
{
    g_autoptr(GError) error = NULL;

    if (!vmm->state.undo(&vmm->state, &error)) {
        g_warning("%s", error->message);
    }
}

static void begin_connection(FfConnection *conn, FfStateHeader *state)
{
    memcpy(conn->session, state->uuid, sizeof(conn->session));
    memcpy(conn->secret, state->secret, sizeof(conn->secret));
    /* What is left of the engine that died is of an old epoch from here on. */
    conn->epoch = ++state->epoch;
}

/* The first status of a side that has lost the connection, not something to undo. KNOWS_WHERE: it
 * can come to a new one by itself. */
static FfStatus first_status(FfControl *c, bool knows_where)
{
    ff_control_dead(c, DIED);
    return c->auto_recover_s && knows_where ? FF_STATUS_POSTCOPY_RECOVER
                                            : FF_STATUS_POSTCOPY_PAUSED;
}

/* What a client ordered meanwhile is carried out when the migration continues. But it is taken back
 * by force at once or not at all: what the client knows of the destination may not be true later.
 * TRUE: that was ordered. */
static bool keep_order(FfControl *c, bool *ordered)
{
    bool dropped = false;

    ff_mutex_lock(&c->lock);
    if (c->events & FF_EV_RECOVER) {
        dropped = c->want_revoke && c->force_revoke;
        *ordered = !dropped;
        c->want_revoke &= !dropped;
        c->force_revoke = false;
        c->events &= ~(unsigned)FF_EV_RECOVER;
    }
    ff_mutex_unlock(&c->lock);
    return dropped;
}

/* As if it had gone well at once. */
static void go_on(FfControl *c, FfStatus first, bool ordered)
{
    if (first != FF_STATUS_POSTCOPY_PAUSED) {
        ff_control_set_status(c, FF_STATUS_POSTCOPY_RECOVER);
        ff_control_set_status(c, first);
    }
    ff_control_forget(c, 0);
    ff_control_dead(c, DIED);
    if (ordered) {
        ff_control_event(c, FF_EV_RECOVER);
    }
}

/* FALSE: being freed. */
static bool pause_until_next(FfControl *c, const char *why, int64_t pause_s, bool *ordered)
{
    bool dropped = keep_order(c, ordered);
    g_autofree char *text = g_strdup_printf(
        DIED ", and cannot be replaced yet: %s%s", why,
        dropped ? "; the guest was not taken back: repeat that when the migration continues" : "");

    g_message("%s", text);
    ff_control_forget(c, 0);
    ff_control_pause(c, text);
    ff_control_moved(c); /* until then nobody starts or stops this guest: clients may */
    return !(ff_control_wait_until(c, FF_EV_QUIT | FF_EV_RECOVER,
                                   g_get_monotonic_time() + pause_s * G_TIME_SPAN_SECOND) &
             FF_EV_QUIT);
}

/* What stands in the way may be gone in a while, as a lack of memory is. So SIDE's TAKE is tried
 * again: at growing distances, and at once when a client orders something. FALSE: being freed. */
static bool take_over(FfControl *c, bool (*take)(gpointer side, GError **error), gpointer side)
{
    int64_t pause_s = 1;
    bool again = false, ordered = false;
    g_autoptr(GError) why = NULL;

    ff_mutex_lock(&c->lock);
    FfStatus first = c->status;
    ff_mutex_unlock(&c->lock);
    while (!take(side, &why)) {
        if (!pause_until_next(c, why->message, pause_s, &ordered)) {
            return false;
        }
        g_clear_error(&why);
        pause_s = MIN(2 * pause_s, LONGEST_PAUSE_S);
        again = true;
    }
    if (again) {
        go_on(c, first, ordered);
    }
    return true;
}

/* ---- source ---------------------------------------------------------------------------------- */

static bool is_given(const FfSource *s)
{
    return ff_ownership_right(s->cfg->state) == FF_RUN_GIVEN;
}

FfStatus ff_adopt_source_begin(FfSource *s)
{
    FfStateHeader *state = s->cfg->state;
    FfPhase phase = ff_ownership_phase(state);

    begin_connection(s->conn, state);
    s->adopted = true;
    g_atomic_int_set(&s->ram->uncounted, 1);
    /* As far as anybody knows. */
    s->ram->released = s->cfg->release_ram && !ff_state_is_marked(state, FF_MARK_WHOLE);
    s->peer_uri =
        state->peer_uri[0] ? g_strndup(state->peer_uri, sizeof(state->peer_uri) - 1) : NULL;
    s->control->granted = is_given(s);
    s->stopped = is_given(s) || phase == FF_PHASE_STOPPED;
    /* The engine that died may not have come to stop it. */
    s->control->moves = s->stopped && !is_given(s);
    if (!is_given(s)) {
        return FF_STATUS_SETUP;
    }
    FfStatus first = first_status(s->control, s->peer_uri);
    return phase == FF_PHASE_DONE ? FF_STATUS_POSTCOPY_ACTIVE /* only the last steps are missing */
                                  : first;
}

static bool resume_guest(FfVmmRun *run, const char *state, bool start, bool *running,
                         GError **error)
{
    if (FF_FAULT_CALL("resume-again", 0) < 0) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NOT_CONNECTED, g_strerror(errno));
        return false;
    }
    return run->resume(run, state, start, running, error);
}

/* It was not asked, or has its own migration to end first. What else it refuses is for whoever says
 * cont. */
static bool may_resume_later(FfVmmRun *run, const GError *error)
{
    return g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_CONNECTED) ||
           (run->stands && run->stands(run, NULL));
}

typedef enum {
    IS_BACK,
    IS_GIVEN, /* it is the peer's by now */
    STANDS,   /* another engine may be able to start it; this one ends */
} Back;

static Back take_guest_back(FfSource *s)
{
    FfVmm *vmm = s->cfg->vmm;
    g_autoptr(GError) error = NULL;
    bool running = false, start = !ff_control_client_stopped(s->control);
    const char *run_state = s->cfg->client_cont ? "running" : s->cfg->state->run_state;

    if (s->cfg->fd >= 0) {
        /* MIG_RP_MSG_SHUT with an error; then the end, for a QEMU that sits in a write. */
        static const uint8_t shut[8] = {0, 1, 0, 4, 0, 0, 0, 1};
        struct iovec iov = {(void *)shut, sizeof(shut)};
        s->inner = ff_channel_new(s->cfg->fd, FF_CHANNEL_MAIN);
        s->cfg->fd = -1;
        ff_channel_write_all(s->inner, &iov, 1, true);
        ff_channel_shutdown(s->inner);
        if (!vmm->state.wait_saved(&vmm->state, 1, &error)) {
            g_warning("roll back: %s", error->message);
            g_clear_error(&error);
        }
    } else if (vmm->state.forget_kept) {
        /* Nobody else has it any more: while QEMU keeps it, QEMU waits for its own end. */
        vmm->state.forget_kept(&vmm->state);
    }
    /* All that took a while. */
    if (is_given(s)) {
        return IS_GIVEN;
    }
    bool resumed = resume_guest(&vmm->run, run_state, start, &running, &error);
    bool unasked = g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_CONNECTED);
    if (!resumed && !s->inner) {
        /* The engine died before its socket was held: QEMU saw the end, and may not have come to
         * an end with it yet. */
        g_clear_error(&error);
        resumed = vmm->state.wait_saved(&vmm->state, 1, &error) && !is_given(s) &&
                  resume_guest(&vmm->run, run_state, start, &running, &error);
    }
    if (!resumed) {
        if (is_given(s)) {
            return IS_GIVEN;
        }
        if ((unasked || may_resume_later(&vmm->run, error)) &&
            ff_control_fail(s->control, error->message)) {
            return STANDS;
        }
        g_warning("roll back: the guest could not be resumed: %s", error->message);
        g_clear_error(&error);
    }
    if (running) {
        vmm->run.announce(&vmm->run);
    }
    ff_source_release_guest(s);
    return IS_BACK;
}

static bool take_source(gpointer side, GError **error)
{
    return ff_source_adopt(side, error);
}

static void adopt_given(FfSource *s, FfPhase phase)
{
    if (!take_over(s->control, take_source, s)) {
        return;
    }
    if (phase == FF_PHASE_DONE) {
        /* The destination has said DONE, and may have been told FINISHED: it waits for nobody, so
         * nobody may be waited for. */
        ff_control_forget(s->control, FF_EV_DEAD);
        ff_control_event(s->control, FF_EV_DONE);
    }
    ff_source_see_through(s);
}

/* The engine that was taken for dead has given the guest away meanwhile. */
static void adopt_given_late(FfSource *s)
{
    ff_mutex_lock(&s->control->lock);
    s->control->granted = s->stopped = true;
    ff_mutex_unlock(&s->control->lock);
    ff_control_moved(s->control);
    ff_control_dead(s->control, DIED);
    ff_control_set_status(s->control, FF_STATUS_ACTIVE);
    ff_control_set_status(s->control, FF_STATUS_POSTCOPY_ACTIVE);
    adopt_given(s, FF_PHASE_GRANTED);
}

void ff_adopt_source(FfSource *s)
{
    FfPhase phase = ff_ownership_phase(s->cfg->state);

    if (is_given(s)) {
        adopt_given(s, phase);
        return;
    }
    Back back = phase == FF_PHASE_STOPPED ? take_guest_back(s) : IS_BACK;
    if (back == IS_GIVEN) {
        adopt_given_late(s);
    }
    if (back != IS_BACK) {
        return;
    }
    ff_precopy_end(s, false);
    undo_settings(s->cfg->vmm);
    ff_device_copy_end(s->copy);
    /* Before: with IDLE nobody would come who does it. */
    ff_snapshot_devices_unpark(s->cfg->state, &s->cfg->vmm->memory);
    ff_ownership_idle(s->cfg->state);
    /* A destination that has loaded what it got waits for a grant that will not come. */
    s->dest_may_be_loaded = phase == FF_PHASE_STOPPED;
    ff_control_set_error(s->control, DIED ": the guest continues here, repeat what was asked for");
    ff_control_set_status(s->control, FF_STATUS_FAILED);
}

/* ---- destination ----------------------------------------------------------------------------- */

FfStatus ff_adopt_destination_begin(FfDestination *d)
{
    FfPhase phase = ff_ownership_phase(d->cfg->state);

    begin_connection(d->conn, d->cfg->state);
    d->ram->released = d->cfg->release_ram; /* as far as anybody knows */
    g_atomic_int_set(&d->ram->uncounted, 1);
    d->control->granted = phase == FF_PHASE_GRANTED || phase == FF_PHASE_DONE;
    d->control->moves =
        phase == FF_PHASE_GRANTED && !__atomic_load_n(&d->cfg->state->resumed, __ATOMIC_ACQUIRE);
    if (phase != FF_PHASE_LOADED && phase != FF_PHASE_GRANTED) {
        return FF_STATUS_SETUP;
    }
    if (d->origin || d->dump) {
        ff_control_dead(d->control, DIED);
        return FF_STATUS_POSTCOPY_RECOVER; /* the file is looked at first */
    }
    return first_status(d->control, d->cfg->listen_fd >= 0);
}

static bool take_destination(gpointer side, GError **error)
{
    return ff_dest_adopt(side, error);
}

static void start_guest(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    d->control->moves = true;
    bool start = !d->control->start_paused;
    ff_mutex_unlock(&d->control->lock);
    ff_dest_start_guest(d, start);
}

/* The guest runs, or is to run. */
static void adopt_granted(FfDestination *d)
{
    ff_device_copy_end(d->copy); /* the guest continues from it, or has done so */
    if (!take_over(d->control, take_destination, d)) {
        return;
    }
    if (!__atomic_load_n(&d->cfg->state->resumed, __ATOMIC_ACQUIRE)) {
        start_guest(d);
    }
    if ((d->origin || d->dump) && ff_control_events(d->control) & FF_EV_ALL) {
        ff_control_set_status(d->control, FF_STATUS_POSTCOPY_ACTIVE);
    } else if (ff_control_events(d->control) & FF_EV_ALL) {
        /* Every page is here: there is nothing to recover but the last word. */
        ff_control_set_status(d->control, FF_STATUS_POSTCOPY_RECOVER);
        ff_control_set_status(d->control, FF_STATUS_POSTCOPY_ACTIVE);
    }
    ff_dest_see_through(d);
}

static void adopt_loaded(FfDestination *d)
{
    if (take_over(d->control, take_destination, d)) {
        ff_dest_end_loaded(d);
    }
}

/* Every page is here. Whether the source has been told cannot be known: it may come and ask. */
static void adopt_done(FfDestination *d)
{
    g_autoptr(GError) error = NULL;

    undo_settings(d->cfg->vmm);
    ff_control_set_status(d->control, FF_STATUS_ACTIVE);
    ff_control_set_status(d->control, FF_STATUS_POSTCOPY_ACTIVE);
    ff_dest_adopt_listener(d);
    ff_dest_dump_end(d, true);
    if (d->origin) {
        /* Nobody else has to know. */
    } else if (ff_ram_adopt(d->ram, d->control, d->cfg->vmm->memory.blocks(&d->cfg->vmm->memory),
                            d->cfg->state, &error) &&
               ff_received_map(d->ram, d->control, d->cfg->state, d->cfg->state_fd, false,
                               &error)) {
        ff_dest_end_connection(d);
        ff_control_set_status(d->control, FF_STATUS_COMPLETED);
        ff_dest_linger(d);
    } else {
        g_warning("the source cannot be told that every page is here: %s", error->message);
    }
    ff_dest_stop_listening(d, NULL);
    if (d->control->ops.drop) {
        d->control->ops.drop("inner", d->control->ops.opaque);
    }
    ff_ownership_idle(d->cfg->state);
    if (d->origin) {
        d->origin->over(d);
    }
    ff_control_set_status(d->control, FF_STATUS_COMPLETED);
}

void ff_adopt_destination(FfDestination *d)
{
    switch (ff_ownership_phase(d->cfg->state)) {
    case FF_PHASE_GRANTED:
        ff_dest_put_back(d); /* the engine that died may not have come to it */
        adopt_granted(d);
        return;
    case FF_PHASE_LOADED:
        ff_dest_put_back(d);
        adopt_loaded(d);
        return;
    case FF_PHASE_DONE:
        adopt_done(d);
        return;
    default:
        ff_control_set_error(d->control, DIED " before the guest could run here");
        ff_ownership_dead(d->cfg->state);
        ff_control_kill_vmm(d->control, DIED " while the guest was coming in");
        ff_control_set_status(d->control, FF_STATUS_FAILED);
    }
}
