/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The incoming side: listening, and who carries what arrives.
 *
 * migrate-incoming of a migration that QEMU carries passes to QEMU as it came. All else is
 * listened for here, and decided when the first connection waits (not accepted yet), because
 * with "-incoming URI" the client sets its capabilities only after QEMU has begun to listen:
 * the engine is given the listening socket; QEMU is given the one connection with getfd, or,
 * with multifd, listens on a private socket and net/splice.c carries the bytes. Main loop's thread.
 *
 * System calls: pidfd_getfd.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fault/fault.h"
#include "qapi/driver-private.h"
#include "qapi/listen.h"
#include "net/address.h"
#include "qapi/private-name.h"
#include "net/splice.h"

#define FD_NAME "farfault-incoming"

/* Who says no at once says it again when asked again. */
#define NO_ANSWER_US G_USEC_PER_SEC

struct FfIncoming {
    FfDriver *driver;
    GArray *fds;             /* of int: listening sockets, or one connected */
    GPtrArray *sources;      /* GSource: wait for the first connection */
    char *path;              /* unix socket to be removed at the end; NULL */
    FfPrivateName *name;     /* of QEMU's own socket; NULL */
    FfNative *native;        /* NULL unless QEMU carries it over several connections */
    bool paused;             /* the guest is not to run when it has arrived */
    FfEnd *stock;            /* connection of a source without farfault; NULL */
    FfTls *stock_tls;        /* that it is under; NULL */
    GByteArray *stock_first; /* what was read of it */
    GPtrArray *stock_later;  /* of FfChannel: connections that came behind it; NULL: none */
    bool keep_failed;        /* exit-on-error is false */
    bool single;             /* QEMU takes one connection: neither multifd nor postcopy-preempt */
    unsigned held;           /* so many of fds are with the relay, too */
    int ready;               /* index in fds of the one that has a connection */
    gint64 asked_us;         /* when it had come, and QEMU was asked */
    JsonNode *parameters;    /* from its coming until they are looked at; NULL */
};

static void source_free(gpointer source)
{
    g_source_destroy(source);
    g_source_unref(source);
}

/* The relay has a copy of each listening socket until the source is known: an engine that dies
 * before that leaves none behind that nobody serves, and the next one listens where it did. */
static void hold(FfIncoming *in)
{
    for (; in->held < MIN(in->fds->len, FF_LISTENERS_HELD_MAX); in->held++) {
        g_autofree char *name = g_strdup_printf(FF_LISTENER_HELD "%u", in->held);
        int copy = fcntl(g_array_index(in->fds, int, in->held), F_DUPFD_CLOEXEC, 0);

        if (copy < 0) {
            return;
        }
        ff_driver_keep(in->driver, name, copy);
    }
}

static void drop(FfIncoming *in)
{
    while (in->held) {
        g_autofree char *name = g_strdup_printf(FF_LISTENER_HELD "%u", --in->held);

        ff_driver_keep(in->driver, name, -1);
    }
}

void ff_incoming_release(FfIncoming *in)
{
    drop(in);
    for (guint i = 0; i < in->fds->len; i++) {
        int *fd = &g_array_index(in->fds, int, i);

        if (*fd >= 0) {
            close(*fd);
        }
        *fd = -1;
    }
}

/* QEMU's own socket needs a name only until the last connection to it is made. */
void ff_incoming_remove_name(FfIncoming *in)
{
    ff_private_name_remove(in->name);
}

void ff_incoming_free(FfIncoming *in)
{
    g_ptr_array_unref(in->sources);
    g_clear_pointer(&in->native, ff_native_free);
    ff_incoming_release(in);
    g_array_unref(in->fds);
    if (in->path) {
        g_unlink(in->path);
    }
    ff_private_name_free(in->name);
    ff_end_free(in->stock);
    ff_tls_unref(in->stock_tls);
    g_clear_pointer(&in->stock_first, g_byte_array_unref);
    g_clear_pointer(&in->stock_later, g_ptr_array_unref);
    g_clear_pointer(&in->parameters, json_node_unref);
    g_free(in->path);
    g_free(in);
}

