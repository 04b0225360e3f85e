/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest's disks before and after a live snapshot; see disks.h. */
#include "cli/disks.h"
#include "qmp/disk-name.h"

#include <string.h>

static void disk_free(void *data)
{
    FfCliDisk *d = data;

    g_free(d->name);
    g_free(d->base);
    g_free(d->overlay);
    g_free(d);
}

JsonNode *ff_cli_disks_ask(FfCliQmp *qmp, GError **error)
{
    return ff_cli_qmp_call(qmp, "query-block", NULL, error);
}

static const char *image_of(JsonObject *entry)
{
    JsonObject *inserted = ff_json_object(entry, "inserted");
    JsonObject *image = inserted ? ff_json_object(inserted, "image") : NULL;

    return image ? ff_json_string(image, "filename") : NULL;
}

/* The device's path, or its drive: the same before and after. */
static const char *key_of(JsonObject *entry)
{
    const char *qdev = ff_json_string(entry, "qdev");

    return qdev && *qdev ? qdev : ff_json_string_or(entry, "device", "");
}

static JsonObject *find(JsonNode *list, const char *key)
{
    for (guint i = 0; i < ff_json_node_length(list); i++) {
        JsonObject *entry = ff_json_node_nth(list, i);

        if (entry && !strcmp(key_of(entry), key)) {
            return entry;
        }
    }
    return NULL;
}

GPtrArray *ff_cli_disks_changed(JsonNode *before, JsonNode *after)
{
    GPtrArray *changed = g_ptr_array_new_with_free_func(disk_free);

    for (guint i = 0; i < ff_json_node_length(after); i++) {
        JsonObject *now = ff_json_node_nth(after, i);
        JsonObject *then = now ? find(before, key_of(now)) : NULL;
        const char *base = then ? image_of(then) : NULL, *overlay = now ? image_of(now) : NULL;

        if (base && overlay && strcmp(base, overlay) != 0) {
            FfCliDisk *d = g_new0(FfCliDisk, 1);

            *d = (FfCliDisk){ff_disk_name(now, NULL), g_strdup(base), g_strdup(overlay)};
            g_ptr_array_add(changed, d);
        }
    }
    return changed;
}

char *ff_cli_disks_line(const GPtrArray *disks)
{
    GString *line = g_string_new("from now on the guest has to be started with");

    for (guint i = 0; i < disks->len; i++) {
        const FfCliDisk *d = disks->pdata[i];

        g_string_append_printf(line, "%s %s for %s", i ? "," : "", d->overlay, d->name);
    }
    return g_string_free(line, FALSE);
}

bool ff_cli_disks_write(const char *file, const GPtrArray *disks, GError **error)
{
    g_autofree char *path = g_strconcat(file, ".disks", NULL);
    g_autofree char *line = ff_cli_disks_line(disks);
    g_autoptr(GString) text = g_string_new(NULL);

    g_string_printf(text,
                    "# Disks of the snapshot %s.\n"
                    "# To restore it give the guest these images, or new overlays of them: writing "
                    "to one\n# spoils the snapshot, and the guest that goes on with its overlay.\n",
                    file);
    for (guint i = 0; i < disks->len; i++) {
        const FfCliDisk *d = disks->pdata[i];

        g_string_append_printf(text, "%s: %s\n", d->name, d->base);
    }
    g_string_append_printf(text, "# %s.\n", line);
    return g_file_set_contents_full(path, text->str, (gssize)text->len,
                                    G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE,
                                    0600, error);
}
