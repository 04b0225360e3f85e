/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing half of a guest into files. See dump.h for the threads, docs/dump.md for the format.
 *
 * Files are made again (nothing is overwritten, no link is followed) with mode 0600 in a directory
 * of mode 0700, since guest memory is in them. Memory is read from the memfds, never through a
 * mapping: a missing page is a hole there, and reading a hole makes nobody wait.
 *
 * System calls: mkdir, openat, pread, pwrite, ftruncate, lseek(SEEK_DATA, SEEK_HOLE), fsync, fcntl.
 */
#include "migration/dump.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/internal.h"
#include "migration/migration.h"

#define CHUNK (1u << 20)
#define FORMAT 1

typedef struct {
    FfRamBlock info; /* memfd is a duplicate, id a copy */
    FfBitmap held;   /* pages whose content is here */
} HeldBlock;

struct FfDump {
    GArray *blocks; /* HeldBlock */
    GKeyFile *about;
    int device_fd; /* -1: none */
};

/* ---- what there is --------------------------------------------------------------------------- */

/* A destination has what it received. A source has everything, as long as it has not given up
 * memory; then what still has data. */
static void fill_held(FfMigration *m, HeldBlock *h, const FfBlock *b)
{
    bool receives = m->side->receives, all = !receives && !g_atomic_int_get(&m->ram.released);

    ff_bitmap_init(&h->held, b->n_pages, all);
    if (receives) {
        for (uint64_t i = 0; i < ff_bitmap_words(b->n_pages); i++) {
            h->held.words[i] = __atomic_load_n(&b->bitmap.words[i], __ATOMIC_ACQUIRE);
        }
    } else if (!all) {
        off_t data, hole = 0;
        while (hole < (off_t)b->info.size && (data = lseek(h->info.memfd, hole, SEEK_DATA)) >= 0) {
            hole = lseek(h->info.memfd, data, SEEK_HOLE);
            ff_bitmap_set_run(&h->held, data / b->info.page_size,
                              (hole - data) / b->info.page_size);
        }
    }
}

static void describe_block(FfDump *d, unsigned i, const HeldBlock *h)
{
    g_autofree char *group = g_strdup_printf("block %u", i);
    g_autofree char *memory = g_strdup_printf("%u.memory", i);
    g_autofree char *pages = g_strdup_printf("%u.pages", i);

    g_key_file_set_string(d->about, group, "id", h->info.id);
    g_key_file_set_uint64(d->about, group, "size", h->info.size);
    g_key_file_set_uint64(d->about, group, "page-size", h->info.page_size);
    g_key_file_set_uint64(d->about, group, "address", h->info.gpa);
    g_key_file_set_string(d->about, group, "memory", memory);
    g_key_file_set_string(d->about, group, "pages", pages);
    g_key_file_set_uint64(d->about, group, "held", ff_bitmap_count(&h->held));
}

static void describe(FfDump *d, FfMigration *m)
{
    static const char *const phases[] = {"idle",   "setup",   "stopped", "loading",
                                         "loaded", "granted", "done",    "dead"};
    static const char *const rights[] = {"none", "mine", "given"};
    const FfStateHeader *s = m->cfg.state;
    g_autoptr(GString) session = g_string_new(NULL);
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *when = g_date_time_format_iso8601(now);
    g_autofree char *run_state = g_strndup(s->run_state, sizeof(s->run_state));

    for (unsigned i = 0; i < sizeof(m->conn.session); i++) {
        g_string_append_printf(session, "%02x", m->conn.session[i]);
    }
    g_key_file_set_integer(d->about, "dump", "format", FORMAT);
    g_key_file_set_string(d->about, "dump", "written", when);
    g_key_file_set_string(d->about, "dump", "role", m->side->name);
    g_key_file_set_string(d->about, "dump", "session", session->str);
    g_key_file_set_uint64(d->about, "dump", "epoch", s->epoch);
    g_key_file_set_string(d->about, "dump", "phase", phases[MIN(s->phase, FF_PHASE_DEAD)]);
    g_key_file_set_string(d->about, "dump", "run-right", rights[MIN(s->run_right, FF_RUN_GIVEN)]);
    g_key_file_set_string(d->about, "dump", "run-state", run_state);
    g_key_file_set_integer(d->about, "dump", "blocks", m->ram.n_blocks);
    if (d->device_fd >= 0) {
        g_key_file_set_string(d->about, "dump", "device-state", "device-state");
    }
}

