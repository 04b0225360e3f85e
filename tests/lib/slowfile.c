/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See slowfile.h. One server thread; the lock guards what is held. */
#include "tests/lib/slowfile.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILE_NODE 2
#define BUFFER (1u << 20)

struct SlowFile {
    int fuse;
    char *directory, *path;
    GThread *server;
    GMutex lock;
    GCond changed;
    bool open;                   /* nothing is held any more */
    GArray *held;                /* of Held */
    int content;                 /* -1: SLOWFILE_BYTE everywhere */
    struct stat st;              /* of the file */
    uint64_t held_from, held_to; /* bytes; lock */
    uint64_t bad_at;             /* lock */
    int bad;                     /* errno; lock */
};

typedef struct {
    uint64_t unique, at;
    uint32_t size;
} Held;

static void reply(SlowFile *f, uint64_t unique, int error, const void *data, size_t len)
{
    struct fuse_out_header out = {.len = sizeof(out) + len, .error = error, .unique = unique};
    struct iovec iov[2] = {{&out, sizeof(out)}, {(void *)data, len}};

    /* ENOENT: the request was interrupted. */
    G_GNUC_UNUSED ssize_t n = writev(f->fuse, iov, len ? 2 : 1);
}

static struct fuse_attr attributes(const SlowFile *f, uint64_t node)
{
    bool file = node == FILE_NODE;

    return (struct fuse_attr){.ino = node,
                              .size = file ? f->st.st_size : 0,
                              .blocks = file ? f->st.st_size / 512 : 0,
                              .mtime = f->st.st_mtim.tv_sec,
                              .mtimensec = f->st.st_mtim.tv_nsec,
                              .mode = file ? S_IFREG | 0600 : S_IFDIR | 0700,
                              .nlink = 1,
                              .blksize = 4096};
}

static void answer_read(SlowFile *f, const Held *h)
{
    g_autofree char *data = g_malloc(h->size);
    ssize_t n = h->size;

    g_mutex_lock(&f->lock);
    int error = f->bad && h->at <= f->bad_at && f->bad_at < h->at + h->size ? f->bad : 0;
    g_mutex_unlock(&f->lock);
    if (f->content >= 0) {
        n = pread(f->content, data, h->size, (off_t)h->at);
    } else {
        memset(data, SLOWFILE_BYTE, h->size);
    }
    reply(f, h->unique, -error, data, error || n < 0 ? 0 : (size_t)n);
}

static void take_read(SlowFile *f, const struct fuse_in_header *in, const struct fuse_read_in *r)
{
    uint64_t size = (uint64_t)f->st.st_size;
    Held h = {in->unique, r->offset, r->offset >= size ? 0 : MIN(r->size, size - r->offset)};

    g_mutex_lock(&f->lock);
    bool hold = !f->open && r->offset >= f->held_from && r->offset < f->held_to;
    if (hold) {
        g_array_append_val(f->held, h);
        g_cond_broadcast(&f->changed);
    }
    g_mutex_unlock(&f->lock);
    if (!hold) {
        answer_read(f, &h);
    }
}

static void take(SlowFile *f, const struct fuse_in_header *in)
{
    const void *arg = in + 1;

    switch (in->opcode) {
    case FUSE_INIT: {
        const struct fuse_init_in *i = arg;
        struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
                                    .minor = MIN(i->minor, FUSE_KERNEL_MINOR_VERSION),
                                    .max_readahead = 0,
                                    .max_write = BUFFER / 2};
        reply(f, in->unique, 0, &out, sizeof(out));
        break;
    }
    case FUSE_LOOKUP: {
        struct fuse_entry_out out = {.nodeid = FILE_NODE, .attr = attributes(f, FILE_NODE)};
        reply(f, in->unique, strcmp(arg, "disk") ? -ENOENT : 0, &out,
              strcmp(arg, "disk") ? 0 : sizeof(out));
        break;
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out out = {.attr = attributes(f, in->nodeid)};
        reply(f, in->unique, 0, &out, sizeof(out));
        break;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out out = {.open_flags = FOPEN_DIRECT_IO};
        reply(f, in->unique, 0, &out, sizeof(out));
        break;
    }
    case FUSE_READ:
        take_read(f, in, arg);
        break;
    case FUSE_STATFS: {
        struct fuse_statfs_out out = {.st = {.bsize = 4096, .namelen = 255}};
        reply(f, in->unique, 0, &out, sizeof(out));
        break;
    }
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        reply(f, in->unique, 0, NULL, 0);
        break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        break; /* without an answer */
    default:
        reply(f, in->unique, -ENOSYS, NULL, 0);
    }
}

