/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Listening, and who carries what arrives. That is decided when the first connection waits (not
 * accepted yet), because with "-incoming URI" the client sets its capabilities only after QEMU has
 * begun to listen: then the engine is given the listening socket, or QEMU carries it
 * (incoming-stream.c). Main loop's thread.
 */
#include "qapi/incoming.h"

#include <fcntl.h>
#include <glib-unix.h>
#include <sys/stat.h>

#include "net/address.h"
#include "qapi/listen.h"

/* A QEMU that says no at once says it again when asked again. */
#define NO_ANSWER_US G_USEC_PER_SEC

/* ---- who carries it -------------------------------------------------------------------------- */

static void engine_listens(FfCall *call)
{
    FfDriver *d = call->driver;
    FfIncoming *in = d->incoming;
    g_autoptr(GError) error = NULL;
    FfMigrationConfig config = {
        .role = FF_ROLE_DESTINATION,
        .fd = g_array_index(in->fds, int, in->ready),
        .start_paused = in->paused,
    };

    /* A listener stays here too: a source without farfault may have more channels for QEMU. */
    g_array_index(in->fds, int, in->ready) =
        ff_address_is_listening(config.fd) ? fcntl(config.fd, F_DUPFD_CLOEXEC, 0) : -1;
    d->config.port->vmm(d->config.port_opaque)->state.keep_failed = in->keep_failed;
    in->single = !ff_capability(call->capabilities, "multifd") &&
                 !ff_capability(call->capabilities, "postcopy-preempt");
    ff_driver_use_tls(call, &config);
    ff_driver_take_parameters(d, json_node_get_object(call->parameters));
    if (!ff_driver_start(d, &config, call->capabilities, &ff_incoming_ops, &error)) {
        ff_incoming_give_up(d, error->message);
    }
    ff_call_return(call, NULL);
}

static void decide_incoming(FfCall *call)
{
    if (!call->driver->incoming) {
        ff_call_return(call, NULL);
    } else if (call->tls.error) {
        ff_incoming_give_up(call->driver, call->tls.error->message);
        ff_call_return(call, NULL);
    } else if (ff_policy_engine_carries(call) && !call->tls.native) {
        engine_listens(call);
    } else {
        if (call->native) {
            ff_driver_store_native(call->driver, call->native);
        }
        ff_call_give_capabilities(call, ff_incoming_stream);
    }
}

static void got_parameters(FfCall *call)
{
    ff_call_get_tls(call, true, decide_incoming);
}

static void got_capabilities(FfCall *call)
{
    FfIncoming *in = call->driver->incoming;

    if (in && in->parameters) {
        call->parameters = g_steal_pointer(&in->parameters);
        got_parameters(call);
    } else {
        ff_call_get_parameters(call, got_parameters); /* QEMU has not said them: why? */
    }
}

static void parameters_known(FfCall *call)
{
    if (call->driver->incoming) {
        call->driver->incoming->parameters = g_steal_pointer(&call->parameters);
    }
    ff_call_return(call, NULL);
}

static void status_known(FfCall *call, JsonNode *result, const GError *error)
{
    if (!error && result && JSON_NODE_HOLDS_OBJECT(result)) {
        call->driver->has_singlestep =
            json_object_has_member(json_node_get_object(result), "singlestep");
    }
    ff_call_return(call, NULL);
}

/* ---- the first connection -------------------------------------------------------------------- */

/* QEMU does not answer now: the source, or the next one, is looked at again. */
static void not_answered(FfDriver *d, const char *why)
{
    if (!d->incoming) {
        return;
    }
    if (g_get_monotonic_time() - d->incoming->asked_us < NO_ANSWER_US) {
        ff_incoming_give_up(d, why); /* but it has answered, and will not say anything else */
        return;
    }
    ff_driver_log(d, "farfault: a source has connected, and waits: %s", why);
    ff_incoming_watch(d->incoming);
}

