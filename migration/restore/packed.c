/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See packed.h. What unpacks has a table of all frames and the last frame, and is a
 * thread's own; it is made at the thread's first read and freed at its end. No locks.
 */
#include "migration/restore/packed.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "content/image/input.h"

/* What a thread uses that is left behind. */
typedef struct {
    int fd;
    char *path;
    FfFileId id;
} File;

struct FfPacked {
    FfReaderFile *shared; /* has `file` */
    const File *file;
};

static void file_free(gpointer p)
{
    File *f = p;

    close(f->fd);
    g_free(f->path);
    g_free(f);
}

FfPacked *ff_packed_new(int fd, const char *path, const FfFileId *id)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    if (copy < 0) {
        return NULL;
    }
    posix_fadvise(copy, 0, 0, POSIX_FADV_RANDOM); /* a hint, as in content/pagers/file.c */
    const File file = {copy, g_strdup(path), *id};
    FfPacked *p = g_new0(FfPacked, 1);
    p->file = g_memdup2(&file, sizeof(file));
    p->shared = ff_reader_file_new_of((gpointer)p->file, file_free);
    return p;
}

void ff_packed_free(FfPacked *p)
{
    if (p) {
        ff_reader_file_unref(p->shared);
        g_free(p);
    }
}

static void input_free(gpointer p)
{
    ff_input_free(p);
}

/* FfInput of a thread of a pager, which ends with it. */
static GPrivate own = G_PRIVATE_INIT(input_free);

static int code_of(const GError *e)
{
    return g_error_matches(e, G_IO_ERROR, G_IO_ERROR_INVALID_DATA)        ? -EBADMSG
           : g_error_matches(e, G_IO_ERROR, G_IO_ERROR_PARTIAL_INPUT)     ? -ENODATA
           : g_error_matches(e, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED) ? -EACCES
                                                                          : -EIO;
}

static int unpack_frame(const File *f, uint64_t at, uint8_t *to, size_t n)
{
    g_autoptr(GError) error = NULL;
    FfInput *in = g_private_get(&own);

    if (FF_FAULT_CALL("read-packed", 0) < 0) {
        return -errno;
    }
    if (!in) {
        int fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0) {
            return -errno;
        }
        in = ff_input_open_fd(fd, f->path, &error);
        g_private_set(&own, in);
    }
    bool ok = in && ff_input_read(in, at, to, n, &error);
    int rc = ff_file_check(f->fd, &f->id); /* what was changed is perhaps damaged, too */
    return rc < 0 ? rc : ok ? 0 : code_of(error);
}

int ff_packed_read(const FfPacked *p, FfReader *r, uint64_t at, uint8_t *to, size_t n)
{
    const File *f = p->file;

    ff_reader_enter(r, p->shared);
    return ff_reader_leave(r, unpack_frame(f, at, to, n));
}
