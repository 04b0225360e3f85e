/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See clone.h. Thread: the coordinator.
 *
 * System calls: open, fstat, ioctl, utimensat.
 */
#include "migration/restore/clone.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_as(int fd, const struct stat *st)
{
    struct stat now;

    return fstat(fd, &now) == 0 && now.st_size == st->st_size &&
           now.st_mtim.tv_sec == st->st_mtim.tv_sec && now.st_mtim.tv_nsec == st->st_mtim.tv_nsec;
}

/* The content that FD has as long as it is as ST says, and the time by which that is told. */
static bool fill_clone(int copy, int fd, const struct stat *st)
{
    const struct timespec times[] = {st->st_atim, st->st_mtim};

    return ioctl(copy, FICLONE, fd) == 0 && futimens(copy, times) == 0 && is_as(fd, st) &&
           is_as(copy, st);
}

int ff_restore_clone(int fd, const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    struct stat st;
    int own = -1;

    if (path[0] != '/' || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        return -1;
    }
    int copy = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (copy < 0) {
        return -1;
    }
    if (fill_clone(copy, fd, &st)) {
        g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", copy);
        own = open(link, O_RDONLY | O_CLOEXEC);
    }
    close(copy);
    return own;
}
