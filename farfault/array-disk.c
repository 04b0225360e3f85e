/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plain files and folders of chunks; see array-disk.h for the threads.
 *
 * A folder may have more chunks than a process may have files. One that was written to stays open
 * until it is synced: the kernel tells of a page that it could not write only who had the file open
 * since then. When they are many they are synced.
 *
 * System calls: open, openat, mkdir, fstat, flock, ftruncate, pread64, pwrite64, fadvise64,
 * fdatasync, fsync, close.
 */
#include "farfault/array-disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITTEN_MAX 128 /* chunks that are open, of the 1024 files that a process may have */

struct FfDisk {
    int fd;              /* the file, or the folder */
    size_t block_size;   /* of chunks; 0: a file */
    GHashTable *written; /* chunk's number + 1 -> its file, until it is synced */
};

typedef struct {
    char name[20];
} ChunkName;

static ChunkName name_of(uint64_t block)
{
    ChunkName c;

    g_snprintf(c.name, sizeof(c.name), "%016" G_GINT64_MODIFIER "x", block);
    return c;
}

static int close_with(int fd, int rc)
{
    close(fd);
    return rc;
}

static void close_chunk(gpointer fd)
{
    close(GPOINTER_TO_INT(fd));
}

static int sync_fd(int fd)
{
    return fdatasync(fd) < 0 ? -errno : 0;
}

/* 0 or -errno. */
static int lock(int fd)
{
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    }
    return 0;
}

int ff_disk_open_file(const char *path, bool make, FfDisk **result)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | (make ? O_CREAT : 0), 0666);
    struct stat st;

    if (fd < 0) {
        return -errno;
    }
    int rc = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? lock(fd) : -EINVAL;
    if (rc < 0) {
        return close_with(fd, rc);
    }
    *result = g_new0(FfDisk, 1);
    **result = (FfDisk){.fd = fd};
    return 0;
}

int ff_disk_fit(FfDisk *d, uint64_t *len)
{
    uint64_t now = ff_disk_len(d);

    if (d->block_size) {
        return 0;
    }
    *len = *len ? *len : now;
    if (*len < now) {
        return -EFBIG;
    }
    return *len == now ? 0 : ftruncate(d->fd, (off_t)*len) < 0 ? -errno : sync_fd(d->fd);
}

uint64_t ff_disk_len(const FfDisk *d)
{
    struct stat st;

    return d->block_size || fstat(d->fd, &st) < 0 ? UINT64_MAX : (uint64_t)st.st_size;
}

unsigned ff_disk_mode(const FfDisk *d)
{
    struct stat st;

    return fstat(d->fd, &st) < 0 ? 0600 : st.st_mode & 0666;
}

/* The folder says how large its blocks are: with another size their numbers would mean something
 * else. 0 or -errno. */
static int check_block_size(int folder, size_t block_size)
{
    g_autofree char *text = g_strdup_printf("%zu\n", block_size);
    char found[32] = "";
    int fd = openat(folder, "block_size", O_RDWR | O_CREAT | O_CLOEXEC, 0666);

    if (fd < 0) {
        return -errno;
    }
    ssize_t n = pread(fd, found, sizeof(found) - 1, 0), len = (ssize_t)strlen(text);
    if (n < 0 || found[0]) { /* which may not have come to the disk at all */
        return close_with(fd, n < 0 ? -errno : strcmp(found, text) == 0 ? 0 : -EMEDIUMTYPE);
    }
    if (pwrite(fd, text, (size_t)len, 0) != len || fsync(fd) < 0 || fsync(folder) < 0) {
        return close_with(fd, -EIO);
    }
    return close_with(fd, 0);
}

