/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See disk.h. */
#include "qmp/disk.h"

/* QEMU's own names differ in another one. */
static void add_node(GString *text, JsonObject *inserted)
{
    const char *node = ff_json_string_or(inserted, "node-name", "#");

    if (*node != '#') {
        g_string_append_printf(text, " node=%s", node);
    }
}

char *ff_disk_describe(JsonObject *inserted)
{
    static const char *const limits[] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};

    if (!inserted) {
        return g_strdup("(no medium)");
    }
    GString *text = g_string_new(ff_json_string_or(inserted, "file", "?"));

    g_string_append_printf(text, " (%s%s)", ff_json_string_or(inserted, "drv", "no format"),
                           ff_json_bool(inserted, "ro") ? ", read-only" : "");
    add_node(text, inserted);
    for (unsigned i = 0; i < G_N_ELEMENTS(limits); i++) {
        gint64 n = ff_json_int(inserted, limits[i], 0);
        if (n) {
            g_string_append_printf(text, " %s=%" G_GINT64_FORMAT, limits[i], n);
        }
    }
    for (JsonObject *image = ff_json_object(ff_json_object(inserted, "image"), "backing-image");
         image; image = ff_json_object(image, "backing-image")) {
        g_string_append_printf(text, " on %s (%s)", ff_json_string_or(image, "filename", "?"),
                               ff_json_string_or(image, "format", "?"));
    }
    return g_string_free(text, FALSE);
}

char *ff_disk_node_path(JsonObject *node, int pid)
{
    static const char *const local[] = {"file", "host_device", "host_cdrom", NULL};
    const char *file = ff_json_string_or(node, "file", "");

    if (!g_strv_contains(local, ff_json_string_or(node, "drv", ""))) {
        return NULL;
    }
    return *file == '/' ? g_strdup(file) : g_strdup_printf("/proc/%d/cwd/%s", pid, file);
}