/* The source waits: in one go. QEMU answers in order, the last answer decides. */
static void ask_all(FfDriver *d)
{
    FfCall *decides = ff_call_new_own(d);

    decides->failed = not_answered;
    d->incoming->asked_us = g_get_monotonic_time();
    ff_call_inner(ff_call_new_own(d), "query-status", NULL, status_known);
    ff_call_get_parameters(ff_call_new_own(d), parameters_known);
    ff_call_get_capabilities(decides, got_capabilities);
}

/* The first connection waits. */
static gboolean on_ready(gint fd, GIOCondition condition, gpointer opaque)
{
    FfIncoming *in = opaque;

    for (guint i = 0; i < in->fds->len; i++) {
        if (g_array_index(in->fds, int, i) == fd) {
            in->ready = (int)i;
        }
    }
    g_ptr_array_set_size(in->sources, 0);
    ask_all(in->driver);
    return G_SOURCE_REMOVE;
}

void ff_incoming_watch(FfIncoming *in)
{
    for (guint i = 0; i < in->fds->len; i++) {
        GSource *source = g_unix_fd_source_new(g_array_index(in->fds, int, i), G_IO_IN);

        g_source_set_callback(source, G_SOURCE_FUNC(on_ready), in, NULL);
        g_source_attach(source, NULL);
        g_ptr_array_add(in->sources, source);
    }
}

/* ---- the beginning --------------------------------------------------------------------------- */

/* From here on the run state is ours, and QEMU's events are not the clients' business. */
static void begin_incoming(FfDriver *d, FfIncoming *in)
{
    d->incoming = in;
    ff_driver_report_anew(d, FF_STATUS_SETUP);
    d->config.state->role = FF_ROLE_DESTINATION;
    d->config.state->driver_flags &= ~FF_DRIVER_KEEP_FAILED;
    d->config.state->driver_flags |=
        FF_DRIVER_LISTENS | (in->keep_failed ? FF_DRIVER_KEEP_FAILED : 0);
    if (ff_address_is_listening(g_array_index(in->fds, int, 0))) {
        ff_incoming_hold(in);
    }
    ff_driver_store_info(d, NULL);
    ff_carried_set(&d->config.state->totals, FF_CARRIED_NONE);
    ff_driver_filter(d, FF_FILTER_RUN_STATE | FF_FILTER_MIGRATION_EVENTS);
    /* An older QEMU sends this one whether the client wants events or not. */
    if (d->events || ff_driver_version(d) < FF_QEMU_8_2) {
        JsonObject *data = json_object_new();

        json_object_set_string_member(data, "status", "setup");
        ff_driver_event(d, "MIGRATION", data);
    }
    ff_incoming_watch(in);
    ff_driver_touch(d);
}

/* LIST: the addresses of a TCP target. */
bool ff_incoming_begin_listening(FfDriver *d, const FfUri *target, const struct addrinfo *list,
                                 bool keep_failed, GError **error)
{
    JsonArray *addresses = NULL;
    GArray *fds = ff_listen(target, list, &addresses, error);

    if (!fds) {
        return false;
    }
    FfIncoming *in = ff_incoming_new(d);

    g_array_unref(in->fds);
    in->fds = fds;
    in->keep_failed = keep_failed;
    in->path = g_strdup(target->kind == FF_URI_UNIX ? target->path : NULL);
    g_clear_pointer(&d->socket_address, json_array_unref);
    d->socket_address = addresses;
    begin_incoming(d, in);
    return true;
}

/* Goes on with NEXT, at once but for a name of a host. */
void ff_incoming_find(FfCall *call, FfCallResolved next)
{
    const FfUri *t = &call->target;

    if (t->kind == FF_URI_TCP) {
        ff_call_resolve(call, t->host, t->port, ff_uri_family(t), next);
    } else {
        next(call, NULL, NULL);
    }
}

void ff_incoming_begin_connected(FfDriver *d, int fd, bool keep_failed)
{
    FfIncoming *in = ff_incoming_new(d);

    in->keep_failed = keep_failed;
    g_array_append_val(in->fds, fd);
    begin_incoming(d, in);
}

bool ff_incoming_is_socket(int fd)
{
    struct stat st;

    return fd >= 0 && !fstat(fd, &st) && S_ISSOCK(st.st_mode);
}
