/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cont, stop, system_reset, system_wakeup and query-status while a migration is under way.
 *
 * The relay sends them here from the start of a migration to its end. As long as the guest may
 * not run on this side (source: from the stop on; destination: until the grant), QEMU must not
 * see them: it would answer from a state that is the engine's own doing, or, worse, obey. What is
 * said before that is QEMU's, and is carried out before the engine stops the guest
 * (cont-stop-order.c). While the guest is being stopped or started by the engine, a client that
 * says stop waits. Main loop's thread.
 */
#include <string.h>

#include "base/failpoints.h"
#include "migration/common/states.h"
#include "qapi/driver-private.h"
#include "qapi/driver.h"

static bool holds_guest(FfDriver *d)
{
    return d->migration && ff_migration_holds_guest(d->migration);
}

static bool is_source(FfDriver *d)
{
    return d->config.state->role == FF_ROLE_SOURCE;
}

static void carried_out(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_forward(call, result, error);
}

/* QEMU is told. What stops the guest for a switch waits until it has obeyed:
 * ff_driver_await_words(). A live snapshot, which lets the guest run on by itself, gets what the
 * client says on the private monitor, for relays that do not wait. */
static void carry_out(FfCall *call, const char *command)
{
    FF_FAULT_AT("client-word");
    if (ff_driver_takes_snapshot(call->driver)) {
        call->patient = true; /* stop waits for the disks */
        ff_call_inner(call, command, NULL, carried_out);
    } else {
        ff_call_pass(call);
    }
}

static void take_cont(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;
    bool held = holds_guest(d), now = true; /* the coordinator may stop the guest meanwhile */

    if (held && is_source(d) && !ff_driver_takes_snapshot(d)) {
        ff_call_error(call, "Migration is not finalized yet");
        return;
    }
    if (held && !ff_migration_client_cont(d->migration, &now, &error)) {
        ff_call_error(call, "%s", error->message);
        return;
    }
    if (held || !is_source(d)) {
        ff_driver_client_runs(d, true);
    } else {
        ff_driver_client_forget(d); /* QEMU's from here on */
    }
    if (now) {
        carry_out(call, "cont");
    } else {
        ff_call_return(call, NULL); /* carried out after the grant */
    }
}

/* QEMU 7.2 refuses it where it cannot open its disks, which are the source's still. */
static void incoming_cont_answered(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (error) {
        ff_call_gerror(call, error);
    } else if (d->migration) {
        take_cont(call); /* a source has come meanwhile */
    } else {
        ff_driver_client_runs(d, true);
        if (d->incoming) {
            ff_incoming_set_paused(d->incoming, false);
        }
        ff_call_forward(call, result, NULL);
    }
}

void ff_handle_cont(FfCall *call)
{
    FfDriver *d = call->driver;

    if (d->incoming && !d->migration) {
        /* Not known yet who carries the migration: QEMU and we both remember it. */
        ff_call_inner(call, "cont", NULL, incoming_cont_answered);
    } else {
        take_cont(call);
    }
}

/* It is known soon, but for a destination without its source: there QEMU may have to have a page
 * first. */
static void wait_for_move(FfCall *call)
{
    FfDriver *d = call->driver;

    if (!is_source(d) && ff_state_is_lost(d->status)) {
        ff_call_error(call, "QEMU is starting the guest, and waits for its memory: repeat stop "
                            "when the migration continues (migrate-recover)");
        return;
    }
    ff_call_when_moved(call, ff_handle_stop);
}

/* Noted when QEMU has it, so that the word that QEMU had last is the one that counts. */
static void incoming_stop_answered(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (error) {
        ff_call_gerror(call, error);
    } else if (d->migration) {
        ff_handle_stop(call); /* a source has come meanwhile */
    } else {
        ff_driver_client_runs(d, false);
        if (d->incoming) {
            ff_incoming_set_paused(d->incoming, true);
        }
        ff_call_forward(call, result, NULL);
    }
}

void ff_handle_stop(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;
    FfStopSaid said = FF_STOP_IS_VMMS;
    bool holds_it = false;

    /* The engine that died may not have come to stop the guest: "it stands" would not be true. */
    if (d->taking_back && ff_state_is_marked(d->config.state, FF_MARK_UPGRADE) &&
        !ff_state_is_lost(d->status)) {
        ff_call_when_restored(call, ff_handle_stop);
        return;
    }
    if (d->migration) {
        said = ff_migration_client_stop(d->migration, &holds_it, &error);
    }
    if (said == FF_STOP_REFUSED) {
        ff_call_error(call, "%s", error->message);
        return;
    }

    if (d->incoming && !d->migration) {
        /* As cont: our own may be on its way, for a client that has said it before. */
        call->patient = true;
        ff_call_inner(call, "stop", NULL, incoming_stop_answered);
        return;
    }

    /* At a source that QEMU stops the run state that is noted at the switch says it. */
    if (holds_it || (!is_source(d) && said != FF_STOP_LATER && d->migration)) {
        ff_driver_client_runs(d, false);
    }
    if (said == FF_STOP_LATER) {
        wait_for_move(call);
        return;
    }
    if (said == FF_STOP_STANDS) {
        ff_call_return(call, NULL);
    } else {
        carry_out(call, "stop");
    }
}

/* A reset writes to guest RAM (firmware, tables), which belongs to the other side now. */
void ff_handle_reset(FfCall *call)
{
    FfDriver *d = call->driver;

    if (!holds_guest(d)) {
        ff_call_pass(call);
    } else {
        ff_call_error(call, is_source(d) ? "Migration is not finalized yet"
                                         : "Guest is waiting for an incoming migration");
    }
}

void ff_handle_wakeup(FfCall *call)
{
    if (!holds_guest(call->driver)) {
        ff_call_pass(call);
    } else {
        ff_call_error(call, "Unable to wake up: guest is not in suspended state");
    }
}

static void on_stopped(JsonNode *result, const GError *error, gpointer opaque)
{
    if (error) {
        ff_driver_log(opaque, "farfault: the guest could not be stopped: %s", error->message);
    }
}

/* The human monitors are QEMU's own, and it obeys them: what it does is seen, and undone. */
void ff_driver_qemu_event(FfDriver *d, const char *name, const char *status)
{
    if (!strcmp(name, "MIGRATION") && !g_strcmp0(status, "failed") && d->migration) {
        ff_migration_vmm_failed(d->migration);
    }
    if (!strcmp(name, "MIGRATION")) {
        ff_carried_status(d, status);
    }
    if (!strcmp(name, "RESUME") && d->migration && ff_migration_resumed(d->migration)) {
        ff_driver_log(d,
                      "farfault: somebody resumed the guest here, which may run on the other side "
                      "only: it is stopped again; leave cont to the QMP monitor");
        d->config.port->inner(d->config.port_opaque, "stop", NULL, -1, on_stopped, d);
    }
}

/* Answered without QEMU: on the destination its main loop may wait for a page. */
void ff_handle_query_status(FfCall *call)
{
    FfDriver *d = call->driver;
    JsonObject *status;
    JsonNode *node;

    if (!holds_guest(d)) {
        ff_call_pass(call);
        return;
    }
    status = json_object_new();
    json_object_set_string_member(status, "status", is_source(d) ? "finish-migrate" : "inmigrate");
    if (d->has_singlestep) {
        json_object_set_boolean_member(status, "singlestep", FALSE);
    }
    json_object_set_boolean_member(status, "running", FALSE);
    node = json_node_new(JSON_NODE_OBJECT);
    json_node_take_object(node, status);
    ff_call_return(call, node);
}
