/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See disks.h. What is refused here is what QEMU would do without a word, and what nobody could
 * undo: overlays of images that cannot be found by their name, of half a chain, of disks that
 * somebody else writes to. One thread.
 */
#include "cli/snapshot/disks.h"
#include "qmp/disk.h"
#include "qmp/image-name.h"

#include <string.h>
#include <sys/stat.h>

/* libvirt gives this secret to each guest, and to no other. */
#define LIBVIRTS "masterKey0"

static bool refuse_disk(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static bool refuse_disk(GError **error, const char *format, ...)
{
    va_list args;
    g_autofree char *text = NULL;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "--disks: %s", text);
    return false;
}

static void disk_free(void *data)
{
    FfCliDisk *d = data;

    g_free(d->name);
    g_free(d->device);
    g_free(d->node);
    g_free(d->base);
    g_strfreev(d->below);
    g_free(d->format);
    g_free(d->detect_zeroes);
    g_free(d->overlay);
    g_free(d->overlay_node);
    g_free(d->file_node);
    g_clear_pointer(&d->files, g_ptr_array_unref);
    g_free(d);
}

/* ---- the guest as a whole -------------------------------------------------------------------- */

static JsonObject *one_member(const char *name, const char *value)
{
    JsonObject *o = json_object_new();

    json_object_set_string_member(o, name, value);
    return o;
}

/* That QEMU does not say is no reason to continue: whose XML would be wrong is not known then. */
static bool is_nobodys(FfCliQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) list =
        ff_cli_qmp_call(qmp, "qom-list", one_member("path", "/objects"), error);

    for (guint i = 0; i < ff_json_node_length(list); i++) {
        if (!strcmp(ff_json_string_or(ff_json_node_nth(list, i), "name", ""), LIBVIRTS)) {
            return refuse_disk(error,
                               "libvirt keeps account of this guest's images, and would start it "
                               "with the old ones: use virsh snapshot-create-as --disk-only");
        }
    }
    return list;
}

static bool has_no_jobs(FfCliQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) list = ff_cli_qmp_call(qmp, "query-block-jobs", NULL, error);
    JsonObject *first = ff_json_node_length(list) ? ff_json_node_nth(list, 0) : NULL;

    if (first) {
        return refuse_disk(error,
                           "QEMU is at a job with a disk (%s, %s): wait for its end, or cancel it",
                           ff_json_string_or(first, "type", "unknown"),
                           ff_json_string_or(first, "device", "unnamed"));
    }
    return list;
}

/* A client that writes through an export does not stand while the guest stands. */
static bool has_no_exports(FfCliQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) list = ff_cli_qmp_call(qmp, "query-block-exports", NULL, error);
    JsonObject *first = ff_json_node_length(list) ? ff_json_node_nth(list, 0) : NULL;

    if (first) {
        return refuse_disk(error, "QEMU exports node %s to others: take that export away first",
                           ff_json_string_or(first, "node-name", "unnamed"));
    }
    return list;
}

/* A vCPU is a thread of QEMU's. */
static bool find_host(FfCliQmp *qmp, FfCliHost *host, GError **error)
{
    g_autoptr(JsonNode) list = ff_cli_qmp_call(qmp, "query-cpus-fast", NULL, error);
    JsonObject *first = ff_json_node_length(list) ? ff_json_node_nth(list, 0) : NULL;
    struct stat st;

    if (!list) {
        return false;
    }
    host->thread = (int)ff_json_int(first, "thread-id", 0);
    g_autofree char *proc = g_strdup_printf("/proc/%d", host->thread);
    g_autofree char *files = g_strconcat(proc, "/fd", NULL);
    g_autoptr(GDir) seen = g_dir_open(files, 0, NULL);
    if (!seen || stat(proc, &st) < 0) {
        return refuse_disk(error,
                           "which files QEMU has open cannot be seen (%s): run this on the "
                           "guest's host, as QEMU's user or root",
                           files);
    }
    host->uid = st.st_uid;
    return true;
}

/* ---- a disk ---------------------------------------------------------------------------------- */

static char *name_of(const FfDiskEntry *e)
{
    g_autofree char *path = g_strdup(e->device);

    if (e->drive) {
        return g_strdup(e->drive);
    }
    if (g_str_has_suffix(path, "/virtio-backend")) {
        *strrchr(path, '/') = '\0';
    }
    const char *slash = strrchr(path, '/');

    return g_strdup(slash ? slash + 1 : path);
}

