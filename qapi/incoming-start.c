/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The incoming side without a command: "-incoming URI", at which the relay tells the first engine
 * to listen, and an engine that comes after one that died while it listened, or while it gave the
 * migration to QEMU. Main loop's thread.
 *
 * System calls: pidfd_getfd.
 */
#include "qapi/incoming.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "qapi/listen.h"

/* ---- an engine that died while it gave the migration to QEMU --------------------------------- */

/* CALL, of our own, ends; the relay is told if it waits for it. */
static void on_started(FfCall *call)
{
    const FfDriverConfig *config = &call->driver->config;

    if (call->seq) {
        config->port->send(config->port_opaque, FF_LINK_REPLY, 0, call->seq, NULL, 0, -1);
    }
    ff_call_return(call, NULL);
}

/* Where QEMU listens, if that is a socket that an engine has named (g_free); NULL. */
static char *private_path(JsonNode *info)
{
    JsonObject *object = ff_json_node_object(info);
    JsonNode *list = object ? json_object_get_member(object, "socket-address") : NULL;
    JsonObject *first = ff_json_node_length(list) ? ff_json_node_nth(list, 0) : NULL;
    const char *path = first ? ff_json_string(first, "path") : NULL;

    return path && ff_private_name_is_one(path) ? g_strdup(path) : NULL;
}

/* Only when QEMU has its settings back: without its credentials it would take anybody. */
static void splice_again(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(JsonNode) log = d->config.port->view(d->config.port_opaque, false);

    if (log) {
        ff_incoming_give_up(d, "QEMU's settings for an incoming migration cannot be restored");
    } else if (d->incoming) {
        ff_incoming_splice(d);
    }
    on_started(call);
}

/* QEMU waits for connections at the socket of the engine before this one, or has the connection
 * itself. */
static void begun_already(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    g_autofree char *path = error ? NULL : private_path(result);

    ff_incoming_given(d);
    if (d->incoming && path) {
        d->incoming->name = ff_private_name_adopt(path);
        ff_call_when_restored(call, splice_again);
        return;
    }
    ff_incoming_forget(d);
    on_started(call);
}

/* QEMU's settings are those of a migration of its own; it has not begun one. */
static void settings_taken_back(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    d->config.state->driver_flags &= ~(uint32_t)FF_DRIVER_GIVING_BACK;
    if (d->incoming) {
        ff_driver_filter(d, FF_FILTER_RUN_STATE | FF_FILTER_MIGRATION_EVENTS);
        ff_incoming_watch(d->incoming);
    } else if (call->target.uri) {
        ff_driver_start_incoming(d, call->seq, call->target.uri);
        call->seq = 0;
    }
    on_started(call);
}

/* QEMU takes migrate-incoming once, and can listen at no such URI: which of the two it says tells
 * what it had done. A connection that it was given by name, and not told to use, is of no use any
 * more. */
static void found_out(FfCall *call, JsonNode *result, const GError *error)
{
    if (error && strstr(error->message, "already been started")) {
        ff_call_inner(call, "query-migrate", NULL, begun_already);
    } else {
        ff_driver_close_given(call->driver, FF_INCOMING_FD_NAME);
        ff_call_take_capabilities(call, settings_taken_back);
    }
}

/* An older QEMU forgets with a URI of an unknown kind that multifd may be on; a newer one begins to
 * set up a migration when it knows the kind. */
static void version_known(FfCall *call, JsonNode *result, const GError *error)
{
    const char *nowhere =
        ff_driver_version(call->driver) < FF_QEMU_8_2 ? "unix:/dev/null/farfault" : "farfault:";

    ff_call_inner(call, "migrate-incoming", ff_incoming_uri_argument(NULL, nowhere), found_out);
}

/* CALL is our own; with a seq and a URI it is the relay's, which waits for somebody to listen. The
 * first answer comes after QEMU's greeting, which says the version. */
static void find_out(FfCall *call)
{
    call->patient = true;
    ff_call_inner(call, "query-version", NULL, version_known);
}

/* The client has been told of all this by the engine before this one. */
static void go_on_listening(FfDriver *d, GArray *fds)
{
    FfIncoming *in = ff_incoming_new(d);

    for (guint i = 0; i < fds->len; i++) {
        g_array_append_val(in->fds, g_array_index(fds, int, i));
    }
    in->held = fds->len;
    in->path = ff_listen_path(g_array_index(fds, int, 0));
    in->keep_failed = d->config.state->driver_flags & FF_DRIVER_KEEP_FAILED;
    in->paused = ff_driver_adopts_paused(d);
    d->events = d->config.state->driver_flags & FF_DRIVER_EVENTS;
    d->socket_address = ff_listen_addresses(fds);
    d->incoming = in;
    d->status = FF_STATUS_SETUP;
    ff_driver_filter(d, FF_FILTER_RUN_STATE | (ff_incoming_gives(d) ? FF_FILTER_SETUP_EVENTS
                                                                    : FF_FILTER_MIGRATION_EVENTS));
    ff_driver_log(d, "farfault: the migration engine is a new one, and listens where the one "
                     "before it did");
    if (ff_incoming_gives(d)) {
        find_out(ff_call_new_own(d));
    } else {
        ff_incoming_watch(in);
    }
    ff_driver_touch(d);
}

