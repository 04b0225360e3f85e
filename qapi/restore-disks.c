/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a guest that is about to be restored would write to an image that belongs to the
 * snapshot: to the base of a disk that farfault snapshot --disks kept, to a file behind that, or to
 * the overlay in which the guest that was saved has continued. Written once, neither fits to
 * anything any more: the snapshot, the overlay, every clone. The overlay may not be read either: it
 * has what came later than the guest's memory.
 *
 * FILE.disks says which images these are; QEMU itself, which waits for the guest, says what it can
 * write to, however the disks were named. A file is compared by device and inode. QEMU has written
 * to none of them yet: images are inactive until the guest comes. One that was written since the
 * snapshot is seen by its size and time, and by now QEMU's lock keeps others from it. Main loop's
 * thread.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "qapi/incoming.h"
#include "qmp/disk.h"
#include "qmp/disks-file.h"

#define FDSET "/dev/fdset/"

typedef struct {
    FfDisksFile *file;
    JsonNode *fdsets;
    FfHandler next;
} Kept;

static void kept_free(Kept *k)
{
    ff_disks_file_free(k->file);
    g_clear_pointer(&k->fdsets, json_node_unref);
    g_free(k);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Kept, kept_free)

char *ff_restore_path_of(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *path = g_file_read_link(link, NULL);
    struct stat own, named;

    return path && path[0] == '/' && fstat(fd, &own) == 0 && stat(path, &named) == 0 &&
                   own.st_dev == named.st_dev && own.st_ino == named.st_ino
               ? g_steal_pointer(&path)
               : NULL;
}

/* "/dev/fdset/N": the file is one that QEMU was given (g_free); NULL: there is no such set. */
static char *path_in_set(JsonNode *sets, const char *file, int pid)
{
    gint64 wanted = g_ascii_strtoll(file + strlen(FDSET), NULL, 10);

    for (guint i = 0; i < ff_json_node_length(sets); i++) {
        JsonObject *set = ff_json_node_nth(sets, i);
        JsonArray *fds = ff_json_array(set, "fds");

        if (ff_json_int(set, "fdset-id", -1) == wanted && fds && json_array_get_length(fds)) {
            JsonObject *first = ff_json_node_object(json_array_get_element(fds, 0));

            return g_strdup_printf("/proc/%d/fd/%" G_GINT64_FORMAT, pid,
                                   ff_json_int(first, "fd", -1));
        }
    }
    return NULL;
}