FfDump *ff_dump_new(FfMigration *m, GError **error)
{
    ff_mutex_lock(&m->control->lock);
    bool paused = m->control->status == FF_STATUS_POSTCOPY_PAUSED;
    /* A new engine says that it is paused before it has found what was received. */
    bool known = m->ram.n_blocks && (!m->side->receives || m->ram.received);
    int copy = ff_device_copy_fd_locked(&m->copy);
    int device = copy >= 0 ? fcntl(copy, F_DUPFD_CLOEXEC, 0) : -1;
    ff_mutex_unlock(&m->control->lock);
    if (!paused || !known) {
        if (device >= 0) {
            close(device);
        }
        g_set_error_literal(error, FF_M_ERROR, 0,
                            "Only a paused migration can be dumped: migrate-pause first");
        return NULL;
    }
    FfDump *d = g_new0(FfDump, 1);
    d->about = g_key_file_new();
    d->blocks = g_array_sized_new(FALSE, TRUE, sizeof(HeldBlock), m->ram.n_blocks);
    d->device_fd = device;
    describe(d, m);
    for (unsigned i = 0; i < m->ram.n_blocks; i++) {
        const FfBlock *b = &m->ram.blocks[i];
        HeldBlock h = {.info = b->info};
        h.info.id = g_strdup(b->info.id);
        h.info.memfd = fcntl(b->info.memfd, F_DUPFD_CLOEXEC, 0);
        fill_held(m, &h, b);
        describe_block(d, i, &h);
        g_array_append_val(d->blocks, h);
    }
    return d;
}

bool ff_dump_has_device_state(const FfDump *d)
{
    return d->device_fd >= 0;
}

void ff_dump_free(FfDump *d)
{
    if (!d) {
        return;
    }
    for (guint i = 0; i < d->blocks->len; i++) {
        HeldBlock *h = &g_array_index(d->blocks, HeldBlock, i);
        ff_bitmap_clear(&h->held);
        close(h->info.memfd);
        g_free(h->info.id);
    }
    g_array_unref(d->blocks);
    g_key_file_unref(d->about);
    if (d->device_fd >= 0) {
        close(d->device_fd);
    }
    g_free(d);
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static bool fail(GError **error, const char *what)
{
    int err = errno;

    g_set_error(error, FF_M_ERROR, 0, "%s: %s%s", what, g_strerror(err),
                err == EEXIST ? ": name a folder that is not there yet" : "");
    return false;
}

static int write_all(int fd, const void *data, size_t len, off_t at)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(fd, (const char *)data + done, len - done, at + done);
        if (n < 0 && errno != EINTR) {
            return -1;
        }
        done += MAX(n, 0);
    }
    return 0;
}

static int make_file(int dir, const char *name)
{
    return openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

/* Copies [AT, END) of FROM; holes stay holes. */
static int copy_extent(int to, int from, off_t at, off_t end, void *buf, uint64_t *bytes)
{
    while (at < end) {
        /* hugetlbfs knows no holes: there everything is data. */
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) {
            return 0;
        }
        at = data < 0 ? at : MAX(at, data);
        if (at >= end) {
            return 0;
        }
        off_t hole = data < 0 ? end : lseek(from, at, SEEK_HOLE);
        ssize_t n = pread(from, buf, MIN(CHUNK, MIN(end, hole < 0 ? end : hole) - at), at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0 || write_all(to, buf, n, at) < 0) {
            return -1;
        }
        *bytes += n;
        at += n;
    }
    return 0;
}

