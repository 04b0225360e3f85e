/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A destination that has loaded the device state and was never granted the guest is of no use any
 * more when its source has taken the guest back, or wants to (migration/source/revoke.c).
 *
 * It answers when there is no way back: phase DEAD is stored and its QEMU has ended. If it was
 * granted the guest it refuses, whatever the source thinks.
 *
 * Thread: the coordinator.
 */
#include "migration/destination/revoke.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "migration/common/ownership.h"

/* A destination ends its QEMU within this time, then by force (milliseconds). */
#define QUIT_DEADLINE_MS 5000
#define KILL_DEADLINE_MS 10000

static bool vmm_ends(const FfDestination *d, int deadline_ms)
{
    struct pollfd p = {.fd = d->cfg->pidfd, .events = POLLIN};

    return poll(&p, 1, deadline_ms) > 0 && p.revents & POLLIN;
}

/* The VMM is asked to end, and made to if it does not (it may hang). */
bool ff_dest_ensure_end(FfDestination *d)
{
    if (d->cfg->pidfd < 0) {
        return false; /* nobody would see it */
    }
    if (vmm_ends(d, QUIT_DEADLINE_MS)) {
        return true;
    }
    ff_control_kill_vmm(d->control, "it has not ended after a failed incoming migration");
    return vmm_ends(d, KILL_DEADLINE_MS);
}

bool ff_dest_take_revoke(FfDestination *d, FfChannel *ch, GError **error)
{
    static const char granted[] = "it was granted the guest, which runs there: resume, and let "
                                  "the rest of its memory follow";

    ff_mutex_lock(&d->control->lock);
    bool given = d->control->granted;
    if (!given) {
        g_clear_pointer(&d->control->error, g_free);
        d->control->error = g_strdup("the source has taken the guest back");
        d->revoker = ch;
        d->conn->connecting = NULL;
        d->control->events |= FF_EV_ABORTED | FF_EV_DEAD;
    }
    ff_mutex_unlock(&d->control->lock);
    if (given) {
        FfFrame f = ff_frame(FF_FRAME_REVOKED, strlen(granted));
        f.page = 1;
        ff_channel_send_last(ch, f, granted, 0);
        g_set_error(error, FF_M_ERROR, 0, "%s wanted the guest back, which runs here",
                    ff_channel_peer(ch));
    }
    return !given;
}

void ff_dest_answer_revoke(FfDestination *d, bool ended)
{
    if (d->revoker) {
        if (ended) {
            ff_channel_send(d->revoker, ff_frame(FF_FRAME_REVOKED, 0), NULL, true);
        } else {
            /* The side that starts the guest on this answer must be sure that it does not run
             * here. */
            g_message("the source wants the guest back, and gets no answer: it is not certain that "
                      "this QEMU has ended");
            ff_channel_shutdown(d->revoker);
        }
        ff_control_event(d->control, FF_EV_ANSWERED);
        g_main_context_wakeup(d->control->driver_ctx); /* which may wait to end */
    }
}

bool ff_dest_owes_reason(FfDestination *d)
{
    FfPhase phase = ff_ownership_phase(d->cfg->state);

    ff_mutex_lock(&d->control->lock);
    bool owes = !d->control->granted && !(d->control->events & (FF_EV_TOLD | FF_EV_QUIT));
    ff_mutex_unlock(&d->control->lock);
    return owes && (phase == FF_PHASE_SETUP || phase == FF_PHASE_LOADING) &&
           ff_conn_vmm_ended(d->conn, 0);
}

bool ff_dest_speaks(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    unsigned end = d->revoker ? FF_EV_ANSWERED : d->parting ? FF_EV_TOLD : 0;
    bool speaks = end && !(d->control->events & end);
    ff_mutex_unlock(&d->control->lock);
    return speaks || ff_dest_owes_reason(d);
}
