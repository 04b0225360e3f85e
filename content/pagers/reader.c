/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that can be left behind; see reader.h. The thread that ends one waits until it has
 * returned, or stands in a read for END_MS: then the thread has what it needs (itself, its buffer,
 * its file), and frees it when the read comes back.
 *
 * Threads: the reader, and the one that ends it. Lock: FfReader.lock, a leaf; nobody reads under
 * it.
 *
 * System calls: pread64, fstat, mmap.
 */
#include "content/pagers/reader.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/sync.h"

/* A disk answers in this time, nearly always. */
#define END_MS 200

struct FfReaderFile {
    gatomicrefcount refs;
    int fd;        /* -1: it is `what` */
    gpointer what; /* NULL: it is an fd */
    GDestroyNotify free;
};

struct FfReader {
    FfReaderFunc run;
    void *owner; /* not after `left` */
    GThread *thread;
    uint8_t *buf;
    size_t buf_len;
    FfReaderFile *file; /* that it reads just now; its own reference */
    bool left;          /* the reader's own copy of `ends` after a read */
    FfMutex lock;
    FfCond changed;
    bool reads; /* lock */
    bool over;  /* lock; RUN has returned */
    bool ends;  /* lock; nobody waits for it any more: it frees itself */
};

int ff_file_id(int fd, FfFileId *id)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    *id = (FfFileId){0};
    if (S_ISREG(st.st_mode)) {
        id->size = (uint64_t)st.st_size;
        id->mtime_ns = st.st_mtim.tv_sec * G_GINT64_CONSTANT(1000000000) + st.st_mtim.tv_nsec;
    }
    return 0;
}

FfReaderFile *ff_reader_file_new(int fd)
{
    FfReaderFile *f = g_new0(FfReaderFile, 1);

    g_atomic_ref_count_init(&f->refs);
    f->fd = fd;
    return f;
}

FfReaderFile *ff_reader_file_new_of(gpointer what, GDestroyNotify free)
{
    FfReaderFile *f = ff_reader_file_new(-1);

    f->what = what;
    f->free = free;
    return f;
}

FfReaderFile *ff_reader_file_ref(FfReaderFile *f)
{
    g_atomic_ref_count_inc(&f->refs);
    return f;
}

void ff_reader_file_unref(FfReaderFile *f)
{
    if (f && g_atomic_ref_count_dec(&f->refs)) {
        if (f->free) {
            f->free(f->what);
        } else {
            close(f->fd);
        }
        g_free(f);
    }
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static void reader_free(FfReader *r)
{
    munmap(r->buf, r->buf_len);
    ff_mutex_clear(&r->lock);
    ff_cond_clear(&r->changed);
    g_free(r);
}

static gpointer run_reader(gpointer opaque)
{
    FfReader *r = opaque;

    r->run(r, r->owner);
    ff_mutex_lock(&r->lock);
    bool ends = r->ends;
    r->over = true;
    ff_cond_broadcast(&r->changed);
    ff_mutex_unlock(&r->lock);
    if (ends) {
        reader_free(r);
    }
    return NULL;
}

FfReader *ff_reader_start(const char *name, size_t buf_len, FfReaderFunc func, void *owner)
{
    FfReader *r = g_new0(FfReader, 1);

    r->run = func;
    r->owner = owner;
    r->buf_len = buf_len;
    r->buf = mmap(NULL, buf_len, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->buf == MAP_FAILED) {
        g_error("no memory for the buffers of a restore: %s", g_strerror(errno));
    }
    ff_mutex_init(&r->lock);
    ff_cond_init(&r->changed);
    r->thread = g_thread_new(name, run_reader, r);
    return r;
}

void ff_reader_end(FfReader *r)
{
    GThread *thread = r->thread;
    int64_t until = 0;

    ff_mutex_lock(&r->lock);
    while (!r->over && !r->ends) {
        if (!r->reads) {
            until = 0;
            ff_cond_wait(&r->changed, &r->lock);
        } else if (!until) {
            until = g_get_monotonic_time() + END_MS * 1000;
        } else if (g_get_monotonic_time() < until) {
            ff_cond_wait_until(&r->changed, &r->lock, until);
        } else {
            r->ends = true;
        }
    }
    bool left = r->ends;
    ff_mutex_unlock(&r->lock);
    if (left) {
        g_thread_unref(thread);
        return;
    }
    g_thread_join(thread);
    reader_free(r);
}

/* ---- reading --------------------------------------------------------------------------------- */

uint8_t *ff_reader_buffer(const FfReader *r)
{
    return r->buf;
}

bool ff_reader_is_left(const FfReader *r)
{
    return r->left;
}

void ff_reader_enter(FfReader *r, FfReaderFile *f)
{
    ff_mutex_lock(&r->lock);
    r->file = ff_reader_file_ref(f);
    r->reads = true;
    ff_cond_broadcast(&r->changed);
    ff_mutex_unlock(&r->lock);
}

int ff_reader_leave(FfReader *r, int rc)
{
    ff_mutex_lock(&r->lock);
    r->reads = false;
    r->left = r->ends;
    ff_cond_broadcast(&r->changed);
    ff_mutex_unlock(&r->lock);
    g_clear_pointer(&r->file, ff_reader_file_unref);
    /* What the kernel calls so is an error as any other, and must be said. */
    return r->left ? -ECANCELED : rc == -ECANCELED ? -EIO : rc;
}

static int read_all(int fd, uint64_t at, uint8_t *to, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got =
            FF_FAULT_CALL("read-file", pread(fd, to + done, n - done, (off_t)(at + done)));

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? -errno : -ENODATA;
        }
        done += got;
    }
    return 0;
}

int ff_reader_read(FfReader *r, FfReaderFile *f, uint64_t at, uint8_t *to, size_t n)
{
    ff_reader_enter(r, f);
    return ff_reader_leave(r, read_all(f->fd, at, to, n));
}

int ff_file_check(int fd, const FfFileId *id)
{
    FfFileId now;
    int rc = ff_file_id(fd, &now);

    if (rc < 0) {
        return rc;
    }
    return now.size == id->size && now.mtime_ns == id->mtime_ns ? 0 : -ESTALE;
}

int ff_reader_check(FfReader *r, FfReaderFile *f, const FfFileId *id)
{
    const FfFileId first = *id; /* whose it is may be gone */

    ff_reader_enter(r, f);
    return ff_reader_leave(r, ff_file_check(f->fd, &first));
}