void ff_driver_listen_again(FfDriver *d)
{
    GArray *fds = d->config.incoming_fds;

    if (!fds || !fds->len) {
        if (ff_incoming_gives(d) &&
            !d->config.incoming_taken) { /* else the relay says where to listen */
            find_out(ff_call_new_own(d));
        }
        return;
    }
    if (d->config.state->driver_flags & FF_DRIVER_LISTENS &&
        d->config.state->phase == FF_PHASE_IDLE) {
        go_on_listening(d, fds);
    } else {
        /* A source was known, or that engine died when it had just left off. */
        FfIncoming left = {.driver = d, .fds = fds, .held = fds->len};

        ff_incoming_release(&left);
    }
    g_array_set_size(fds, 0);
}

/* ---- -incoming URI --------------------------------------------------------------------------- */

static FfCall *argument_new(FfDriver *d, uint32_t seq, const char *uri)
{
    FfCall *call = ff_call_new_own(d);

    call->seq = seq;
    call->target.uri = g_strdup(uri);
    return call;
}

int ff_incoming_copy_fd(const FfDriver *d, int number)
{
    return (int)syscall(SYS_pidfd_getfd, d->config.pidfd, number, 0);
}

static void qemu_listens(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_incoming_give_up(call->driver, error->message);
    } else {
        ff_incoming_given(call->driver);
    }
    on_started(call);
}

/* CALL is our own; its seq is what the relay waits for. */
static void argument_found(FfCall *call, const struct addrinfo *list, const GError *unknown)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = unknown ? g_error_copy(unknown) : NULL;

    if (error || !ff_incoming_begin_listening(d, &call->target, list, false, &error)) {
        /* QEMU prints this and ends. */
        g_autofree char *why =
            g_strdup_printf("-incoming %s: %s", call->target.uri, error->message);

        ff_incoming_give_up(d, why);
    }
    on_started(call);
}

static void listen_at(FfCall *call, FfUri *target)
{
    char *uri = g_steal_pointer(&call->target.uri); /* as it was written */

    call->target = *target;
    *target = (FfUri){.kind = FF_URI_NONE};
    g_free(call->target.uri);
    call->target.uri = uri;
    ff_incoming_find(call, argument_found);
}

void ff_driver_start_incoming(FfDriver *d, uint32_t seq, const char *uri)
{
    g_auto(FfUri) target = {.kind = FF_URI_NONE};
    FfCall *call = argument_new(d, seq, uri);

    if (d->incoming) { /* the engine before this one listened, and could not say so any more */
        on_started(call);
        return;
    }
    if (ff_incoming_gives(d)) {
        find_out(call);
        return;
    }
    ff_uri_parse(&target, uri);
    if (target.kind == FF_URI_FD) {
        /* One that QEMU inherited is ours if it is a socket. */
        int fd = ff_incoming_copy_fd(d, (int)g_ascii_strtoll(target.name, NULL, 10));

        if (ff_incoming_is_socket(fd)) {
            ff_incoming_begin_connected(d, fd, false);
            on_started(call);
            return;
        }
        if (fd < 0) {
            ff_driver_log(d,
                          "farfault: -incoming %s: it cannot be taken from QEMU (%s): QEMU carries "
                          "the migration",
                          uri, g_strerror(errno));
        } else {
            close(fd);
        }
        target.kind = FF_URI_OTHER;
    }
    if (!ff_uri_make_absolute(&target, d->config.qemu_pid)) {
        ff_driver_log(d, "farfault: -incoming %s: %s: QEMU carries the migration", uri,
                      FF_URI_NOT_ABSOLUTE);
        target.kind = FF_URI_OTHER;
    }
    if (target.kind == FF_URI_OTHER || target.kind == FF_URI_FILE) {
        d->config.state->driver_flags |= FF_DRIVER_GIVING_BACK;
        call->patient = true;
        ff_call_inner(call, "migrate-incoming", ff_incoming_uri_argument(NULL, uri), qemu_listens);
    } else {
        listen_at(call, &target);
    }
}
