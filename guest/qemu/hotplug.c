/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Makes the memory that a client plugs in ours: object-add's arguments are rewritten by the same
 * rules as the command line, over a new memfd. Refuses QMP monitors: QEMU makes them while the
 * relay cannot stand before them, and a client there would migrate past the engine.
 *
 * QEMU gets the memfd with add-fd on the private monitor and opens it by the number that this
 * returns. A file descriptor set belongs to QEMU and not to one monitor, so the command itself may
 * come on the client's connection.
 *
 * Threads: the caller's and that of the QMP client's context. No lock: the request is owned by one
 * of them at a time.
 */
#include "guest/qemu/hotplug.h"

#include <string.h>
#include <unistd.h>

#include "guest/launch/argv-rewrite.h"
#include "qmp/json.h"

typedef struct {
    FfQmpClient *qmp;
    FfObjectAdd ops;
    char *text;
    FfPlanRam ram;
    int memfd;
} Request;

char *ff_object_add_rewrite(const char *text, const FfArgvSystem *sys, bool incoming,
                            FfPlanRam *ram, char **why)
{
    FfArg arg = {.value = text};
    bool broken;
    g_autoptr(FfBackend) backend = ff_backend_new(&arg, &broken);

    *why = NULL;
    if (!backend) {
        return NULL;
    }
    *why = ff_backend_check(backend, sys);
    if (*why) {
        return NULL;
    }
    ff_backend_rewrite(backend, 0, incoming ? FF_BACKEND_INCOMING : FF_BACKEND_ADDED);
    *ram = (FfPlanRam){.id = g_strdup(backend->id),
                       .size = backend->size,
                       .page_size = backend->page_size,
                       .seal = backend->seal,
                       .unreserved = backend->unreserved};
    return arg.new_value;
}

static void request_free(Request *r)
{
    ff_qmp_client_unref(r->qmp);
    g_free(r->text);
    g_free(r->ram.id);
    if (r->memfd >= 0) {
        close(r->memfd);
    }
    g_free(r);
}

/* The answer to add-fd: {"fdset-id": n, "fd": n}. */
static void on_add_fd(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Request *r = opaque;
    JsonObject *o = ff_json_node_object(result);
    const char *path = strstr(r->text, FF_OBJECT_ADD_PATH);
    g_autofree char *text = NULL;
    int memfd = r->memfd;

    if (!o) {
        g_autoptr(GError) local =
            g_error_new(FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                        "QEMU did not take the memory of backend \"%s\": %s", r->ram.id,
                        error ? error->message : "add-fd returned no object");
        r->ops.done(NULL, &r->ram, -1, -1, local, r->ops.opaque);
        request_free(r);
        return;
    }
    text = g_strdup_printf("%.*s/proc/self/fd/%" G_GINT64_FORMAT "%s", (int)(path - r->text),
                           r->text, ff_json_int(o, "fd", 0), path + strlen(FF_OBJECT_ADD_PATH));
    r->memfd = -1;
    r->ops.done(text, &r->ram, memfd, ff_json_int(o, "fdset-id", 0), NULL, r->ops.opaque);
    request_free(r);
}

/* Makes the memory of R, whose .text is the client's, and hands it to QEMU. */
static void make_memory(Request *r, bool incoming)
{
    g_autofree char *why = NULL;
    g_autofree char *text = ff_object_add_rewrite(r->text, r->ops.sys, incoming, &r->ram, &why);
    g_autoptr(JsonObject) args = NULL;
    g_autoptr(GError) error = NULL;

    if (!text) {
        if (why) {
            g_message("a plugged memory backend %s; while it is there, only QEMU itself can "
                      "migrate this guest",
                      why);
        }
        r->ops.done(NULL, NULL, -1, -1, NULL, r->ops.opaque);
        request_free(r);
        return;
    }
    g_free(r->text);
    r->text = g_steal_pointer(&text);
    r->memfd = r->ops.make_ram(&r->ram, &error, r->ops.opaque);
    if (r->memfd < 0) {
        r->ops.done(NULL, &r->ram, -1, -1, error, r->ops.opaque);
        request_free(r);
        return;
    }
    args = json_object_new();
    json_object_set_string_member(args, "opaque", "farfault");
    ff_qmp_call(r->qmp, "add-fd", args, &r->memfd, 1, on_add_fd, r);
}

/* The answer to query-status. */
static void on_status(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    JsonObject *o = ff_json_node_object(result);

    make_memory(opaque, o && !g_strcmp0(ff_json_string(o, "status"), "inmigrate"));
}

bool ff_object_add_is_monitor(const char *text)
{
    g_autoptr(GPtrArray) opts = ff_opts_read(text, "qom-type");

    return !g_strcmp0(ff_opts_get(opts, "qom-type"), FF_QMP_MONITOR_TYPE);
}

void ff_qemu_object_add(FfQmpClient *qmp, const char *text, const FfObjectAdd *ops)
{
    if (ff_object_add_is_monitor(text)) {
        g_autoptr(GError) error =
            g_error_new_literal(FF_QMP_ERROR, FF_QMP_ERROR_GENERIC, FF_OBJECT_ADD_MONITOR);

        ops->done(NULL, NULL, -1, -1, error, ops->opaque);
        return;
    }
    Request *r = g_new0(Request, 1);

    r->qmp = ff_qmp_client_ref(qmp);
    r->ops = *ops;
    r->text = g_strdup(text);
    r->memfd = -1;
    if (ops->incoming) {
        ff_qmp_call(qmp, "query-status", NULL, NULL, 0, on_status, r);
    } else {
        make_memory(r, false);
    }
}
