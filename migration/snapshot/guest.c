/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The time for which a live snapshot has its guest stand: it is stopped, with QEMU's migration for
 * its devices begun in the same go, and let run on. What the client says of stop and cont meanwhile
 * is ours to carry out (FfSnapshot.stopped); what it says before that goes to QEMU by the private
 * monitor, in front of what is said here (qapi/runstate.c).
 *
 * Threads: the coordinator, or the one that lets the guest run again, never both at a time. No lock
 * but the control's.
 */
#include "migration/snapshot/guest.h"

#include <errno.h>
#include <string.h>

#include "base/failpoints.h"
#include "migration/common/ownership.h"

bool ff_snapshot_goes_on(FfSnapshot *s, GError **error)
{
    ff_mutex_lock(&s->control->lock);
    bool cancelled = s->control->events & (FF_EV_WANT_CANCEL | FF_EV_QUIT);
    bool dead = s->control->events & FF_EV_DEAD;
    if (cancelled) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "the snapshot was cancelled");
    } else if (dead) {
        g_set_error_literal(error, FF_M_ERROR, 0,
                            s->control->error ? s->control->error : "it failed");
    }
    ff_mutex_unlock(&s->control->lock);
    return !cancelled && !dead;
}

/* With the guest stopped. From the answer on it writes to the overlays, whatever becomes of the
 * snapshot. */
static bool branch_disks(void *opaque, GError **error)
{
    FfSnapshot *s = opaque;
    FfVmmDisks *disks = &s->cfg->vmm->disks;

    FF_FAULT_AT("branching");
    if (!ff_snapshot_goes_on(s, error)) {
        return false;
    }
    if (!disks->branch(disks, error)) {
        g_prefix_error(error, "no overlays of the disks: ");
        return false;
    }
    FF_FAULT_AT("branched");
    return true;
}

bool ff_snapshot_stop_guest(FfSnapshot *s, GError **error)
{
    FfVmm *vmm = s->cfg->vmm;

    vmm->state.one_way = true;
    vmm->state.between = s->cfg->snapshot.disks ? branch_disks : NULL;
    vmm->state.between_opaque = s;
    vmm->disks.plan = s->cfg->snapshot.disks;
    s->prepared = vmm->state.prepare(&vmm->state, FF_ROLE_SOURCE, error);
    if (!s->prepared) {
        return false;
    }
    FF_FAULT_AT("prepared");
    ff_ownership_stopped(s->cfg->state);
    FF_FAULT_AT("stopping");
    /* As for a migration (migration/source/source.c). */
    ff_mutex_lock(&s->control->lock);
    s->stopped = s->control->moves = true;
    ff_mutex_unlock(&s->control->lock);
    if (!FF_FAULT_STEP("words", ff_control_await_words(s->control, error)) ||
        !vmm->state.offer(&vmm->state, &s->inner, error)) {
        return false;
    }
    s->saving = true;
    FF_FAULT_AT("offered");
    /* QEMU takes tens of milliseconds for that, in which the guest writes. */
    if (!ff_capture_prepare_again(s->capture, error)) {
        return false;
    }
    ff_stamp(s->stats->stop_us);
    ff_mutex_lock(&s->control->lock);
    s->stopped_by_us = true;
    ff_mutex_unlock(&s->control->lock);
    s->stopping = true;
    s->begun = vmm->state.stop_and_save(&vmm->state, &s->run_state, error);
    if (!s->begun) {
        return false;
    }
    g_strlcpy(s->cfg->state->run_state, s->run_state, sizeof(s->cfg->state->run_state));
    s->saved_state = ff_vmm_runs(s->run_state) ? g_strdup(s->run_state) : NULL;
    FF_FAULT_AT("stopped");
    ff_control_moved(s->control);
    return true;
}

static bool resume_guest(FfSnapshot *s, bool start, bool *running, GError **error)
{
    FfVmmRun *run = &s->cfg->vmm->run;

    if (FF_FAULT_CALL("resume", 0) < 0) {
        g_set_error_literal(error, FF_M_ERROR, 0, g_strerror(errno));
        return false;
    }
    if (FF_FAULT_CALL("unheard", 0) < 0) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NOT_CONNECTED, g_strerror(errno));
        return false;
    }
    return run->resume(run, s->run_state, start, running, error);
}

