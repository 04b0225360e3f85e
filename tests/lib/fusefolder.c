/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See fusefolder.h. One server thread; the lock guards the names and what is held. */
#include "tests/lib/fusefolder.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/lib/stream.h"

#define BUFFER (1u << 20)
#define MAX_WRITE (128u << 10)
#define FIRST_NODE (FUSE_ROOT_ID + 1)

typedef struct {
    char *name;
    uint64_t node;
} Name;

struct FuseFolder {
    FuseFolderConfig config;
    int fuse;
    char *path;
    GThread *server;
    GArray *contents; /* of int, memfds; node FIRST_NODE is the first. The server's */
    GMutex lock;
    GCond changed;
    GPtrArray *names; /* Name *; lock */
    GPtrArray *held;  /* whole requests (GBytes); lock */
    bool holds;       /* lock */
};

static void name_free(void *p)
{
    Name *n = p;

    g_free(n->name);
    g_free(n);
}

static void reply(FuseFolder *f, uint64_t unique, int error, const void *data, size_t len)
{
    struct fuse_out_header out = {.len = sizeof(out) + len, .error = error, .unique = unique};
    struct iovec iov[2] = {{&out, sizeof(out)}, {(void *)data, len}};

    /* ENOENT: the request was interrupted. */
    G_GNUC_UNUSED ssize_t n = writev(f->fuse, iov, len ? 2 : 1);
}

/* ---- names ----------------------------------------------------------------------------------- */

static int content_of(const FuseFolder *f, uint64_t node)
{
    g_assert_cmpuint(node - FIRST_NODE, <, f->contents->len);
    return g_array_index(f->contents, int, node - FIRST_NODE);
}

/* With the lock. */
static Name *find(FuseFolder *f, const char *name)
{
    for (guint i = 0; i < f->names->len; i++) {
        Name *n = f->names->pdata[i];

        if (!strcmp(n->name, name)) {
            return n;
        }
    }
    return NULL;
}

static void add_name(FuseFolder *f, const char *name, uint64_t node)
{
    Name *n = g_new(Name, 1);

    *n = (Name){g_strdup(name), node};
    g_mutex_lock(&f->lock);
    g_ptr_array_add(f->names, n);
    g_mutex_unlock(&f->lock);
}

static uint64_t node_of(FuseFolder *f, const char *name)
{
    g_mutex_lock(&f->lock);
    Name *n = find(f, name);
    uint64_t node = n ? n->node : 0;
    g_mutex_unlock(&f->lock);
    return node;
}

static bool remove_name(FuseFolder *f, const char *name)
{
    g_mutex_lock(&f->lock);
    Name *n = find(f, name);
    bool ok = n && g_ptr_array_remove(f->names, n);
    g_mutex_unlock(&f->lock);
    return ok;
}

/* ---- requests -------------------------------------------------------------------------------- */

static struct fuse_attr attributes(const FuseFolder *f, uint64_t node)
{
    struct stat st = {.st_mode = S_IFDIR | 0700};

    if (node != FUSE_ROOT_ID) {
        g_assert_cmpint(fstat(content_of(f, node), &st), ==, 0);
        st.st_mode = S_IFREG | 0600;
    }
    return (struct fuse_attr){.ino = node,
                              .size = st.st_size,
                              .blocks = st.st_blocks,
                              .mode = st.st_mode,
                              .nlink = 1,
                              .blksize = 4096};
}

static void reply_entry(FuseFolder *f, const struct fuse_in_header *in, uint64_t node, bool opened)
{
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = {.entry = {.nodeid = node, .attr = attributes(f, node)}};

    reply(f, in->unique, 0, &out, opened ? sizeof(out) : sizeof(out.entry));
}

static void reply_attributes(FuseFolder *f, const struct fuse_in_header *in)
{
    struct fuse_attr_out out = {.attr = attributes(f, in->nodeid)};

    reply(f, in->unique, 0, &out, sizeof(out));
}

