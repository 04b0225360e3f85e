/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See upgrade-names.h. System calls: lstat, fchmodat, fchownat, rename, unlink. */
#include "cli/upgrade-names.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launch/lent-argv.h"

GPtrArray *ff_upgrade_names(char *const *args, pid_t running, pid_t pid)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)running);
    g_autofree char *folder = g_file_read_link(link, NULL);
    GPtrArray *names;
    g_auto(GStrv) unused = ff_lent_argv(args, -1, NULL, pid, folder, &names);

    return names;
}

/* What there is no file for any more has nobody's rights: a new one is as good. */
static bool copy_rights(const FfLentName *name)
{
    struct stat theirs, ours;

    if (lstat(name->then, &theirs) < 0 || lstat(name->now, &ours) < 0 || S_ISLNK(theirs.st_mode)) {
        return true;
    }
    return (theirs.st_gid == ours.st_gid ||
            fchownat(AT_FDCWD, name->now, (uid_t)-1, theirs.st_gid, AT_SYMLINK_NOFOLLOW) == 0) &&
           fchmodat(AT_FDCWD, name->now, theirs.st_mode & 07777, 0) == 0;
}

bool ff_upgrade_names_copy_rights(const GPtrArray *names, GError **error)
{
    for (guint i = 0; i < names->len; i++) {
        const FfLentName *name = names->pdata[i];

        if (!copy_rights(name)) {
            g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                        "%s: the new QEMU's cannot get its group and rights: %s", name->then,
                        g_strerror(errno));
            return false;
        }
    }
    return true;
}

void ff_upgrade_names_take(const GPtrArray *names)
{
    for (guint i = 0; i < names->len; i++) {
        const FfLentName *name = names->pdata[i];

        if (rename(name->now, name->then) < 0 && errno != ENOENT) {
            fprintf(stderr, "farfault: warning: %s stays under that name, it should be %s: %s\n",
                    name->now, name->then, g_strerror(errno));
        }
    }
}

void ff_upgrade_names_remove(const GPtrArray *names)
{
    for (guint i = 0; i < names->len; i++) {
        const FfLentName *name = names->pdata[i];

        unlink(name->now);
    }
}