/* What it is by itself. */
static bool can_be_base(const FfDiskEntry *e, const char *name, GError **error)
{
    static const char *const formats[] = {"raw", "qcow2", "file", "host_device", NULL};

    if (!*e->node) {
        return refuse_disk(error, "disk %s: its node has no name", name);
    }
    if (ff_json_bool(e->inserted, "encrypted")) {
        return refuse_disk(error, "disk %s is encrypted: its overlay would not be", name);
    }
    if (!g_strv_contains(formats, e->format)) {
        return refuse_disk(
            error,
            "disk %s: in front of it QEMU has a node of type \"%s\", and overlays are "
            "made of raw and qcow2 images alone: stop the guest, and copy it",
            name, e->format);
    }
    if (e->size <= 0) {
        return refuse_disk(error, "disk %s: QEMU does not say how large it is", name);
    }
    return true;
}

/* The guest talks to the host's disk itself. */
static bool is_emulated(FfCliQmp *qmp, const FfDiskEntry *e, const char *name, GError **error)
{
    g_autofree char *path = *e->device == '/'
                                ? g_strdup(e->device)
                                : g_strconcat("/machine/peripheral/", e->device, NULL);
    JsonObject *args = one_member("path", path);

    json_object_set_string_member(args, "property", "type");
    g_autoptr(JsonNode) type = ff_cli_qmp_call(qmp, "qom-get", args, error);
    const char *text = type && JSON_NODE_HOLDS_VALUE(type) ? json_node_get_string(type) : NULL;

    if (!g_strcmp0(text, "scsi-block") || !g_strcmp0(text, "scsi-generic")) {
        return refuse_disk(error, "disk %s is the host's, passed through (%s)", name, text);
    }
    return type;
}

/* QEMU has it open. */
static bool is_open(const FfCliHost *host, const struct stat *st)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", host->thread);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        struct stat open;

        if (stat(path, &open) == 0 && open.st_dev == st->st_dev && open.st_ino == st->st_ino) {
            return true;
        }
    }
    return false;
}

/* Its image by a name that is good anywhere (g_free): a relative one is looked for beside the
 * overlay later. NULL and ERROR: there is none. */
static char *find_base(const FfDiskEntry *e, const FfCliHost *host, const char *name,
                       GError **error)
{
    const char *image = e->image ? e->image : "";
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", host->thread);
    g_autofree char *cwd = g_file_read_link(link, NULL);
    g_autofree char *path =
        ff_image_path(image, ff_json_object(e->inserted, "image"), cwd ? cwd : "/");
    struct stat st;

    if (!path) {
        refuse_disk(error, "disk %s: its image (%s) is no file or block device of this host", name,
                    *image ? image : "which QEMU does not name");
        return NULL;
    }
    if (stat(path, &st) < 0 || !is_open(host, &st)) {
        refuse_disk(error,
                    "disk %s: %s is not the file that QEMU has open: give its image that name",
                    name, path);
        return NULL;
    }
    return g_steal_pointer(&path);
}

/* What the headers of its images name is what QEMU has behind them: whoever opens them next has
 * nothing else. */
static bool is_found_again(const FfDiskEntry *e, const FfCliHost *host, const char *name,
                           GError **error)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", host->thread);
    g_autofree char *cwd = g_file_read_link(link, NULL);
    JsonObject *image = ff_json_object(e->inserted, "image");

    for (; ff_json_object(image, "backing-image"); image = ff_json_object(image, "backing-image")) {
        g_autofree char *path =
            ff_image_path(ff_json_string_or(image, "full-backing-filename", ""), NULL, cwd);
        struct stat st;

        if (path && (stat(path, &st) < 0 || !is_open(host, &st))) {
            return refuse_disk(
                error,
                "disk %s: %s, which %s names as its base, is not the file that QEMU has "
                "open: give its base that name",
                name, path, ff_json_string_or(image, "filename", "its image"));
        }
    }
    return true;
}

/* The files that the image at its front is an overlay of (g_strfreev). */
static char **files_below(const FfDiskEntry *e, const FfCliHost *host)
{
    g_autoptr(GStrvBuilder) files = g_strv_builder_new();
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", host->thread);
    g_autofree char *cwd = g_file_read_link(link, NULL);
    JsonObject *image = ff_json_object(e->inserted, "image");

    while ((image = ff_json_object(image, "backing-image"))) {
        g_autofree char *path = ff_image_path(ff_json_string_or(image, "filename", ""), image, cwd);

        if (path) {
            g_strv_builder_add(files, path);
        }
    }
    return g_strv_builder_end(files);
}