static void create(FuseFolder *f, const struct fuse_in_header *in, const struct fuse_create_in *c)
{
    const char *name = (const char *)(c + 1);
    int fd = memfd_create("fuse", MFD_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    g_array_append_val(f->contents, fd);
    uint64_t node = FIRST_NODE + f->contents->len - 1;
    add_name(f, name, node);
    reply_entry(f, in, node, true);
}

static void take_write(FuseFolder *f, const struct fuse_in_header *in,
                       const struct fuse_write_in *w)
{
    struct fuse_write_out out = {.size = w->size};

    if (f->config.no_direct && w->flags & O_DIRECT) {
        reply(f, in->unique, -EINVAL, NULL, 0);
        return;
    }
    g_usleep(f->config.write_us);
    g_assert_cmpint(pwrite(content_of(f, in->nodeid), w + 1, w->size, (off_t)w->offset), ==,
                    w->size);
    reply(f, in->unique, 0, &out, sizeof(out));
}

/* TRUE: it is kept for later. */
static bool is_held(FuseFolder *f, const struct fuse_in_header *in)
{
    g_mutex_lock(&f->lock);
    bool holds = f->holds;
    if (holds) {
        g_ptr_array_add(f->held, g_bytes_new(in, in->len));
        g_cond_broadcast(&f->changed);
    }
    g_mutex_unlock(&f->lock);
    return holds;
}

static void take_read(FuseFolder *f, const struct fuse_in_header *in, const struct fuse_read_in *r)
{
    g_autofree char *data = g_malloc(r->size);
    ssize_t n = pread(content_of(f, in->nodeid), data, r->size, (off_t)r->offset);

    g_assert_cmpint(n, >=, 0);
    reply(f, in->unique, 0, data, n);
}

static void rename_it(FuseFolder *f, const struct fuse_in_header *in, const char *from,
                      bool replaces)
{
    const char *to = from + strlen(from) + 1;
    uint64_t node = node_of(f, from);

    if (!replaces && node_of(f, to)) {
        reply(f, in->unique, -EEXIST, NULL, 0);
        return;
    }
    remove_name(f, to);
    remove_name(f, from);
    add_name(f, to, node);
    reply(f, in->unique, 0, NULL, 0);
}

/* Those about a name. FALSE: it is none of them. */
static bool take_name(FuseFolder *f, const struct fuse_in_header *in)
{
    const void *arg = in + 1;

    switch (in->opcode) {
    case FUSE_LOOKUP:
        if (node_of(f, arg)) {
            reply_entry(f, in, node_of(f, arg), false);
        } else {
            reply(f, in->unique, -ENOENT, NULL, 0);
        }
        return true;
    case FUSE_CREATE:
        create(f, in, arg);
        return true;
    case FUSE_LINK: {
        if (f->config.no_link) {
            return false;
        }
        const struct fuse_link_in *l = arg;
        add_name(f, (const char *)(l + 1), l->oldnodeid);
        if (f->config.link_twice) {
            reply(f, in->unique, -EEXIST, NULL, 0);
        } else {
            reply_entry(f, in, l->oldnodeid, false);
        }
        return true;
    }
    case FUSE_RENAME:
        rename_it(f, in, (const char *)((const struct fuse_rename_in *)arg + 1), true);
        return true;
    case FUSE_RENAME2:
        if (f->config.no_rename2) {
            return false;
        }
        if (f->config.rename2_error) {
            reply(f, in->unique, -f->config.rename2_error, NULL, 0);
            return true;
        }
        rename_it(f, in, (const char *)((const struct fuse_rename2_in *)arg + 1),
                  !(((const struct fuse_rename2_in *)arg)->flags & 1 /* RENAME_NOREPLACE */));
        return true;
    case FUSE_UNLINK:
        reply(f, in->unique, remove_name(f, arg) ? 0 : -ENOENT, NULL, 0);
        return true;
    default:
        return false;
    }
}

static void take(FuseFolder *f, const struct fuse_in_header *in)
{
    const void *arg = in + 1;

    if (take_name(f, in)) {
        return;
    }
    switch (in->opcode) {
    case FUSE_INIT: {
        const struct fuse_init_in *i = arg;
        struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
                                    .minor = MIN(i->minor, FUSE_KERNEL_MINOR_VERSION),
                                    .flags = FUSE_BIG_WRITES,
                                    .max_write = MAX_WRITE};
        reply(f, in->unique, 0, &out, sizeof(out));
        break;
    }
    case FUSE_GETATTR:
        reply_attributes(f, in);
        break;
    case FUSE_SETATTR: {
        const struct fuse_setattr_in *s = arg;
        g_assert_true(!(s->valid & FATTR_SIZE) ||
                      ftruncate(content_of(f, in->nodeid), (off_t)s->size) == 0);
        reply_attributes(f, in);
        break;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out out = {0};
        reply(f, in->unique, 0, &out, sizeof(out));
        break;
    }
    case FUSE_WRITE:
        if (!is_held(f, in)) {
            take_write(f, in, arg);
        }
        break;
    case FUSE_READ:
        take_read(f, in, arg);
        break;
    case FUSE_STATFS: {
        struct fuse_statfs_out out = {.st = {.bsize = 4096,
                                             .blocks = 1 << 20,
                                             .bfree = 1 << 20,
                                             .bavail = 1 << 20,
                                             .namelen = 255}};
        reply(f, in->unique, 0, &out, sizeof(out));
        break;
    }
    case FUSE_FLUSH:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
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
    FuseFolder *f = p;
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

/* ---- the folder ------------------------------------------------------------------------------ */

FuseFolder *fusefolder_new(const FuseFolderConfig *config, const char **why)
{
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    g_autofree char *options =
        g_strdup_printf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fuse, getuid(), getgid());
    g_autofree char *path = g_dir_make_tmp("ff-fuse-XXXXXX", NULL);

    g_assert_nonnull(path);
    if (fuse < 0 || mount("folder", path, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
        *why = "no permission to mount a FUSE file system";
        if (fuse >= 0) {
            close(fuse);
        }
        rmdir(path);
        return NULL;
    }
    FuseFolder *f = g_new0(FuseFolder, 1);
    f->config = *config;
    f->fuse = fuse;
    f->path = g_steal_pointer(&path);
    f->contents = g_array_new(FALSE, FALSE, sizeof(int));
    f->names = g_ptr_array_new_with_free_func(name_free);
    f->held = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    g_mutex_init(&f->lock);
    g_cond_init(&f->changed);
    f->server = g_thread_new("fuse", serve, f);
    return f;
}

char *fusefolder_path(const FuseFolder *f, const char *name)
{
    return g_build_filename(f->path, name, NULL);
}

char *fusefolder_list(FuseFolder *f)
{
    GString *text = g_string_new(NULL);

    g_mutex_lock(&f->lock);
    for (guint i = 0; i < f->names->len; i++) {
        g_string_append_printf(text, "%s ", ((Name *)f->names->pdata[i])->name);
    }
    g_mutex_unlock(&f->lock);
    return g_string_free(text, FALSE);
}

void fusefolder_hold(FuseFolder *f)
{
    g_mutex_lock(&f->lock);
    f->holds = true;
    g_mutex_unlock(&f->lock);
}

void fusefolder_wait_held(FuseFolder *f)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);

    g_mutex_lock(&f->lock);
    while (!f->held->len) {
        g_assert_true(g_cond_wait_until(&f->changed, &f->lock, deadline));
    }
    g_mutex_unlock(&f->lock);
}

void fusefolder_release(FuseFolder *f)
{
    g_mutex_lock(&f->lock);
    f->holds = false;
    g_autoptr(GPtrArray) held = g_steal_pointer(&f->held);
    f->held = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    g_mutex_unlock(&f->lock);
    for (guint i = 0; i < held->len; i++) {
        const struct fuse_in_header *in = g_bytes_get_data(held->pdata[i], NULL);

        take_write(f, in, (const struct fuse_write_in *)(in + 1));
    }
}

void fusefolder_free(FuseFolder *f)
{
    /* By force: another mount namespace that was made meanwhile has it as well, and keeps it. */
    umount2(f->path, MNT_FORCE | MNT_DETACH);
    g_thread_join(f->server);
    close(f->fuse);
    for (guint i = 0; i < f->contents->len; i++) {
        close(g_array_index(f->contents, int, i));
    }
    g_array_unref(f->contents);
    g_ptr_array_unref(f->names);
    g_ptr_array_unref(f->held);
    g_mutex_clear(&f->lock);
    g_cond_clear(&f->changed);
    g_assert_cmpint(rmdir(f->path), ==, 0);
    g_free(f->path);
    g_free(f);
}
