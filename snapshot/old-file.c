/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See old-file.h.
 *
 * System calls: open, fstat, lstat, stat, statx, access, readlink, fgetxattr, fcntl, geteuid,
 * pread64, pwrite64, close.
 */
#include "snapshot/old-file.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

/* It is copied with nobody waiting, but a cancel is not heard meanwhile. */
#define KEPT_MAX (64ull << 20)
#define PIECE (64u << 10)

bool ff_old_file_stays(const char *path, GError **error, const char *why, ...)
{
    va_list args;

    va_start(args, why);
    g_autofree char *text = g_strdup_vprintf(why, args);
    va_end(args);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS,
                "%s: is there already, and no new file can take its place: %s", path, text);
    return false;
}

void ff_old_file_free(FfOldFile *old)
{
    if (!old) {
        return;
    }
    if (old->fd >= 0) {
        close(old->fd);
    }
    g_free(old->path);
    g_free(old);
}

/* rename() over it would fail when all is written. */
static bool is_mounted(const char *path)
{
    struct statx st;

    return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st) == 0 &&
           st.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

/* Such a one would go on writing to a file that has no name any more, and read nothing new of it.
 * (Where there are no leases nobody can say.) */
static bool is_written(int fd)
{
    if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0) {
        return errno == EAGAIN;
    }
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return false;
}

/* NULL: it can be replaced, if a file like it can be made. */
static const char *why_not(const FfOldFile *old)
{
    if (!S_ISREG(old->st.st_mode)) {
        return "it is not a regular file";
    }
    if (old->st.st_uid != geteuid()) {
        return "it belongs to another user";
    }
    if (old->st.st_nlink != 1) {
        return "it has other names, which would keep the old one";
    }
    if (access(old->path, W_OK) < 0) {
        return "it may not be written to";
    }
    if (fgetxattr(old->fd, "system.posix_acl_access", NULL, 0) >= 0) {
        return "it has an access control list";
    }
    if (is_mounted(old->path)) {
        return "something is mounted there";
    }
    if (is_written(old->fd)) {
        return "somebody has it open for writing";
    }
    return MIN(old->kept, (uint64_t)old->st.st_size) > KEPT_MAX
               ? "too much stands in front of the offset"
               : NULL;
}

bool ff_old_file_find(const char *path, uint64_t kept, FfOldFile **found, GError **error)
{
    g_autoptr(FfOldFile) old = g_new0(FfOldFile, 1);

    *found = NULL;
    old->fd = -1;
    if (lstat(path, &old->st) < 0) {
        return true; /* whatever it is, it is said when the new file is made */
    }
    char *real = S_ISLNK(old->st.st_mode) ? realpath(path, NULL) : NULL;
    if (S_ISLNK(old->st.st_mode) && (!real || stat(real, &old->st) < 0)) {
        free(real);
        return ff_old_file_stays(path, error, "it leads to nothing");
    }
    old->path = g_strdup(real ? real : path);
    free(real);
    if (!S_ISREG(old->st.st_mode)) { /* to open it may do something */
        return ff_old_file_stays(path, error, "it is not a regular file");
    }
    /* A lease, or what has come there meanwhile, must not hold us up. */
    old->fd = open(old->path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (old->fd < 0 || fstat(old->fd, &old->st) < 0) {
        return ff_old_file_stays(path, error, "%s", g_strerror(errno));
    }
    old->kept = kept;
    const char *why = why_not(old);
    if (why) {
        return ff_old_file_stays(path, error, "%s", why);
    }
    *found = g_steal_pointer(&old);
    return true;
}

bool ff_old_file_is_like(const FfOldFile *old, int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_mode == old->st.st_mode && st.st_uid == old->st.st_uid &&
           st.st_gid == old->st.st_gid;
}

bool ff_old_file_is_other(const FfOldFile *old)
{
    struct stat st;

    return lstat(old->path, &st) == 0 &&
           (st.st_dev != old->st.st_dev || st.st_ino != old->st.st_ino);
}

static int put(int fd, const char *data, size_t n, uint64_t at)
{
    while (n > 0) {
        ssize_t done = pwrite(fd, data, n, (off_t)at);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done < 0 ? -errno : -ENOSPC;
        }
        data += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return 0;
}

int ff_old_file_copy(const FfOldFile *old, int fd)
{
    g_autofree char *piece = g_malloc(PIECE);
    uint64_t at = 0;
    int rc = 0;

    while (at < old->kept && rc == 0) {
        ssize_t n = pread(old->fd, piece, MIN(PIECE, old->kept - at), (off_t)at);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) { /* it was cut since: as if it had been before */
            return n < 0 ? -errno : 0;
        }
        rc = put(fd, piece, (size_t)n, at);
        at += (uint64_t)n;
    }
    return rc;
}
