/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot of Cloud Hypervisor's that is being written; see offload-write.h.
 *
 * The memory belongs to another process, which may cut it at any time: so it is read by pread(),
 * never by a mapping, where that would be SIGBUS. A part that was cut off is a hole to lseek(), so
 * the size is looked at again after the last read.
 *
 * System calls: mkdir, rmdir, unlink, fstat, lseek, pread64, ftruncate, fsync, and those of
 * content/image/output.c.
 */
#include "pager/cloud-hypervisor/offload-write.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "content/image/output.h"
#include "content/image/zero.h"

#define CHUNK (1u << 20)
#define FILES (FF_OFFLOAD_SLOTS + 2)

struct FfOffloadWriter {
    const char *path;
    bool made;  /* the folder */
    unsigned n; /* of `file`, in the order in which they get their names */
    FfOutput *file[FILES];
    uint64_t bytes;
    uint8_t *chunk;
};

static bool fail_name(GError **error, const char *name, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s", name, what);
    return false;
}

/* ---- the folder ------------------------------------------------------------------------------ */

static bool is_ours(const char *name)
{
    return g_str_equal(name, "migration_config.json") || g_str_equal(name, "state.json") ||
           g_str_has_prefix(name, "memory-");
}

static bool is_free(const char *path, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(GDir) dir = g_dir_open(path, 0, &why);
    const char *name;

    if (!dir) {
        return fail_name(error, path, why->message);
    }
    while ((name = g_dir_read_name(dir))) {
        if (is_ours(name)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS,
                        "%s/%s is there already: a snapshot, or a part of one that was not "
                        "finished; give another folder, or remove it",
                        path, name);
            return false;
        }
    }
    return true;
}

/* Its name must outlive a crash as its files do. */
static bool sync_parent(const char *path, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(path);
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool done = fd >= 0 && (fsync(fd) == 0 || errno == EINVAL);
    int err = errno;

    if (fd >= 0) {
        close(fd);
    }
    return done || fail_name(error, parent, g_strerror(err));
}

static FfOutput *new_file(const FfOffloadWriter *w, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(w->path, name, NULL);

    return ff_output_new(path, error);
}

FfOffloadWriter *ff_offload_writer_new(const char *path, GError **error)
{
    g_autoptr(FfOffloadWriter) w = g_new0(FfOffloadWriter, 1);

    w->path = path;
    w->chunk = g_malloc(CHUNK);
    w->made = mkdir(path, 0700) == 0;
    if (!w->made && errno != EEXIST) {
        fail_name(error, path, g_strerror(errno));
        return NULL;
    }
    if ((w->made && !sync_parent(path, error)) || !is_free(path, error)) {
        return NULL;
    }
    g_autoptr(FfOutput) tried = new_file(w, "state.json", error);
    return tried ? g_steal_pointer(&w) : NULL;
}

void ff_offload_writer_free(FfOffloadWriter *w)
{
    if (!w) {
        return;
    }
    for (unsigned i = 0; i < w->n; i++) {
        ff_output_free(w->file[i]);
    }
    if (w->made) {
        rmdir(w->path); /* not of a folder that has files */
    }
    g_free(w->chunk);
    g_free(w);
}

/* ---- memory ---------------------------------------------------------------------------------- */

typedef struct {
    FfOffloadWriter *w;
    FfOutput *to;
    int from;
    uint64_t start, end; /* in the memfd */
    FfOffloadGo go;
    void *opaque;
} Copy;

/* What is in chunk[], N bytes from AT on. Zeros are left out. */
static bool write_pages(const Copy *c, uint64_t at, size_t n, GError **error)
{
    const uint8_t *chunk = c->w->chunk;
    size_t begin, end;

    for (begin = 0; begin < n; begin = end + FF_OFFLOAD_PAGE) {
        for (end = begin; end < n && !ff_saved_is_zero(chunk + end, FF_OFFLOAD_PAGE);
             end += FF_OFFLOAD_PAGE) {
        }
        if (!ff_output_write(c->to, at + begin - c->start, chunk + begin, end - begin, error)) {
            return false;
        }
        c->w->bytes += end - begin;
    }
    return true;
}

