/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See working-set.h. A user who writes FILE.ws writes into the memory of the guest, so it must
 * belong to the owner of FILE, to root or to us, and must be writable by nobody who cannot write
 * FILE.
 *
 * Any thread; an object belongs to nobody, as nothing of it changes.
 *
 * System calls: open, fstat, stat, pread64, unlink, close.
 */
#include "content/image/working-set.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content/image/output.h"
#include "content/image/xxh64.h"

#define MAGIC "FFWSET1\n"
#define MAGIC_ZEROS "FFWSET2\n"
#define NOT_BESIDE "the saved guest is not there any more: no working set"
#define PAGE FF_WORKING_SET_PAGE
#define CHUNK FF_WORKING_SET_CHUNK

static bool fail_path(GError **error, const char *path, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: %s", path, what);
    return false;
}

static bool read_all(int fd, uint64_t at, void *to, size_t n, const char *path, GError **error)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (char *)to + done, n - done, (off_t)(at + done));

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return fail_path(error, path, got < 0 ? g_strerror(errno) : "cut");
        }
        done += got;
    }
    return true;
}

static uint64_t n_chunks(uint64_t n)
{
    return (n + CHUNK - 1) / CHUNK;
}

/* Where the pages begin. */
static uint64_t pages_at(uint64_t n)
{
    uint64_t tables = sizeof(FfWorkingSetHead) + (n + n_chunks(n)) * sizeof(uint64_t);

    return (tables + PAGE - 1) / PAGE * PAGE;
}

static uint64_t sum_of_head(const FfWorkingSetHead *head)
{
    return ff_xxh64(head, offsetof(FfWorkingSetHead, head_sum), 0);
}

static bool is_magic(const char *magic)
{
    return memcmp(magic, MAGIC, sizeof(MAGIC) - 1) == 0 ||
           memcmp(magic, MAGIC_ZEROS, sizeof(MAGIC_ZEROS) - 1) == 0;
}

static bool has_zeros(const FfWorkingSetHead *head)
{
    return memcmp(head->magic, MAGIC_ZEROS, sizeof(head->magic)) == 0;
}

static uint64_t sum_of_tables(const uint64_t *places, const uint64_t *sums, uint64_t n)
{
    return ff_xxh64(sums, n_chunks(n) * sizeof(*sums), ff_xxh64(places, n * sizeof(*places), 0));
}

/* ---- reading --------------------------------------------------------------------------------- */

void ff_working_set_free(FfWorkingSet *w)
{
    if (w) {
        close(w->fd);
        g_free(w->places);
        g_free(w->sums);
        g_free(w->zeros);
        g_free(w);
    }
}

static bool check_head(const FfWorkingSetHead *head, const FfWorkingSetFile *file, uint64_t size,
                       const char *name, GError **error)
{
    if (!is_magic(head->magic)) {
        return fail_path(error, name, "it is no working set");
    }
    if (head->head_sum != sum_of_head(head) || !head->n || head->n > FF_WORKING_SET_MAX) {
        return fail_path(error, name, "damaged");
    }
    if (memcmp(&head->file, file, sizeof(*file)) != 0) {
        return fail_path(error, name,
                         "it is of another file, or of this one before it was changed");
    }
    uint64_t end = pages_at(head->n) + head->n * PAGE;
    return (has_zeros(head) ? size > end : size == end) || fail_path(error, name, "cut");
}

/* To the end of the file. */
static bool read_zeros(FfWorkingSet *w, uint64_t size, const char *name, GError **error)
{
    uint64_t at = w->at + w->n * PAGE;
    FfWorkingSetZeros z;

    if (!read_all(w->fd, at, &z, sizeof(z), name, error)) {
        return false;
    }
    if (!z.n || z.n > FF_WORKING_SET_MAX || size != at + sizeof(z) + z.n * sizeof(*w->zeros)) {
        return fail_path(error, name, "damaged");
    }
    w->n_zeros = z.n;
    w->zeros = g_new(FfWorkingSetRun, z.n);
    return read_all(w->fd, at + sizeof(z), w->zeros, z.n * sizeof(*w->zeros), name, error) &&
           (ff_xxh64(w->zeros, z.n * sizeof(*w->zeros), 0) == z.sum ||
            fail_path(error, name, "damaged"));
}

