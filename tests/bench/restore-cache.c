/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See restore-cache.h. Holes count for nothing anywhere here: no reader asks the disk for them.
 */
#include "restore-cache.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PIECE (1u << 20)
#define READERS 4
#define COLD 0.01 /* at most so much of it is in the page cache */
#define WARM 0.99 /* so much at least */

static bool set_errno(GError **error, const char *path, const char *what)
{
    int errnum = errno;

    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errnum), "%s: %s: %s", path, what,
                g_strerror(errnum));
    return false;
}

/* ---- what is data ---------------------------------------------------------------------------- */

typedef struct {
    off_t at;
    size_t n; /* PIECE at most */
} Piece;

/* Pieces of the data of FD, by place. */
static GArray *data_of(int fd)
{
    GArray *pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
    off_t data, hole = 0;

    while ((data = lseek(fd, hole, SEEK_DATA)) >= 0) {
        hole = lseek(fd, data, SEEK_HOLE);
        for (off_t at = data; at < hole;) {
            Piece p = {at, (size_t)MIN(hole - at, (off_t)PIECE)};
            g_array_append_val(pieces, p);
            at += (off_t)p.n;
        }
    }
    return pieces;
}

bool bench_cache_data(const char *path, uint64_t *bytes, GError **error)
{
    g_autoptr(GArray) pieces = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return set_errno(error, path, "open");
    }
    pieces = data_of(fd);
    close(fd);
    *bytes = 0;
    for (guint i = 0; i < pieces->len; i++) {
        *bytes += g_array_index(pieces, Piece, i).n;
    }
    return true;
}

/* The share of that which is in the page cache; of nothing: 0. -1: errno. */
static double resident(int fd, const GArray *pieces)
{
    long page = sysconf(_SC_PAGESIZE);
    g_autofree unsigned char *in = g_malloc(PIECE / (gsize)page + 1);
    uint64_t all = 0, there = 0;

    for (guint i = 0; i < pieces->len; i++) {
        const Piece *p = &g_array_index(pieces, Piece, i);
        size_t n = (p->n + (size_t)page - 1) / (size_t)page;
        void *map = mmap(NULL, p->n, PROT_READ, MAP_SHARED, fd, p->at);
        int rc = map == MAP_FAILED ? -1 : mincore(map, p->n, in);

        if (map != MAP_FAILED) {
            munmap(map, p->n);
        }
        if (rc < 0) {
            return -1;
        }
        for (size_t k = 0; k < n; k++) {
            there += in[k] & 1;
        }
        all += n;
    }
    return all ? (double)there / (double)all : 0;
}

static bool is_within(int fd, const char *path, double least, double most, double *share,
                      GError **error)
{
    g_autoptr(GArray) pieces = data_of(fd);

    *share = resident(fd, pieces);
    return *share >= 0 ? *share >= least && *share <= most : set_errno(error, path, "mincore");
}

/* ---- out, and in ----------------------------------------------------------------------------- */

/* As root: all that is clean, of all files. */
static void drop_all(void)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        (void)!write(fd, "1", 1);
        close(fd);
    }
}

/* The page cache is all that it has. */
static bool is_in_memory(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static bool drop(int fd, const char *path, GError **error)
{
    g_autoptr(GError) own = NULL;
    double share = 1;

    if (fdatasync(fd) < 0) {
        return set_errno(error, path, "fdatasync"); /* what is dirty stays */
    }
    for (unsigned attempt = 0; attempt < 2 && !is_in_memory(fd); attempt++) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        if (is_within(fd, path, 0, COLD, &share, &own)) {
            return true;
        }
        if (own) {
            g_propagate_error(error, g_steal_pointer(&own));
            return false;
        }
        drop_all();
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                "%s: %.0f %% of it stays in the page cache: give --out a folder on a disk, or "
                "--cache warm",
                path, share * 100);
    return false;
}

bool bench_cache_drop(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return set_errno(error, path, "open");
    }
    bool ok = drop(fd, path, error);
    close(fd);
    return ok;
}

bool bench_cache_fill(const char *path, GError **error)
{
    g_autoptr(GError) own = NULL;
    uint64_t bytes;
    int64_t us;
    double share = 0;
    int fd;

    if (!bench_cache_read(path, false, &bytes, &us, error)) {
        return false;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return set_errno(error, path, "open");
    }
    bool ok = is_within(fd, path, WARM, 1, &share, &own) || bytes == 0;
    close(fd);
    if (own) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    if (!ok) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "%s: only %.0f %% of it fits into the page cache: smaller guests, or --cache "
                    "cold",
                    path, share * 100);
    }
    return ok;
}

/* ---- how fast -------------------------------------------------------------------------------- */

typedef struct {
    int fd;
    const GArray *pieces;
    uint64_t bytes; /* atomic; observer: main, when all have ended */
    guint next;     /* atomic; observer: the other readers */
    int failed;     /* atomic; an errno; observer: main, when all have ended */
} Reading;

/* O_DIRECT reads whole blocks, the last one of the file is shorter. */
static size_t rounded(size_t n)
{
    return (n + 4095) / 4096 * 4096;
}

static gpointer read_pieces(gpointer opaque)
{
    Reading *r = opaque;
    void *buf = NULL;
    guint i;

    if (posix_memalign(&buf, 4096, PIECE)) {
        g_atomic_int_set(&r->failed, ENOMEM);
        return NULL;
    }
    while (!g_atomic_int_get(&r->failed) &&
           (i = (guint)g_atomic_int_add((gint *)&r->next, 1)) < r->pieces->len) {
        const Piece *p = &g_array_index(r->pieces, Piece, i);
        ssize_t n = pread(r->fd, buf, rounded(p->n), p->at);

        if (n < (ssize_t)p->n) {
            g_atomic_int_set(&r->failed, n < 0 ? errno : EIO);
        } else {
            __atomic_fetch_add(&r->bytes, p->n, __ATOMIC_RELAXED);
        }
    }
    free(buf);
    return NULL;
}

static int open_to_read(const char *path, bool direct)
{
    int fd = direct ? open(path, O_RDONLY | O_CLOEXEC | O_DIRECT) : -1;

    return fd >= 0 || (direct && errno != EINVAL) ? fd : open(path, O_RDONLY | O_CLOEXEC);
}

bool bench_cache_read(const char *path, bool direct, uint64_t *bytes, int64_t *us, GError **error)
{
    g_autoptr(GArray) pieces = NULL;
    GThread *thread[READERS];
    Reading r = {.fd = open_to_read(path, direct)};

    if (r.fd < 0) {
        return set_errno(error, path, "open");
    }
    r.pieces = pieces = data_of(r.fd);
    *us = g_get_monotonic_time();
    for (unsigned t = 0; t < READERS; t++) {
        thread[t] = g_thread_new("read", read_pieces, &r);
    }
    for (unsigned t = 0; t < READERS; t++) {
        g_thread_join(thread[t]);
    }
    *us = g_get_monotonic_time() - *us;
    *bytes = r.bytes;
    close(r.fd);
    errno = r.failed;
    return !r.failed || set_errno(error, path, "read");
}
