/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See internal.h. Of QEMU's devices only virtio-mem does so, with its property
 * x-early-migration: off in machine types before 8.1, and not there in QEMU before 8.1. It says of
 * the device what is plugged, in a section whose length the stream does not have.
 *
 * Thread: the coordinator. No system calls.
 */
#include "guest/qemu/internal.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "qmp/json.h"

#define DEVICE "child<virtio-mem-" /* pci, ... */

static JsonObject *args_of(const char *path, const char *property)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "path", path);
    if (property) {
        json_object_set_string_member(args, "property", property);
    }
    return args;
}

static bool is_early(FfQemu *qemu, const char *folder, const char *name)
{
    g_autofree char *path = g_strdup_printf("%s/%s", folder, name);
    g_autoptr(JsonNode) value =
        ff_qemu_call(qemu, "qom-get", args_of(path, "x-early-migration"), NULL);

    return value && JSON_NODE_HOLDS_VALUE(value) && json_node_get_boolean(value);
}

static bool has_early(FfQemu *qemu, const char *folder)
{
    g_autoptr(JsonNode) list = ff_qemu_call(qemu, "qom-list", args_of(folder, NULL), NULL);

    for (guint i = 0; i < ff_json_node_length(list); i++) {
        JsonObject *one = ff_json_node_nth(list, i);
        const char *type = one ? ff_json_string(one, "type") : NULL;
        const char *name = one ? ff_json_string(one, "name") : NULL;

        if (type && name && g_str_has_prefix(type, DEVICE) && is_early(qemu, folder, name)) {
            return true;
        }
    }
    return false;
}

char *ff_qemu_saved_before(FfVmmMemory *memory)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);

    return has_early(qemu, "/machine/peripheral") || has_early(qemu, "/machine/peripheral-anon")
               ? g_strdup("virtio-mem: give it x-early-migration=off, or the guest a machine type "
                          "before 8.1")
               : NULL;
}
