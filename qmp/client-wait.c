/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The waiting side of the QMP client: synchronous calls, collected events, readiness.
 *
 * A waiter sleeps on the client's condition, which is signalled for every reply, event, change of
 * state and cancel, and looks at its own condition again. Deadlines are absolute, so wake-ups for
 * others do not extend them. At a shared monitor there is no other thread: the waiter runs the
 * context itself in place of sleeping.
 *
 * Threads: any but the one that runs the client's context. Lock: the client's, a leaf.
 */
#include "qmp/client-internal.h"

#include <string.h>

struct FfQmpCall {
    gatomicrefcount refs; /* the waiter's and the pending reply's */
    FfQmpClient *client;
    const char *command; /* interned */
    bool done;           /* under client->lock, as are the next two */
    JsonNode *result;
    GError *error;
};

typedef struct {
    FfQmpClient *client;
    GCancellable *cancel;
    gulong handler;
    gint64 end;     /* monotonic microseconds; 0 = none */
    gint64 say;     /* when it is said that it still waits; 0 = not (again) */
    GSource *timer; /* of a shared monitor: ends an iteration of the context at .end; can be NULL */
} Wait;

void ff_qmp_call_drop(FfQmpCall *call)
{
    if (g_atomic_ref_count_dec(&call->refs)) {
        g_clear_pointer(&call->result, json_node_unref);
        g_clear_error(&call->error);
        ff_qmp_client_unref(call->client);
        g_free(call);
    }
}

static void on_cancelled(GCancellable *cancel, gpointer data)
{
    FfQmpClient *client = data;

    /* The lock orders this after a waiter's look at the cancellable and before its sleep ends. */
    ff_mutex_lock(&client->lock);
    ff_cond_broadcast(&client->cond);
    ff_mutex_unlock(&client->lock);
    if (client->shared) {
        g_main_context_wakeup(client->context);
    }
}

static gboolean timer_due(GSource *timer, GSourceFunc func, gpointer data)
{
    g_source_set_ready_time(timer, -1); /* once: it has ended an iteration */
    return G_SOURCE_CONTINUE;
}

static GSource *timer_new(GMainContext *context, gint64 end)
{
    static GSourceFuncs funcs = {.dispatch = timer_due};
    GSource *timer = g_source_new(&funcs, sizeof(GSource));

    g_source_set_ready_time(timer, end);
    g_source_attach(timer, context);
    return timer;
}

/* Without the lock: g_cancellable_connect() may call the handler at once. */
static bool wait_begin(Wait *w, FfQmpClient *client, unsigned deadline_ms, GCancellable *cancel,
                       GError **error)
{
    GMainContext *context = client->context ? client->context : g_main_context_default();

    *w = (Wait){.client = client, .cancel = cancel};
    if (g_main_context_is_owner(context)) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                            "a thread cannot wait for the QMP answers that it reads itself");
        return false;
    }
    if (deadline_ms) {
        w->end = g_get_monotonic_time() + deadline_ms * G_TIME_SPAN_MILLISECOND;
        w->timer = client->shared ? timer_new(context, w->end) : NULL;
    }
    if (cancel) {
        w->handler = g_cancellable_connect(cancel, G_CALLBACK(on_cancelled), client, NULL);
    }
    return true;
}

static void wait_end(Wait *w)
{
    if (w->cancel) {
        g_cancellable_disconnect(w->cancel, w->handler);
    }
    if (w->timer) {
        g_source_destroy(w->timer);
        g_source_unref(w->timer);
    }
}

/* Under the lock, which is not held meanwhile. */
static void sleep_once(Wait *w)
{
    FfQmpClient *client = w->client;

    if (client->shared) {
        ff_mutex_unlock(&client->lock);
        g_main_context_iteration(client->context, TRUE);
        ff_mutex_lock(&client->lock);
    } else if (w->end || w->say) {
        ff_cond_wait_until(&client->cond, &client->lock, w->say ? w->say : w->end);
    } else {
        ff_cond_wait(&client->cond, &client->lock);
    }
}

/* Under the lock. */
static bool wait_living(FfQmpClient *client, GError **error)
{
    if (client->state == FF_QMP_STATE_GONE) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE, "%s", client->why);
        return false;
    }
    return true;
}

/* Under the lock, which is not held meanwhile. A command that QEMU hangs in is known by its name.
 */
static void say_once(Wait *w, const char *what)
{
    if (w->say && g_get_monotonic_time() >= w->say) {
        w->say = 0;
        ff_mutex_unlock(&w->client->lock);
        g_message("QEMU has not answered %s for %u ms: it is waited for", what,
                  w->client->patience_ms);
        ff_mutex_lock(&w->client->lock);
    }
}

/* Under the lock: sleeps once. FALSE and ERROR when there is no more reason to wait for WHAT. */
static bool wait_once(Wait *w, const char *what, GError **error)
{
    if (!wait_living(w->client, error)) {
        return false;
    }
    if (g_cancellable_is_cancelled(w->cancel)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED,
                    "cancelled while waiting for QEMU (%s)", what);
        return false;
    }
    if (w->end && g_get_monotonic_time() >= w->end) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT, "QEMU did not answer in time (%s)",
                    what);
        return false;
    }
    sleep_once(w);
    say_once(w, what);
    return true;
}

static void call_reply(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    FfQmpCall *call = opaque;

    ff_mutex_lock(&client->lock);
    call->result = result; /* ours */
    call->error = error ? g_error_copy(error) : NULL;
    call->done = true;
    ff_cond_broadcast(&client->cond);
    ff_mutex_unlock(&client->lock);
    ff_qmp_call_drop(call);
}

