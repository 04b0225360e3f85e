/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plain files, folders of chunks, compressed files; see disk.h for the threads.
 *
 * A folder may have more chunks than a process may have files. One that was written to stays open
 * until it is synced: the kernel tells of a page that it could not write only a process that had
 * the file open since then. When they are many they are synced.
 *
 * A chunk is made as long as a block, and a file as long as the array, so what is shorter was cut
 * by another program, and is an error: reading it would give zeros in place of what was there, and
 * writing behind its end would hide that. Only the commits of a log that a crash has left make a
 * chunk long again, which that crash may have left short.
 *
 * Lock: `making`, a leaf: a thread that reads does not see a chunk between its two first calls.
 *
 * System calls: open, openat, unlinkat, getdents64, mkdir, fstat, flock, ftruncate, pread64,
 * pwrite64, fadvise64, fdatasync, fsync, close.
 */
#include "libfarfault/arrays/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libfarfault/arrays/frames.h"
#include "libfarfault/common/memory-internal.h"

#define WRITTEN_MAX 128 /* chunks that are open, of the 1024 files that a process may have */

struct FfArrayDisk {
    int fd;            /* the file, or the folder */
    size_t block_size; /* of chunks; 0: a file */
    uint64_t len;      /* a file: what it was made, and has at least */
    bool fits;         /* ff_array_disk_fit(): what a crash has left is in its place */
    bool closed;       /* chunks that were not synced were closed */
    bool elsewhere;    /* a chunk was of another file system than the folder */
    pthread_mutex_t making;
    FfFrames *frames;    /* NULL: it is not compressed */
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
static int lock_file(int fd, int how)
{
    if (flock(fd, how | LOCK_NB) < 0) {
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    }
    return 0;
}

/* Has FD and FRAMES. */
static FfArrayDisk *disk_new(int fd, size_t block_size, FfFrames *frames)
{
    FfArrayDisk *d = g_new0(FfArrayDisk, 1);

    *d = (FfArrayDisk){.fd = fd, .block_size = block_size, .frames = frames};
    pthread_mutex_init(&d->making, NULL);
    return d;
}

int ff_array_disk_open_file(const char *path, bool make, FfArrayDisk **result)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | (make ? O_CREAT : 0), 0666);
    struct stat st;

    if (fd < 0) {
        return -errno;
    }
    int rc = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? lock_file(fd, LOCK_EX) : -EINVAL;
    if (rc < 0) {
        return close_with(fd, rc);
    }
    *result = disk_new(fd, 0, NULL);
    return 0;
}

static int fail_zstd(const char *path, int rc)
{
    return ff_fail(rc, "%s: %s", path,
                   rc == -EBUSY    ? "somebody has it open to write"
                   : rc == -EINVAL ? "not a regular file"
                                   : ff_strerror(-rc));
}

int ff_array_disk_open_zstd(const char *path, FfArrayDisk **result)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
    FfFrames *frames = NULL;
    struct stat st;

    if (fd < 0) {
        return fail_zstd(path, -errno);
    }
    int rc = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? lock_file(fd, LOCK_SH) : -EINVAL;
    if (rc < 0) {
        return close_with(fd, fail_zstd(path, rc));
    }
    rc = ff_frames_new(fd, path, &frames);
    if (rc < 0) {
        return close_with(fd, rc);
    }
    *result = disk_new(fd, 0, frames);
    return 0;
}

bool ff_array_disk_is_read_only(const FfArrayDisk *d)
{
    return d->frames != NULL;
}

int ff_array_disk_fit(FfArrayDisk *d, uint64_t *len)
{
    uint64_t now = ff_array_disk_len(d);

    d->fits = true;
    if (d->block_size) {
        return 0;
    }
    *len = *len ? *len : now;
    if (*len < now) {
        return -EFBIG;
    }
    d->len = *len;
    return *len == now ? 0 : ftruncate(d->fd, (off_t)*len) < 0 ? -errno : sync_fd(d->fd);
}

uint64_t ff_array_disk_len(const FfArrayDisk *d)
{
    struct stat st;

    if (d->frames) {
        return ff_frames_len(d->frames);
    }
    return d->block_size || fstat(d->fd, &st) < 0 ? UINT64_MAX : (uint64_t)st.st_size;
}

unsigned ff_array_disk_owner(const FfArrayDisk *d)
{
    struct stat st;

    return fstat(d->fd, &st) < 0 ? geteuid() : st.st_uid;
}

unsigned ff_array_disk_mode(const FfArrayDisk *d)
{
    struct stat st;

    return fstat(d->fd, &st) < 0 ? 0600 : st.st_mode & 0666;
}

static bool is_chunk(const char *name)
{
    return strlen(name) == 16 && strspn(name, "0123456789abcdef") == 16;
}