bool ff_incoming_is_native(const FfIncoming *in)
{
    return in->native;
}

void ff_incoming_set_paused(FfIncoming *in, bool paused)
{
    in->paused = paused;
}

static FfIncoming *incoming_new(FfDriver *d)
{
    FfIncoming *in = g_new0(FfIncoming, 1);

    in->driver = d;
    in->fds = g_array_new(FALSE, FALSE, sizeof(int));
    in->sources = g_ptr_array_new_with_free_func(source_free);
    in->paused = ff_driver_begins_paused(d);
    return in;
}

/* Listening is over, nobody is carried by us. */
static void forget(FfDriver *d)
{
    d->config.state->driver_flags &= ~(uint32_t)(FF_DRIVER_LISTENS | FF_DRIVER_GIVING_BACK);
    g_clear_pointer(&d->incoming, ff_incoming_free);
    g_clear_pointer(&d->socket_address, json_array_unref);
    ff_driver_filter(d, 0);
    ff_driver_touch(d);
}

/* QEMU is given an incoming migration, and has not said yet that it has it. */
static bool gives(const FfDriver *d)
{
    return d->config.state->role != FF_ROLE_SOURCE &&
           d->config.state->driver_flags & FF_DRIVER_GIVING_BACK;
}

/* QEMU has it. */
static void set_native(FfDriver *d)
{
    FF_FAULT_AT("incoming-given");
    d->config.state->driver_flags |= FF_DRIVER_NATIVE_INCOMING;
    d->config.state->driver_flags &= ~(uint32_t)(FF_DRIVER_LISTENS | FF_DRIVER_GIVING_BACK);
    if (d->incoming) {
        drop(d->incoming);
    }
}

/* QEMU is to carry what was listened for here: its events are the clients' from here on, but for
 * the first one, which they have had. An engine that dies before QEMU has answered leaves its
 * listening sockets to the next one. */
static void give_qemu(FfDriver *d)
{
    ff_driver_filter(d, FF_FILTER_RUN_STATE | FF_FILTER_SETUP_EVENTS);
    d->config.state->driver_flags |= FF_DRIVER_GIVING_BACK;
    FF_FAULT_AT("giving-incoming");
}

static gpointer abandon(gpointer opaque)
{
    FfVmm *vmm = opaque;
    GPtrArray *blocks;
    uint8_t uuid[16];

    /* Not a guest that has come in another way and runs. */
    if (vmm->memory.check(&vmm->memory, FF_ROLE_DESTINATION, &blocks, uuid, NULL) !=
        FF_GUEST_OCCUPIED) {
        vmm->state.abandon(&vmm->state);
    }
    return NULL;
}

/* What QEMU does with an incoming migration that cannot begin: it ends, with status 1. To make it
 * do so takes answers from QEMU, so it is not for the main loop's thread. */
static void give_up(FfDriver *d, const char *why)
{
    FfVmm *vmm = d->config.port->vmm(d->config.port_opaque);

    ff_driver_store_failure(d, FF_ROLE_DESTINATION, why);
    ff_driver_report(d, FF_STATUS_FAILED);
    ff_driver_log(d, "farfault: migration destination failed: %s", why);
    forget(d);
    g_thread_unref(g_thread_new("abandon", abandon, vmm));
}

/* --- QEMU carries it ------------------------------------------------------------------------ */

static JsonObject *uri_argument(const FfIncoming *in, const char *uri)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "uri", uri);
    if (in && in->keep_failed) {
        json_object_set_boolean_member(args, "exit-on-error", FALSE);
    }
    return args;
}

static void native_failed(FfCall *call, const GError *error)
{
    give_up(call->driver, error->message);
    ff_call_return(call, NULL);
}

static void native_over(gpointer opaque)
{
    forget(opaque);
    ff_driver_settle(opaque);
}

