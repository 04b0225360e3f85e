/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Questions that a command must ask before it can be answered: to QEMU on the private monitor,
 * to the relay for what only it can do, and to the resolver for the addresses of a name. Each
 * answer comes later and continues with the function that was given. Main loop's thread.
 */
#include <string.h>
#include <unistd.h>

#include "net/resolve.h"
#include "qapi/driver-private.h"

/* Seconds that QEMU may take for one of our own commands. A call that is patient waits as long as
 * QEMU lives: object-add and object-del, as QEMU may have to clear hundreds of GiB first, and what
 * gives QEMU a migration. A late answer would be taken for none, and QEMU does it all the same. */
#define INNER_DEADLINE 10

/* ---- asking QEMU ----------------------------------------------------------------------------- */

typedef struct {
    FfCall *call; /* NULL: the deadline has passed, nobody waits any more */
    FfCallInner next;
    guint deadline;
} InnerWait;

static gboolean inner_deadline(gpointer opaque)
{
    InnerWait *wait = opaque;
    FfCall *call = g_steal_pointer(&wait->call);
    g_autoptr(GError) error =
        g_error_new(FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC,
                    "QEMU has not answered for %d s: its main loop is busy or waits for guest "
                    "memory; try again when query-migrate shows progress",
                    INNER_DEADLINE);

    wait->deadline = 0;
    wait->next(call, NULL, error);
    return G_SOURCE_REMOVE;
}

static void inner_reply(JsonNode *result, const GError *error, gpointer data)
{
    InnerWait *wait = data;

    if (wait->deadline) {
        g_source_remove(wait->deadline);
    }
    if (wait->call) {
        wait->next(wait->call, result, error);
    }
    g_free(wait);
}

void ff_call_inner_fd(FfCall *call, const char *command, JsonObject *args, int fd, FfCallInner next)
{
    FfDriver *d = call->driver;
    InnerWait *wait = g_new0(InnerWait, 1);

    wait->call = call;
    wait->next = next;
    if (!call->patient) {
        wait->deadline = g_timeout_add_seconds(INNER_DEADLINE, inner_deadline, wait);
    }
    d->config.port->inner(d->config.port_opaque, command, args, fd, inner_reply, wait);
    g_clear_pointer(&args, json_object_unref);
}

void ff_call_inner(FfCall *call, const char *command, JsonObject *args, FfCallInner next)
{
    ff_call_inner_fd(call, command, args, -1, next);
}

static void on_fd_closed(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_return(call, NULL); /* gone already is as good */
}

void ff_driver_close_given(FfDriver *d, const char *name)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "fdname", name);
    ff_call_inner(ff_call_new_own(d), "closefd", args, on_fd_closed);
}

/* ---- what only the relay can do -------------------------------------------------------------- */

typedef struct {
    FfCall *call;
    FfLinkType type;
    FfHandler next;      /* TAKE_FD */
    FfCallInner replied; /* INJECT, TAKE_UFFD */
} RelayWait;

static void ask_relay(FfCall *call, FfLinkType type, const char *payload, FfHandler next,
                      FfCallInner replied)
{
    FfDriver *d = call->driver;
    RelayWait *wait = g_new0(RelayWait, 1);
    uint32_t seq = ++d->next_seq;

    wait->call = call;
    wait->type = type;
    wait->next = next;
    wait->replied = replied;
    g_hash_table_insert(d->waiting, GUINT_TO_POINTER(seq), wait);
    ff_driver_send(d, type, call->mon, seq, payload, strlen(payload));
}

void ff_call_take_fd(FfCall *call, const char *name, FfHandler next)
{
    ask_relay(call, FF_LINK_TAKE_FD, name, next, NULL);
}

void ff_call_take_uffd(FfCall *call, FfCallInner next)
{
    static const char *const kinds[FF_KINDS] = FF_KIND_NAMES;

    if (call->driver->config.lends) {
        ask_relay(call, FF_LINK_TAKE_UFFD, kinds[FF_KIND_PROTECT], NULL, next);
        return;
    }
    g_autoptr(GError) error = g_error_new_literal(
        FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC,
        "no live snapshots: an older farfault has started this guest; they need it to be started "
        "again");
    next(call, NULL, error);
}

static void send_uffd(FfDriver *d, int fd)
{
    static const char *const kinds[FF_KINDS] = FF_KIND_NAMES;
    const char *kind = kinds[FF_KIND_PROTECT];

    d->config.port->send(d->config.port_opaque, FF_LINK_GIVE_UFFD, 0, 0, kind, strlen(kind), fd);
}

void ff_driver_give_uffd(FfDriver *d, int fd)
{
    ff_state_unmark(d->config.state, FF_MARK_PROTECTED);
    send_uffd(d, fd);
    close(fd);
}

