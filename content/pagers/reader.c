/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that can be left behind; see reader.h. The thread that ends one waits until it has
 * returned, or stands in a read for END_MS: then the thread has what it needs (itself, its buffer,
 * its file), and frees it when the read comes back.
 *
 * Threads: the reader, and the one that ends it. Lock: FfReader.lock, a leaf; nobody reads under
 * it.
 *
 * System calls: mmap.
 */
#include "content/pagers/reader.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/sync.h"

/* A disk answers in this time, nearly always. */
#define END_MS 200

struct FfReaderFile {
    gatomicrefcount refs;
    gpointer what;
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

FfReaderFile *ff_reader_file_new(gpointer what, GDestroyNotify free)
{
    FfReaderFile *f = g_new0(FfReaderFile, 1);

    g_atomic_ref_count_init(&f->refs);
    f->what = what;
    f->free = free;
    return f;
}

gpointer ff_reader_file_what(const FfReaderFile *f)
{
    return f->what;
}

FfReaderFile *ff_reader_file_ref(FfReaderFile *f)
{
    g_atomic_ref_count_inc(&f->refs);
    return f;
}

void ff_reader_file_unref(FfReaderFile *f)
{
    if (f && g_atomic_ref_count_dec(&f->refs)) {
        f->free(f->what);
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
