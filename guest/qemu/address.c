/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The address of a memory backend's region in the region that holds it, which QEMU compares when it
 * loads a stream with x-ignore-shared: 0 for a machine's only RAM, another one for the RAM of a
 * NUMA node and for a DIMM. It is a property of the region, which is the backend's child.
 *
 * Threads: the coordinator's. No lock.
 */
#include "guest/qemu/internal.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "qmp/json.h"

#define REGION "child<memory-region>"

static JsonObject *args_of(const char *path, const char *property)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "path", path);
    if (property) {
        json_object_set_string_member(args, "property", property);
    }
    return args;
}

/* The path of the backend's region (g_free); NULL: it has none. */
static char *region_of(FfQemu *qemu, const char *backend, GError **error)
{
    g_autoptr(JsonNode) node = ff_qemu_call(qemu, "qom-list", args_of(backend, NULL), error);

    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *child = ff_json_node_nth(node, i);
        const char *type = child ? ff_json_string(child, "type") : NULL;

        if (!g_strcmp0(type, REGION)) {
            return g_strdup_printf("%s/%s", backend, ff_json_string(child, "name"));
        }
    }
    return NULL;
}

bool ff_qemu_address(FfVmmMemory *memory, const char *block, uint64_t *address, GError **error)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);
    g_autofree char *backend = g_strdup_printf("/objects/%s", block);
    g_autoptr(GError) local = NULL;
    g_autofree char *region = region_of(qemu, backend, &local);
    g_autoptr(JsonNode) node =
        region ? ff_qemu_call(qemu, "qom-get", args_of(region, "addr"), &local) : NULL;

    if (!node || !JSON_NODE_HOLDS_VALUE(node)) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "QEMU does not say where its memory '%s' is%s%s", block, local ? ": " : "",
                    local ? local->message : "");
        return false;
    }
    *address = (uint64_t)json_node_get_int(node);
    return true;
}