/* What was read of the first connection goes to QEMU before the rest of it; then those who came
 * behind it, in their order. */
static void join_stock(FfIncoming *in)
{
    FfNativeBegun begun = {.first = in->stock_first};
    int qemu = in->stock ? ff_address_connect_path(ff_private_name_path(in->name)) : -1;

    if (qemu >= 0) {
        ff_native_join(in->native, g_steal_pointer(&in->stock), qemu, &begun);
    }
    while (in->stock_later && in->stock_later->len) {
        ff_native_take_peer(in->native, g_ptr_array_steal_index(in->stock_later, 0));
    }
    g_clear_pointer(&in->stock_later, g_ptr_array_unref);
}

/* QEMU listens at the private name. */
static void start_splices(FfDriver *d)
{
    FfIncoming *in = d->incoming;

    ff_driver_close_mem(d);
    in->native = ff_native_new(native_over, d);
    ff_native_set_tls(in->native, in->stock_tls, NULL);
    ff_native_accept_peers(in->native, in->fds, ff_private_name_path(in->name));
    ff_driver_filter(d, 0);
}

static void native_listens(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (error) {
        native_failed(call, error);
        return;
    }
    FfIncoming *in = d->incoming;

    set_native(d);
    start_splices(d);
    join_stock(in);
    if (in->single) {
        ff_incoming_remove_name(in); /* so that nothing is left of an engine that dies */
    }
    ff_call_return(call, NULL);
}

/* Several connections: QEMU has to accept them itself. */
static void native_many(FfCall *call)
{
    FfIncoming *in = call->driver->incoming;
    g_autoptr(GError) error = NULL;

    in->name = ff_private_name_new("incoming", &error);
    if (!in->name) {
        native_failed(call, error);
        return;
    }
    g_autofree char *uri = g_strdup_printf("unix:%s", ff_private_name_path(in->name));

    ff_call_inner(call, "migrate-incoming", uri_argument(in, uri), native_listens);
}

static void native_begun(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_driver_close_given(call->driver, FD_NAME); /* it need not end: exit-on-error */
        native_failed(call, error);
        return;
    }
    set_native(call->driver);
    forget(call->driver); /* the socket is QEMU's now */
    ff_call_return(call, NULL);
}

static void native_given(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        native_failed(call, error);
    } else {
        FF_FAULT_AT("incoming-named");
        ff_call_inner(call, "migrate-incoming", uri_argument(call->driver->incoming, "fd:" FD_NAME),
                      native_begun);
    }
}

static bool listens(int fd)
{
    int listening = 0;
    socklen_t length = sizeof(listening);

    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
    return listening;
}

/* One connection: QEMU gets the socket itself. */
static void native_one(FfCall *call)
{
    FfIncoming *in = call->driver->incoming;
    int fd = g_array_index(in->fds, int, in->ready);
    JsonObject *args;

    if (listens(fd)) {
        call->fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    } else {
        call->fd = fd;
        g_array_index(in->fds, int, in->ready) = -1;
    }
    if (call->fd < 0) {
        g_autoptr(GError) error =
            g_error_new(FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC, "accept: %s", g_strerror(errno));

        native_failed(call, error);
        return;
    }
    args = json_object_new();
    json_object_set_string_member(args, "fdname", FD_NAME);
    ff_call_inner_fd(call, "getfd", args, call->fd, native_given);
}

static void native_flags_set(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        native_failed(call, error);
        return;
    }
    FfIncoming *in = call->driver->incoming;

    give_qemu(call->driver);
    call->patient = true; /* what QEMU has done must be known */
    /* Behind a socket that is connected no other connection can come. */
    if (listens(g_array_index(in->fds, int, in->ready)) &&
        (ff_capability(call->capabilities, "multifd") ||
         ff_capability(call->capabilities, "postcopy-preempt"))) {
        native_many(call);
    } else {
        native_one(call);
    }
}

/* --- a source without farfault -------------------------------------------------------------- */