static FfCliDisk *disk_new(FfCliQmp *qmp, const FfDiskEntry *e, const FfCliHost *host,
                           GError **error)
{
    g_autofree char *name = name_of(e);
    JsonObject *cache = ff_json_object(e->inserted, "cache");

    if (!can_be_base(e, name, error) || !is_emulated(qmp, e, name, error)) {
        return NULL;
    }
    g_autofree char *base = find_base(e, host, name, error);
    if (!base || !is_found_again(e, host, name, error)) {
        return NULL;
    }
    FfCliDisk *d = g_new0(FfCliDisk, 1);

    d->name = g_steal_pointer(&name);
    d->device = g_strdup(e->device);
    d->node = g_strdup(e->node);
    d->base = g_steal_pointer(&base);
    d->below = files_below(e, host);
    d->format = g_strdup(!strcmp(e->format, "qcow2") ? "qcow2" : "raw");
    d->size = e->size;
    d->direct = ff_json_bool(cache, "direct");
    d->no_flush = ff_json_bool(cache, "no-flush");
    d->detect_zeroes = g_strdup(ff_json_string_or(e->inserted, "detect_zeroes", "off"));
    return d;
}

/* An overlay of a node is in front of everything that uses it. */
static bool is_alone(const GPtrArray *disks, const FfCliDisk *d, GError **error)
{
    for (guint i = 0; i < disks->len; i++) {
        const FfCliDisk *other = disks->pdata[i];

        if (!strcmp(other->node, d->node) || !strcmp(other->base, d->base)) {
            return refuse_disk(error, "disks %s and %s are one (%s)", other->name, d->name,
                               d->base);
        }
    }
    return true;
}

static void add_name(GString *names, const char *name)
{
    g_string_append_printf(names, "%s%s", names->len ? ", " : "", name);
}

/* NULL: there are none. */
static char *take_names(GString *names)
{
    return g_string_free(names, !names->len);
}

static bool add_other(FfCliQmp *qmp, const char *path, GString *names, GError **error)
{
    g_autoptr(JsonNode) list = ff_cli_qmp_call(qmp, "qom-list", one_member("path", path), error);

    for (guint i = 0; i < ff_json_node_length(list); i++) {
        JsonObject *child = ff_json_node_nth(list, i);

        if (g_str_has_prefix(ff_json_string_or(child, "type", ""), "child<vhost-user-blk")) {
            add_name(names, ff_json_string_or(child, "name", "unnamed"));
        }
    }
    return list;
}

char *ff_cli_disks_other(FfCliQmp *qmp, GError **error)
{
    g_autoptr(GString) names = g_string_new(NULL);

    return add_other(qmp, "/machine/peripheral", names, error) &&
                   add_other(qmp, "/machine/peripheral-anon", names, error)
               ? take_names(g_steal_pointer(&names))
               : NULL;
}

static bool has_no_other(FfCliQmp *qmp, GError **error)
{
    g_autoptr(GError) unsaid = NULL;
    g_autofree char *names = ff_cli_disks_other(qmp, &unsaid);

    if (unsaid) {
        g_propagate_error(error, g_steal_pointer(&unsaid));
        return false;
    }
    return !names ||
           refuse_disk(
               error,
               "%s is another process's disk (vhost-user), of which no overlay can be made: leave "
               "--disks away, and copy its image as docs/vhost-user.md says",
               names);
}

static GPtrArray *read_disks(FfCliQmp *qmp, const FfCliHost *host, GError **error)
{
    g_autoptr(JsonNode) block = ff_cli_qmp_call(qmp, "query-block", NULL, error);
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(disk_free);

    for (guint i = 0; i < ff_json_node_length(block); i++) {
        FfDiskEntry e;

        if (!ff_disk_read(ff_json_node_nth(block, i), &e)) {
            continue;
        }
        FfCliDisk *d = disk_new(qmp, &e, host, error);
        if (!d) {
            return NULL;
        }
        bool alone = is_alone(disks, d, error);
        g_ptr_array_add(disks, d);
        if (!alone) {
            return NULL;
        }
    }
    return block ? g_steal_pointer(&disks) : NULL;
}

GPtrArray *ff_cli_disks_plan(FfCliQmp *qmp, FfCliHost *host, GError **error)
{
    if (ff_cli_qmp_host(qmp)) {
        refuse_disk(error,
                    "through a TCP monitor no overlays can be made: use a unix socket on the "
                    "guest's host");
        return NULL;
    }
    if (!is_nobodys(qmp, error) || !has_no_other(qmp, error) || !has_no_jobs(qmp, error) ||
        !has_no_exports(qmp, error) || !find_host(qmp, host, error)) {
        return NULL;
    }
    return read_disks(qmp, host, error);
}

char *ff_cli_disks_names(FfCliQmp *qmp)
{
    g_autoptr(JsonNode) block = ff_cli_qmp_call(qmp, "query-block", NULL, NULL);
    g_autoptr(GString) names = g_string_new(NULL);

    for (guint i = 0; i < ff_json_node_length(block); i++) {
        FfDiskEntry e;

        if (ff_disk_read(ff_json_node_nth(block, i), &e)) {
            g_autofree char *name = name_of(&e);

            add_name(names, name);
        }
    }
    return take_names(g_steal_pointer(&names));
}
