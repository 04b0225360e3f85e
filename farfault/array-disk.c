/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plain files and folders of chunks; see array-disk.h for the threads.
 *
 * A chunk is opened for each call: a folder may have more of them than a process may have files.
 * Those that were written to are noted until they are synced, each with the folder.
 *
 * System calls: open, openat, mkdir, fstat, ftruncate, pread64, pwrite64, fdatasync, fsync, close.
 */
#include "farfault/array-disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct FfDisk {
    int fd;              /* the file, or the folder */
    size_t block_size;   /* of chunks; 0: a file */
    GHashTable *written; /* numbers of chunks + 1 */
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

static int sync_fd(int fd)
{
    return fdatasync(fd) < 0 ? -errno : 0;
}

/* A name that was just made outlives a power failure. */
static int sync_folder_of(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : close_with(fd, fsync(fd) < 0 ? -errno : 0);
}

int ff_disk_open_file(const char *path, uint64_t *len, FfDisk **result)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    struct stat st;

    if (fd < 0) {
        return -errno;
    }
    if (fstat(fd, &st) < 0) {
        return close_with(fd, -errno);
    }
    if (!S_ISREG(st.st_mode)) {
        return close_with(fd, -EINVAL);
    }
    *len = *len ? *len : (uint64_t)st.st_size;
    if (*len < (uint64_t)st.st_size) {
        return close_with(fd, -EFBIG);
    }
    if (*len != (uint64_t)st.st_size) {
        int rc = ftruncate(fd, (off_t)*len) < 0 ? -errno : sync_fd(fd);
        if (rc == 0 && st.st_size == 0) {
            rc = sync_folder_of(path);
        }
        if (rc < 0) {
            return close_with(fd, rc);
        }
    }
    *result = g_new0(FfDisk, 1);
    **result = (FfDisk){.fd = fd};
    return 0;
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
    if (n != 0) {
        return close_with(fd, n < 0 ? -errno : strcmp(found, text) == 0 ? 0 : -EMEDIUMTYPE);
    }
    if (pwrite(fd, text, (size_t)len, 0) != len || fsync(fd) < 0 || fsync(folder) < 0) {
        return close_with(fd, -EIO);
    }
    return close_with(fd, 0);
}

int ff_disk_open_chunks(const char *path, size_t block_size, FfDisk **result)
{
    int rc = mkdir(path, 0777) == 0 ? sync_folder_of(path) : errno == EEXIST ? 0 : -errno;
    int fd = rc < 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return rc < 0 ? rc : -errno;
    }
    rc = check_block_size(fd, block_size);
    if (rc < 0) {
        return close_with(fd, rc);
    }
    *result = g_new0(FfDisk, 1);
    **result = (FfDisk){.fd = fd,
                        .block_size = block_size,
                        .written = g_hash_table_new(g_direct_hash, g_direct_equal)};
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

int ff_disk_write(FfDisk *d, uint64_t at, const void *from, size_t n)
{
    if (!d->block_size) {
        return write_file(d->fd, at, from, n);
    }
    uint64_t block = at / d->block_size;
    int fd = openat(d->fd, name_of(block).name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        return -errno;
    }
    g_hash_table_add(d->written, GSIZE_TO_POINTER(block + 1));
    return close_with(fd, write_file(fd, at % d->block_size, from, n));
}

static int sync_chunk(FfDisk *d, uint64_t block)
{
    int fd = openat(d->fd, name_of(block).name, O_RDWR | O_CLOEXEC);

    return fd < 0 ? -errno : close_with(fd, sync_fd(fd));
}

int ff_disk_sync(FfDisk *d)
{
    GHashTableIter iter;
    gpointer key;
    int rc = 0;

    if (!d->block_size) {
        return sync_fd(d->fd);
    }
    if (g_hash_table_size(d->written) == 0) {
        return 0;
    }
    g_hash_table_iter_init(&iter, d->written);
    while (rc == 0 && g_hash_table_iter_next(&iter, &key, NULL)) {
        rc = sync_chunk(d, GPOINTER_TO_SIZE(key) - 1);
    }
    if (rc == 0 && fsync(d->fd) < 0) {
        rc = -errno;
    }
    if (rc == 0) {
        g_hash_table_remove_all(d->written);
    }
    return rc;
}