static void stock_settings_made(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        native_failed(call, error);
        return;
    }
    give_qemu(call->driver);
    call->patient = true; /* as above */
    native_many(call);
}

static void stock_flags_set(FfCall *call, JsonNode *result, const GError *error)
{
    if (!error && call->driver->incoming->stock_tls) {
        ff_call_unset_tls(call, stock_settings_made);
    } else {
        stock_settings_made(call, result, error);
    }
}

static void stock_run_set(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        /* cont opens the disks for writing, and the source has them still. */
        ff_driver_log(call->driver, "farfault: the guest will be paused when it has arrived: %s",
                      error->message);
    }
    ff_call_give_capabilities(call, stock_flags_set);
}

static void on_stock(FfDriver *d, const FfStockPeer *peer)
{
    FfIncoming *in = d->incoming;

    in->stock = ff_end_new_channel(peer->channel);
    in->stock_tls = ff_tls_ref(peer->tls);
    in->stock_first = g_byte_array_ref(peer->first);
    in->stock_later = peer->later;
    d->config.state->driver_flags |= FF_DRIVER_STOCK_PEER;
    ff_driver_store_native(d,
                           peer->refused ? peer->refused : "the source is a QEMU without farfault");
    /* What the client has said about running since the engine began: QEMU was not told. */
    if (peer->run_changed) {
        ff_call_inner(ff_call_new_own(d), peer->run ? "cont" : "stop", NULL, stock_run_set);
    } else {
        ff_call_give_capabilities(ff_call_new_own(d), stock_flags_set);
    }
}

void ff_incoming_active(FfDriver *d)
{
    if (d->incoming) {
        ff_incoming_release(d->incoming);
        /* Before done(): an engine that comes after the last step must not listen again, as
         * somebody runs here. */
        d->config.state->driver_flags &= ~FF_DRIVER_LISTENS;
    }
}

void ff_incoming_done(FfDriver *d)
{
    d->config.state->driver_flags &= ~FF_DRIVER_LISTENS;
    g_clear_pointer(&d->incoming, ff_incoming_free);
    g_clear_pointer(&d->socket_address, json_array_unref);
}

const FfStartOps ff_incoming_ops = {
    .stock = on_stock,
    .active = ff_incoming_active,
    .done = ff_incoming_done,
};

/* --- who carries it ------------------------------------------------------------------------- */

static void engine(FfCall *call)
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
        listens(config.fd) ? fcntl(config.fd, F_DUPFD_CLOEXEC, 0) : -1;
    d->config.port->vmm(d->config.port_opaque)->state.keep_failed = in->keep_failed;
    in->single = !ff_capability(call->capabilities, "multifd") &&
                 !ff_capability(call->capabilities, "postcopy-preempt");
    ff_driver_use_tls(call, &config);
    ff_driver_take_parameters(d, json_node_get_object(call->parameters));
    if (!ff_driver_start(d, &config, call->capabilities, &ff_incoming_ops, &error)) {
        give_up(d, error->message);
    }
    ff_call_return(call, NULL);
}

static void decide(FfCall *call)
{
    if (!call->driver->incoming) {
        ff_call_return(call, NULL);
    } else if (call->tls.error) {
        give_up(call->driver, call->tls.error->message);
        ff_call_return(call, NULL);
    } else if (ff_engine_fits(call) && !call->tls.native) {
        engine(call);
    } else {
        if (call->native) {
            ff_driver_store_native(call->driver, call->native);
        }
        ff_call_give_capabilities(call, native_flags_set);
    }
}