/* Also where that cannot be looked at (AppArmor, another user). */
static bool is_same(const struct stat *a, const char *path)
{
    struct stat b;

    if (stat(path, &b) < 0) {
        /* Where it has gone nobody finds it by this name. */
        return errno != ENOENT && errno != ENOTDIR;
    }
    return S_ISBLK(a->st_mode) ? S_ISBLK(b.st_mode) && a->st_rdev == b.st_rdev
                               : a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

/* The file that it is of those which D's base is an overlay of; NULL: none. */
static const char *same_below(const FfKeptDisk *d, const struct stat *st)
{
    for (char **file = d->below; *file; file++) {
        if (is_same(st, *file)) {
            return *file;
        }
    }
    return NULL;
}

/* Its file (g_free), of a node that is written to or not; NULL: it is in none that has a name. */
static char *file_of(const Kept *k, JsonObject *node, int pid)
{
    g_autofree char *named = ff_disk_node_path(node, pid);

    return named && g_str_has_prefix(named, FDSET) ? path_in_set(k->fdsets, named, pid)
                                                   : g_steal_pointer(&named);
}

/* What is wrong with NODE, which has the file ST, and to which QEMU can write (g_free); NULL:
 * nothing. */
static char *doubt_file(const Kept *k, const struct stat *st)
{
    for (guint i = 0; i < k->file->disks->len; i++) {
        const FfKeptDisk *d = k->file->disks->pdata[i];
        const char *base = is_same(st, d->base) ? d->base : same_below(d, st);

        if (base || is_same(st, d->overlay)) {
            g_autofree char *from = g_shell_quote(d->base);

            return g_strdup_printf(
                "%s: disk %s: this QEMU can write to %s, %s: give it an overlay of its own "
                "(qemu-img create -q -f qcow2 -b %s -F %s NEW), or let farfault restore --disks "
                "DIRECTORY make it",
                k->file->path, d->name, base ? base : d->overlay,
                base ? "which belongs to the snapshot"
                     : "in which the guest that was saved has continued",
                from, d->format);
        }
    }
    return NULL;
}

/* The same of one that it only reads. */
static char *doubt_read(const Kept *k, const struct stat *st)
{
    for (guint i = 0; i < k->file->disks->len; i++) {
        const FfKeptDisk *d = k->file->disks->pdata[i];
        struct stat overlay;

        /* Where that cannot be looked at, each node that is read may be it. */
        if (stat(d->overlay, &overlay) == 0 && is_same(st, d->overlay)) {
            return g_strdup_printf("%s: disk %s: this QEMU reads %s, in which the guest that was "
                                   "saved has continued, and which has what came later: give it "
                                   "an overlay of %s",
                                   k->file->path, d->name, d->overlay, d->base);
        }
    }
    return NULL;
}

/* The same of one that was written before. */
static char *doubt_written(const Kept *k, const struct stat *st)
{
    char *why = NULL;

    for (guint i = 0; i < k->file->disks->len; i++) {
        const FfKeptDisk *d = k->file->disks->pdata[i];

        for (guint n = 0; n < d->files->len && !why; n++) {
            const FfKeptFile *f = d->files->pdata[n];

            why = is_same(st, f->path) ? ff_kept_disk_doubt(d, f) : NULL;
        }
    }
    return why;
}

/* What is wrong with NODE (g_free); NULL: nothing. */
static char *doubt_node(const Kept *k, JsonObject *node, int pid)
{
    const char *file = ff_json_string_or(node, "file", "");
    bool writable = !ff_json_bool(node, "ro");
    g_autofree char *named = ff_disk_node_path(node, pid), *path = file_of(k, node, pid);
    struct stat st;

    if (!named) {
        return NULL;
    }
    if (!path || stat(path, &st) < 0) {
        /* A file without a name, as that of snapshot=on, is none of those that have one. */
        return !writable || (path && (errno == ENOENT || errno == ENOTDIR))
                   ? NULL
                   : g_strdup_printf("%s: whether %s belongs to the snapshot cannot be told: %s",
                                     k->file->path, file, path ? g_strerror(errno) : "no file");
    }
    char *why = doubt_written(k, &st);

    return why ? why : writable ? doubt_file(k, &st) : doubt_read(k, &st);
}

/* FfCallInner */
static void got_nodes(FfCall *call, JsonNode *result, const GError *error)
{
    g_autoptr(Kept) k = g_steal_pointer(&call->kept);
    g_autofree char *why = NULL;

    if (error) {
        ff_call_gerror(call, error);
        return;
    }
    for (guint i = 0; i < ff_json_node_length(result) && !why; i++) {
        why = doubt_node(k, ff_json_node_nth(result, i), call->driver->config.qemu_pid);
    }
    if (why) {
        ff_call_error(call, "%s", why);
    } else {
        k->next(call);
    }
}

/* FfCallInner */
static void got_fdsets(FfCall *call, JsonNode *result, const GError *error)
{
    Kept *k = call->kept;
    JsonObject *args = json_object_new();

    k->fdsets = result ? json_node_copy(result) : NULL;
    json_object_set_boolean_member(args, "flat", TRUE);
    ff_call_inner(call, "query-named-block-nodes", args, got_nodes);
}

/* Of the name that the client has for it, or of its own where that is another one (a link). */
static FfDisksFile *read_beside(const FfCall *call, GError **error)
{
    GError *local = NULL;
    FfDisksFile *f = call->target.name ? NULL : ff_disks_file_read(call->target.path, &local);
    g_autofree char *own = f || local || call->fd < 0 ? NULL : ff_restore_path_of(call->fd);

    f = own ? ff_disks_file_read(own, &local) : f;
    if (local) {
        g_propagate_error(error, local);
    }
    return f;
}

void ff_restore_check_disks(FfCall *call, FfHandler next)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfDisksFile) file = read_beside(call, &error);

    if (error) {
        ff_call_error(call, "%s", error->message);
    } else if (!file) {
        next(call);
    } else {
        Kept *k = g_new0(Kept, 1);

        k->file = g_steal_pointer(&file);
        k->next = next;
        call->kept = k;
        ff_call_inner(call, "query-fdsets", NULL, got_fdsets);
    }
}
