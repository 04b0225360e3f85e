/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See disks-file.h. */
#include "qmp/disks-file.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qmp/json.h"

#define SIZE_MAX_BYTES (1u << 20)

static void kept_free(void *data)
{
    FfKeptDisk *d = data;

    g_free(d->name);
    g_free(d->base);
    g_strfreev(d->below);
    g_free(d->format);
    g_free(d->overlay);
    g_free(d);
}

void ff_disks_file_free(FfDisksFile *file)
{
    if (file) {
        g_free(file->path);
        g_free(file->snapshot);
        g_free(file->command);
        g_ptr_array_unref(file->disks);
        g_free(file);
    }
}

char *ff_disks_file_name(const char *file)
{
    return g_strconcat(file, ".disks", NULL);
}

static char *cannot_read(const char *path, int errnum, GError **error)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errnum),
                "%s says which images belong to the snapshot, and cannot be read: %s", path,
                g_strerror(errnum));
    return NULL;
}

/* All of it (g_free); NULL without ERROR: it is not there. A FIFO does not block. */
static char *read_text(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    ssize_t n = 0;

    if (fd < 0) {
        int errnum = errno;

        /* Who may not even look (AppArmor) is refused a file that is not there just so. */
        return stat(path, &st) < 0 ? NULL : cannot_read(path, errnum, error);
    }
    g_autofree char *text = g_malloc0(SIZE_MAX_BYTES + 1);
    bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= SIZE_MAX_BYTES;
    int errnum = ok ? 0 : EINVAL;

    for (gsize at = 0; ok && (n = read(fd, text + at, SIZE_MAX_BYTES - at)) != 0; at += n) {
        if (n < 0) {
            errnum = errno;
            break;
        }
    }
    close(fd);
    return errnum ? cannot_read(path, errnum, error) : g_steal_pointer(&text);
}

/* Those of O's member "below"; NULL: it is wrong. Older ones have none. */
static char **files_of(JsonObject *o)
{
    g_autoptr(GStrvBuilder) files = g_strv_builder_new();
    JsonArray *list = ff_json_array(o, "below");

    if (o && !list && json_object_has_member(o, "below")) {
        return NULL;
    }
    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonNode *node = json_array_get_element(list, i);
        const char *file = JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;

        if (!file || !g_path_is_absolute(file)) {
            return NULL;
        }
        g_strv_builder_add(files, file);
    }
    return g_strv_builder_end(files);
}

/* NULL: something is missing. */
static FfKeptDisk *kept_new(JsonObject *o)
{
    const char *base = ff_json_string(o, "base"), *overlay = ff_json_string(o, "overlay");
    g_auto(GStrv) below = files_of(o);

    if (!base || !overlay || !below || !g_path_is_absolute(base) || !g_path_is_absolute(overlay)) {
        return NULL;
    }
    FfKeptDisk *d = g_new0(FfKeptDisk, 1);

    d->name = g_strdup(ff_json_string_or(o, "disk", "?"));
    d->base = g_strdup(base);
    d->format = g_strdup(ff_json_string_or(o, "base-format", "raw"));
    d->below = g_steal_pointer(&below);
    d->overlay = g_strdup(overlay);
    return d;
}

FfDisksFile *ff_disks_file_read(const char *file, GError **error)
{
    g_autoptr(FfDisksFile) f = g_new0(FfDisksFile, 1);
    GError *local = NULL;

    f->path = ff_disks_file_name(file);
    f->disks = g_ptr_array_new_with_free_func(kept_free);
    g_autofree char *text = read_text(f->path, &local);
    if (!text) {
        if (local) {
            g_propagate_error(error, local);
        }
        return NULL;
    }
    g_autoptr(JsonNode) root = ff_json_from_text(text);
    JsonArray *list = ff_json_array(ff_json_node_object(root), "disks");
    bool whole = list;

    for (guint i = 0; whole && i < json_array_get_length(list); i++) {
        FfKeptDisk *d = kept_new(ff_json_node_object(json_array_get_element(list, i)));

        whole = d;
        if (d) {
            g_ptr_array_add(f->disks, d);
        }
    }
    if (!whole) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s should say which images belong to the snapshot, and is not what farfault "
                    "snapshot --disks writes",
                    f->path);
        return NULL;
    }
    f->snapshot = g_strdup(ff_json_string(ff_json_node_object(root), "snapshot"));
    f->command = g_strdup(ff_json_string(ff_json_node_object(root), "restore-command"));
    return g_steal_pointer(&f);
}
