/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration or a snapshot that is asked for while the guest's memory still comes from a file. No
 * mapping of QEMU's can be missing and write-protected at once, so it begins when the last page is
 * here. Its client is answered at once, and sees it in "setup", with what is left of the restore.
 *
 * The client's call ends with that answer; a call of our own continues in its place (`deferred`),
 * with its monitor and its fd. What becomes of it is told by status and event, never by an answer.
 *
 * What becomes of it afterwards: deferred.c.
 *
 * An engine that dies has forgotten it, and the next one says that it failed: nobody takes the end
 * of the restore for that of his snapshot. If the restore pauses it has failed, too: what must be
 * seen then is the pause. Main loop's thread.
 */
#include "migration/common/states.h"
#include "qapi/driver-private.h"

/* ---- its beginning --------------------------------------------------------------------------- */

static void on_cancelled(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_return(call, NULL); /* over already is as good */
}

static void given_to_qemu(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
        return;
    }
    if (call->driver->deferred_cancelled) {
        ff_call_inner(ff_call_new_own(call->driver), "migrate_cancel", NULL, on_cancelled);
    }
    ff_deferred_begun(call->driver);
    ff_call_return(call, NULL);
}

/* FfCall.pass: the client's own line has been answered. An fd has its name on the client's monitor
 * alone. */
static void give_to_qemu(FfCall *call)
{
    JsonObject *args = call->args ? json_object_ref(call->args) : NULL;

    if (call->driver->deferred_cancelled) {
        ff_driver_report(call->driver, FF_STATUS_CANCELLING);
        ff_deferred_end(call->driver, FF_STATUS_CANCELLED, NULL);
        g_clear_pointer(&args, json_object_unref);
        ff_call_return(call, NULL);
    } else if (call->target.kind == FF_URI_FD) {
        ff_call_inject(call, call->name, args, given_to_qemu);
    } else {
        call->patient = true; /* what QEMU has done must be known */
        ff_call_inner(call, call->name, args, given_to_qemu);
    }
}

/* CALL's client has its answer, and what it asked for continues. */
static FfCall *detach_call(FfCall *call)
{
    FfCall *own = ff_call_new_own(call->driver);

    own->mon = call->mon;
    g_free(own->name);
    own->name = g_strdup(call->name);
    own->args = call->args ? json_object_ref(call->args) : NULL;
    own->target = call->target;
    call->target = (FfUri){0};
    own->fd = g_steal_fd(&call->fd);
    own->snapshot = g_steal_pointer(&call->snapshot);
    if (own->snapshot) {
        own->snapshot->detached = true;
    }
    own->failed = ff_deferred_failed;
    own->pass = give_to_qemu;
    return own;
}

/* Why it cannot be waited for (g_free); NULL: it can. */
static char *refusal_reason(FfDriver *d)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->migration);

    if (d->deferring) {
        return g_strdup(FF_MIGRATING);
    }
    if (info->status == FF_STATUS_POSTCOPY_PAUSED) {
        return g_strdup_printf(
            "The guest's memory still comes from a file that cannot be read (%" G_GUINT64_FORMAT
            " MiB are left): migrate-recover first",
            info->ram_remaining >> 20);
    }
    return ff_state_is_postcopy(info->status)
               ? NULL
               : g_strdup("Guest is waiting for an incoming migration");
}

static void begin_waiting(FfCall *call)
{
    FfDriver *d = call->driver;
    FfHandler next = call->next_restored;

    if (!ff_restore_is_under_way(d)) {
        g_clear_pointer(&call->capabilities, json_node_unref);
        g_clear_pointer(&call->inner_capabilities, json_node_unref);
        next(call); /* all is here meanwhile */
        return;
    }
    g_autofree char *why = d->status == FF_STATUS_COMPLETED ? NULL : refusal_reason(d);
    if (why) {
        ff_call_error(call, "%s", why);
        return;
    }
    d->deferred = detach_call(call);
    d->deferred_next = next;
    d->deferring = true;
    d->deferred_over = false;
    ff_driver_want_events(d, ff_capability(call->capabilities, "events"));
    /* Before anybody hears of it. */
    d->config.state->driver_flags |= FF_DRIVER_DEFERRED;
    ff_migration_hurry(d->migration);
    ff_driver_report(d, FF_STATUS_SETUP);
    ff_call_return(call, NULL);
}

bool ff_call_after_restore(FfCall *call, FfHandler next)
{
    FfDriver *d = call->driver;

    if (!ff_restore_is_under_way(d)) {
        if (d->deferring && !call->pass) {
            ff_call_error(call, FF_MIGRATING);
            return true;
        }
        return false;
    }
    g_autofree char *why = d->status == FF_STATUS_COMPLETED ? NULL : refusal_reason(d);
    if (why) {
        ff_call_error(call, "%s", why);
        return true;
    }
    call->next_restored = next;
    ff_call_get_capabilities(call, begin_waiting);
    return true;
}
