/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One command under way, and what every file of the driver says: frames, events and lines out, and
 * the answers. The ground of qapi/: it knows no command, and runs one through a pointer that
 * driver.c hands in. Main loop's thread.
 */
#include <string.h>
#include <unistd.h>

#include "qapi/driver-private.h"

G_DEFINE_QUARK(ff - driver - error - quark, ff_driver_error)

/* ---- frames out ------------------------------------------------------------------------------ */

void ff_driver_send(FfDriver *d, FfLinkType type, unsigned mon, uint32_t seq, const char *payload,
                    gsize length)
{
    d->config.port->send(d->config.port_opaque, type, mon, seq, payload, length, -1);
}

void ff_driver_filter(FfDriver *d, uint32_t filter)
{
    if (filter == d->filter) {
        return;
    }
    d->filter = filter;
    ff_driver_send(d, FF_LINK_FILTER, 0, 0, (const char *)&filter, sizeof(filter));
}

void ff_driver_event(FfDriver *d, const char *name, JsonObject *data)
{
    g_autoptr(GString) line = g_string_new(NULL);
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    int64_t now = g_get_real_time();

    g_string_printf(line,
                    "{\"timestamp\": {\"seconds\": %" G_GINT64_FORMAT
                    ", \"microseconds\": %" G_GINT64_FORMAT "}, \"event\": \"%s\", \"data\": ",
                    now / G_USEC_PER_SEC, now % G_USEC_PER_SEC, name);
    json_node_take_object(node, data);
    ff_json_print(line, node, ff_qapi_event(name)->data);
    g_string_append_c(line, '}');
    ff_driver_send(d, FF_LINK_EVENT, 0, 0, line->str, line->len);
}

unsigned ff_driver_version(FfDriver *d)
{
    unsigned version = d->config.port->version ? d->config.port->version(d->config.port_opaque) : 0;

    if (version) {
        d->config.state->qemu_version = version;
    }
    return MAX(d->config.state->qemu_version, FF_QEMU_7_2);
}

void ff_driver_log(FfDriver *d, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *line = g_strdup_vprintf(format, args);

    va_end(args);
    d->config.port->log(d->config.port_opaque, line);
}

/* ---- lingering ------------------------------------------------------------------------------- */

void ff_driver_fail(FfDriver *d)
{
    d->config.port->fail(d->config.port_opaque);
}

/* With IDLE nobody would come before a client has a command. A front has no guest, and what is left
 * in its QEMU does no harm. */
static gboolean linger_over(gpointer opaque)
{
    FfDriver *d = opaque;
    const FfStateHeader *state = d->config.state;

    d->linger = 0;
    if (d->calls) {
        return G_SOURCE_REMOVE; /* set again when they have ended */
    }
    if (ff_state_is_under_way(state) && !ff_state_is_front(state)) {
        ff_driver_log(d, "farfault: engine: something is left to do: it ends, for the next one");
        ff_driver_fail(d);
    } else {
        ff_carried_rest(&d->config.state->totals);
        ff_driver_send(d, FF_LINK_IDLE, 0, 0, NULL, 0);
    }
    return G_SOURCE_REMOVE;
}

void ff_driver_touch(FfDriver *d)
{
    if (d->linger) {
        g_source_remove(d->linger);
        d->linger = 0;
    }
    if (!d->calls && !d->migration && !d->incoming && !d->outgoing && !d->parting) {
        d->linger = g_timeout_add_seconds(FF_DRIVER_LINGER, linger_over, d);
    }
}

void ff_driver_rest(FfDriver *d)
{
    d->hurried = true;
    if (d->parting && ff_migration_is_spare(d->parting)) {
        g_clear_pointer(&d->parting, ff_migration_free);
        ff_driver_touch(d);
    }
    if (d->linger) {
        g_source_remove(d->linger);
        linger_over(d);
    }
}

void ff_driver_close_mem(FfDriver *d)
{
    int fd = g_steal_fd(&d->config.mem_fd);

    if (fd >= 0) {
        close(fd);
    }
}

/* ---- the life of a call ---------------------------------------------------------------------- */

static void free_snapshot(FfSnapshotRequest *request)
{
    if (request && request->fd >= 0) {
        close(request->fd);
    }
    if (request) {
        g_free(request->path);
        g_free(request->refusal);
        g_clear_pointer(&request->disks, g_ptr_array_unref);
    }
    g_free(request);
}

