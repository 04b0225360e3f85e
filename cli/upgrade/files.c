/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See files.h. A name says nothing of what the running QEMU has opened by it: somebody may
 * have put another file in its place since, or changed a link or a mount on the way to it. So each
 * file of the new QEMU's block nodes, those of backing files with them, must be among the files
 * that both processes have open: by device and inode, or by the device that it is. Where a name
 * leads is looked up as the new QEMU has just done it; the mount namespace of the running one does
 * not matter. What is in no file of this host (nbd, rbd) is compared by name alone.
 *
 * Which of its files the running QEMU uses for which disk nobody says. So two disks of the guest
 * that have exchanged names are noticed by their size, or not at all.
 *
 * One thread; no state. System calls: stat, pidfd_open, poll.
 */
#include "cli/upgrade/files.h"

#include <errno.h>
#include <gio/gio.h>
#include <poll.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "qmp/client.h"
#include "qmp/disk.h"
#include "qmp/json.h"

/* Milliseconds from the end of its monitor to that of a QEMU that ends by itself. */
#define END_MS 2000

#define fail(error, ...) (g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, __VA_ARGS__), false)

/* The same from whatever name, mount and process it is reached. */
typedef struct {
    mode_t type;
    dev_t dev; /* where it is; of a device: which it is */
    ino_t ino; /* of a device 0 */
} Identity;

static Identity identity_of(const struct stat *st)
{
    bool is_device = S_ISBLK(st->st_mode) || S_ISCHR(st->st_mode);

    return (Identity){st->st_mode & S_IFMT, is_device ? st->st_rdev : st->st_dev,
                      is_device ? 0 : st->st_ino};
}

/* Who may look is the kernel's to say: a user's own process may have another group, or more
 * capabilities. */
static bool cannot_see(pid_t pid, int err, GError **error)
{
    return fail(error,
                "which files QEMU (process %d) has open cannot be seen, and so not whether its "
                "disks are the same: %s: run this with its user, group and capabilities",
                (int)pid, g_strerror(err));
}

/* Of all that process PID has open (g_array_unref); NULL and ERROR. */
static GArray *open_files(pid_t pid, GError **error)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(Identity));
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;
    int err = dir ? 0 : errno ? errno : EACCES;

    while (!err && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        struct stat st;

        if (stat(path, &st) == 0) {
            Identity identity = identity_of(&st);
            g_array_append_val(all, identity);
        } else if (errno == EACCES || errno == EPERM) {
            err = errno;
        } /* else it has been closed */
    }
    g_clear_pointer(&dir, g_dir_close);
    if (err == ENOENT || err == ESRCH) {
        return g_steal_pointer(&all); /* it has ended: it has nothing */
    }
    if (err) {
        cannot_see(pid, err, error);
        return NULL;
    }
    return g_steal_pointer(&all);
}

bool ff_upgrade_can_see(pid_t pid, GError **error)
{
    g_autoptr(GArray) all = open_files(pid, error);

    return all;
}

/* ALONE: nobody else may find it there any more. */
static bool has_identity(GArray *all, const Identity *wanted, bool alone)
{
    for (guint i = 0; i < all->len; i++) {
        const Identity *one = &g_array_index(all, Identity, i);

        if (one->type == wanted->type && one->dev == wanted->dev && one->ino == wanted->ino) {
            if (alone) {
                g_array_remove_index_fast(all, i);
            }
            return true;
        }
    }
    return false;
}

/* The entry (borrowed) of whose FILE is, also if that is one of its backing files; NULL. */
static JsonObject *entry_of(JsonNode *disks, const char *file)
{
    for (guint i = 0; i < ff_json_node_length(disks); i++) {
        JsonObject *entry = ff_json_node_nth(disks, i);
        JsonObject *inserted = ff_json_object(entry, "inserted");
        JsonObject *image = ff_json_object(inserted, "image");

        if (!g_strcmp0(ff_json_string(inserted, "file"), file)) {
            return entry;
        }
        for (; image; image = ff_json_object(image, "backing-image")) {
            if (!g_strcmp0(ff_json_string(image, "filename"), file)) {
                return entry;
            }
        }
    }
    return NULL;
}

/* Firmware in a flash that the guest cannot write to: what the guest sees of it travels with its
 * memory, and the next package of it replaces the file. */
static bool is_firmware(JsonObject *entry)
{
    return g_str_has_prefix(ff_json_string_or(entry, "qdev", ""), "/machine/system.flash");
}

typedef struct {
    pid_t running_pid, prepared_pid;
    GArray *running, *prepared; /* Identity: what they have open */
    bool running_ended;
    JsonNode *disks; /* query-block */
} Files;