/* [AT, AT + LEN) of the memfd; whole pages. */
static bool copy_extent(const Copy *c, uint64_t at, uint64_t len, GError **error)
{
    while (len > 0) {
        size_t want = MIN(len, CHUNK), done = 0;
        FF_FAULT_AT("receive-piece");
        if (!c->go(c->opaque, error)) {
            return false;
        }
        while (done < want) {
            ssize_t n = pread(c->from, c->w->chunk + done, want - done, (off_t)(at + done));
            if (n == 0 || (n < 0 && errno != EINTR)) {
                return fail_name(error, ff_output_path(c->to),
                                 n ? g_strerror(errno) : "the guest's memory was cut");
            }
            done += n > 0 ? n : 0;
        }
        if (!write_pages(c, at, want, error)) {
            return false;
        }
        at += want;
        len -= want;
    }
    return true;
}

/* Extents are whole pages: those of the page cache are. */
static bool copy_all(const Copy *c, GError **error)
{
    off_t hole = (off_t)c->start;

    while (hole < (off_t)c->end) {
        off_t data = lseek(c->from, hole, SEEK_DATA);
        if (data < 0 && errno == ENXIO) {
            return true;
        }
        if (data < 0) {
            return copy_extent(c, (uint64_t)hole, c->end - (uint64_t)hole, error);
        }
        data -= data % FF_OFFLOAD_PAGE;
        if (data >= (off_t)c->end) {
            return true;
        }
        hole = lseek(c->from, data, SEEK_HOLE);
        hole = hole <= data ? (off_t)c->end : MIN(hole, (off_t)c->end);
        hole += (FF_OFFLOAD_PAGE - hole % FF_OFFLOAD_PAGE) % FF_OFFLOAD_PAGE;
        if (!copy_extent(c, (uint64_t)data, (uint64_t)(hole - data), error)) {
            return false;
        }
    }
    return true;
}

bool ff_offload_writer_memory(FfOffloadWriter *w, const FfOffloadSlot *slot, int memory,
                              FfOffloadGo go, void *opaque, GError **error)
{
    g_autofree char *name = g_strdup_printf("memory-%u", slot->slot);
    FfOutput *to = new_file(w, name, error);
    struct stat st;

    if (!to) {
        return false;
    }
    w->file[w->n++] = to;
    const Copy c = {w, to, memory, slot->file_offset, slot->file_offset + slot->size, go, opaque};
    if (ftruncate(ff_output_fd(to), (off_t)slot->size) < 0) {
        return fail_name(error, ff_output_path(to), g_strerror(errno));
    }
    if (!copy_all(&c, error)) {
        return false;
    }
    FF_FAULT_AT("receive-copied");
    if (fstat(memory, &st) < 0 || (uint64_t)st.st_size < c.end) {
        return fail_name(error, ff_output_path(to), "the guest's memory was cut");
    }
    /* Now, as no file has a name yet: from the first name to the last should be a short time. */
    if (FF_FAULT_CALL("receive-sync", fsync(ff_output_fd(to))) < 0) {
        return fail_name(error, ff_output_path(to), g_strerror(errno));
    }
    return true;
}

/* ---- the end --------------------------------------------------------------------------------- */

static bool write_text(FfOffloadWriter *w, const char *name, const GByteArray *text, GError **error)
{
    FfOutput *to = new_file(w, name, error);

    if (!to) {
        return false;
    }
    w->file[w->n++] = to;
    if (!ff_output_write(to, 0, text->data, text->len, error)) {
        return false;
    }
    return fsync(ff_output_fd(to)) == 0 || fail_name(error, ff_output_path(to), g_strerror(errno));
}

bool ff_offload_writer_commit(FfOffloadWriter *w, const GByteArray *config, const GByteArray *state,
                              GError **error)
{
    if (!write_text(w, "state.json", state, error) ||
        !write_text(w, "migration_config.json", config, error)) {
        return false;
    }
    for (unsigned i = 0; i < w->n; i++) {
        if (!ff_output_commit(w->file[i], error)) {
            while (i-- > 0) {
                unlink(ff_output_path(w->file[i]));
            }
            return false;
        }
    }
    return true;
}

uint64_t ff_offload_writer_bytes(const FfOffloadWriter *w)
{
    return w->bytes;
}