static gpointer serve(gpointer p)
{
    SlowFile *f = p;
    g_autofree char *buffer = g_malloc(BUFFER);

    for (;;) {
        ssize_t n = read(f->fuse, buffer, BUFFER);
        if (n < 0 && (errno == EINTR || errno == ENOENT)) {
            continue;
        }
        if (n < (ssize_t)sizeof(struct fuse_in_header)) {
            return NULL; /* ENODEV: unmounted */
        }
        take(f, (const struct fuse_in_header *)buffer);
    }
}

/* CONTENT (taken) can be -1. */
static SlowFile *mount_file(const char *directory, int content, unsigned long flags,
                            const char **why)
{
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    g_autofree char *options =
        g_strdup_printf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fuse, getuid(), getgid());

    if (fuse < 0 || mount("slow", directory, "fuse", MS_NOSUID | MS_NODEV | flags, options) < 0) {
        *why = "no permission to mount a FUSE file system";
        if (fuse >= 0) {
            close(fuse);
        }
        if (content >= 0) {
            close(content);
        }
        return NULL;
    }
    SlowFile *f = g_new0(SlowFile, 1);
    f->fuse = fuse;
    f->content = content;
    f->open = content >= 0;
    f->held_from = SLOWFILE_HELD;
    f->held_to = UINT64_MAX;
    f->st.st_size = SLOWFILE_SIZE;
    if (content >= 0) {
        g_assert_cmpint(fstat(content, &f->st), ==, 0);
    }
    f->directory = g_strdup(directory);
    f->path = g_build_filename(directory, "disk", NULL);
    f->held = g_array_new(FALSE, FALSE, sizeof(Held));
    g_mutex_init(&f->lock);
    g_cond_init(&f->changed);
    f->server = g_thread_new("fuse", serve, f);
    return f;
}

SlowFile *slowfile_new(const char *directory, const char **why)
{
    return mount_file(directory, -1, 0, why);
}

SlowFile *slowfile_new_of(const char *directory, const char *content, const char **why)
{
    int fd = open(content, O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return mount_file(directory, fd, MS_RDONLY, why);
}

void slowfile_hold(SlowFile *f, uint64_t from, uint64_t to)
{
    g_mutex_lock(&f->lock);
    f->open = false;
    f->held_from = from;
    f->held_to = to;
    g_mutex_unlock(&f->lock);
}

void slowfile_fail(SlowFile *f, uint64_t at, int error)
{
    g_mutex_lock(&f->lock);
    f->bad_at = at;
    f->bad = error;
    g_mutex_unlock(&f->lock);
}

const char *slowfile_path(const SlowFile *f)
{
    return f->path;
}

void slowfile_wait_held(SlowFile *f)
{
    g_mutex_lock(&f->lock);
    while (!f->held->len) {
        g_cond_wait(&f->changed, &f->lock);
    }
    g_mutex_unlock(&f->lock);
}

void slowfile_release(SlowFile *f)
{
    g_mutex_lock(&f->lock);
    f->open = true;
    GArray *held = g_steal_pointer(&f->held);
    f->held = g_array_new(FALSE, FALSE, sizeof(Held));
    g_mutex_unlock(&f->lock);
    for (guint i = 0; i < held->len; i++) {
        answer_read(f, &g_array_index(held, Held, i));
    }
    g_array_unref(held);
}

void slowfile_free(SlowFile *f)
{
    slowfile_release(f);
    /* By force: another mount namespace that was made meanwhile has it as well, and keeps it. */
    umount2(f->directory, MNT_FORCE | MNT_DETACH);
    g_thread_join(f->server);
    close(f->fuse);
    if (f->content >= 0) {
        close(f->content);
    }
    g_array_unref(f->held);
    g_mutex_clear(&f->lock);
    g_cond_clear(&f->changed);
    g_free(f->directory);
    g_free(f->path);
    g_free(f);
}
