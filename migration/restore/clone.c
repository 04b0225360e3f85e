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

#include "content/pagers/reader.h"

/* The content that FD has as long as its id is ID, and the time by which that is told. */
static bool fill_clone(int copy, int fd, const FfFileId *id, const struct stat *st)
{
    const struct timespec times[] = {st->st_atim, st->st_mtim};
    FfFileId now;

    return ioctl(copy, FICLONE, fd) == 0 && futimens(copy, times) == 0 &&
           ff_file_check(fd, id) == 0 && ff_file_id(copy, &now) == 0 && now.size == id->size &&
           now.mtime_ns == id->mtime_ns;
}

int ff_restore_clone(int fd, const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    struct stat st;
    FfFileId id;
    int own = -1;

    if (path[0] != '/' || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || ff_file_id(fd, &id) < 0) {
        return -1;
    }
    int copy = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (copy < 0) {
        return -1;
    }
    if (fill_clone(copy, fd, &id, &st)) {
        g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", copy);
        own = open(link, O_RDONLY | O_CLOEXEC);
    }
    close(copy);
    return own;
}
