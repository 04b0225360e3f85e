/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing a file that is there as a whole or not at all; see output.h.
 *
 * System calls: open, openat, pwrite64, fallocate, fsync, fstat, lstat, access, link, linkat,
 * renameat, renameat2 (never without a flag: the sandbox refuses it), unlink, umask, rt_sigaction,
 * fcntl, close.
 */
#include "content/image/output.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "content/image/old-file.h"

#define GATHER (1u << 20)

static const int end_signals[] = {SIGHUP, SIGINT, SIGTERM};

/* The file that has a name before its time. Set before the signals are caught; read by their
 * handler, in whichever thread. */
static char *named;

struct FfOutput {
    char *path, *part; /* part: NULL, it has no name yet */
    bool is_given;     /* by somebody who knows what becomes of it */
    bool was_direct;   /* O_DIRECT was taken off */
    bool replaces;     /* another of its name */
    bool is_quiet;     /* catches no signals */
    FfOldFile *old;    /* it replaces that one alone; NULL */
    bool may_be_named; /* that was asked, and it can do without rename() */
    int fd;
    int folder;  /* in which it gets its name; -1: none */
    uint64_t at; /* of gathered[0] */
    size_t n;
    uint8_t *gathered; /* from the first ff_output_append() on */
};

static bool fail_output(const FfOutput *o, int err, GError **error)
{
    const char *exists = g_file_test(o->path, G_FILE_TEST_IS_DIR)
                             ? "is a folder: give the name of a new file in it"
                             : "is there already, and no file is replaced: give another name, or "
                               "remove it";

    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err), "%s: %s", o->path,
                err == EEXIST ? exists : g_strerror(err));
    return false;
}

/* ---- the name -------------------------------------------------------------------------------- */

static void on_end(int signal)
{
    unlink(named);
    raise(signal); /* SA_RESETHAND: it ends us now */
}

static void catch_signals(char *name)
{
    struct sigaction action = {.sa_handler = name ? on_end : SIG_DFL, .sa_flags = SA_RESETHAND};

    if (name) {
        named = name;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        struct sigaction now;

        if (sigaction(end_signals[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN) {
            sigaction(end_signals[i], &action, NULL);
        }
    }
}

/* It has no such name (any more). */
static void forget_part(FfOutput *o)
{
    if (o->part == named) {
        catch_signals(NULL);
        named = NULL;
    }
    g_clear_pointer(&o->part, g_free);
}

static void remove_part(FfOutput *o)
{
    unlink(o->part);
    forget_part(o);
}

/* The engine can give a file no more rights later (base/sandbox.c). What other threads make
 * meanwhile they make with the rights that they mean, or take the others away before it is of use.
 */
static int open_new(const FfOutput *o, const char *path, int how)
{
    mode_t mode = o->old ? o->old->st.st_mode & (mode_t)07777 : 0600;
    mode_t mask = mode & 077 ? umask(0) : 0;
    int fd = open(path, how | O_RDWR | O_CLOEXEC, mode), err = errno;

    if (mode & 077) {
        umask(mask);
    }
    errno = err;
    return fd;
}

static bool open_with_name(FfOutput *o, GError **error)
{
    for (unsigned tries = 0; tries < 100; tries++) {
        o->part = g_strdup_printf("%s.%08x.part", o->path, g_random_int());
        if (!o->is_quiet) {
            catch_signals(o->part);
        }
        o->fd = open_new(o, o->part, O_CREAT | O_EXCL);
        if (o->fd >= 0) {
            return true;
        }
        int err = errno;

        forget_part(o);
        if (err != EEXIST) {
            return fail_output(o, err, error);
        }
    }
    return fail_output(o, EEXIST, error);
}

/* NAME: its path, or what it is called in errors. */
static FfOutput *no_output(const char *name)
{
    FfOutput *o = g_new0(FfOutput, 1);

    o->path = g_strdup(name);
    o->fd = o->folder = -1;
    return o;
}

/* At the end its name is synced by the folder: a user who may not read that hears it at the
 * beginning. */
static bool open_folder(FfOutput *o, const char *folder, GError **error)
{
    o->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return o->folder >= 0 || fail_output(o, errno, error);
}

/* A second name for the file without one. */
static bool link_to(const FfOutput *o, const char *path)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", o->fd);

    return FF_FAULT_CALL("output-link",
                         linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW)) == 0;
}