void ff_driver_lose_uffd(FfDriver *d, int fd)
{
    close(fd);
    send_uffd(d, -1);
    /* The relay clears the mark, when its own copy is closed. */
}

/* The relay has said why not, or there is call->fd. */
static void uffd_reply(FfCall *call, FfCallInner next, const char *text, gsize length)
{
    g_autofree char *why = g_strndup(text, length);
    g_autoptr(GError) error =
        call->fd >= 0 ? NULL : g_error_new_literal(FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC, why);

    if (call->fd >= 0) {
        ff_state_mark(call->driver->config.state, FF_MARK_PROTECTED);
    }
    next(call, NULL, error);
}

void ff_call_inject(FfCall *call, const char *command, JsonObject *args, FfCallInner next)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(GString) line = g_string_new(NULL);

    g_string_printf(line, "{\"execute\": \"%s\", \"arguments\": ", command);
    json_node_take_object(node, args ? args : json_object_new());
    ff_json_print(line, node,
                  ff_qapi_command(command) ? ff_qapi_command(command)->arguments : NULL);
    g_string_append_c(line, '}');
    ask_relay(call, FF_LINK_INJECT, line->str, NULL, next);
}

/* QEMU's whole reply to an injected command, as a result or an error. */
static void injected_reply(FfCall *call, FfCallInner next, const char *text, gsize length)
{
    g_autoptr(JsonNode) node = length ? ff_json_parse(text, length, NULL, NULL) : NULL;
    JsonObject *object = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    JsonNode *result = object ? json_object_get_member(object, "return") : NULL;
    g_autoptr(GError) error = NULL;

    if (!result) {
        JsonNode *member = object ? json_object_get_member(object, "error") : NULL;
        JsonObject *why =
            member && JSON_NODE_HOLDS_OBJECT(member) ? json_node_get_object(member) : NULL;
        const char *desc = why ? ff_json_string(why, "desc") : NULL;
        gboolean not_found = why && !g_strcmp0(ff_json_string(why, "class"), "CommandNotFound");

        error = g_error_new_literal(FF_DRIVER_ERROR,
                                    not_found ? FF_DRIVER_ERROR_COMMAND_NOT_FOUND
                                              : FF_DRIVER_ERROR_GENERIC,
                                    desc ? desc : "the connection to QEMU is gone");
    }
    next(call, result, error);
}

void ff_driver_relay_answer(FfDriver *d, uint32_t seq, const char *payload, gsize length, int fd)
{
    RelayWait *wait = g_hash_table_lookup(d->waiting, GUINT_TO_POINTER(seq));

    if (!wait) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    FfCall *call = wait->call;
    FfHandler next = wait->next;
    FfCallInner replied = wait->replied;
    FfLinkType type = wait->type;

    g_hash_table_remove(d->waiting, GUINT_TO_POINTER(seq));
    if (fd >= 0) {
        call->fd = fd;
    }
    if (type == FF_LINK_TAKE_UFFD) {
        uffd_reply(call, replied, payload, length);
    } else if (replied) {
        injected_reply(call, replied, payload, length);
    } else {
        next(call);
    }
}

/* ---- names of hosts -------------------------------------------------------------------------- */

typedef struct {
    FfResolve *resolve;
    FfCall *call;
    char *where; /* "HOST:PORT" */
    FfCallResolved next;
} NameWait;

static void name_free(NameWait *wait)
{
    g_free(wait->where);
    g_free(wait);
}

static void on_resolved(struct addrinfo *list, int rc, gpointer opaque)
{
    NameWait *wait = opaque;
    g_autoptr(GError) error = NULL;

    g_ptr_array_remove_fast(wait->call->driver->names, wait);
    if (rc) {
        error = g_error_new(G_IO_ERROR, G_IO_ERROR_HOST_NOT_FOUND,
                            "address resolution failed for %s: %s", wait->where, gai_strerror(rc));
    }
    wait->next(wait->call, list, error);
    if (list) {
        freeaddrinfo(list);
    }
    name_free(wait);
}

void ff_call_resolve(FfCall *call, const char *host, const char *port, int family,
                     FfCallResolved next)
{
    NameWait *wait = g_new0(NameWait, 1);

    wait->call = call;
    wait->where = g_strdup_printf("%s:%s", host, port);
    wait->next = next;
    g_ptr_array_add(call->driver->names, wait);
    wait->resolve = ff_resolve(host, port, family, on_resolved, wait);
}

void ff_driver_forget_names(FfDriver *d)
{
    for (guint i = 0; i < d->names->len; i++) {
        NameWait *wait = d->names->pdata[i];

        ff_resolve_cancel(wait->resolve);
        name_free(wait);
    }
    g_ptr_array_unref(d->names);
}