void ff_call_free(FfCall *call)
{
    g_free(call->id);
    g_free(call->name);
    g_free(call->preface);
    g_clear_pointer(&call->args, json_object_unref);
    g_clear_pointer(&call->inner_capabilities, json_node_unref);
    g_clear_pointer(&call->capabilities, json_node_unref);
    g_clear_pointer(&call->parameters, json_node_unref);
    ff_uri_clear(&call->target);
    free_snapshot(call->snapshot);
    ff_tls_choice_clear(&call->tls);
    if (call->fd >= 0) {
        close(call->fd);
    }
    g_free(call);
}

FfCall *ff_call_new_own(FfDriver *d)
{
    FfCall *call = g_new0(FfCall, 1);

    call->driver = d;
    call->mon = UINT_MAX;
    call->gone = true;
    call->fd = -1;
    call->name = g_strdup("");
    d->calls++;
    ff_driver_touch(d);
    return call;
}

void ff_call_dispatch(FfCall *call)
{
    call->driver->dispatch(call);
}

/* CALL has its answer: the next one of the same client runs. */
static void call_end(FfCall *call)
{
    FfDriver *d = call->driver;
    GQueue *queue = g_hash_table_lookup(d->clients, GUINT_TO_POINTER(call->mon));
    FfCall *next = NULL;

    if (queue && g_queue_peek_head(queue) == call) {
        g_queue_pop_head(queue);
        next = g_queue_peek_head(queue);
    }
    ff_call_free(call);
    d->calls--;
    ff_driver_touch(d);
    if (next) {
        ff_call_dispatch(next);
    }
}

static void call_reply(FfCall *call, GString *line)
{
    if (!call->gone) {
        ff_driver_send(call->driver, FF_LINK_REPLY, call->mon, call->seq, line->str, line->len);
    }
    call_end(call);
}

static void finish_return(FfCall *call, JsonNode *result, const FfQapiType *type)
{
    g_autoptr(GString) line = g_string_new("{\"return\": ");

    if (result) {
        ff_json_print(line, result, type);
    } else {
        g_string_append(line, "{}");
    }
    if (call->id) {
        g_string_append_printf(line, ", \"id\": %s", call->id);
    }
    g_string_append_c(line, '}');
    call_reply(call, line);
}

void ff_call_text(FfCall *call, const char *text)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_VALUE);

    json_node_set_string(node, text);
    finish_return(call, node, NULL);
}

/* The monitor ends its lines with "\r\n", and human-monitor-command returns them so. */
static void finish_text(FfCall *call, const char *text)
{
    g_autoptr(GString) out = g_string_new(NULL);

    for (const char *p = text; *p; p++) {
        if (*p == '\n') {
            g_string_append_c(out, '\r');
        }
        g_string_append_c(out, *p);
    }
    ff_call_text(call, out->str);
}

void ff_call_return(FfCall *call, JsonNode *result)
{
    g_autoptr(JsonNode) node = result;

    if (call->hmp) {
        g_autoptr(GString) text = g_string_new(call->preface);

        if (call->render) {
            call->render(text, result);
        }
        finish_text(call, text->str);
        return;
    }
    const FfQapiCommand *command = ff_qapi_command(call->name);

    finish_return(call, node, command ? command->returns : NULL);
}

static void finish_error(FfCall *call, const char *class, const char *desc)
{
    if (call->failed) {
        call->failed(call->driver, desc);
        call_end(call);
        return;
    }
    if (call->hmp) {
        g_autofree char *text = g_strdup_printf("Error: %s\n", desc);

        finish_text(call, text);
        return;
    }
    g_autoptr(GString) line = g_string_new("{");

    if (call->id) {
        g_string_append_printf(line, "\"id\": %s, ", call->id);
    }
    g_string_append_printf(line, "\"error\": {\"class\": \"%s\", \"desc\": ", class);
    ff_dialect_print_string(line, desc);
    g_string_append(line, "}}");
    call_reply(call, line);
}

void ff_call_error(FfCall *call, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *desc = g_strdup_vprintf(format, args);

    va_end(args);
    finish_error(call, "GenericError", desc);
}

void ff_call_gerror(FfCall *call, const GError *error)
{
    gboolean not_found = g_error_matches(error, FF_DRIVER_ERROR, FF_DRIVER_ERROR_COMMAND_NOT_FOUND);

    finish_error(call, not_found ? "CommandNotFound" : "GenericError", error->message);
}

void ff_call_pass(FfCall *call)
{
    if (call->pass) {
        call->pass(call);
        return;
    }
    if (!call->gone) {
        ff_driver_send(call->driver, FF_LINK_PASS, call->mon, call->seq, NULL, 0);
    }
    call_end(call);
}

void ff_call_forward(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
    } else {
        ff_call_return(call, json_node_copy(result));
    }
}