/* A name beside the final one, of a file that has none yet: linkat() replaces nothing. */
static bool link_part(FfOutput *o)
{
    for (unsigned tries = 0; tries < 100; tries++) {
        o->part = g_strdup_printf("%s.%08x.part", o->path, g_random_int());
        if (!o->is_quiet) {
            catch_signals(o->part);
        }
        if (link_to(o, o->part)) {
            return true;
        }
        int err = errno;

        forget_part(o);
        errno = err;
        if (err != EEXIST) {
            return false;
        }
    }
    return false;
}

static bool make_file(FfOutput *o, const char *path, GError **error)
{
    g_autofree char *directory = g_path_get_dirname(path);

    if (!open_folder(o, directory, error)) {
        return false;
    }
    o->fd = open_new(o, directory, O_TMPFILE);
    if (o->fd >= 0) {
        return true;
    }
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOSYS) {
        return fail_output(o, errno, error);
    }
    return open_with_name(o, error);
}

FfOutput *ff_output_new(const char *path, GError **error)
{
    g_autoptr(FfOutput) o = no_output(path);
    struct stat st;

    if (lstat(path, &st) == 0) {
        fail_output(o, EEXIST, error);
        return NULL;
    }
    return make_file(o, path, error) ? g_steal_pointer(&o) : NULL;
}

FfOutput *ff_output_new_replacing(const char *path, GError **error)
{
    g_autoptr(FfOutput) o = no_output(path);

    o->replaces = o->is_quiet = true;
    return make_file(o, path, error) ? g_steal_pointer(&o) : NULL;
}

/* That what has no name can get one is tried before it is written, with an empty file: one that has
 * had a name gets none again. A process that may not link (AppArmor) makes it with a name. */
static bool make_linkable(FfOutput *o, GError **error)
{
    g_autofree char *directory = g_path_get_dirname(o->path);
    bool linked = !o->part && link_part(o);

    if (linked && unlink(o->part) < 0) {
        return fail_output(o, errno, error);
    }
    if (linked) {
        forget_part(o);
    }
    if (o->part) {
        return true;
    }
    close(o->fd);
    o->fd = linked ? open_new(o, directory, O_TMPFILE) : -1;
    return linked ? o->fd >= 0 || fail_output(o, errno, error) : open_with_name(o, error);
}

FfOutput *ff_output_new_over(const char *path, uint64_t kept, GError **error)
{
    g_autoptr(FfOutput) o = NULL;
    g_autoptr(FfOldFile) old = NULL;
    g_autoptr(GError) local = NULL;

    if (!ff_old_file_find(path, kept, &old, error)) {
        return NULL;
    }
    if (!old) {
        return ff_output_new(path, error);
    }
    o = no_output(old->path);
    o->replaces = true;
    o->old = g_steal_pointer(&old);
    if (!make_file(o, o->path, &local) || !make_linkable(o, &local)) {
        ff_old_file_stays(path, error, "none can be made beside it (%s)", local->message);
        return NULL;
    }
    const char *unlike = ff_old_file_unlike(o->old, o->fd);
    if (unlike) {
        ff_old_file_stays(path, error, "%s", unlike);
        return NULL;
    }
    return g_steal_pointer(&o);
}

FfOutput *ff_output_new_nameless(const char *path, GError **error)
{
    g_autoptr(FfOutput) o = no_output(path);
    g_autofree char *directory = g_path_get_dirname(path);

    if (!open_folder(o, directory, error)) {
        return NULL;
    }
    o->fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (o->fd < 0) {
        g_autofree char *part = g_strdup_printf("%s.%08x.part", path, g_random_int());

        o->fd = open(part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (o->fd < 0) {
            fail_output(o, errno, error);
            return NULL;
        }
        unlink(part);
    }
    return g_steal_pointer(&o);
}

FfOutput *ff_output_new_fd(int fd, const char *name, GError **error)
{
    g_autoptr(FfOutput) o = no_output(name);
    struct stat st;

    o->fd = fd;
    o->is_given = true;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_REGULAR_FILE,
                    "%s: it has to be a regular file", name);
        return NULL;
    }
    int flags = fcntl(fd, F_GETFL);
    o->was_direct = flags >= 0 && flags & O_DIRECT && fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
    return g_steal_pointer(&o);
}