/* 1 or 0, or -errno. */
static int has_chunks(int folder)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    bool found = false;

    if (!d) {
        return fd < 0 ? -errno : close_with(fd, -errno);
    }
    for (const struct dirent *e; !found && (e = readdir(d));) {
        found = is_chunk(e->d_name);
    }
    closedir(d);
    return found;
}

/* What TEXT, of the file block_size, says; 0: nothing that is a size. No size begins as another
 * one. */
static size_t parse_block_size(const char *text)
{
    char *end;
    uint64_t n = g_ascii_strtoull(text, &end, 10);

    return g_ascii_isdigit(*text) && strspn(end, "\r\n\t ") == strlen(end) && n >= 4096 &&
                   n <= FF_DISK_BLOCK_MAX && (n & (n - 1)) == 0
               ? (size_t)n
               : 0;
}

static int sync_in(int folder, int fd)
{
    return fsync(fd) < 0 || fsync(folder) < 0 ? -errno : 0;
}

static int write_block_size(int fd, int folder, const char *text)
{
    ssize_t len = (ssize_t)strlen(text), n = pwrite(fd, text, (size_t)len, 0);

    return n < 0 ? -errno : n < len ? -ENOSPC : sync_in(folder, fd);
}

/* The folder says how large its blocks are: with another size their numbers would mean something
 * else. The process that made it may have been killed, or its machine, before all of that was on
 * the disk, and so before there was a chunk: it is made whole, and synced. 0 or -errno. */
static int check_block_size(int folder, bool any, size_t *block_size)
{
    g_autofree char *text = g_strdup_printf("%zu\n", *block_size);
    char found[32] = "";
    struct stat st;
    int fd = openat(folder, "block_size", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 && errno != ENOENT) {
        return -errno;
    }
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        return close_with(fd, -ENOMEDIUM);
    }
    if (fd >= 0 && pread(fd, found, sizeof(found) - 1, 0) < 0) {
        return close_with(fd, -errno);
    }
    size_t says = parse_block_size(found);
    if (says) {
        if (!any && says != *block_size) {
            return close_with(fd, -EMEDIUMTYPE);
        }
        *block_size = says;
        return close_with(fd, sync_in(folder, fd));
    }
    int chunks = has_chunks(folder); /* copied without it, perhaps */
    if (chunks ||
        strncmp(found, text, strlen(found)) != 0) { /* zeros, too, are what a crash leaves */
        if (fd >= 0) {
            close(fd);
        }
        return chunks < 0 ? chunks : -ENOMEDIUM;
    }
    fd = fd >= 0 ? fd : openat(folder, "block_size", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    return fd < 0 ? -errno : close_with(fd, write_block_size(fd, folder, text));
}

int ff_array_disk_open_chunks(const char *path, bool any, size_t *block_size, FfArrayDisk **result)
{
    int fd = mkdir(path, 0777) < 0 && errno != EEXIST
                 ? -1
                 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return -errno;
    }
    int rc = lock_file(fd, LOCK_EX);
    rc = rc < 0 ? rc : check_block_size(fd, any, block_size);
    if (rc < 0) {
        return close_with(fd, rc);
    }
    *result = disk_new(fd, *block_size, NULL);
    (*result)->written = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, close_chunk);
    return 0;
}

void ff_array_disk_free(FfArrayDisk *d)
{
    if (d) {
        close(d->fd);
        ff_frames_free(d->frames);
        g_clear_pointer(&d->written, g_hash_table_unref);
        pthread_mutex_destroy(&d->making);
        g_free(d);
    }
}

void ff_array_disk_unlock(FfArrayDisk *d)
{
    flock(d->fd, LOCK_UN);
}

/* ---- reading and writing --------------------------------------------------------------------- */

/* -ESTALE: another program has cut it, which has LEN bytes. */
static int check_len(int fd, uint64_t len)
{
    struct stat st;

    return fstat(fd, &st) < 0 ? -errno : (uint64_t)st.st_size < len ? -ESTALE : 0;
}

/* Before LEN there is something; what is missing behind it is zeros. */
static int read_file(int fd, uint64_t len, uint64_t at, char *to, size_t n)
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
    return at + done < MIN(len, at + n) ? -ESTALE : 0; /* another program has cut it */
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

/* FD, of what was opened by a chunk's name, or -1. It, or -errno. */
static int check_chunk(int fd)
{
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        return fd < 0 ? -errno : close_with(fd, -errno);
    }
    return S_ISREG(st.st_mode) ? fd : close_with(fd, -EINVAL);
}

/* N bytes of a chunk, AT its beginning or later. */
static int read_chunk(FfArrayDisk *d, int fd, uint64_t at, void *to, size_t n)
{
    int rc = read_file(fd, at + n, at, to, n);

    if (rc == -ESTALE) { /* or it is just being made */
        pthread_mutex_lock(&d->making);
        pthread_mutex_unlock(&d->making);
        rc = read_file(fd, at + n, at, to, n);
    }
    return rc;
}