/* NODE of the new QEMU. */
static bool check_node(const Files *f, JsonObject *node, GError **error)
{
    const char *file = ff_json_string_or(node, "file", "");
    JsonObject *entry = entry_of(f->disks, file);
    const char *owner = entry ? ff_disk_owner(entry) : ff_json_string_or(node, "node-name", "?");
    bool writable = !ff_json_bool(node, "ro");
    g_autofree char *path = ff_disk_node_path(node, (int)f->prepared_pid);
    struct stat st;

    if (!path || (!writable && entry && is_firmware(entry))) {
        return true;
    }
    if (stat(path, &st) < 0) {
        return fail(error, "block device '%s': %s: %s", owner, file, g_strerror(errno));
    }
    Identity identity = identity_of(&st);
    if (!has_identity(f->prepared, &identity, writable)) {
        return fail(error, "block device '%s': %s has just been replaced: repeat the upgrade",
                    owner, file);
    }
    /* Two that the guest can write to are two in the running QEMU as well. */
    if (!has_identity(f->running, &identity, writable)) {
        if (f->running_ended) {
            return fail(error,
                        "process %d, which had the guest, has ended: if the guest is in another "
                        "QEMU now, repeat the upgrade",
                        (int)f->running_pid);
        }
        return fail(error,
                    "block device '%s': %s is not the file that the running QEMU has open: give "
                    "that one its name back (ls -l /proc/%d/fd)",
                    owner, file, (int)f->running_pid);
    }
    return true;
}

static JsonNode *ask_nodes(FfCliQmp *qmp, GError **error)
{
    JsonObject *args = json_object_new();

    json_object_set_boolean_member(args, "flat", TRUE);
    return ff_cli_qmp_call(qmp, "query-named-block-nodes", args, error);
}

/* -1: there is no medium. */
static gint64 size_of(JsonObject *entry)
{
    FfDiskEntry disk;

    ff_disk_read(entry, &disk); /* all of it also where the guest cannot write */
    return disk.size;
}

static gint64 size_of_owner(JsonNode *disks, const char *owner)
{
    for (guint i = 0; i < ff_json_node_length(disks); i++) {
        JsonObject *entry = ff_json_node_nth(disks, i);

        if (!strcmp(ff_disk_owner(entry), owner)) {
            return size_of(entry);
        }
    }
    return -1;
}

static bool same_sizes(JsonNode *running, JsonNode *prepared, GError **error)
{
    for (guint i = 0; i < ff_json_node_length(running); i++) {
        JsonObject *entry = ff_json_node_nth(running, i);
        const char *owner = ff_disk_owner(entry);
        gint64 size = size_of(entry), other = size_of_owner(prepared, owner);

        if (size != other) {
            return fail(error,
                        "block device '%s' has %" G_GINT64_FORMAT " bytes in the running QEMU and "
                        "%" G_GINT64_FORMAT
                        " in the new one: give each disk its own file; if its file has grown, say "
                        "block_resize in the running QEMU",
                        owner, size, other);
        }
    }
    return true;
}

bool ff_upgrade_has_ended(pid_t pid, bool about_to)
{
    struct pollfd p = {.fd = pidfd_open(pid, 0), .events = POLLIN};
    bool ended = p.fd < 0 ? errno == ESRCH : poll(&p, 1, about_to ? END_MS : 0) == 1;

    if (p.fd >= 0) {
        close(p.fd);
    }
    return ended;
}

/* *OF_NEW: it fails because of the new QEMU, which may be about to end. */
static bool same_files(FfCliQmp *running, pid_t running_pid, FfCliQmp *prepared, pid_t prepared_pid,
                       bool *of_new, GError **error)
{
    FF_FAULT_AT("same-files");
    g_autoptr(JsonNode) nodes = ask_nodes(prepared, error);
    g_autoptr(JsonNode) disks =
        nodes ? ff_cli_qmp_call(prepared, "query-block", NULL, error) : NULL;
    g_autoptr(JsonNode) theirs =
        disks ? ff_cli_qmp_call(running, "query-block", NULL, error) : NULL;
    g_autoptr(GArray) b = theirs ? open_files(prepared_pid, error) : NULL;
    g_autoptr(GArray) a = b ? open_files(running_pid, error) : NULL;

    *of_new = !disks || (b && !b->len);
    if (!a) {
        return false;
    }
    Files files = {running_pid, prepared_pid, a, b, !a->len, disks};
    for (guint i = 0; i < ff_json_node_length(nodes); i++) {
        if (!check_node(&files, ff_json_node_nth(nodes, i), error)) {
            return false;
        }
    }
    return same_sizes(theirs, disks, error);
}

bool ff_upgrade_same_files(FfCliQmp *running, pid_t running_pid, FfCliQmp *prepared,
                           pid_t prepared_pid, GError **error)
{
    g_autoptr(GError) local = NULL;
    bool of_new;

    if (same_files(running, running_pid, prepared, prepared_pid, &of_new, &local)) {
        return true;
    }
    /* Of one that has ended nothing else is right. */
    if (ff_upgrade_has_ended(prepared_pid, of_new)) {
        return fail(error, "the new QEMU, process %d, has ended", (int)prepared_pid);
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}