FfWorkingSet *ff_working_set_read(const char *name, int fd, const FfWorkingSetFile *file,
                                  GError **error)
{
    g_autoptr(FfWorkingSet) w = g_new0(FfWorkingSet, 1);
    FfWorkingSetHead head;
    struct stat st;

    w->fd = fd;
    if (fstat(fd, &st) < 0) {
        fail_path(error, name, g_strerror(errno));
        return NULL;
    }
    if (!read_all(fd, 0, &head, sizeof(head), name, error) ||
        !check_head(&head, file, (uint64_t)st.st_size, name, error)) {
        return NULL;
    }
    uint64_t sums_at = sizeof(head) + head.n * sizeof(uint64_t);
    w->n = head.n;
    w->at = pages_at(head.n);
    w->places = g_new(uint64_t, head.n);
    w->sums = g_new(uint64_t, n_chunks(head.n));
    if (!read_all(fd, sizeof(head), w->places, head.n * sizeof(uint64_t), name, error) ||
        !read_all(fd, sums_at, w->sums, n_chunks(head.n) * sizeof(uint64_t), name, error)) {
        return NULL;
    }
    if (head.sum != sum_of_tables(w->places, w->sums, w->n)) {
        fail_path(error, name, "damaged");
        return NULL;
    }
    if (has_zeros(&head) && !read_zeros(w, (uint64_t)st.st_size, name, error)) {
        return NULL;
    }
    return g_steal_pointer(&w);
}

static bool is_trusted(int set, int file)
{
    struct stat s, f;

    if (fstat(set, &s) < 0 || fstat(file, &f) < 0) {
        return false;
    }
    /* Those who write FILE as its group, if they are the group of the other one as well. */
    mode_t writers = s.st_gid == f.st_gid ? f.st_mode : f.st_mode & ~(mode_t)S_IWGRP;
    return S_ISREG(s.st_mode) && (s.st_uid == f.st_uid || s.st_uid == geteuid() || s.st_uid == 0) &&
           !(s.st_mode & (S_IWGRP | S_IWOTH) & ~writers);
}

FfWorkingSet *ff_working_set_open(const char *path, int file_fd, const FfWorkingSetFile *file,
                                  GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);

    if (fd < 0) {
        if (errno != ENOENT) {
            fail_path(error, path, g_strerror(errno));
        }
        return NULL;
    }
    if (!is_trusted(fd, file_fd)) {
        close(fd);
        fail_path(error, path, "it could be written by others than the owner of the saved guest");
        return NULL;
    }
    return ff_working_set_read(path, fd, file, error);
}

bool ff_working_set_is_right(const FfWorkingSet *w, uint64_t chunk, const void *data, size_t n)
{
    return ff_xxh64(data, n, 0) == w->sums[chunk];
}

