/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See record.h. */
#include "tests/libfarfault/record.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;
static GArray *record; /* record_lock; NULL: nothing is recorded */
static dev_t device;   /* record_lock to write */
static bool no_syncs;
static int fail_writes, fail_syncs; /* atomic */
static ino_t fail_at;               /* atomic; 0: any file. Observers: writers */
static ino_t count_at;              /* atomic; 0: none. Observers: readers */
static uint64_t n_read;             /* atomic */

static void op_clear(gpointer p)
{
    Op *op = p;

    g_clear_pointer(&op->data, g_bytes_unref);
    g_free(op->name);
}

/* FD -1: none. */
static void note(OpKind kind, int fd, uint64_t offset, const void *data, size_t len,
                 const char *name)
{
    struct stat st = {.st_dev = device};

    if (fd >= 0 && fstat(fd, &st) < 0) {
        return;
    }
    pthread_mutex_lock(&record_lock);
    if (record && st.st_dev == device) {
        Op op = {kind, st.st_ino, offset, data ? g_bytes_new(data, len) : NULL, g_strdup(name)};
        g_array_append_val(record, op);
    }
    pthread_mutex_unlock(&record_lock);
}

static bool is_directory(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
}

GArray *record_new(void)
{
    GArray *ops = g_array_new(FALSE, FALSE, sizeof(Op));

    g_array_set_clear_func(ops, op_clear);
    return ops;
}

void record_start(GArray *ops, const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    struct stat st;

    g_assert_cmpint(stat(folder, &st), ==, 0);
    pthread_mutex_lock(&record_lock);
    device = st.st_dev;
    record = ops;
    pthread_mutex_unlock(&record_lock);
}

void record_fail(int writes, int syncs)
{
    __atomic_store_n(&fail_writes, writes, __ATOMIC_RELAXED);
    __atomic_store_n(&fail_syncs, syncs, __ATOMIC_RELAXED);
}

void record_fail_at(const char *path)
{
    struct stat st = {0};

    g_assert_true(!path || stat(path, &st) == 0);
    __atomic_store_n(&fail_at, st.st_ino, __ATOMIC_RELAXED);
}

void record_count_reads(const char *path)
{
    struct stat st = {0};

    g_assert_true(!path || stat(path, &st) == 0);
    __atomic_store_n(&count_at, st.st_ino, __ATOMIC_RELAXED);
    __atomic_store_n(&n_read, 0, __ATOMIC_RELAXED);
}

uint64_t record_reads(void)
{
    return __atomic_load_n(&n_read, __ATOMIC_RELAXED);
}

static bool is_at(int fd)
{
    ino_t at_file = __atomic_load_n(&fail_at, __ATOMIC_RELAXED);
    struct stat st;

    return !at_file || (fstat(fd, &st) == 0 && st.st_ino == at_file);
}

/* What VALUE says is to fail. */
static bool fails(const int *value)
{
    int err = __atomic_load_n(value, __ATOMIC_RELAXED);

    errno = err ? err : errno;
    return err;
}

void record_no_syncs(bool on)
{
    no_syncs = on;
}

void record_stop(void)
{
    pthread_mutex_lock(&record_lock);
    record = NULL;
    pthread_mutex_unlock(&record_lock);
}

/* What the library calls; the same as libc's. */
ssize_t pread64(int fd, void *data, size_t n, off64_t at);
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at);
ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t at);

ssize_t pread64(int fd, void *data, size_t n, off64_t at)
{
    ssize_t done = syscall(SYS_pread64, fd, data, n, at);
    ino_t at_file = __atomic_load_n(&count_at, __ATOMIC_RELAXED);
    struct stat st;

    if (done > 0 && at_file && fstat(fd, &st) == 0 && st.st_ino == at_file) {
        __atomic_fetch_add(&n_read, (uint64_t)done, __ATOMIC_RELAXED);
    }
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    ssize_t done = syscall(SYS_pwrite64, fd, data, n, at);

    if (done > 0) {
        note(OP_WRITE, fd, (uint64_t)at, data, (size_t)done, NULL);
    }
    return done;
}

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t at)
{
    ssize_t done = fails(&fail_writes) ? -1 : syscall(SYS_pwritev, fd, iov, n, at, 0);

    for (ssize_t i = 0, left = done; left > 0; left -= (ssize_t)iov[i++].iov_len) {
        size_t some = MIN((size_t)left, iov[i].iov_len);
        note(OP_WRITE, fd, (uint64_t)at, iov[i].iov_base, some, NULL);
        at += (off64_t)some;
    }
    return done;
}

int ftruncate64(int fd, off64_t size)
{
    note(OP_SIZE, fd, (uint64_t)size, NULL, 0, NULL);
    return (int)syscall(SYS_ftruncate, fd, size);
}

int fsync(int fd)
{
    note(is_directory(fd) ? OP_SYNC_DIRECTORY : OP_SYNC, fd, 0, NULL, 0, NULL);
    return no_syncs ? 0 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    if (is_at(fd) && fails(&fail_syncs)) {
        return -1;
    }
    note(OP_SYNC, fd, 0, NULL, 0, NULL);
    return no_syncs ? 0 : (int)syscall(SYS_fdatasync, fd);
}

int openat(int folder, const char *name, int flags, ...)
{
    bool makes = flags & O_CREAT, was_there = false;
    mode_t mode = 0;
    va_list args;

    if (makes) {
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
        was_there = faccessat(folder, name, F_OK, 0) == 0;
    }
    int fd = (int)syscall(SYS_openat, folder, name, flags, mode);
    if (fd >= 0 && makes && !was_there) {
        note(OP_CREATE, fd, 0, NULL, 0, name);
    }
    return fd;
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    note(OP_LINK, -1, 0, NULL, 0, to);
    return (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    note(OP_RENAME, -1, 0, NULL, 0, to);
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    note(OP_RENAME, -1, 0, NULL, 0, to);
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}
