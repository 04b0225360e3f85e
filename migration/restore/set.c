/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See set.h. A working set is read from its own file because a disk brings it from there in
 * a row; where the saved guest is in the page cache that would be no faster, and it is left alone.
 *
 * System calls: preadv2 (RWF_NOWAIT).
 */
#include "migration/restore/set.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>

#include "base/failpoints.h"
#include "content/image/working-set.h"

/* Of the data of a guest: more is no faster than reading all of it. */
#define PART 4
/* Places that are looked at, and of which so many in the page cache are enough. */
#define LOOKS 64
#define CACHED (LOOKS * 3 / 4)

struct FfRestoreSet {
    FfWorkingSet *set;
    char *path;
    gint useless; /* atomic; observer: the coordinator, when it makes another pager */
};

static FfWorkingSetFile file_of(const FfRestoreFile *f)
{
    return (FfWorkingSetFile){f->id.size, f->id.mtime_ns, f->digest};
}

static char *path_of(const FfRestoreFile *f)
{
    return g_strconcat(f->path, FF_WORKING_SET_SUFFIX, NULL);
}

/* Where nobody can say, it is not. */
static bool is_cached(const FfRestoreFile *f, const FfWorkingSet *set)
{
    unsigned n = 0;

    for (unsigned i = 0; i < LOOKS; i++) {
        uint8_t byte;
        struct iovec io = {&byte, 1};
        uint64_t place = set->places[set->n * i / LOOKS];

        n += preadv2(f->fd, &io, 1, (off_t)place, RWF_NOWAIT) == 1;
    }
    return n >= CACHED;
}

FfRestoreSet *ff_restore_set_open(const FfRestoreFile *f)
{
    g_autofree char *path = path_of(f);
    g_autoptr(GError) error = NULL;
    const FfWorkingSetFile file = file_of(f);
    g_autoptr(FfWorkingSet) set = ff_working_set_open(path, f->fd, &file, &error);

    if (error) {
        g_message("restore: the working set is not used: %s", error->message);
    }
    if (!set || !FF_FAULT_STEP("not-cached", !is_cached(f, set))) {
        return NULL;
    }
    FfRestoreSet *s = g_new0(FfRestoreSet, 1);
    s->set = g_steal_pointer(&set);
    s->path = g_steal_pointer(&path);
    return s;
}

void ff_restore_set_free(FfRestoreSet *s)
{
    if (s) {
        ff_working_set_free(s->set);
        g_free(s->path);
        g_free(s);
    }
}

/* ---- read first ------------------------------------------------------------------------------ */

/* FfFileFirst */
static bool is_right(uint64_t chunk, const void *data, size_t n, void *opaque)
{
    FfRestoreSet *s = opaque;

    return ff_working_set_is_right(s->set, chunk, data, n);
}

/* FfFileFirst */
static void on_set_useless(int rc, void *opaque)
{
    FfRestoreSet *s = opaque;

    g_atomic_int_set(&s->useless, 1);
    g_message("restore: the working set is not used any more: %s: %s", s->path,
              rc == -EBADMSG ? "damaged" : g_strerror(-rc));
}

FfFileFirst ff_restore_set_first(FfRestoreSet *s)
{
    int fd = s && !g_atomic_int_get(&s->useless) ? fcntl(s->set->fd, F_DUPFD_CLOEXEC, 3) : -1;

    if (fd < 0) {
        return (FfFileFirst){.fd = -1};
    }
    return (FfFileFirst){.fd = fd,
                         .at = s->set->at,
                         .n = s->set->n,
                         .places = s->set->places,
                         .chunk = FF_WORKING_SET_CHUNK,
                         .is_right = is_right,
                         .useless = on_set_useless,
                         .opaque = s};
}

uint64_t ff_restore_set_pages(const FfRestoreSet *s)
{
    return s ? s->set->n : 0;
}

/* ---- written --------------------------------------------------------------------------------- */

/* All that the thread needs: the restore may continue with another file. */
typedef struct {
    char *path;
    int fd;
    FfWorkingSetFile file;
    uint64_t *places;
    uint64_t n;
} Writer;

uint64_t ff_restore_set_max(const FfRestoreFile *f)
{
    uint64_t data = 0;

    for (unsigned i = 0; i < f->n_blocks; i++) {
        FfBitmap bitmap;

        ff_bitmap_init_over(&bitmap, (uint64_t *)f->blocks[i].data, f->blocks[i].n_pages);
        data += ff_bitmap_count_run(&bitmap, 0, f->blocks[i].n_pages);
    }
    return MIN(data / PART, FF_WORKING_SET_MAX);
}

static gpointer write_set(gpointer opaque)
{
    Writer *w = opaque;
    g_autoptr(GError) error = NULL;

    if (ff_working_set_write(w->path, w->fd, &w->file, w->places, w->n, NULL, 0, &error)) {
        g_message("restore: working set written: %s: %" G_GUINT64_FORMAT " KiB", w->path,
                  (uint64_t)(w->n * FF_WORKING_SET_PAGE >> 10));
    } else {
        g_message("restore: no working set was written: %s", error->message);
    }
    ff_close_fd(&w->fd);
    g_free(w->places);
    g_free(w->path);
    g_free(w);
    return NULL;
}

GThread *ff_restore_set_write(const FfRestoreFile *f, FfFilePager *p)
{
    int fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);

    if (fd < 0) {
        return NULL;
    }
    Writer *w = g_new0(Writer, 1);
    *w = (Writer){.path = path_of(f), .fd = fd, .file = file_of(f)};
    w->places = ff_file_pager_take_record(p, &w->n);
    return g_thread_new("ff-working-set", write_set, w);
}