void ff_qmp_client_set_patience(FfQmpClient *client, unsigned ms)
{
    ff_mutex_lock(&client->lock);
    client->patience_ms = ms;
    ff_mutex_unlock(&client->lock);
}

FfQmpCall *ff_qmp_call_begin(FfQmpClient *client, const char *command, JsonObject *args,
                             const int *fds, unsigned n_fds)
{
    FfQmpCall *call = g_new0(FfQmpCall, 1);

    g_atomic_ref_count_init(&call->refs);
    g_atomic_ref_count_inc(&call->refs);
    call->client = ff_qmp_client_ref(client);
    call->command = g_intern_string(command);
    ff_qmp_call_full(client, command, args, fds, n_fds, call_reply, call, true);
    return call;
}

JsonNode *ff_qmp_call_end(FfQmpCall *call, unsigned deadline_ms, GCancellable *cancel,
                          GError **error)
{
    FfQmpClient *client = call->client;
    JsonNode *result = NULL;
    Wait w;

    if (wait_begin(&w, client, deadline_ms, cancel, error)) {
        ff_mutex_lock(&client->lock);
        if (!deadline_ms && !client->shared && client->patience_ms) {
            w.say = g_get_monotonic_time() + client->patience_ms * G_TIME_SPAN_MILLISECOND;
        }
        while (!call->done && wait_once(&w, call->command, error)) {
        }
        if (call->done) {
            result = g_steal_pointer(&call->result);
            if (!result) {
                g_propagate_error(error, g_steal_pointer(&call->error));
            }
        }
        ff_mutex_unlock(&client->lock);
        wait_end(&w);
    }
    ff_qmp_call_drop(call);
    return result;
}

JsonNode *ff_qmp_call_sync(FfQmpClient *client, const char *command, JsonObject *args,
                           const int *fds, unsigned n_fds, unsigned deadline_ms,
                           GCancellable *cancel, GError **error)
{
    return ff_qmp_call_end(ff_qmp_call_begin(client, command, args, fds, n_fds), deadline_ms,
                           cancel, error);
}

static bool wait_state(FfQmpClient *client, FfQmpState state, unsigned deadline_ms,
                       GCancellable *cancel, GError **error)
{
    bool ok = true;
    Wait w;

    if (!wait_begin(&w, client, deadline_ms, cancel, error)) {
        return false;
    }
    ff_mutex_lock(&client->lock);
    while (ok && client->state < state) {
        ok = wait_once(&w, "greeting", error);
    }
    ok = ok && wait_living(client, error);
    ff_mutex_unlock(&client->lock);
    wait_end(&w);
    return ok;
}

bool ff_qmp_client_wait_ready(FfQmpClient *client, unsigned deadline_ms, GCancellable *cancel,
                              GError **error)
{
    return wait_state(client, FF_QMP_STATE_READY, deadline_ms, cancel, error);
}

bool ff_qmp_client_wait_greeting(FfQmpClient *client, unsigned deadline_ms, GCancellable *cancel,
                                 GError **error)
{
    return wait_state(client, FF_QMP_STATE_NEGOTIATING, deadline_ms, cancel, error);
}

unsigned ff_qmp_client_version(FfQmpClient *client)
{
    unsigned version;

    ff_mutex_lock(&client->lock);
    version = client->version;
    ff_mutex_unlock(&client->lock);
    return version;
}

char *ff_qmp_client_greeting(FfQmpClient *client)
{
    char *greeting;

    ff_mutex_lock(&client->lock);
    greeting = g_strdup(client->greeting);
    ff_mutex_unlock(&client->lock);
    return greeting;
}

FfQmpWatch *ff_qmp_watch_new(FfQmpClient *client, const char *name)
{
    FfQmpWatch *watch = g_new0(FfQmpWatch, 1);

    watch->client = ff_qmp_client_ref(client);
    watch->name = g_strdup(name);
    g_queue_init(&watch->events);
    ff_mutex_lock(&client->lock);
    client->watches = g_list_prepend(client->watches, watch);
    ff_mutex_unlock(&client->lock);
    return watch;
}

JsonNode *ff_qmp_watch_next(FfQmpWatch *watch, unsigned deadline_ms, GCancellable *cancel,
                            GError **error)
{
    FfQmpClient *client = watch->client;
    JsonNode *event;
    Wait w;

    if (!wait_begin(&w, client, deadline_ms, cancel, error)) {
        return NULL;
    }
    ff_mutex_lock(&client->lock);
    while (!(event = g_queue_pop_head(&watch->events)) &&
           wait_once(&w, watch->name ? watch->name : "event", error)) {
    }
    ff_mutex_unlock(&client->lock);
    wait_end(&w);
    return event;
}

bool ff_qmp_watch_any(FfQmpWatch *watch)
{
    ff_mutex_lock(&watch->client->lock);
    bool any = !g_queue_is_empty(&watch->events);
    ff_mutex_unlock(&watch->client->lock);
    return any;
}

void ff_qmp_watch_free(FfQmpWatch *watch)
{
    FfQmpClient *client = watch->client;

    ff_mutex_lock(&client->lock);
    client->watches = g_list_remove(client->watches, watch);
    ff_mutex_unlock(&client->lock);
    g_queue_clear_full(&watch->events, (GDestroyNotify)json_node_unref);
    g_free(watch->name);
    ff_qmp_client_unref(client);
    g_free(watch);
}
