/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a client says between the last event of a migration and its end, which is a moment later, or
 * when it has come along with the guest in an upgrade: it is answered at that end. Main loop's
 * thread.
 */
#include "migration/common/states.h"
#include "qapi/driver-private.h"

typedef struct {
    FfCall *call;
    FfHandler next;
} Waiting;

void ff_call_await_end(FfCall *call, FfHandler next)
{
    Waiting *w = g_new(Waiting, 1);

    *w = (Waiting){call, next};
    g_queue_push_tail(&call->driver->waiting_over, w);
}

bool ff_call_when_over(FfCall *call, FfHandler next)
{
    const FfDriver *d = call->driver;

    if (!d->migration || d->config.state->role != FF_ROLE_SOURCE || !ff_state_is_final(d->status)) {
        return false;
    }
    ff_call_await_end(call, next);
    return true;
}

bool ff_call_when_taken_over(FfCall *call, FfHandler next)
{
    const FfDriver *d = call->driver;

    if (!d->migration || d->config.state->role != FF_ROLE_DESTINATION ||
        !d->start_ops->needs_events) {
        return false;
    }
    ff_call_await_end(call, next);
    return true;
}

bool ff_driver_has_guest(const FfDriver *d)
{
    uint32_t phase = __atomic_load_n(&d->config.state->phase, __ATOMIC_ACQUIRE); /* coordinator's */

    return !ff_state_is_marked(d->config.state, FF_MARK_BORROWED) || phase == FF_PHASE_GRANTED ||
           phase == FF_PHASE_DONE;
}

bool ff_call_when_guest_is_here(FfCall *call, FfHandler next)
{
    return ff_driver_has_guest(call->driver) && ff_call_when_taken_over(call, next);
}

/* A client may be told that a restore has completed before its memory is here. */
static bool is_whole(FfDriver *d)
{
    if (!ff_restore_is_under_way(d)) {
        return true;
    }
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->migration);
    return info->ram_remaining == 0;
}

bool ff_call_when_whole(FfCall *call, FfHandler next)
{
    FfDriver *d = call->driver;

    if (!d->migration || d->status != FF_STATUS_COMPLETED || !is_whole(d)) {
        return false;
    }
    ff_migration_stop_waiting(d->migration);
    ff_call_await_end(call, next);
    return true;
}

void ff_driver_migration_over(FfDriver *d)
{
    g_autoptr(GQueue) waiting = g_queue_copy(&d->waiting_over);
    Waiting *w;

    g_queue_clear(&d->waiting_over);
    ff_deferred_go_on(d); /* it came before them */
    while ((w = g_queue_pop_head(waiting))) {
        w->next(w->call); /* waits once more if one before it has begun a migration */
        g_free(w);
    }
}
