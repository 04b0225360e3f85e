/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Places in the file of a snapshot, and its header, which is written when everything else is on the
 * disk: a file that has a header is whole.
 *
 * System calls: ftruncate, fdatasync.
 */
#include "libfarfault/snapshots/file.h"

#include <errno.h>
#include <gio/gio.h>
#include <unistd.h>

#define PAGE 4096ull
#define ALIGN(n) (((n) + PAGE - 1) / PAGE * PAGE)

_Static_assert(sizeof(FfFileHeader) == 32, "of a file");
_Static_assert(sizeof(FfFileRegion) == 32, "of a file");

static const FfSavedRegion *saved_at(const GArray *saved, guint i)
{
    return &g_array_index(saved, FfSavedRegion, i);
}

uint64_t ff_file_place(GArray *saved)
{
    uint64_t at = ALIGN(sizeof(FfFileHeader) + saved->len * sizeof(FfFileRegion));

    for (guint i = 0; i < saved->len; i++) {
        FfSavedRegion *s = &g_array_index(saved, FfSavedRegion, i);
        s->place = at;
        at += s->len;
    }
    return at;
}

static bool fail_file(const FfOutput *o, GError **error)
{
    int err = errno;

    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err), "%s: %s", ff_output_path(o),
                ff_strerror(err));
    return false;
}

bool ff_file_begin(FfOutput *o, uint64_t size, GError **error)
{
    int fd = ff_output_fd(o);

    /* Also of what was there before nothing is left. */
    return (ftruncate(fd, 0) == 0 && ftruncate(fd, (off_t)size) == 0) || fail_file(o, error);
}

bool ff_file_end(FfOutput *o, const GArray *saved, uint64_t size, GError **error)
{
    g_autofree FfFileRegion *table = g_new0(FfFileRegion, saved->len);
    FfFileHeader header = {.magic = GUINT64_TO_LE(FF_FILE_MAGIC),
                           .version = GUINT32_TO_LE(FF_FILE_VERSION),
                           .n_regions = GUINT32_TO_LE(saved->len),
                           .size = GUINT64_TO_LE(size)};

    for (guint i = 0; i < saved->len; i++) {
        const FfSavedRegion *s = saved_at(saved, i);
        table[i].addr = GUINT64_TO_LE(s->addr);
        table[i].len = GUINT64_TO_LE(s->len);
        table[i].offset = GUINT64_TO_LE(s->place);
    }
    if (fdatasync(ff_output_fd(o)) < 0) {
        return fail_file(o, error);
    }
    return ff_output_write(o, sizeof(header), table, saved->len * sizeof(*table), error) &&
           ff_output_write(o, 0, &header, sizeof(header), error) && ff_output_commit(o, error);
}
