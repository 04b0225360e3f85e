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
 *   destination granted kept, postcopy-paused, recoverable: who needs a missing page waits, since
 *                       QEMU and the relay hold the userfaultfd open
 *   destination done    every page is here: what was left over is undone, completed; a source that
 *                       does not know it yet can resume
 *
 * Thread: the coordinator.
 */
#include "migration/internal.h"

#include <string.h>

#include "uffd/uffd.h"

#define DIED "the migration engine ended unexpectedly"

static void undo(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    if (!m->cfg.vmm->state.undo(&m->cfg.vmm->state, &error)) {
        g_warning("%s", error->message);
    }
}

/* The engine that died leaves a lost connection, not something to undo. */
static bool is_lost(const FfStateHeader *s)
{
    FfPhase phase = ff_journal_phase(s);

    return s->role == FF_ROLE_SOURCE ? ff_journal_right(s) == FF_RUN_GIVEN
                                     : phase == FF_PHASE_LOADED || phase == FF_PHASE_GRANTED;
}

FfStatus ff_m_begin_adoption(FfMigration *m)
{
    FfStateHeader *s = m->cfg.state;
    FfPhase phase = ff_journal_phase(s);

    m->adopting = true;
    m->released = m->cfg.release_ram; /* as far as anybody knows */
    memcpy(m->session, s->uuid, sizeof(m->session));
    memcpy(m->secret, s->secret, sizeof(m->secret));
    m->peer_uri = s->role == FF_ROLE_SOURCE && s->peer_uri[0]
                      ? g_strndup(s->peer_uri, sizeof(s->peer_uri) - 1)
                      : NULL;
    /* What is left of the engine that died is of an old epoch from here on. */
    m->epoch = ++s->epoch;
    m->given = m->cfg.role == FF_ROLE_SOURCE ? ff_journal_right(s) == FF_RUN_GIVEN
                                             : phase == FF_PHASE_GRANTED || phase == FF_PHASE_DONE;
    m->stopped = m->cfg.role == FF_ROLE_SOURCE && (is_lost(s) || phase == FF_PHASE_STOPPED);
    if (!is_lost(s)) {
        return FF_STATUS_SETUP;
    }
    ff_m_dead(m, DIED);
    if (phase == FF_PHASE_DONE) {
        return FF_STATUS_POSTCOPY_ACTIVE; /* only the last steps are missing */
    }
    bool knows_where = m->peer_uri || m->cfg.listen_fd >= 0;
    return m->cfg.auto_recover_s && knows_where ? FF_STATUS_POSTCOPY_RECOVER
                                                : FF_STATUS_POSTCOPY_PAUSED;
}

/* Nothing can be done but keep what is there. */
static void pause_for_ever(FfMigration *m, const GError *why)
{
    g_autofree char *text = g_strdup_printf(DIED ", and cannot be replaced: %s", why->message);

    g_warning("%s", text);
    ff_recovery_begin(m, 0);
    ff_recovery_pause(m, text);
    ff_m_wait(m, FF_EV_QUIT);
}

/* ---- source -------------------------------------------------------------------------------- */

static bool is_given(const FfMigration *m)
{
    return ff_journal_right(m->cfg.state) == FF_RUN_GIVEN;
}

/* FALSE: it is the peer's by now. */
static bool take_guest_back(FfMigration *m)
{
    FfVmm *vmm = m->cfg.vmm;
    g_autoptr(GError) error = NULL;
    bool running = false, start = !ff_m_client_stopped(m);

    if (m->cfg.fd >= 0) {
        /* MIG_RP_MSG_SHUT with an error; then the end, for a QEMU that sits in a write. */
        static const uint8_t shut[8] = {0, 1, 0, 4, 0, 0, 0, 1};
        struct iovec iov = {(void *)shut, sizeof(shut)};
        m->inner = ff_channel_new(m->cfg.fd, FF_CHANNEL_MAIN);
        m->cfg.fd = -1;
        ff_channel_write_all(m->inner, &iov, 1, true);
        ff_channel_shutdown(m->inner);
        if (!vmm->state.wait_saved(&vmm->state, 1, &error)) {
            g_warning("roll back: %s", error->message);
            g_clear_error(&error);
        }
    } else if (vmm->state.forget_kept) {
        /* Nobody else has it any more: while QEMU keeps it, QEMU waits for its own end. */
        vmm->state.forget_kept(&vmm->state);
    }
    /* All that took a while. */
    if (is_given(m)) {
        return false;
    }
    bool resumed = vmm->run.resume(&vmm->run, m->cfg.state->run_state, start, &running, &error);
    if (!resumed && !m->inner) {
        /* The engine died before its socket was held: QEMU saw the end, and may not have come to
         * an end with it yet. */
        g_clear_error(&error);
        resumed = vmm->state.wait_saved(&vmm->state, 1, &error) && !is_given(m) &&
                  vmm->run.resume(&vmm->run, m->cfg.state->run_state, start, &running, &error);
    }
    if (!resumed) {
        if (is_given(m)) {
            return false;
        }
        g_warning("roll back: the guest could not be resumed: %s", error->message);
        g_clear_error(&error);
    }
    if (running) {
        vmm->run.announce(&vmm->run);
    }
    ff_source_release_guest(m, running);
    return true;
}

