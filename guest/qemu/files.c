/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See files.h. /proc/PID/fdinfo names the mount of each open file, and /proc/PID/mountinfo the type
 * of its file system; neither asks the file system (stat and statfs would: a FUSE or NFS server
 * that is gone never answers). A mount that is not in the list (of another mount namespace,
 * detached) is not known, and counts as one that does not copy; but the guest's memory may be on a
 * detached one.
 */
#include "guest/qemu/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * File systems whose read copies by the processor into the reader's address space unless the file
 * is O_DIRECT, as their read_iter in the kernel's source says:
 *
 * - ext2, ext3, ext4, xfs: with DAX dax_iomap_rw(), a copy from the device's memory; else
 *   generic_file_read_iter(), which is the page cache.
 * - btrfs: filemap_read(), which is the page cache.
 * - ramfs, iso9660, squashfs: generic_file_read_iter(), too. What squashfs calls direct goes into
 *   the page cache, not into the reader.
 * - tmpfs, hugetlbfs: loops of their own around copy_page_to_iter().
 * - sysfs, cgroup, cgroup2: kernfs, through a buffer of the kernel.
 * - devtmpfs: devices are no images for QEMU's driver "file", and host_device is always drained.
 * - proc, devpts: not looked at. No image can be on them; QEMU has files there for other reasons.
 *
 * Not in the list, as a read that is not O_DIRECT may pin the reader's pages:
 *
 * - fuse, virtiofs: the server says FOPEN_DIRECT_IO for a file (fuse_direct_read_iter()), or passes
 *   it through to another file that nobody names.
 * - 9p, cifs, smb3, afs: cache=none, or an inode that netfs calls unbuffered
 *   (netfs_unbuffered_read_iter()).
 * - overlay: it reads the file below, which may be on any of these.
 * - ceph, zfs: not looked at.
 * - nfs, nfs4 copy (generic_file_read_iter()), but no test has read from one. Drained, as is all
 *   that is not known.
 */
static const char *const copying[] = {
    "ext2",  "ext3", "ext4",  "xfs",    "btrfs",   "tmpfs",  "hugetlbfs", "devtmpfs",
    "ramfs", "proc", "sysfs", "devpts", "cgroup2", "cgroup", "iso9660",   "squashfs"};

bool ff_files_type_copies(const char *type)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(copying); i++) {
        if (strcmp(type, copying[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* The mount of a file that is open as FD; -1: not known. PROCESS: "self", or a number. */
static int mount_of(const char *process, const char *fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/fdinfo/%s", process, fd), *text = NULL;
    const char *line =
        g_file_get_contents(path, &text, NULL, NULL) ? strstr(text, "mnt_id:") : NULL;

    return line ? atoi(line + strlen("mnt_id:")) : -1;
}

/* The ids of the mounts that copy: those of the list, and those of OURS. NULL: it cannot be read.
 */
static GHashTable *copying_mounts(int pid, const int *ours, unsigned n)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/mountinfo", pid), *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return NULL;
    }
    GHashTable *mounts = g_hash_table_new(NULL, NULL);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **l = lines; *l; l++) {
        /* "24 1 8:1 / /mnt rw shared:1 - ext4 /dev/sda rw": spaces in names are escaped */
        const char *type = strstr(*l, " - ");
        g_autofree char *name =
            type ? g_strndup(type + 3, strcspn(type + 3, " ")) : g_strdup("none");
        if (ff_files_type_copies(name)) {
            g_hash_table_add(mounts, GINT_TO_POINTER(atoi(*l)));
        }
    }
    for (unsigned i = 0; i < n; i++) {
        g_autofree char *fd = g_strdup_printf("%d", ours[i]);
        int mount = mount_of("self", fd);
        if (mount >= 0) {
            g_hash_table_add(mounts, GINT_TO_POINTER(mount));
        }
    }
    return mounts;
}

/* FALSE: no file with content of its own (a socket, a pipe, an eventfd, a memfd). A file that has
 * gone meanwhile is none either. */
static bool is_file(const char *directory, const char *fd)
{
    g_autofree char *link = g_build_filename(directory, fd, NULL);
    g_autofree char *target = g_file_read_link(link, NULL);

    return target && target[0] == '/' && !g_str_has_prefix(target, "/memfd:");
}

bool ff_files_copy(int pid, const int *ours, unsigned n)
{
    g_autofree char *process = g_strdup_printf("%d", pid);
    g_autofree char *directory = g_strdup_printf("/proc/%d/fd", pid);
    g_autoptr(GDir) dir = pid > 0 ? g_dir_open(directory, 0, NULL) : NULL;
    g_autoptr(GHashTable) mounts = dir ? copying_mounts(pid, ours, n) : NULL;
    const char *fd;

    while (mounts && (fd = g_dir_read_name(dir))) {
        if (is_file(directory, fd) &&
            !g_hash_table_contains(mounts, GINT_TO_POINTER(mount_of(process, fd)))) {
            return false;
        }
    }
    return mounts != NULL;
}