uint64_t ff_working_set_read_chunk(const FfWorkingSet *w, uint64_t chunk, void *buf, GError **error)
{
    uint64_t first = chunk * CHUNK, n = MIN(CHUNK, w->n - first);

    if (!read_all(w->fd, w->at + first * PAGE, buf, n * PAGE, "its pages", error)) {
        return 0;
    }
    if (!ff_working_set_is_right(w, chunk, buf, n * PAGE)) {
        fail_path(error, "its pages", "damaged");
        return 0;
    }
    return n;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* One of before, and nothing else that has its name. */
static bool remove_old(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    char magic[sizeof(MAGIC) - 1];

    if (fd < 0) {
        return errno == ENOENT || fail_path(error, path, g_strerror(errno));
    }
    bool is_one = pread(fd, magic, sizeof(magic), 0) == sizeof(magic) && is_magic(magic);
    close(fd);
    if (!is_one) {
        return fail_path(error, path, "it is there, and is no working set");
    }
    return unlink(path) == 0 || errno == ENOENT || fail_path(error, path, g_strerror(errno));
}

static bool write_pages(FfOutput *o, int fd, const uint64_t *places, uint64_t n, uint64_t *sums,
                        GError **error)
{
    g_autofree uint8_t *chunk = g_malloc(CHUNK * PAGE);

    for (uint64_t i = 0; i < n; i += CHUNK) {
        uint64_t some = MIN(CHUNK, n - i);

        for (uint64_t k = 0; k < some; k++) {
            if (!read_all(fd, places[i + k], chunk + k * PAGE, PAGE, ff_output_path(o), error)) {
                return false;
            }
        }
        sums[i / CHUNK] = ff_xxh64(chunk, some * PAGE, 0);
        if (!ff_output_append(o, chunk, some * PAGE, error)) {
            return false;
        }
    }
    return ff_output_flush(o, error);
}

/* After the pages. */
static bool write_zeros(FfOutput *o, const FfWorkingSetRun *zeros, uint64_t n, GError **error)
{
    if (!n) {
        return true;
    }
    FfWorkingSetZeros z = {n, ff_xxh64(zeros, n * sizeof(*zeros), 0)};
    return ff_output_append(o, &z, sizeof(z), error) &&
           ff_output_append(o, zeros, n * sizeof(*zeros), error) && ff_output_flush(o, error);
}

static bool is_unchanged(int fd, const FfWorkingSetFile *file)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == file->size &&
           st.st_mtim.tv_sec * G_GINT64_CONSTANT(1000000000) + st.st_mtim.tv_nsec == file->mtime_ns;
}

/* A set is memory of the guest, which is to go with the file beside which it is: somebody may have
 * removed that, or moved it, since it was opened. */
static bool is_beside(const char *path, int fd)
{
    g_autofree char *file = g_strndup(path, strlen(path) - strlen(FF_WORKING_SET_SUFFIX));
    struct stat st, now;

    return fstat(fd, &st) == 0 && stat(file, &now) == 0 && st.st_dev == now.st_dev &&
           st.st_ino == now.st_ino;
}

bool ff_working_set_write(const char *path, int fd, const FfWorkingSetFile *file,
                          const uint64_t *places, uint64_t n, const FfWorkingSetRun *zeros,
                          uint64_t n_zeros, GError **error)
{
    g_autofree uint64_t *sums = g_new0(uint64_t, n_chunks(n));
    FfWorkingSetHead head = {.file = *file, .n = n};

    if (!n) {
        return fail_path(error, path, "the guest needed nothing: no working set");
    }
    if (!is_beside(path, fd)) {
        return fail_path(error, path, NOT_BESIDE);
    }
    if (!remove_old(path, error)) {
        return false;
    }
    g_autoptr(FfOutput) o = ff_output_new(path, error);
    if (!o || !ff_output_seek(o, pages_at(n), error) ||
        !write_pages(o, fd, places, n, sums, error) || !write_zeros(o, zeros, n_zeros, error)) {
        return false;
    }
    if (!is_unchanged(fd, file)) {
        return fail_path(error, path, "the saved guest was changed: no working set");
    }
    if (!is_beside(path, fd)) {
        return fail_path(error, path, NOT_BESIDE);
    }
    memcpy(head.magic, n_zeros ? MAGIC_ZEROS : MAGIC, sizeof(head.magic));
    head.sum = sum_of_tables(places, sums, n);
    head.head_sum = sum_of_head(&head);
    return ff_output_write(o, 0, &head, sizeof(head), error) &&
           ff_output_write(o, sizeof(head), places, n * sizeof(*places), error) &&
           ff_output_write(o, sizeof(head) + n * sizeof(*places), sums, n_chunks(n) * sizeof(*sums),
                           error) &&
           ff_output_commit(o, error);
}
