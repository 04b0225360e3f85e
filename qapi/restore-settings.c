/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's own settings around a migration, for the driver: taken away while QEMU carries a migration
 * inside a TLS session of ours, and put back when a migration is over.
 *
 * QEMU with tls-creds set would begin TLS once more inside the connection that it is given. So
 * they are unset, in the undo log first, and put back as soon as its connections are over: in
 * between QEMU has no migration that it could begin in the clear, and afterwards none begins
 * before they are back. A log that could not be undone is undone before QEMU saves anything.
 *
 * Main loop's thread, but for the threads that wait for QEMU: their answers are read by the main
 * loop's.
 */
#include "qapi/driver-private.h"

typedef struct {
    FfCall *call;
    FfHandler next;
} Waiting;

/* ---- work that waits for QEMU ---------------------------------------------------------------- */

typedef bool (*WorkFunc)(FfVmmState *state, GError **error);

typedef struct {
    FfCall *call;
    FfVmmState *state;
    WorkFunc func;
    FfCallInner next;
    GError *error;
    GThread *thread;
} Work;

static gboolean work_over(gpointer opaque)
{
    g_autofree Work *work = opaque;
    g_autoptr(GError) error = work->error;

    g_thread_join(work->thread);
    work->next(work->call, NULL, error);
    return G_SOURCE_REMOVE;
}

static gpointer work_thread(gpointer opaque)
{
    Work *work = opaque;

    work->func(work->state, &work->error);
    g_idle_add(work_over, work);
    return NULL;
}

static void start_work(FfCall *call, FfVmmState *state, WorkFunc func, FfCallInner next)
{
    Work *work = g_new0(Work, 1);

    work->call = call;
    work->state = state;
    work->func = func;
    work->next = next;
    work->thread = g_thread_new("settings", work_thread, work);
}

static FfVmmState *vmm_state_of(FfDriver *d)
{
    return &d->config.port->vmm(d->config.port_opaque)->state;
}

static bool has_log(FfDriver *d)
{
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, false);

    return view;
}

/* ---- for a connection under TLS -------------------------------------------------------------- */

void ff_call_unset_tls(FfCall *call, FfCallInner next)
{
    FfVmmState *state = vmm_state_of(call->driver);

    start_work(call, state, state->unset_tls, next);
}

bool ff_driver_splices(FfDriver *d)
{
    return !d->migration && (d->outgoing || d->incoming) &&
           d->config.state->driver_flags & FF_DRIVER_PLAIN_PEER;
}

/* ---- back again ------------------------------------------------------------------------------ */

static bool has_to_wait(const FfDriver *d)
{
    return d->restoring || d->taking_back || d->lifting;
}

void ff_driver_go_on(FfDriver *d)
{
    Waiting *w;

    while (!has_to_wait(d) && (w = g_queue_pop_head(&d->waiting_restored))) {
        w->next(w->call);
        g_free(w);
    }
}

static void on_settled(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (error) {
        /* The log stays, and nothing is saved or migrated by QEMU before it is undone. */
        ff_driver_log(d, "farfault: QEMU's settings are not restored yet: %s", error->message);
    }
    d->restoring = false;
    ff_call_return(call, NULL);
    ff_driver_go_on(d);
}

void ff_driver_restore_settings(FfDriver *d)
{
    if (!d->restoring && has_log(d)) {
        FfVmmState *state = vmm_state_of(d);

        d->restoring = true;
        start_work(ff_call_new_own(d), state, state->undo, on_settled);
    }
}

void ff_call_when_restored(FfCall *call, FfHandler next)
{
    if (!has_to_wait(call->driver)) {
        next(call);
        return;
    }
    Waiting *w = g_new0(Waiting, 1);

    *w = (Waiting){call, next};
    g_queue_push_tail(&call->driver->waiting_restored, w);
}

static void on_restored(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
    } else {
        call->restored(call);
    }
}

static void restore_settings(FfCall *call)
{
    FfVmmState *state;

    if (!has_log(call->driver)) {
        call->restored(call);
        return;
    }
    if (call->driver->migration) { /* it is the log of one that has begun meanwhile */
        ff_call_error(call, FF_MIGRATING);
        return;
    }
    state = vmm_state_of(call->driver);
    start_work(call, state, state->undo, on_restored);
}

void ff_call_restore(FfCall *call, FfHandler next)
{
    call->restored = next;
    ff_call_when_restored(call, restore_settings);
}
