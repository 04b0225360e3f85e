/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MIGRATION events, at the pace of a client that acts on the last one it saw.
 *
 * libvirt keeps no list of events, only the last status, and two of its steps look at it late:
 *
 *   the switch   Its source side calls the destination when it sees postcopy-active, its
 *                destination side says cont then. A client that finds postcopy-paused in that
 *                place takes the migration for one that failed before the guest could run: libvirt
 *                destroys the destination, which has the right to run, and the guest is lost. So
 *                postcopy-active is always said, and postcopy-paused not before the client has
 *                continued (source: query-migrate, destination: cont), or after a while in which
 *                nobody did. Its source side looks at the status once more when that query is
 *                answered (libvirt 11.3's qemuMigrationSrcWaitForCompletion()): so until the event
 *                postcopy-paused has been said, also by an engine that adopts and has yet to
 *                say it, the client's query says postcopy-active, and the event is kept for a
 *                moment longer.
 *   the resume   Its source side calls the destination when it sees postcopy-recover after the
 *                answer to migrate with resume=true; a destination that has not said as much by
 *                then is taken for failed again. So the answer waits until the destination has
 *                agreed.
 *
 * At the source "the client" is the one that has begun the migration, or resumed it: others may
 * look as often as they like (farfault status --watch does at each event), and hurry nothing.
 *
 * Any other query-migrate shows the true status at any time. Main loop's thread.
 */
#include "base/deadline.h"
#include "qapi/driver-private.h"

/* How long postcopy-paused is kept from a client that does not continue (seconds). libvirt's
 * destination is called by way of the client, which takes a connection for dead after 30 s. */
#define SOURCE_FOLLOWS_S 3
/* And from one that was just told postcopy-active, by the event or by its query. */
#define SOURCE_LOOKS_S 1
#define DESTINATION_FOLLOWS_S 30
/* A destination that is there agrees in a few round trips (seconds). */
#define AGREES_S 3

void ff_driver_want_events(FfDriver *d, bool on)
{
    uint32_t flags = d->config.state->driver_flags;

    d->events = on;
    d->config.state->driver_flags = on ? flags | FF_DRIVER_EVENTS : flags & ~FF_DRIVER_EVENTS;
}

void ff_driver_report_anew(FfDriver *d, FfStatus status)
{
    /* One that was deferred has said that already. */
    d->status = d->deferring ? FF_STATUS_SETUP : status;
    /* An engine that died may have left what was said of a restore (AS_EAGER). */
    d->config.state->driver_flags &=
        ~(FF_DRIVER_SWITCHED | FF_DRIVER_FOLLOWED | FF_DRIVER_CLIENT_CONT | FF_DRIVER_CLIENT_STOP |
          FF_DRIVER_AS_EAGER | FF_DRIVER_TOLD_PAUSED);
    d->told_active = 0;
}

/* ---- events ---------------------------------------------------------------------------------- */

static void send_migration_event(FfDriver *d, FfStatus status)
{
    JsonObject *data = json_object_new();

    json_object_set_string_member(data, "status", ff_status_name(status));
    ff_driver_event(d, "MIGRATION", data);
    d->config.state->driver_flags &= ~FF_DRIVER_TOLD_PAUSED;
    if (status == FF_STATUS_POSTCOPY_ACTIVE) {
        d->config.state->driver_flags |= FF_DRIVER_SWITCHED;
        d->told_active = g_get_monotonic_time();
    } else if (status == FF_STATUS_POSTCOPY_PAUSED) {
        d->config.state->driver_flags |= FF_DRIVER_TOLD_PAUSED;
    }
}

static void say_paused(FfDriver *d)
{
    g_source_remove(d->paused_timer);
    d->paused_timer = 0;
    send_migration_event(d, FF_STATUS_POSTCOPY_PAUSED);
}

static gboolean nobody_follows(gpointer opaque)
{
    say_paused(opaque);
    return G_SOURCE_REMOVE;
}

/* How long postcopy-paused is still kept from the source's client (ms). */
static unsigned source_keeps(const FfDriver *d)
{
    unsigned s =
        d->config.state->driver_flags & FF_DRIVER_FOLLOWED ? SOURCE_LOOKS_S : SOURCE_FOLLOWS_S;
    gint64 end;

    /* The engine before may have said it just now. */
    if (!d->told_active) {
        return s * 1000;
    }
    end = d->told_active + s * G_USEC_PER_SEC;
    return (unsigned)ff_deadline_left_ms(end);
}

/* TRUE: postcopy-paused is said later. */
static bool hold_paused(FfDriver *d)
{
    const FfStateHeader *state = d->config.state;
    unsigned ms;

    if (!(state->driver_flags & FF_DRIVER_SWITCHED)) {
        send_migration_event(d, FF_STATUS_POSTCOPY_ACTIVE);
    }
    if (state->driver_flags & FF_DRIVER_TOLD_PAUSED) {
        return false; /* by the engine before */
    }
    if (state->role == FF_ROLE_SOURCE) {
        ms = source_keeps(d);
    } else {
        bool waits = d->config.start_paused && !(state->driver_flags & FF_DRIVER_FOLLOWED);
        ms = waits ? DESTINATION_FOLLOWS_S * 1000 : 0;
    }
    if (ms) {
        d->paused_timer = g_timeout_add(ms, nobody_follows, d);
    }
    return ms;
}

void ff_driver_client_is(FfCall *call)
{
    call->driver->config.state->client = call->mon + 1; /* of a call of our own: not known */
}

/* CALL is of the client that has begun the migration, or resumed it, for all we know. */
static bool is_clients(const FfCall *call)
{
    const FfStateHeader *state = call->driver->config.state;

    return state->role == FF_ROLE_SOURCE && (!state->client || state->client == call->mon + 1);
}

void ff_driver_client_looked(FfCall *call)
{
    FfDriver *d = call->driver;
    FfStateHeader *state = d->config.state;

    if (!is_clients(call) || !(state->driver_flags & FF_DRIVER_SWITCHED) ||
        state->driver_flags & FF_DRIVER_FOLLOWED) {
        return;
    }
    state->driver_flags |= FF_DRIVER_FOLLOWED;
    d->told_active = g_get_monotonic_time();
    if (d->paused_timer) {
        g_source_remove(d->paused_timer);
        d->paused_timer = g_timeout_add(source_keeps(d), nobody_follows, d);
    }
}

FfStatus ff_driver_client_sees(const FfCall *call, FfStatus status)
{
    const FfDriver *d = call->driver;
    uint32_t told = d->config.state->driver_flags & (FF_DRIVER_SWITCHED | FF_DRIVER_TOLD_PAUSED);
    bool kept = d->events && is_clients(call) && told == FF_DRIVER_SWITCHED;

    return kept && status == FF_STATUS_POSTCOPY_PAUSED ? FF_STATUS_POSTCOPY_ACTIVE : status;
}

void ff_driver_client_forget(FfDriver *d)
{
    d->config.state->driver_flags &= ~(FF_DRIVER_CLIENT_CONT | FF_DRIVER_CLIENT_STOP);
}

void ff_driver_client_runs(FfDriver *d, bool run)
{
    FfStateHeader *state = d->config.state;

    ff_driver_client_forget(d);
    state->driver_flags |= run ? FF_DRIVER_CLIENT_CONT : FF_DRIVER_CLIENT_STOP;
    if (state->role == FF_ROLE_DESTINATION) {
        state->driver_flags |= FF_DRIVER_FOLLOWED;
        if (d->paused_timer) {
            say_paused(d);
        }
    }
}

/* ---- the answer to migrate with resume=true -------------------------------------------------- */

static void answer_resume(FfDriver *d)
{
    FfCall *call = g_steal_pointer(&d->resuming);

    g_source_remove(d->resume_timer);
    d->resume_timer = 0;
    ff_call_return(call, NULL);
}

static gboolean nobody_agrees(gpointer opaque)
{
    answer_resume(opaque);
    return G_SOURCE_REMOVE;
}

void ff_driver_hold_resume(FfCall *call)
{
    FfDriver *d = call->driver;

    if (d->resuming) {
        ff_call_return(call, NULL); /* another client's, which waits already */
        return;
    }
    d->resuming = call;
    d->resume_begun = false;
    d->resume_timer = g_timeout_add_seconds(AGREES_S, nobody_agrees, d);
}

static void resume_goes_on(FfDriver *d, FfStatus status)
{
    bool under_way =
        status == FF_STATUS_POSTCOPY_RECOVER_SETUP || status == FF_STATUS_POSTCOPY_RECOVER;

    if (!d->resuming) {
        return;
    }
    /* The pause before it may be heard late. */
    if (under_way) {
        d->resume_begun = true;
    } else if (d->resume_begun) {
        answer_resume(d);
    }
}

/* ---- both ------------------------------------------------------------------------------------ */

void ff_driver_report(FfDriver *d, FfStatus status)
{
    if (status == d->status) {
        return;
    }
    d->status = status;
    if (d->paused_timer) {
        say_paused(d);
    }
    if (d->events && !(status == FF_STATUS_POSTCOPY_PAUSED && hold_paused(d))) {
        send_migration_event(d, status);
    }
    resume_goes_on(d, status);
}

void ff_driver_report_clear(FfDriver *d)
{
    g_clear_handle_id(&d->paused_timer, g_source_remove);
    g_clear_handle_id(&d->resume_timer, g_source_remove);
}
