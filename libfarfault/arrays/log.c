/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of an array's log; see log.h. Where others may make files one of them could have
 * put there what is to be written to ours: it is taken of the file's owner, of root and of this
 * user alone, and never through a link.
 *
 * Any thread. System calls: open, fstat, fchown, flock, fsync, unlink, close.
 */
#include "libfarfault/arrays/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libfarfault/common/memory-internal.h"

static int fail_log(const char *name, int rc)
{
    switch (rc) {
    case -EWOULDBLOCK:
        return ff_fail(-EBUSY, "%s: somebody has it open, perhaps this program", name);
    case -ELOOP:
        return ff_fail(rc, "%s is a link, and a log is none: remove it", name);
    case -EISDIR:
        return ff_fail(rc, "%s is a folder, and the log needs that name: remove it", name);
    default:
        return ff_fail(rc, "%s: %s", name, ff_strerror(-rc));
    }
}

static bool is_foreign(const struct stat *st, const FfArrayDisk *disk)
{
    return st->st_uid != geteuid() && st->st_uid && st->st_uid != ff_array_disk_owner(disk);
}

/* Of another user's log: if it has nothing it is gone. FALSE: it is there, and errno EACCES. */
static bool remove_empty(const char *name)
{
    struct stat st;
    bool gone = lstat(name, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1 &&
                st.st_size == 0 && unlink(name) == 0;

    errno = EACCES;
    return gone;
}

/* Its file, or -errno. One that is made is the owner's of DISK, who must be able to open it later.
 * Without O_CREAT first: of a file that is there the kernel may refuse that
 * (fs.protected_regular). */
static int open_name(const char *name, const FfArrayDisk *disk)
{
    int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC; /* a FIFO must not block */
    int fd = open(name, flags);

    if (fd >= 0 || (errno != ENOENT && !(errno == EACCES && remove_empty(name)))) {
        return fd < 0 ? -errno : fd;
    }
    fd = open(name, flags | O_CREAT | O_EXCL, ff_array_disk_mode(disk));
    if (fd >= 0 && ff_array_disk_owner(disk) != geteuid() &&
        fchown(fd, ff_array_disk_owner(disk), -1) < 0) {
        /* Then it is ours, and an empty one is made again by the process that comes next. */
    }
    return fd < 0 ? -errno : fd;
}

/* 0: FD is the log's, and locked. 1: it was another user's, empty, and is gone: once more. Or
 * -errno, said. */
static int take_log(const char *name, int fd, const FfArrayDisk *disk)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        return fail_log(name, -errno);
    }
    if (!S_ISREG(st.st_mode)) {
        return ff_fail(-EINVAL, "%s is not a regular file: remove it", name);
    }
    if (st.st_nlink > 1) {
        return ff_fail(
            -EINVAL,
            "%s has another name as well, and may have commits: copy it to a file of its "
            "own in its place",
            name);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return fail_log(name, -errno);
    }
    if (!is_foreign(&st, disk)) {
        return 0;
    }
    if (remove_empty(name)) {
        return 1;
    }
    return ff_fail(-EACCES,
                   "%s is of user %u, to whom the array does not belong: what it has committed is "
                   "put in its place when that user, or root, opens the array; else remove it",
                   name, st.st_uid);
}

/* The names in the folder of NAME are on the disk. */
static int sync_folder(const char *name)
{
    g_autofree char *folder = g_path_get_dirname(name);
    int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = dir < 0 || fsync(dir) < 0 ? -errno : 0;

    if (dir >= 0) {
        close(dir);
    }
    return rc < 0 ? fail_log(folder, rc) : 0;
}

int ff_array_log_open(const char *name, const FfArrayDisk *disk, FfRedo **log)
{
    int rc = 1, fd = -1;

    for (unsigned i = 0; i < 2 && rc > 0; i++) {
        fd = open_name(name, disk);
        if (fd < 0) {
            return fail_log(name, fd);
        }
        rc = take_log(name, fd, disk);
        if (rc != 0) {
            close(fd);
        }
    }
    if (rc != 0) {
        return rc < 0 ? rc : fail_log(name, -EWOULDBLOCK);
    }
    rc = sync_folder(name);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return ff_redo_new(fd, 0, false, log);
}