bool ff_output_may_be_direct(const FfOutput *o)
{
    return !o->is_given || o->was_direct;
}

uint64_t ff_output_replaced_bytes(const FfOutput *o)
{
    return o->old ? (uint64_t)o->old->st.st_blocks * 512 : 0;
}

const char *ff_output_path(const FfOutput *o)
{
    return o->path;
}

void ff_output_drop(FfOutput *o)
{
    if (o->part) {
        remove_part(o);
    }
}

void ff_output_free(FfOutput *o)
{
    if (!o) {
        return;
    }
    ff_output_drop(o);
    if (o->was_direct) {
        fcntl(o->fd, F_SETFL, fcntl(o->fd, F_GETFL) | O_DIRECT);
    }
    if (o->fd >= 0) {
        close(o->fd);
    }
    if (o->folder >= 0) {
        close(o->folder);
    }
    ff_old_file_free(o->old);
    g_free(o->gathered);
    g_free(o->path);
    g_free(o);
}

/* ---- contents -------------------------------------------------------------------------------- */

bool ff_output_write(FfOutput *o, uint64_t at, const void *data, size_t n, GError **error)
{
    while (n > 0) {
        ssize_t done = pwrite(o->fd, data, n, (off_t)at);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return fail_output(o, done < 0 ? errno : ENOSPC, error);
        }
        data = (const char *)data + done;
        at += done;
        n -= done;
    }
    return true;
}

bool ff_output_zero(FfOutput *o, uint64_t at, uint64_t n, GError **error)
{
    static const char zeros[4096];

    if (fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n) == 0) {
        return true;
    }
    while (n > 0) {
        size_t some = MIN(n, sizeof(zeros));

        if (!ff_output_write(o, at, zeros, some, error)) {
            return false;
        }
        at += some;
        n -= some;
    }
    return true;
}

bool ff_output_flush(FfOutput *o, GError **error)
{
    size_t n = o->n;

    o->n = 0;
    if (!ff_output_write(o, o->at, o->gathered, n, error)) {
        return false;
    }
    o->at += n;
    return true;
}

bool ff_output_append(FfOutput *o, const void *data, size_t n, GError **error)
{
    if (!o->gathered) {
        o->gathered = g_malloc(GATHER);
    }
    while (n > 0) {
        size_t some = MIN(n, GATHER - o->n);

        memcpy(o->gathered + o->n, data, some);
        o->n += some;
        data = (const char *)data + some;
        n -= some;
        if (o->n == GATHER && !ff_output_flush(o, error)) {
            return false;
        }
    }
    return true;
}

bool ff_output_seek(FfOutput *o, uint64_t at, GError **error)
{
    if (!ff_output_flush(o, error)) {
        return false;
    }
    o->at = at;
    return true;
}

uint64_t ff_output_at(const FfOutput *o)
{
    return o->at + o->n;
}

int ff_output_fd(const FfOutput *o)
{
    return o->fd;
}

/* ERR of renameat2(): the file system, or a filter of system calls, has no such flag (NFS, some of
 * FUSE, containers). */
static bool has_no_flag(int err)
{
    return err == EINVAL || err == ENOSYS || err == EOPNOTSUPP || err == EPERM;
}

/* It has that name. Keeps errno. */
static bool is_named(const FfOutput *o, const char *path)
{
    struct stat file, there;
    int err = errno;
    bool done = fstat(o->fd, &file) == 0 && lstat(path, &there) == 0 &&
                file.st_dev == there.st_dev && file.st_ino == there.st_ino;

    errno = err;
    return done;
}

/* An answer that was lost makes NFS say EEXIST of what has been done, ENOENT of a rename. */
static bool link_part_to(const FfOutput *o, const char *path)
{
    return link(o->part, path) == 0 || (errno == EEXIST && is_named(o, path));
}

static bool rename_part_over(const FfOutput *o, const char *path)
{
    return renameat(AT_FDCWD, o->part, AT_FDCWD, path) == 0 ||
           (errno == ENOENT && is_named(o, path));
}

