/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What people call a disk of a guest. */
#ifndef FF_QMP_DISK_NAME_H
#define FF_QMP_DISK_NAME_H

#include <string.h>

#include "qmp/json.h"

/* Of an entry of query-block (g_free): its drive ("drive0"), else the id of its device, of which
 * QEMU says the path ("/machine/peripheral/disk0/virtio-backend"), else NODE (can be NULL). */
static inline char *ff_disk_name(JsonObject *entry, const char *node)
{
    const char *drive = ff_json_string(entry, "device");
    g_autofree char *path = g_strdup(ff_json_string(entry, "qdev"));

    if (drive && *drive) {
        return g_strdup(drive);
    }
    if (path && g_str_has_suffix(path, "/virtio-backend")) {
        *strrchr(path, '/') = '\0';
    }
    const char *slash = path ? strrchr(path, '/') : NULL;

    return g_strdup(slash ? slash + 1 : path && *path ? path : node ? node : "");
}

#endif