static int write_memory(int fd, const HeldBlock *h, uint64_t *bytes)
{
    g_autofree void *buf = g_malloc(CHUNK);
    uint64_t ps = h->info.page_size, first, n;
    int rc = ftruncate(fd, h->info.size);

    for (uint64_t p = 0; rc == 0 && (n = ff_bitmap_next_run(&h->held, p, true, &first));) {
        rc = copy_extent(fd, h->info.memfd, first * ps, (first + n) * ps, buf, bytes);
        p = first + n;
    }
    memset(buf, 0, CHUNK); /* it held guest memory */
    return rc;
}

static int write_pages(int fd, const HeldBlock *h)
{
    for (uint64_t i = 0; i < ff_bitmap_words(h->held.n_pages); i++) {
        uint64_t w = GUINT64_TO_LE(h->held.words[i]);
        if (write_all(fd, &w, sizeof(w), i * sizeof(w)) < 0) {
            return -1;
        }
    }
    return 0;
}

static int write_device(int fd, int from)
{
    g_autofree void *buf = g_malloc(CHUNK);
    off_t at = 0;
    ssize_t n;

    while ((n = pread(from, buf, CHUNK, at)) > 0) {
        if (write_all(fd, buf, n, at) < 0) {
            return -1;
        }
        at += n;
    }
    return n;
}

/* RC is what the writing of FD (taken) came to. */
static bool finish(int fd, int rc, const char *name, GError **error)
{
    bool ok = fd >= 0 && rc == 0 && fsync(fd) == 0;

    if (!ok) {
        fail(error, name);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static bool write_block(int dir, const HeldBlock *h, unsigned i, uint64_t *bytes, GError **error)
{
    g_autofree char *memory = g_strdup_printf("%u.memory", i);
    g_autofree char *pages = g_strdup_printf("%u.pages", i);
    int fd = make_file(dir, memory);

    if (!finish(fd, fd < 0 ? -1 : write_memory(fd, h, bytes), memory, error)) {
        return false;
    }
    fd = make_file(dir, pages);
    return finish(fd, fd < 0 ? -1 : write_pages(fd, h), pages, error);
}

/* The description comes last: a directory that has it is whole. */
static bool write_about(FfDump *d, int dir, GError **error)
{
    gsize len;
    g_autofree char *text = g_key_file_to_data(d->about, &len, NULL);
    int fd = make_file(dir, "dump");

    return finish(fd, fd < 0 ? -1 : write_all(fd, text, len, 0), "dump", error);
}

static bool write_files(FfDump *d, int dir, uint64_t *bytes, GError **error)
{
    for (guint i = 0; i < d->blocks->len; i++) {
        if (!write_block(dir, &g_array_index(d->blocks, HeldBlock, i), i, bytes, error)) {
            return false;
        }
    }
    if (d->device_fd >= 0) {
        int fd = make_file(dir, "device-state");
        if (!finish(fd, fd < 0 ? -1 : write_device(fd, d->device_fd), "device-state", error)) {
            return false;
        }
    }
    return write_about(d, dir, error) && (fsync(dir) == 0 || fail(error, "the directory"));
}

bool ff_dump_write(FfDump *d, const char *directory, uint64_t *bytes, GError **error)
{
    *bytes = 0;
    if (!g_path_is_absolute(directory)) {
        g_set_error(error, FF_M_ERROR, 0, "'%s' is no absolute path", directory);
        return false;
    }
    if (mkdir(directory, 0700) < 0 && errno != EEXIST) {
        return fail(error, directory);
    }
    int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        return fail(error, directory);
    }
    bool ok = write_files(d, dir, bytes, error);
    if (!ok) {
        g_prefix_error(error, "%s: ", directory);
    }
    close(dir);
    return ok;
}