int ff_disk_open_chunks(const char *path, size_t block_size, FfDisk **result)
{
    int fd = mkdir(path, 0777) < 0 && errno != EEXIST
                 ? -1
                 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return -errno;
    }
    int rc = lock(fd);
    rc = rc < 0 ? rc : check_block_size(fd, block_size);
    if (rc < 0) {
        return close_with(fd, rc);
    }
    *result = g_new0(FfDisk, 1);
    **result = (FfDisk){
        .fd = fd,
        .block_size = block_size,
        .written = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, close_chunk)};
    return 0;
}

void ff_disk_free(FfDisk *d)
{
    if (d) {
        close(d->fd);
        g_clear_pointer(&d->written, g_hash_table_unref);
        g_free(d);
    }
}

void ff_disk_unlock(FfDisk *d)
{
    flock(d->fd, LOCK_UN);
}

/* ---- reading and writing -----------------------------------------------------------------------
 */

static int read_file(int fd, uint64_t at, char *to, size_t n)
{
    size_t done = 0;

    while (done < n) {
        ssize_t some = pread(fd, to + done, n - done, (off_t)(at + done));
        if (some < 0 && errno == EINTR) {
            continue;
        }
        if (some < 0) {
            return -errno;
        }
        if (some == 0) {
            break;
        }
        done += (size_t)some;
    }
    memset(to + done, 0, n - done);
    return 0;
}

static int write_file(int fd, uint64_t at, const char *from, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t some = pwrite(fd, from + done, n - done, (off_t)(at + done));
        if (some < 0 && errno == EINTR) {
            continue;
        }
        if (some <= 0) {
            return some < 0 ? -errno : -EIO;
        }
        done += (size_t)some;
    }
    return 0;
}

int ff_disk_read(FfDisk *d, uint64_t at, void *to, size_t n)
{
    if (!d->block_size) {
        return read_file(d->fd, at, to, n);
    }
    int fd = openat(d->fd, name_of(at / d->block_size).name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        memset(to, 0, n);
        return errno == ENOENT ? 0 : -errno;
    }
    return close_with(fd, read_file(fd, at % d->block_size, to, n));
}

void ff_disk_will_need(FfDisk *d, uint64_t at, uint64_t n)
{
    if (!d->block_size) {
        posix_fadvise(d->fd, (off_t)at, (off_t)n, POSIX_FADV_WILLNEED);
    }
}

/* The file of BLOCK, which stays open; or -errno. */
static int open_chunk(FfDisk *d, uint64_t block)
{
    gpointer key = GSIZE_TO_POINTER(block + 1), found;

    if (g_hash_table_lookup_extended(d->written, key, NULL, &found)) {
        return GPOINTER_TO_INT(found);
    }
    int rc = g_hash_table_size(d->written) < WRITTEN_MAX ? 0 : ff_disk_sync(d);
    int fd = rc < 0 ? -1 : openat(d->fd, name_of(block).name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        return rc < 0 ? rc : -errno;
    }
    g_hash_table_insert(d->written, key, GINT_TO_POINTER(fd));
    return fd;
}

int ff_disk_write(FfDisk *d, uint64_t at, const void *from, size_t n)
{
    if (!d->block_size) {
        return write_file(d->fd, at, from, n);
    }
    int fd = open_chunk(d, at / d->block_size);
    return fd < 0 ? fd : write_file(fd, at % d->block_size, from, n);
}

int ff_disk_sync(FfDisk *d)
{
    GHashTableIter iter;
    gpointer fd;
    int rc = 0;

    if (!d->block_size) {
        return sync_fd(d->fd);
    }
    if (g_hash_table_size(d->written) == 0) {
        return 0;
    }
    g_hash_table_iter_init(&iter, d->written);
    while (rc == 0 && g_hash_table_iter_next(&iter, NULL, &fd)) {
        rc = sync_fd(GPOINTER_TO_INT(fd));
    }
    if (rc == 0 && fsync(d->fd) < 0) {
        rc = -errno;
    }
    if (rc == 0) {
        g_hash_table_remove_all(d->written);
    }
    return rc;
}
