/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object-add and object-del: a memory backend that is plugged later is guest RAM, too, and must be
 * a shared file over a memfd that the relay holds. A QMP monitor is refused (guest/qemu/hotplug.h).
 * All other objects are QEMU's.
 *
 * The rewritten command runs on the private monitor, since only its success decides whether the
 * memory is kept. Main loop's thread.
 */
#include <string.h>
#include <unistd.h>

#include "qapi/driver-private.h"

typedef struct {
    FfCall *call;
    char *text, *id;
    uint64_t size, page_size;
    int memfd;
    int64_t fdset;
    bool refused;
    JsonNode *result; /* QEMU's; NULL: it has refused it */
} Addition;

static void addition_free(Addition *a)
{
    if (a->memfd >= 0) {
        close(a->memfd);
    }
    g_clear_pointer(&a->result, json_node_unref);
    g_free(a->text);
    g_free(a->id);
    g_free(a);
}

static void drop_memory(FfDriver *d, const char *id)
{
    g_autofree char *name = g_strdup_printf("ram:%s", id);

    d->config.port->send(d->config.port_opaque, FF_LINK_DROP, 0, 0, name, strlen(name), -1);
    d->config.port->ram_changed(d->config.port_opaque, id, 0, 0, -1);
}

static void hold_memory(FfDriver *d, const Addition *a)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(JsonObject) held = json_object_new();
    g_autoptr(GString) text = g_string_new(NULL);
    g_autofree char *name = g_strdup_printf("ram:%s", a->id);

    json_object_set_string_member(held, "name", name);
    json_object_set_int_member(held, "size", (gint64)a->size);
    json_object_set_int_member(held, "page-size", (gint64)a->page_size);
    json_node_set_object(node, held);
    ff_json_print(text, node, NULL);
    d->config.port->send(d->config.port_opaque, FF_LINK_HOLD, 0, 0, text->str, text->len, a->memfd);
    /* The relay tells the next engine; this one may be the one that migrates. */
    d->config.port->ram_changed(d->config.port_opaque, a->id, a->size, a->page_size, a->memfd);
}

/* QEMU has closed its copy of the fd. */
static void on_fd_closed(FfCall *call, JsonNode *none, const GError *ignored)
{
    Addition *a = g_steal_pointer(&call->addition);

    if (a->refused) {
        /* Behind -chroot it cannot open what it was given; or the client is told what QEMU says of
         * its command, not of ours. */
        ff_call_pass(call);
    } else if (call->hmp) {
        ff_call_text(call, "");
    } else {
        ff_call_forward(call, a->result, NULL);
    }
    addition_free(a);
}

/* QEMU has answered; RESULT is a text if the command went by the human monitor. The client is
 * answered when QEMU owes us nothing any more: one that ends QEMU at once could otherwise have 7.2
 * wait for ever for the command that is still under way (monitor_cleanup()). */
static void on_added(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    Addition *a = call->addition;
    const char *text = result && JSON_NODE_HOLDS_VALUE(result) ? json_node_get_string(result) : "";
    JsonObject *args = json_object_new();

    a->refused = error || (text && *text);
    a->result = result ? json_node_copy(result) : NULL;
    if (a->refused) {
        g_autofree char *why = g_strstrip(g_strdup(error ? error->message : text));

        ff_driver_log(d,
                      "QEMU does not take farfault's memory for the backend \"%s\" (%s), and gets "
                      "the client's own command: while it is there, only QEMU itself can migrate "
                      "this guest",
                      a->id, why);
    } else {
        hold_memory(d, a);
    }
    json_object_set_int_member(args, "fdset-id", a->fdset);
    ff_call_inner(call, "remove-fd", args, on_fd_closed);
}

static void give_to_qemu(FfCall *call)
{
    Addition *a = call->addition;

    if (call->hmp) {
        g_autofree char *line = g_strdup_printf("object_add %s", a->text);
        JsonObject *args = json_object_new();

        json_object_set_string_member(args, "command-line", line);
        ff_call_inner(call, "human-monitor-command", args, on_added);
        return;
    }
    g_autoptr(JsonNode) node = ff_json_parse(a->text, strlen(a->text), NULL, NULL);

    g_assert(node && JSON_NODE_HOLDS_OBJECT(node)); /* our own rewriting */
    ff_call_inner(call, "object-add", json_object_ref(json_node_get_object(node)), on_added);
}

static void on_rewritten(const FfPortObject *object, const GError *error, gpointer data)
{
    FfCall *call = data;

    if (g_error_matches(error, FF_DRIVER_ERROR, FF_DRIVER_ERROR_FILE_TOO_LARGE)) {
        ff_driver_log(call->driver,
                      "%s: QEMU gets the client's own command: while it is there, only QEMU itself "
                      "can migrate this guest",
                      error->message);
        ff_call_pass(call);
    } else if (error) {
        ff_call_error(call, "%s", error->message);
    } else if (!object->text) {
        ff_call_pass(call);
    } else {
        Addition *a = g_new0(Addition, 1);

        a->text = g_strdup(object->text);
        a->id = g_strdup(object->id);
        a->size = object->size;
        a->page_size = object->page_size;
        a->memfd = object->memfd;
        a->fdset = object->fdset;
        call->addition = a;
        call->patient = true;
        give_to_qemu(call);
    }
}

void ff_hmp_object_add(FfCall *call, const char *text)
{
    FfDriver *d = call->driver;

    d->config.port->object_add(d->config.port_opaque, text, on_rewritten, call);
}

void ff_handle_object_add(FfCall *call)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(GString) text = g_string_new(NULL);
    const char *type = ff_json_string(call->args, "qom-type");

    if (!type || !(g_str_has_prefix(type, "memory-backend-") || !strcmp(type, "monitor-qmp"))) {
        ff_call_pass(call);
        return;
    }
    json_node_set_object(node, call->args);
    ff_json_print(text, node, NULL);
    ff_hmp_object_add(call, text->str);
}

static bool is_ours(const FfCall *call)
{
    const FfDriverConfig *c = &call->driver->config;
    const char *id = ff_json_string(call->args, "id");

    return id && c->port->has_ram(c->port_opaque, id);
}

static void del_done(FfCall *call, JsonNode *result, const GError *error)
{
    if (!error) {
        /* QEMU has unmapped it. A name that the relay does not hold is no harm. */
        drop_memory(call->driver, ff_json_string(call->args, "id"));
    }
    ff_call_forward(call, result, error);
}

/* Memory of a migration under way stays: the other side has pages of it, or they are still to come.
 */
void ff_handle_object_del(FfCall *call)
{
    if (call->driver->migration && is_ours(call)) {
        if (!ff_call_when_whole(call, ff_handle_object_del) &&
            !ff_call_when_over(call, ff_handle_object_del)) {
            ff_call_error(call, FF_MIGRATING);
        }
        return;
    }
    call->patient = true;
    ff_call_inner(call, "object-del", json_object_ref(call->args), del_done);
}