int ff_array_disk_read(FfArrayDisk *d, uint64_t at, void *to, size_t n)
{
    if (d->frames) {
        return ff_frames_read(d->frames, at, to, n);
    }
    if (!d->block_size) {
        return read_file(d->fd, d->len, at, to, n);
    }
    int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK; /* a FIFO must not block */
    int fd = check_chunk(openat(d->fd, name_of(at / d->block_size).name, flags));
    if (fd < 0) {
        memset(to, 0, n);
        return fd == -ENOENT ? 0 : fd;
    }
    return close_with(fd, read_chunk(d, fd, at % d->block_size, to, n));
}

void ff_array_disk_forget(FfArrayDisk *d)
{
    if (d->frames) {
        ff_frames_forget(d->frames);
    }
}

void ff_array_disk_will_need(FfArrayDisk *d, uint64_t at, uint64_t n)
{
    uint64_t from = at, end = at + n;

    if (d->frames) {
        end = MIN(end, ff_frames_len(d->frames));
        ff_frames_where(d->frames, at, end, &from, &end);
    }
    if (!d->block_size) {
        posix_fadvise(d->fd, (off_t)from, (off_t)(end - from), POSIX_FADV_WILLNEED);
    }
}

/* As long as a block, and zeros. It, or -errno, and then it is not there. */
static int make_chunk(FfArrayDisk *d, const char *name)
{
    pthread_mutex_lock(&d->making);
    int fd = openat(d->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int rc = fd < 0 || ftruncate(fd, (off_t)d->block_size) < 0 ? -errno : fd;
    if (rc < 0 && fd >= 0) {
        close_with(fd, unlinkat(d->fd, name, 0));
    }
    pthread_mutex_unlock(&d->making);
    return rc;
}

/* It is made if it is not there. */
static int open_to_write(FfArrayDisk *d, uint64_t block)
{
    ChunkName c = name_of(block);
    int fd = openat(d->fd, c.name, O_RDWR | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */

    if (fd < 0 && errno == ENOENT) {
        return make_chunk(d, c.name);
    }
    fd = check_chunk(fd);
    int rc = fd < 0 ? fd : check_len(fd, d->block_size);
    if (rc == -ESTALE && !d->fits) {
        rc = ftruncate(fd, (off_t)d->block_size) < 0 ? -errno : 0;
    }
    return rc < 0 && fd >= 0 ? close_with(fd, rc) : rc < 0 ? rc : fd;
}

/* A link may lead to another file system. */
static bool is_of_folder(const FfArrayDisk *d, int fd)
{
    struct stat folder, st;

    return fstat(d->fd, &folder) == 0 && fstat(fd, &st) == 0 && folder.st_dev == st.st_dev;
}

/* What is closed before it is synced has no name here any more: then one call syncs the file system
 * of the folder, and says what failed since the last one (Linux 5.8). A call for each chunk takes
 * that many times as long. */
static int close_written(FfArrayDisk *d)
{
    if (d->elsewhere) {
        return ff_array_disk_sync(d);
    }
    d->closed = true;
    g_hash_table_remove_all(d->written);
    return 0;
}

/* The file of BLOCK, which stays open; or -errno. */
static int open_chunk(FfArrayDisk *d, uint64_t block)
{
    gpointer key = GSIZE_TO_POINTER(block + 1), found;

    if (g_hash_table_lookup_extended(d->written, key, NULL, &found)) {
        return GPOINTER_TO_INT(found);
    }
    int rc = g_hash_table_size(d->written) < WRITTEN_MAX ? 0 : close_written(d);
    int fd = rc < 0 ? rc : open_to_write(d, block);
    if (fd == -EMFILE && g_hash_table_size(d->written) > 0) { /* we have files that can be closed */
        rc = close_written(d);
        fd = rc < 0 ? rc : open_to_write(d, block);
    }
    if (fd < 0) {
        return fd;
    }
    d->elsewhere |= !is_of_folder(d, fd);
    g_hash_table_insert(d->written, key, GINT_TO_POINTER(fd));
    return fd;
}

int ff_array_disk_write(FfArrayDisk *d, uint64_t at, const void *from, size_t n)
{
    int fd = d->block_size ? open_chunk(d, at / d->block_size) : d->fd;
    int rc = fd < 0 ? fd : check_len(fd, d->block_size ? d->block_size : d->len);

    return rc < 0 ? rc : write_file(fd, d->block_size ? at % d->block_size : at, from, n);
}

int ff_array_disk_sync(FfArrayDisk *d)
{
    GHashTableIter iter;
    gpointer fd;
    int rc = 0;

    if (!d->block_size) {
        return sync_fd(d->fd);
    }
    if (d->closed && syncfs(d->fd) < 0) {
        return -errno;
    }
    if (d->closed) {
        g_hash_table_remove_all(d->written);
    }
    d->closed = false;
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