static bool rename_part(const FfOutput *o)
{
    if (renameat2(AT_FDCWD, o->part, AT_FDCWD, o->path, RENAME_NOREPLACE) == 0) {
        return true;
    }
    if (!has_no_flag(errno)) {
        return false;
    }
    /* A second name is never made over another file either. */
    if (link_part_to(o, o->path)) {
        unlink(o->part);
        return true;
    }
    if (o->may_be_named ||
        (errno != EPERM && errno != EOPNOTSUPP && errno != EMLINK && errno != ENOSYS)) {
        return false;
    }
    if (access(o->path, F_OK) == 0) {
        errno = EEXIST;
        return false;
    }
    return rename(o->part, o->path) == 0; /* the engine may not */
}

bool ff_output_may_be_named(FfOutput *o, GError **error)
{
    if (!o->part || o->replaces) {
        return true;
    }
    g_autofree char *other = g_strdup_printf("%s.%08x.part", o->path, g_random_int());

    /* In the order of rename_part(). */
    if (renameat2(AT_FDCWD, o->part, AT_FDCWD, other, RENAME_NOREPLACE) == 0) {
        catch_signals(other);
        g_free(o->part);
        o->part = g_steal_pointer(&other);
        o->may_be_named = true;
        return true;
    }
    if (has_no_flag(errno) && link_part_to(o, other)) {
        unlink(other);
        o->may_be_named = true;
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                "%s: its file system has no hard links and no RENAME_NOREPLACE, so no file can get "
                "a name there that surely replaces no other: use farfault snapshot with a unix "
                "socket, or another folder",
                o->path);
    return false;
}

/* Over the old one, which is not held: a client of SMB whose server does not replace what is open
 * removes it and fails, one of NFS gives it another name first. So neither is one step, and when
 * the old one has gone by it the new one must not. A server that does not answer the rename may not
 * answer that question either: what is not seen may have gone. */
static bool take_place(FfOutput *o, GError **error)
{
    int err;

    if (o->old) {
        ff_old_file_close(o->old);
    }
    if (rename_part_over(o, o->path)) {
        return true;
    }
    err = errno;
    if (!o->old || access(o->path, F_OK) == 0) {
        return fail_output(o, err, error);
    }
    if (rename_part_over(o, o->path)) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err),
                "%s: %s, and the file that was there is gone, or cannot be seen: the new one is "
                "whole, rename %s",
                o->path, g_strerror(err), o->part);
    forget_part(o);
    return false;
}

static bool replace_file(FfOutput *o, GError **error)
{
    bool nameless = !o->part;

    if (nameless && !link_part(o)) {
        return fail_output(o, errno, error);
    }
    bool done = (!o->old || ff_old_file_may_go(o->old, o->fd, error)) && take_place(o, error);
    if (done) {
        forget_part(o);
    } else if (nameless && o->part) {
        remove_part(o);
    }
    return done;
}

static bool give_name(FfOutput *o, GError **error)
{
    if (o->replaces) {
        return replace_file(o, error);
    }
    if (o->part) {
        if (!rename_part(o)) {
            return fail_output(o, errno, error);
        }
        forget_part(o);
        return true;
    }
    return link_to(o, o->path) || fail_output(o, errno, error);
}

bool ff_output_commit(FfOutput *o, GError **error)
{
    if (!ff_output_flush(o, error)) {
        return false;
    }
    FF_FAULT_AT("committing");
    if (o->old && !ff_old_file_may_go(o->old, o->fd, error)) {
        return false;
    }
    int rc = o->old ? ff_old_file_copy(o->old, o->fd) : 0;
    if (rc < 0) {
        return fail_output(o, -rc, error);
    }
    if (FF_FAULT_CALL("output-sync", fsync(o->fd)) < 0) {
        return fail_output(o, errno, error);
    }
    if (o->is_given) {
        return true;
    }
    if (!give_name(o, error)) {
        return false;
    }
    FF_FAULT_AT("named");
    if (FF_FAULT_CALL("output-folder", fsync(o->folder)) < 0 &&
        errno != EINVAL) { /* EINVAL: it cannot be asked to */
        int err = errno;

        if (!o->replaces) {
            unlink(o->path); /* it may not outlive a crash: it is not there */
        }
        return fail_output(o, err, error);
    }
    return true;
}