static void adopt_given(FfMigration *m, FfPhase phase)
{
    g_autoptr(GError) error = NULL;

    if (!ff_source_adopt(m, &error)) {
        pause_for_ever(m, error);
        return;
    }
    if (phase == FF_PHASE_DONE) {
        /* The destination has said DONE, and may have been told FINISHED: it waits for nobody, so
         * nobody may be waited for. */
        ff_recovery_begin(m, FF_EV_DEAD);
        ff_m_event(m, FF_EV_DONE);
    }
    ff_source_see_through(m);
}

/* The engine that was taken for dead has given the guest away meanwhile. */
static void adopt_given_late(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    m->given = m->stopped = true;
    ff_mutex_unlock(&m->lock);
    ff_m_dead(m, DIED);
    ff_m_set_status(m, FF_STATUS_ACTIVE);
    ff_m_set_status(m, FF_STATUS_POSTCOPY_ACTIVE);
    adopt_given(m, FF_PHASE_GRANTED);
}

static void adopt_source(FfMigration *m, FfPhase phase)
{
    if (is_given(m)) {
        adopt_given(m, phase);
        return;
    }
    if (phase == FF_PHASE_STOPPED && !take_guest_back(m)) {
        adopt_given_late(m);
        return;
    }
    ff_precopy_end(m, false);
    undo(m);
    ff_m_end_device_copy(m);
    ff_journal_idle(m->cfg.state);
    /* A destination that has loaded what it got waits for a grant that will not come. */
    m->in_doubt = phase == FF_PHASE_STOPPED;
    ff_m_set_error(m, DIED ": the guest goes on here, repeat the migration");
    ff_m_set_status(m, FF_STATUS_FAILED);
}

/* ---- destination ------------------------------------------------------------------------------
 */

/* The guest runs, or is to run. */
static void adopt_granted(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    ff_m_end_device_copy(m); /* the guest goes on from it, or has gone on */
    if (!ff_dest_adopt(m, &error)) {
        pause_for_ever(m, error);
        return;
    }
    if (!__atomic_load_n(&m->cfg.state->resumed, __ATOMIC_ACQUIRE)) {
        ff_dest_start_guest(m, !m->cfg.start_paused);
    }
    if (ff_m_events(m) & FF_EV_ALL) {
        /* Every page is here: there is nothing to recover but the last word. */
        ff_m_set_status(m, FF_STATUS_POSTCOPY_RECOVER);
        ff_m_set_status(m, FF_STATUS_POSTCOPY_ACTIVE);
    }
    ff_dest_see_through(m);
}

static void adopt_loaded(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    if (ff_dest_adopt(m, &error)) {
        ff_dest_end_loaded(m);
    } else {
        pause_for_ever(m, error);
    }
}

/* Every page is here. Whether the source has been told cannot be known: it may come and ask. */
static void adopt_done(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    undo(m);
    ff_m_set_status(m, FF_STATUS_ACTIVE);
    ff_m_set_status(m, FF_STATUS_POSTCOPY_ACTIVE);
    ff_dest_adopt_listener(m);
    if (ff_recovery_adopt_blocks(m, &error) && ff_dest_map_bitmaps(m, false, &error)) {
        ff_dest_end_connection(m);
        ff_m_set_status(m, FF_STATUS_COMPLETED);
        ff_dest_linger(m);
    } else {
        g_warning("the source cannot be told that every page is here: %s", error->message);
    }
    ff_dest_stop_listening(m, NULL);
    if (m->ops.drop) {
        m->ops.drop("inner", m->ops.opaque);
    }
    ff_journal_idle(m->cfg.state);
    ff_m_set_status(m, FF_STATUS_COMPLETED);
}

static void adopt_destination(FfMigration *m, FfPhase phase)
{
    switch (phase) {
    case FF_PHASE_GRANTED:
        adopt_granted(m);
        return;
    case FF_PHASE_LOADED:
        adopt_loaded(m);
        return;
    case FF_PHASE_DONE:
        adopt_done(m);
        return;
    default:
        ff_m_set_error(m, DIED " before the guest could run here");
        ff_journal_dead(m->cfg.state);
        ff_m_kill_vmm(m, DIED " while the guest was coming in");
        ff_m_set_status(m, FF_STATUS_FAILED);
    }
}

void ff_m_adopt(FfMigration *m)
{
    FfPhase phase = ff_journal_phase(m->cfg.state);

    if (m->cfg.role == FF_ROLE_SOURCE) {
        adopt_source(m, phase);
    } else {
        adopt_destination(m, phase);
    }
}
