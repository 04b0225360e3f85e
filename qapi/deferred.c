/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state of what waits for the end of a restore (after-restore.c): its end, by itself, by
 * migrate_cancel, or with an engine that died, and its beginning. Main loop's thread.
 */
#include "qapi/driver-private.h"

bool ff_restore_is_under_way(const FfDriver *d)
{
    return d->migration && ff_migration_is_restore(d->migration);
}

static void forget_deferred(FfDriver *d)
{
    d->deferring = d->deferred_cancelled = false;
    d->deferred_next = NULL;
    d->config.state->driver_flags &= ~(uint32_t)FF_DRIVER_DEFERRED;
}

void ff_deferred_end(FfDriver *d, FfStatus status, const char *why)
{
    if (!d->deferring) {
        return; /* it has begun, and has said so itself */
    }
    forget_deferred(d);
    ff_driver_store_end(d, FF_ROLE_SOURCE, status, why);
    d->deferred_over = true;
    ff_driver_report(d, status);
}

void ff_deferred_failed(FfDriver *d, const char *why)
{
    ff_deferred_end(d, FF_STATUS_FAILED, why);
}

void ff_deferred_fail(FfDriver *d, const char *why)
{
    FfCall *call = g_steal_pointer(&d->deferred);

    if (call) {
        ff_call_error(call, "%s", why);
    }
}

bool ff_deferred_cancel(FfDriver *d)
{
    FfCall *call = g_steal_pointer(&d->deferred);

    if (!d->deferring) {
        return false;
    }
    if (!call) {
        d->deferred_cancelled = true; /* it is just beginning */
        return true;
    }
    ff_driver_report(d, FF_STATUS_CANCELLING);
    ff_deferred_end(d, FF_STATUS_CANCELLED, NULL);
    ff_call_return(call, NULL);
    return true;
}

void ff_deferred_begun(FfDriver *d)
{
    bool cancelled = d->deferred_cancelled;

    forget_deferred(d);
    d->deferred_over = false;
    if (cancelled && d->migration) {
        ff_migration_cancel(d->migration, NULL);
    }
}

void ff_deferred_adopt(FfDriver *d)
{
    if (d->config.state->driver_flags & FF_DRIVER_DEFERRED) {
        d->deferring = true;
        d->events = d->config.state->driver_flags & FF_DRIVER_EVENTS;
        ff_deferred_failed(d, "the engine died before it began: the guest runs on, repeat it");
    }
}

void ff_deferred_go_on(FfDriver *d)
{
    FfCall *call = g_steal_pointer(&d->deferred);

    if (call) {
        d->deferred_next(call);
    }
}
