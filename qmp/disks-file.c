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

/* ---- a file, and whether it was written since ------------------------------------------------ */

void ff_kept_file_free(void *file)
{
    FfKeptFile *f = file;

    if (f) {
        g_free(f->path);
        g_free(f);
    }
}

FfKeptFile *ff_kept_file_new(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode)) {
        return NULL;
    }
    FfKeptFile *f = g_new(FfKeptFile, 1);

    *f = (FfKeptFile){.path = g_strdup(path), .size = st.st_size, .changed = st.st_mtim};
    return f;
}

/* As touch -d takes it (g_free). */
static char *time_to_text(struct timespec time)
{
    return g_strdup_printf("@%" G_GINT64_FORMAT ".%09ld", (gint64)time.tv_sec, time.tv_nsec);
}

static bool time_from_text(const char *text, struct timespec *time)
{
    char *end;

    if (*text != '@' || !g_ascii_isdigit(text[1])) {
        return false;
    }
    time->tv_sec = (time_t)g_ascii_strtoll(text + 1, &end, 10);
    if (*end != '.' || strspn(end + 1, G_CSET_DIGITS) != 9 || end[10]) {
        return false;
    }
    time->tv_nsec = (long)g_ascii_strtoll(end + 1, NULL, 10);
    return true;
}

JsonObject *ff_kept_file_to_json(const FfKeptFile *f)
{
    JsonObject *o = json_object_new();
    g_autofree char *time = time_to_text(f->changed);

    json_object_set_string_member(o, "file", f->path);
    json_object_set_int_member(o, "size", f->size);
    json_object_set_string_member(o, "changed", time);
    return o;
}

static FfKeptFile *file_from_json(JsonNode *node)
{
    JsonObject *o = ff_json_node_object(node);
    const char *path = ff_json_string(o, "file"), *time = ff_json_string(o, "changed");
    g_autoptr(FfKeptFile) f = g_new0(FfKeptFile, 1);

    f->size = ff_json_int(o, "size", -1);
    if (!path || !g_path_is_absolute(path) || f->size < 0 || !time ||
        !time_from_text(time, &f->changed)) {
        return NULL;
    }
    f->path = g_strdup(path);
    return g_steal_pointer(&f);
}

/* A copy's time has as many digits as its file system keeps. */
static bool is_same_time(struct timespec was, struct timespec is)
{
    bool same = false;

    for (long unit = 1; unit <= 1000000000 && !same; unit *= 10) {
        same = was.tv_sec == is.tv_sec && was.tv_nsec / unit * unit == is.tv_nsec;
    }
    return same;
}

char *ff_kept_disk_doubt(const FfKeptDisk *d, const FfKeptFile *was)
{
    g_autoptr(FfKeptFile) is = ff_kept_file_new(was->path);
    bool same_size = is && is->size == was->size;
    bool same_time = is && is_same_time(was->changed, is->changed);

    if (!is || (same_size && same_time)) {
        return NULL;
    }
    g_autofree char *time = time_to_text(was->changed), *word = g_shell_quote(was->path);
    g_autofree char *way_out =
        same_size ? g_strdup_printf("; if it is a copy of what it was: touch -d %s %s", time, word)
                  : g_strdup("");

    return g_strdup_printf("disk %s: %s was written after the snapshot (%s): the snapshot, and the "
                           "overlay in which the guest went on, no longer fit it%s",
                           d->name, was->path,
                           same_size   ? "its time differs"
                           : same_time ? "its size differs"
                                       : "size and time differ",
                           way_out);
}

char *ff_kept_disk_first_doubt(const FfKeptDisk *d)
{
    char *doubt = NULL;

    for (guint i = 0; i < d->files->len && !doubt; i++) {
        doubt = ff_kept_disk_doubt(d, d->files->pdata[i]);
    }
    return doubt;
}

char *ff_disks_file_doubt(const FfDisksFile *file)
{
    char *doubt = NULL;

    for (guint i = 0; i < file->disks->len && !doubt; i++) {
        doubt = ff_kept_disk_first_doubt(file->disks->pdata[i]);
    }
    return doubt;
}

/* ---- FILE.disks ------------------------------------------------------------------------------ */

static void kept_free(void *data)
{
    FfKeptDisk *d = data;

    g_free(d->name);
    g_free(d->base);
    g_strfreev(d->below);
    g_free(d->format);
    g_free(d->overlay);
    g_ptr_array_unref(d->files);
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
static char **below_of(JsonObject *o)
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

/* Those of O's member "files", likewise. */
static GPtrArray *files_of(JsonObject *o)
{
    g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(ff_kept_file_free);
    JsonArray *list = ff_json_array(o, "files");

    if (o && !list && json_object_has_member(o, "files")) {
        return NULL;
    }
    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        FfKeptFile *f = file_from_json(json_array_get_element(list, i));

        if (!f) {
            return NULL;
        }
        g_ptr_array_add(files, f);
    }
    return g_steal_pointer(&files);
}

/* NULL: something is missing. */
static FfKeptDisk *kept_new(JsonObject *o)
{
    const char *base = ff_json_string(o, "base"), *overlay = ff_json_string(o, "overlay");
    g_auto(GStrv) below = below_of(o);
    g_autoptr(GPtrArray) files = files_of(o);

    if (!base || !overlay || !below || !files || !g_path_is_absolute(base) ||
        !g_path_is_absolute(overlay)) {
        return NULL;
    }
    FfKeptDisk *d = g_new0(FfKeptDisk, 1);

    d->name = g_strdup(ff_json_string_or(o, "disk", "?"));
    d->base = g_strdup(base);
    d->format = g_strdup(ff_json_string_or(o, "base-format", "raw"));
    d->below = g_steal_pointer(&below);
    d->overlay = g_strdup(overlay);
    d->files = g_steal_pointer(&files);
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
