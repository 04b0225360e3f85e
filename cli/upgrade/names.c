/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See names.h. System calls: lstat, statx, fchmodat, fchownat, rename, unlink. */
#include "cli/upgrade/names.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/launch/inherit-argv.h"

GPtrArray *ff_upgrade_names(char *const *args, pid_t running, pid_t pid)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)running);
    g_autofree char *folder = g_file_read_link(link, NULL);
    GPtrArray *names;
    g_auto(GStrv) unused = ff_inherited_argv(args, -1, NULL, pid, folder, &names);

    return names;
}

/* What keeps one from being put in the place of THEN, ST; NULL: nothing. */
static const char *irreplaceable_reason(const char *then, const struct stat *st)
{
    g_autofree char *folder = g_path_get_dirname(then);
    struct statx file, dir;
    struct stat in;

    if (S_ISLNK(st->st_mode)) {
        return "is a link: give the path that it names";
    }
    if (statx(AT_FDCWD, then, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, &file) == 0 &&
        statx(AT_FDCWD, folder, 0, STATX_MNT_ID, &dir) == 0 && file.stx_mnt_id != dir.stx_mnt_id) {
        return "is a mount point: nothing can be put in its place";
    }
    if (stat(folder, &in) == 0 && in.st_mode & S_ISVTX && geteuid() && in.st_uid != geteuid() &&
        st->st_uid != geteuid()) {
        return "belongs to somebody else, in a folder with the sticky bit";
    }
    return NULL;
}

static bool has_name(const GPtrArray *names, const char *then, guint before)
{
    for (guint i = 0; i < before; i++) {
        const FfInheritedName *name = names->pdata[i];

        if (!strcmp(name->then, then)) {
            return true;
        }
    }
    return false;
}

bool ff_upgrade_names_are_own(const GPtrArray *names, const GPtrArray *own, GError **error)
{
    for (guint i = 0; i < names->len; i++) {
        const FfInheritedName *name = names->pdata[i];
        struct stat st, now;

        if (has_name(names, name->then, i)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS,
                        "%s: two options have this path, give each its own", name->then);
            return false;
        }
        if (lstat(name->then, &st) < 0) {
            continue;
        }
        if (own && !has_name(own, name->then, own->len)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS,
                        "%s: is there, and is not the running QEMU's: give another path, or remove "
                        "it",
                        name->then);
            return false;
        }
        const char *why = irreplaceable_reason(name->then, &st);
        if (why) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS, "%s: %s", name->then, why);
            return false;
        }
        if (lstat(name->now, &now) == 0 && (st.st_mode & S_IFMT) != (now.st_mode & S_IFMT)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS,
                        "%s: is no %s any more: put it back, or remove it", name->then,
                        S_ISSOCK(now.st_mode) ? "socket" : "file");
            return false;
        }
    }
    return true;
}

/* What there is no file for any more has nobody's rights: a new one is as good. */
static bool copy_rights(const FfInheritedName *name)
{
    struct stat theirs, ours;

    if (lstat(name->then, &theirs) < 0 || lstat(name->now, &ours) < 0) {
        return true;
    }
    bool same = theirs.st_gid == ours.st_gid && theirs.st_uid == ours.st_uid;
    return (same || fchownat(AT_FDCWD, name->now, theirs.st_uid, theirs.st_gid,
                             AT_SYMLINK_NOFOLLOW) == 0) &&
           fchmodat(AT_FDCWD, name->now, theirs.st_mode & 07777, 0) == 0;
}

bool ff_upgrade_names_copy_rights(const GPtrArray *names, GError **error)
{
    for (guint i = 0; i < names->len; i++) {
        const FfInheritedName *name = names->pdata[i];

        if (!copy_rights(name)) {
            g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                        "%s: the new QEMU's cannot get its owner, group and rights (%s): give it "
                        "to yourself and a group of yours, or call this as root",
                        name->then, g_strerror(errno));
            return false;
        }
    }
    return true;
}

void ff_upgrade_names_take(const GPtrArray *names)
{
    for (guint i = 0; i < names->len; i++) {
        const FfInheritedName *name = names->pdata[i];

        struct stat now, then;

        if (lstat(name->now, &now) == 0 && lstat(name->then, &then) == 0 &&
            now.st_ino == then.st_ino && now.st_dev == then.st_dev) {
            unlink(name->now); /* rename() would leave both */
        } else if (rename(name->now, name->then) < 0 && errno != ENOENT) {
            fprintf(stderr, "farfault: warning: %s stays under that name, it should be %s: %s\n",
                    name->now, name->then, g_strerror(errno));
        }
    }
}

void ff_upgrade_names_remove(const GPtrArray *names)
{
    for (guint i = 0; i < names->len; i++) {
        const FfInheritedName *name = names->pdata[i];

        unlink(name->now);
    }
}
