/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See internal.h. A balloon answers query-balloon (also one whose driver the guest has not loaded
 * yet: then QEMU says something else than that there is none); free page reporting is the
 * balloon's; virtio-mem is a memory device. What cannot be known counts as there.
 *
 * Thread: the coordinator. No system calls.
 */
#include "guest/qemu/internal.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "qmp/json.h"

/* QEMU's words (qmp_query_balloon(), DeviceNotActive) if there is no such device. */
#define NO_BALLOON "No balloon device has been activated"

static bool has_balloon(FfQemu *qemu)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = ff_qemu_call(qemu, "query-balloon", NULL, &error);

    return reply || !strstr(error->message, NO_BALLOON);
}

static bool has_virtio_mem(FfQemu *qemu)
{
    g_autoptr(JsonNode) devices = ff_qemu_call(qemu, "query-memory-devices", NULL, NULL);

    for (guint i = 0; devices && i < ff_json_node_length(devices); i++) {
        JsonObject *device = ff_json_node_nth(devices, i);
        if (device && g_strcmp0(ff_json_string(device, "type"), "virtio-mem") == 0) {
            return true;
        }
    }
    return !devices;
}

char *ff_qemu_gives_back(FfVmmMemory *memory)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);

    return has_balloon(qemu)      ? g_strdup("a balloon")
           : has_virtio_mem(qemu) ? g_strdup("virtio-mem")
                                  : NULL;
}
