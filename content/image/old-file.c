/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See old-file.h.
 *
 * System calls: open, fstat, lstat, stat, statx, access, readlink, fgetxattr, flistxattr, fcntl,
 * geteuid, pread64, pwrite64, close.
 */
#include "content/image/old-file.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/limits.h>
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

void ff_old_file_close(FfOldFile *old)
{
    if (old->fd >= 0) {
        close(old->fd);
        old->fd = -1;
    }
}

void ff_old_file_free(FfOldFile *old)
{
    if (!old) {
        return;
    }
    ff_old_file_close(old);
    g_free(old->name);
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

static bool can_only_grow(int fd)
{
    struct statx st;

    return statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &st) == 0 &&
           st.stx_attributes & STATX_ATTR_APPEND;
}

/* In such a folder nothing can be renamed, nor removed. */
static bool is_in_growing_folder(const char *path)
{
    g_autofree char *directory = g_path_get_dirname(path);
    struct statx st;

    return statx(AT_FDCWD, directory, 0, STATX_TYPE, &st) == 0 &&
           st.stx_attributes & STATX_ATTR_APPEND;
}

/* Such a one would continue to write to a file that has no name any more, and read nothing new of
 * it. (Where there are no leases nobody can say.) */
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
    if (old->st.st_nlink > 1) {
        return "it has other names, which would keep the old one";
    }
    if (access(old->path, W_OK) < 0 && errno != ENOENT) { /* gone since: it hides nothing */
        return "it may not be written to";
    }
    if (fgetxattr(old->fd, "system.posix_acl_access", NULL, 0) >= 0) {
        return "it has an access control list";
    }
    if (old->st.st_mode & (S_ISUID | S_ISGID)) {
        return "it is set-user-id or set-group-id, which ends when a new one is written";
    }
    if (is_mounted(old->path)) {
        return "something is mounted there";
    }
    if (can_only_grow(old->fd) || is_in_growing_folder(old->path)) {
        return "it, or its folder, may only grow (chattr +a)";
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
    bool is_link = S_ISLNK(old->st.st_mode);
    /* By the link itself: the kernel may not let us follow one that another user has made in a
     * folder that is everybody's (fs.protected_symlinks), as it would not let QEMU. */
    if (is_link && stat(path, &old->st) < 0) {
        return ff_old_file_stays(path, error, "it leads to nothing that can be opened: %s",
                                 g_strerror(errno));
    }
    struct stat led = old->st;
    char *real = is_link ? realpath(path, NULL) : NULL;
    old->name = g_strdup(path);
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
    if (is_link && (led.st_dev != old->st.st_dev || led.st_ino != old->st.st_ino)) {
        return ff_old_file_stays(path, error, "it has just been made to lead elsewhere");
    }
    old->kept = kept;
    const char *why = why_not(old);
    if (why) {
        return ff_old_file_stays(path, error, "%s", why);
    }
    *found = g_steal_pointer(&old);
    return true;
}

/* ---- a file like it -------------------------------------------------------------------------- */

/* -1: it has none; -2: nobody can say. */
static ssize_t read_attribute(int fd, const char *name, char value[XATTR_SIZE_MAX])
{
    ssize_t n = fgetxattr(fd, name, value, XATTR_SIZE_MAX);

    return n >= 0 ? n : errno == ENODATA || errno == EOPNOTSUPP ? -1 : -2;
}

static bool has_same(int a, int b, const char *name)
{
    g_autofree char *one = g_malloc(XATTR_SIZE_MAX), *other = g_malloc(XATTR_SIZE_MAX);
    ssize_t n = read_attribute(a, name, one);

    return n != -2 && n == read_attribute(b, name, other) &&
           (n < 0 || !memcmp(one, other, (size_t)n));
}

/* Made by the kernel of the file's content. */
static bool is_of_content(const char *name)
{
    return !strcmp(name, "security.ima") || !strcmp(name, "security.evm");
}

/* B has each attribute that A has. */
static bool has_all(int a, int b)
{
    g_autofree char *names = g_malloc(XATTR_LIST_MAX);
    ssize_t n = flistxattr(a, names, XATTR_LIST_MAX);
    bool same = n >= 0 || errno == EOPNOTSUPP;

    for (const char *name = names; same && name < names + n; name += strlen(name) + 1) {
        same = is_of_content(name) || has_same(a, b, name);
    }
    return same;
}

/* A new file has the default ACL of its folder, which its mode need not show. Not every file system
 * lists these. */
static bool has_same_rights(int a, int b)
{
    return has_same(a, b, "system.posix_acl_access") && has_same(a, b, "system.nfs4_acl") &&
           has_same(a, b, "system.cifs_acl");
}

const char *ff_old_file_unlike(const FfOldFile *old, int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || st.st_mode != old->st.st_mode || st.st_uid != old->st.st_uid ||
        st.st_gid != old->st.st_gid) {
        return "a new one cannot have its mode and group";
    }
    return has_same_rights(old->fd, fd) && has_all(old->fd, fd) && has_all(fd, old->fd)
               ? NULL
               : "a new one cannot have its access control list and extended attributes";
}

/* ---- when the new one is written ------------------------------------------------------------- */

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Its name is another file's now, or the symbolic link that led to it leads elsewhere. */
static bool is_other(const FfOldFile *old)
{
    struct stat st;

    return (lstat(old->path, &st) == 0 && !is_same(&st, &old->st)) ||
           (stat(old->name, &st) == 0 && !is_same(&st, &old->st));
}

static bool is_changed(const struct timespec *was, const struct timespec *now)
{
    return was->tv_sec != now->tv_sec || was->tv_nsec != now->tv_nsec;
}

/* NULL: FD may take its place still. */
static const char *why_no_more(FfOldFile *old, int fd)
{
    const struct timespec was = old->st.st_ctim;

    if (is_other(old)) {
        return "another file is there";
    }
    if (fstat(old->fd, &old->st) < 0) {
        return g_strerror(errno);
    }
    const char *why = why_not(old);
    if (!why) {
        why = ff_old_file_unlike(old, fd);
    }
    return why                                                    ? why
           : old->is_copied && is_changed(&was, &old->st.st_ctim) ? "it was written to"
                                                                  : NULL;
}

bool ff_old_file_may_go(FfOldFile *old, int fd, GError **error)
{
    const char *why = why_no_more(old, fd);

    if (why) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "%s: was changed during the snapshot, and no new file can take its place any "
                    "more: %s",
                    old->path, why);
    }
    return !why;
}

static int write_at(int fd, const char *data, size_t n, uint64_t at)
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

int ff_old_file_copy(FfOldFile *old, int fd)
{
    g_autofree char *piece = g_malloc(PIECE);
    uint64_t at = 0, end = MIN(old->kept, (uint64_t)old->st.st_size);
    int rc = 0;

    old->is_copied = old->kept > 0;
    while (at < end && rc == 0) {
        ssize_t n = pread(old->fd, piece, MIN(PIECE, end - at), (off_t)at);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) { /* it was cut since: as if it had been before */
            return n < 0 ? -errno : 0;
        }
        rc = write_at(fd, piece, (size_t)n, at);
        at += (uint64_t)n;
    }
    return rc;
}
