/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See restore-packed.h. What unpacks has a table of all frames and the last frame, and is a
 * thread's own; it is made at the thread's first read and freed at its end. No locks.
 */
#include "migration/restore-packed.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <unistd.h>

#include "fault/fault.h"
#include "snapshot/input.h"

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
    posix_fadvise(copy, 0, 0, POSIX_FADV_RANDOM); /* a hint, as in pagers/file.c */
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

static FfInput *find_input(const File *f, GError **error)
{
    FfInput *in = g_private_get(&own);
    int fd = in ? -1 : fcntl(f->fd, F_DUPFD_CLOEXEC, 3);

    if (!in && fd < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s", g_strerror(errno));
    } else if (!in) {
        in = ff_input_open_fd(fd, f->path, error);
        g_private_set(&own, in);
    }
    return in;
}

static int code_of(const GError *e)
{
    static const int errnos[] = {EMFILE, ENFILE, ENOMEM, EACCES, ESTALE, ENOSPC, ENODEV, ENXIO};

    if (g_error_matches(e, G_IO_ERROR, G_IO_ERROR_INVALID_DATA)) {
        return -EBADMSG;
    }
    if (g_error_matches(e, G_IO_ERROR, G_IO_ERROR_PARTIAL_INPUT)) {
        return -ENODATA;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(errnos); i++) {
        if (e->code != G_IO_ERROR_FAILED && e->code == (int)g_io_error_from_errno(errnos[i])) {
            return -errnos[i];
        }
    }
    return -EIO;
}

static int unpack(const File *f, uint64_t at, uint8_t *to, size_t n)
{
    g_autoptr(GError) error = NULL;
    FfFileId now;

    if (FF_FAULT_CALL("read-packed", 0) < 0) {
        return -errno;
    }
    FfInput *in = find_input(f, &error);
    bool ok = in && ff_input_read(in, at, to, n, &error);
    int rc = ff_file_id(f->fd, &now);

    /* What was changed is perhaps damaged, too: that says more. */
    if (rc == 0 && (now.size != f->id.size || now.mtime_ns != f->id.mtime_ns)) {
        rc = -ESTALE;
    }
    return rc < 0 ? rc : ok ? 0 : code_of(error);
}

int ff_packed_read(const FfPacked *p, FfReader *r, uint64_t at, uint8_t *to, size_t n)
{
    const File *f = p->file;

    ff_reader_enter(r, p->shared);
    return ff_reader_leave(r, unpack(f, at, to, n));
}