static void got_parameters(FfCall *call)
{
    ff_call_get_tls(call, true, decide);
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

static void watch(FfIncoming *in);

/* QEMU does not answer now: the source, or the next one, is looked at again. */
static void not_answered(FfDriver *d, const char *why)
{
    if (!d->incoming) {
        return;
    }
    if (g_get_monotonic_time() - d->incoming->asked_us < NO_ANSWER_US) {
        give_up(d, why); /* but it has answered, and will not say anything else */
        return;
    }
    ff_driver_log(d, "farfault: a source has connected, and waits: %s", why);
    watch(d->incoming);
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

static void watch(FfIncoming *in)
{
    for (guint i = 0; i < in->fds->len; i++) {
        GSource *source = g_unix_fd_source_new(g_array_index(in->fds, int, i), G_IO_IN);

        g_source_set_callback(source, G_SOURCE_FUNC(on_ready), in, NULL);
        g_source_attach(source, NULL);
        g_ptr_array_add(in->sources, source);
    }
}

/* From here on the run state is ours, and QEMU's events are not the clients' business. */
static void begin(FfDriver *d, FfIncoming *in)
{
    d->incoming = in;
    ff_driver_report_anew(d, FF_STATUS_SETUP);
    d->config.state->role = FF_ROLE_DESTINATION;
    d->config.state->driver_flags &= ~FF_DRIVER_KEEP_FAILED;
    d->config.state->driver_flags |=
        FF_DRIVER_LISTENS | (in->keep_failed ? FF_DRIVER_KEEP_FAILED : 0);
    if (listens(g_array_index(in->fds, int, 0))) {
        hold(in);
    }
    ff_driver_store_info(d, NULL);
    ff_driver_filter(d, FF_FILTER_RUN_STATE | FF_FILTER_MIGRATION_EVENTS);
    /* An older QEMU sends this one whether the client wants events or not. */
    if (d->events || ff_driver_version(d) < FF_QEMU_8_2) {
        JsonObject *data = json_object_new();

        json_object_set_string_member(data, "status", "setup");
        ff_driver_event(d, "MIGRATION", data);
    }
    watch(in);
    ff_driver_touch(d);
}

/* LIST: the addresses of a TCP target. */
static bool begin_listening(FfDriver *d, const FfTarget *target, const struct addrinfo *list,
                            bool keep_failed, GError **error)
{
    JsonArray *addresses = NULL;
    GArray *fds = ff_listen(target, list, &addresses, error);

    if (!fds) {
        return false;
    }
    FfIncoming *in = incoming_new(d);

    g_array_unref(in->fds);
    in->fds = fds;
    in->keep_failed = keep_failed;
    in->path = g_strdup(target->kind == FF_TARGET_UNIX ? target->path : NULL);
    g_clear_pointer(&d->socket_address, json_array_unref);
    d->socket_address = addresses;
    begin(d, in);
    return true;
}

/* Goes on with NEXT, at once but for a name of a host. */
static void find_target(FfCall *call, FfCallResolved next)
{
    const FfTarget *t = &call->target;
    int family = t->ipv4 == t->ipv6 ? AF_UNSPEC : t->ipv4 ? AF_INET : AF_INET6;

    if (t->kind == FF_TARGET_TCP) {
        ff_call_resolve(call, t->host, t->port, family, next);
    } else {
        next(call, NULL, NULL);
    }
}

/* CALL, of our own, ends; the relay is told if it waits for it. */
static void started(FfCall *call)
{
    const FfDriverConfig *config = &call->driver->config;

    if (call->seq) {
        config->port->send(config->port_opaque, FF_LINK_REPLY, 0, call->seq, NULL, 0, -1);
    }
    ff_call_return(call, NULL);
}

/* --- an engine that died while it gave the migration to QEMU ---------------------------------- */

/* Where QEMU listens, if that is a socket that an engine has named (g_free); NULL. */
static char *private_path(JsonNode *info)
{
    JsonObject *object = info && JSON_NODE_HOLDS_OBJECT(info) ? json_node_get_object(info) : NULL;
    JsonNode *list = object ? json_object_get_member(object, "socket-address") : NULL;
    JsonNode *first =
        list && JSON_NODE_HOLDS_ARRAY(list) && json_array_get_length(json_node_get_array(list))
            ? json_array_get_element(json_node_get_array(list), 0)
            : NULL;
    const char *path = first && JSON_NODE_HOLDS_OBJECT(first)
                           ? ff_json_string(json_node_get_object(first), "path")
                           : NULL;

    return path && ff_private_name_is_one(path) ? g_strdup(path) : NULL;
}

/* Only when QEMU has its settings back: without its credentials it would take anybody. */
static void splice_again(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(JsonNode) log = d->config.port->view(d->config.port_opaque, false);

    if (log) {
        give_up(d, "QEMU's settings for an incoming migration cannot be restored");
    } else if (d->incoming) {
        start_splices(d);
    }
    started(call);
}

/* QEMU waits for connections at the socket of the engine before this one, or has the connection
 * itself. */
static void begun_already(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    g_autofree char *path = error ? NULL : private_path(result);

    set_native(d);
    if (d->incoming && path) {
        d->incoming->name = ff_private_name_adopt(path);
        ff_call_when_settled(call, splice_again);
        return;
    }
    forget(d);
    started(call);
}

/* QEMU's settings are those of a migration of its own; it has not begun one. */
static void settings_taken_back(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    d->config.state->driver_flags &= ~(uint32_t)FF_DRIVER_GIVING_BACK;
    if (d->incoming) {
        ff_driver_filter(d, FF_FILTER_RUN_STATE | FF_FILTER_MIGRATION_EVENTS);
        watch(d->incoming);
    } else if (call->target.uri) {
        ff_driver_start_incoming(d, call->seq, call->target.uri);
        call->seq = 0;
    }
    started(call);
}

/* QEMU takes migrate-incoming once, and can listen at no such URI: which of the two it says tells
 * what it had done. A connection that it was given by name, and not told to use, is of no use any
 * more. */
static void found_out(FfCall *call, JsonNode *result, const GError *error)
{
    if (error && strstr(error->message, "already been started")) {
        ff_call_inner(call, "query-migrate", NULL, begun_already);
    } else {
        ff_driver_close_given(call->driver, FD_NAME);
        ff_call_take_capabilities(call, settings_taken_back);
    }
}

/* An older QEMU forgets with a URI of an unknown kind that multifd may be on; a newer one begins to
 * set up a migration when it knows the kind. */
static void version_known(FfCall *call, JsonNode *result, const GError *error)
{
    const char *nowhere =
        ff_driver_version(call->driver) < FF_QEMU_8_2 ? "unix:/dev/null/farfault" : "farfault:";

    ff_call_inner(call, "migrate-incoming", uri_argument(NULL, nowhere), found_out);
}

/* CALL is our own; with a seq and a URI it is the relay's, which waits for somebody to listen. The
 * first answer comes behind QEMU's greeting, which says the version. */
static void find_out(FfCall *call)
{
    call->patient = true;
    ff_call_inner(call, "query-version", NULL, version_known);
}

/* The client has been told of all this by the engine before this one. */
static void go_on_listening(FfDriver *d, GArray *fds)
{
    FfIncoming *in = incoming_new(d);

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
    ff_driver_filter(d, FF_FILTER_RUN_STATE |
                            (gives(d) ? FF_FILTER_SETUP_EVENTS : FF_FILTER_MIGRATION_EVENTS));
    ff_driver_log(d, "farfault: the migration engine is a new one, and listens where the one "
                     "before it did");
    if (gives(d)) {
        find_out(ff_call_new_own(d));
    } else {
        watch(in);
    }
    ff_driver_touch(d);
}

void ff_driver_listen_again(FfDriver *d)
{
    GArray *fds = d->config.incoming_fds;

    if (!fds || !fds->len) {
        if (gives(d) && !d->config.incoming_taken) { /* else the relay says where to listen */
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

static void begin_connected(FfDriver *d, int fd, bool keep_failed)
{
    FfIncoming *in = incoming_new(d);

    in->keep_failed = keep_failed;
    g_array_append_val(in->fds, fd);
    begin(d, in);
}

static bool is_socket(int fd)
{
    struct stat st;

    return fd >= 0 && !fstat(fd, &st) && S_ISSOCK(st.st_mode);
}

static bool wants_to_live(FfCall *call)
{
    JsonNode *node = json_object_get_member(call->args, "exit-on-error");

    return node && !json_node_get_boolean(node);
}

/* --- migrate-incoming ----------------------------------------------------------------------- */

static void native_answered(FfCall *call, JsonNode *result, const GError *error)
{
    if (!error) {
        set_native(call->driver);
        ff_driver_store_info(call->driver, NULL);
        if (call->native) {
            ff_driver_store_native(call->driver, call->native);
        }
    }
    ff_call_forward(call, result, error);
}

static void native_prepared(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
    } else {
        ff_driver_filter(call->driver, 0);
        /* Not passed but injected: whether it succeeds decides about the next one. */
        ff_call_inject(call, "migrate-incoming", json_object_ref(call->args), native_answered);
    }
}

static void pass_native(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, true);

    if (view) {
        ff_call_pass(call); /* the relay refuses it until QEMU's settings are restored */
    } else if (d->config.state->client_flags) {
        ff_call_give_capabilities(call, native_prepared);
    } else {
        native_prepared(call, NULL, NULL);
    }
}

static void fd_closed(FfCall *call, JsonNode *result, const GError *error)
{
    int fd = call->fd;

    call->fd = -1;
    begin_connected(call->driver, fd, wants_to_live(call));
    ff_call_return(call, NULL);
}

static void got_fd(FfCall *call)
{
    if (is_socket(call->fd)) {
        JsonObject *args = json_object_new();

        json_object_set_string_member(args, "fdname", call->target.name);
        ff_call_inject(call, "closefd", args, fd_closed);
        return;
    }
    if (call->fd >= 0) {
        close(call->fd);
        call->fd = -1;
    }
    pass_native(call); /* a pipe or a file; or no such name, QEMU says so */
}

/* Meanwhile another client may have been faster. */
static void command_found(FfCall *call, const struct addrinfo *list, const GError *unknown)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;

    if (unknown) {
        ff_call_gerror(call, unknown);
    } else if (d->incoming || d->migration) {
        ff_call_error(call, "The incoming migration has already been started");
    } else if (begin_listening(d, &call->target, list, wants_to_live(call), &error)) {
        ff_call_return(call, NULL);
    } else {
        ff_call_error(call, "%s", error->message);
    }
}

static void command_decide(FfCall *call)
{
    FfDriver *d = call->driver;

    d->events = ff_capability(call->capabilities, "events");
    if (d->incoming || d->migration) {
        ff_call_error(call, "The incoming migration has already been started");
    } else if (!ff_engine_fits(call) || call->tls.native) {
        pass_native(call);
    } else if (call->tls.error) {
        ff_call_error(call, "%s", call->tls.error->message);
    } else if (call->target.kind == FF_TARGET_FD) {
        ff_call_take_fd(call, call->target.name, got_fd);
    } else {
        find_target(call, command_found);
    }
}

static void command_parameters(FfCall *call)
{
    ff_call_get_tls(call, true, command_decide);
}

static void command_capabilities(FfCall *call)
{
    ff_call_get_parameters(call, command_parameters);
}

static void command_status(FfCall *call, JsonNode *result, const GError *error)
{
    JsonObject *object =
        result && JSON_NODE_HOLDS_OBJECT(result) ? json_node_get_object(result) : NULL;

    if (error) {
        ff_call_gerror(call, error);
    } else if (!object || g_strcmp0(ff_json_string(object, "status"), "inmigrate")) {
        ff_call_pass(call); /* too late or too early: QEMU says which */
    } else {
        ff_call_get_capabilities(call, command_capabilities);
    }
}

void ff_handle_incoming(FfCall *call)
{
    FfDriver *d = call->driver;
    const FfDriverConfig *config = &d->config;

    if (d->incoming || (d->migration && config->state->role == FF_ROLE_DESTINATION)) {
        ff_call_error(call, "The incoming migration has already been started");
        return;
    }
    if (d->migration) {
        /* A source; QEMU's own migration commands are locked now. */
        ff_call_error(call, config->incoming ? "The incoming migration has already been started"
                                             : "'-incoming' was not specified on the command line");
        return;
    }
    if (config->state->role == FF_ROLE_DESTINATION && config->state->info_len) {
        ff_call_error(call, "The incoming migration has already been started");
        return;
    }
    if (ff_driver_version(d) < FF_QEMU_9_1 && call->args &&
        json_object_has_member(call->args, "exit-on-error")) {
        ff_call_pass(call); /* QEMU does not know it, and says so */
        return;
    }
    ff_target_from_arguments(&call->target, call->args);
    if (!config->incoming || (strcmp(config->incoming, "defer") && !config->incoming_taken) ||
        call->target.kind == FF_TARGET_NONE || config->state->info_len ||
        config->state->driver_flags & FF_DRIVER_NATIVE_INCOMING) {
        ff_call_pass(call); /* QEMU refuses it, and knows why */
    } else if (strcmp(config->incoming, "defer")) {
        ff_call_error(call, "The incoming migration has already been started");
    } else if (config->state->policy == FF_POLICY_NEVER || call->target.kind == FF_TARGET_OTHER ||
               (call->target.kind == FF_TARGET_FD && g_ascii_isdigit(call->target.name[0]))) {
        pass_native(call);
    } else {
        ff_call_inner(call, "query-status", NULL, command_status);
    }
}

/* --- -incoming URI -------------------------------------------------------------------------- */

static FfCall *argument_new(FfDriver *d, uint32_t seq, const char *uri)
{
    FfCall *call = ff_call_new_own(d);

    call->seq = seq;
    call->target.uri = g_strdup(uri);
    return call;
}

/* An fd that QEMU inherited: a copy of it is ours if it is a socket. */
static int steal_fd(FfDriver *d, const char *name)
{
    int number = (int)g_ascii_strtoll(name, NULL, 10);

    return (int)syscall(SYS_pidfd_getfd, d->config.pidfd, number, 0);
}

static void qemu_listens(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        give_up(call->driver, error->message);
    } else {
        set_native(call->driver);
    }
    started(call);
}

/* CALL is our own; its seq is what the relay waits for. */
static void argument_found(FfCall *call, const struct addrinfo *list, const GError *unknown)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = unknown ? g_error_copy(unknown) : NULL;

    if (error || !begin_listening(d, &call->target, list, false, &error)) {
        /* QEMU prints this and ends. */
        g_autofree char *why =
            g_strdup_printf("-incoming %s: %s", call->target.uri, error->message);

        give_up(d, why);
    }
    started(call);
}

