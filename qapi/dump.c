/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * x-farfault-dump: half of a paused migration into files; and what query-migrate says of a half.
 *
 * Writing guest memory takes long, so a thread does it; what it writes was taken beforehand, and
 * neither the migration nor QEMU is asked again. All else is the main loop's thread.
 */
#include <inttypes.h>

#include "migration/dump.h"
#include "qapi/driver-private.h"

typedef struct {
    FfCall *call;
    FfDump *dump;
    char *directory;
    uint64_t bytes;
    GError *error;
    GThread *thread;
} Writing;

static const char *role_name(FfRole role)
{
    return role == FF_ROLE_SOURCE ? "source" : "destination";
}

static gboolean on_written(gpointer opaque)
{
    Writing *w = opaque;

    g_thread_join(w->thread);
    if (w->error) {
        ff_call_error(w->call, "%s", w->error->message);
    } else {
        JsonNode *node = json_node_new(JSON_NODE_OBJECT);
        JsonObject *object = json_object_new();

        json_object_set_int_member(object, "bytes", (gint64)w->bytes);
        json_object_set_string_member(object, "role",
                                      role_name(w->call->driver->config.state->role));
        json_object_set_boolean_member(object, "device-state", ff_dump_has_device_state(w->dump));
        json_node_take_object(node, object);
        ff_call_return(w->call, node);
    }
    g_clear_error(&w->error);
    ff_dump_free(w->dump);
    g_free(w->directory);
    g_free(w);
    return G_SOURCE_REMOVE;
}

static gpointer write_it(gpointer opaque)
{
    Writing *w = opaque;

    ff_dump_write(w->dump, w->directory, &w->bytes, &w->error);
    g_idle_add(on_written, w);
    return NULL;
}

void ff_handle_dump(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;
    FfDump *dump = d->migration ? ff_dump_new(d->migration, &error) : NULL;

    if (!dump) {
        ff_call_error(call, "%s",
                      error ? error->message : "There is no paused migration that could be dumped");
        return;
    }
    Writing *w = g_new0(Writing, 1);

    w->call = call;
    w->dump = dump;
    w->directory = g_strdup(ff_json_string(call->args, "directory"));
    w->thread = g_thread_new("dump", write_it, w);
}

/* ---- query-migrate --------------------------------------------------------------------------- */

static JsonArray *waits_to_json(const FfSplit *h)
{
    JsonArray *list = json_array_new();

    for (unsigned i = 0; i < h->n_waits; i++) {
        JsonObject *wait = json_object_new();

        if (h->waits[i].vcpu >= 0) {
            json_object_set_int_member(wait, "vcpu", h->waits[i].vcpu);
        }
        json_object_set_string_member(wait, "block", h->waits[i].block);
        json_object_set_int_member(wait, "offset", (gint64)h->waits[i].offset);
        json_object_set_int_member(wait, "ms", h->waits[i].ms);
        json_array_add_object_element(list, wait);
    }
    return list;
}

JsonObject *ff_split_to_json(const FfMigrationInfo *info)
{
    static const char *const phases[] = {"idle",   "setup",   "stopped", "loading",
                                         "loaded", "granted", "done",    "dead"};
    const FfSplit *h = info->split;
    JsonObject *out = json_object_new();

    json_object_set_string_member(out, "role", role_name(info->role));
    json_object_set_string_member(out, "phase", phases[MIN(h->phase, FF_PHASE_DEAD)]);
    json_object_set_boolean_member(out, "may-run", h->may_run);
    json_object_set_int_member(out, "epoch", (gint64)h->epoch);
    if (h->broken_ms >= 0) {
        json_object_set_int_member(out, "broken-ms", h->broken_ms);
    }
    json_object_set_boolean_member(out, "peer-ended", h->peer_ended);
    json_object_set_int_member(out, "pages-total", (gint64)h->pages_total);
    if (h->pages_known) {
        json_object_set_int_member(out, "pages-destination", (gint64)h->pages_destination);
        json_object_set_int_member(out, "bytes-missing", (gint64)h->bytes_missing);
    }
    json_object_set_boolean_member(out, "released", h->released);
    json_object_set_boolean_member(out, "device-state", h->device_state);
    if (h->peer_uri) {
        json_object_set_string_member(out, "peer", h->peer_uri);
    }
    if (info->role == FF_ROLE_DESTINATION && info->socket_address) {
        json_object_set_string_member(out, "listens", info->socket_address);
    }
    json_object_set_array_member(out, "waits", waits_to_json(h));
    return out;
}