typedef enum { AS_IT_IS, TO_RUN, TO_STAND } Wish;

/* What the client has said since the guest was stopped, or since this was asked last. AS_IT_IS: it
 * is that already, RUNNING or not, and from now on QEMU is told at once. One look decides, and ends
 * the time in which we answer for QEMU: what is said after it is not lost. Nor if this engine dies:
 * one that finds STOPPED lets the guest run, so the journal is first. */
static Wish take_wish(FfSnapshot *s, bool running)
{
    ff_mutex_lock(&s->control->lock);
    bool cont = s->control->client_cont;
    Wish wish = running && s->control->start_paused ? TO_STAND
                : !running && cont                  ? TO_RUN
                                                    : AS_IT_IS;
    s->control->client_cont = false;
    if (wish == AS_IT_IS && ff_ownership_phase(s->cfg->state) == FF_PHASE_STOPPED) {
        ff_ownership_resumed(s->cfg->state);
    }
    s->stopped = wish != AS_IT_IS;
    ff_mutex_unlock(&s->control->lock);
    return wish;
}

/* What the client has said before the first cont: that one obeys it. TRUE: the guest may run. */
static bool may_start(FfSnapshot *s)
{
    ff_mutex_lock(&s->control->lock);
    bool start = !s->control->start_paused;
    if (s->control->client_cont && !strcmp(s->run_state, "paused")) {
        g_free(s->run_state);
        s->run_state = g_strdup("running");
        s->control->client_cont = false;
    }
    s->stopped_by_us = false;
    s->control->moves = true; /* a client that says stop from here on is answered when it stands */
    ff_mutex_unlock(&s->control->lock);
    return start;
}

bool ff_snapshot_release_guest(FfSnapshot *s, GError **error)
{
    FfVmmRun *run = &s->cfg->vmm->run;
    bool running = false, ok;
    Wish wish;

    if (!s->run_state) {
        /* QEMU may have carried it out, and did not say so. stop() has noted what it was; or has
         * not come to that, and QEMU is only asked what the guest is. */
        s->run_state = g_strdup(s->cfg->state->run_state);
    }
    ok = resume_guest(s, may_start(s), &running, error);
    ff_stamp(s->stats->running_us);
    /* As long as the client's cont is ours to carry out: QEMU tells of it as of a stranger's. */
    if (ok && s->stopping && !s->intruder) {
        run->stood(run, &s->intruder);
    }
    FF_FAULT_AT("releasing");
    while (ok && (wish = take_wish(s, running)) != AS_IT_IS) {
        ok = wish == TO_STAND ? run->halt(run, error)
                              : run->resume(run, "running", true, &running, error);
        running = running && wish == TO_RUN;
    }
    if (ok) {
        ff_control_moved(s->control);
    }
    return ok;
}

/* QEMU may refuse for a while: somebody has locked an image, or its own migration takes long to
 * end. No event tells when that is over. */
#define TRIES 20
#define AGAIN_US 500000

bool ff_snapshot_release_in_the_end(FfSnapshot *s, GError **error)
{
    for (unsigned i = 1;; i++) {
        g_autoptr(GError) local = NULL;
        if (ff_snapshot_release_guest(s, &local)) {
            return true;
        }
        s->left_to_next = ff_control_fail_unheard(s->control, s->cfg->pidfd, local);
        bool quits = ff_control_events(s->control) & FF_EV_QUIT;
        if (i == TRIES || quits) {
            g_propagate_error(error, g_steal_pointer(&local));
            break;
        }
        if (i == 1) {
            g_warning("snapshot: the guest could not be resumed, which is tried again: %s",
                      local->message);
        }
        ff_control_wait_until(s->control, FF_EV_QUIT, g_get_monotonic_time() + AGAIN_US);
    }
    ff_mutex_lock(&s->control->lock);
    s->stopped = false;
    ff_mutex_unlock(&s->control->lock);
    ff_control_moved(s->control);
    return false;
}