static void listen_at(FfCall *call, FfTarget *target)
{
    char *uri = g_steal_pointer(&call->target.uri); /* as it was written */

    call->target = *target;
    *target = (FfTarget){.kind = FF_TARGET_NONE};
    g_free(call->target.uri);
    call->target.uri = uri;
    find_target(call, argument_found);
}

void ff_driver_start_incoming(FfDriver *d, uint32_t seq, const char *uri)
{
    g_auto(FfTarget) target = {.kind = FF_TARGET_NONE};
    FfCall *call = argument_new(d, seq, uri);

    if (d->incoming) { /* the engine before this one listened, and could not say so any more */
        started(call);
        return;
    }
    if (gives(d)) {
        find_out(call);
        return;
    }
    ff_target_from_uri(&target, uri);
    if (target.kind == FF_TARGET_FD) {
        int fd = steal_fd(d, target.name);

        if (is_socket(fd)) {
            begin_connected(d, fd, false);
            started(call);
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
        target.kind = FF_TARGET_OTHER;
    }
    if (target.kind == FF_TARGET_OTHER) {
        d->config.state->driver_flags |= FF_DRIVER_GIVING_BACK;
        call->patient = true;
        ff_call_inner(call, "migrate-incoming", uri_argument(NULL, uri), qemu_listens);
    } else {
        listen_at(call, &target);
    }
}
