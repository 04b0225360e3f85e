/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing half of a guest into files. See dump.h for the threads, docs/dump.md for the format.
 *
 * Files are made again (nothing is overwritten, no link is followed) with mode 0600 in a directory
 * of mode 0700, since guest memory is in them. Memory is read from the memfds, never through a
 * mapping: a missing page is a hole there, and reading a hole makes nobody wait.
 *
 * What is written is of one moment only if nothing has happened meanwhile: of a source, and of a
 * destination that may not run yet, epoch, phase and right are compared at the end with those of
 * the beginning. A guest that runs changes all the time, so a destination's memory is that of no
 * moment.
 *
 * A dump that fails (a full disk) leaves nothing: no part of guest memory stays behind, and the
 * next one can have the same name.
 *
 * System calls: mkdir, unlinkat, openat, pread, pwrite, ftruncate, lseek(SEEK_DATA, SEEK_HOLE),
 * fsync, fcntl.
 */
#include "migration/dump.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "content/image/dump-files.h"
#include "content/image/xxh64.h"
#include "migration/common/ownership.h"
#include "migration/internal.h"
#include "migration/migration.h"
#include "uffd/holes.h"

typedef struct {
    FfRamBlock info; /* memfd is a duplicate, id a copy */
    FfBitmap held;   /* pages whose content is here */
    uint64_t *sums;  /* of memory, as it is written */
} HeldBlock;

/* What must be the same at the end. */
typedef struct {
    uint64_t epoch;
    FfPhase phase;
    FfRunRight right;
} Moment;

struct FfDump {
    const FfStateHeader *state; /* of the engine, which outlives a migration */
    Moment moment;
    bool frozen;    /* no guest runs in this memory, at that moment */
    GArray *blocks; /* HeldBlock */
    GKeyFile *about;
    int device_fd;   /* -1: none */
    GPtrArray *made; /* of char: names of files that ff_dump_write() has made */
};

static Moment moment_of(const FfStateHeader *s)
{
    return (Moment){.epoch = __atomic_load_n(&s->epoch, __ATOMIC_RELAXED),
                    .phase = ff_ownership_phase(s),
                    .right = ff_ownership_right(s)};
}

static bool is_same(const Moment *a, const Moment *b)
{
    return a->epoch == b->epoch && a->phase == b->phase && a->right == b->right;
}

/* ---- what there is --------------------------------------------------------------------------- */

/* What was not sent yet was not given up; but a new engine does not know what was sent. */
static void add_unsent(const FfMigration *m, HeldBlock *h, const FfBlock *b)
{
    for (uint64_t i = 0; !m->source.adopted && i < ff_bitmap_words(b->n_pages); i++) {
        h->held.words[i] |= __atomic_load_n(&b->bitmap.words[i], __ATOMIC_ACQUIRE);
    }
}

/* A destination has what it received. A source has everything, as long as it has not given up
 * memory; then what still has data, and what it has not sent. Not all of that data is the guest's:
 * khugepaged makes huge pages of what is left and fills the rest with zeros, a huge page that
 * cannot be split keeps its place as zeros, and of hugetlb everything is data. */
static void fill_held(FfMigration *m, HeldBlock *h, const FfBlock *b)
{
    bool receives = m->side->receives, all = !receives && !g_atomic_int_get(&m->ram.released);

    ff_bitmap_init(&h->held, b->n_pages, all);
    if (receives) {
        for (uint64_t i = 0; i < ff_bitmap_words(b->n_pages); i++) {
            h->held.words[i] = __atomic_load_n(&b->bitmap.words[i], __ATOMIC_ACQUIRE);
        }
    } else if (!all) {
        off_t data, hole = 0, size = (off_t)b->info.size;
        while ((data = ff_holes_next_data(h->info.memfd, hole, size)) >= 0) {
            hole = ff_holes_end_of_data(h->info.memfd, data, size);
            ff_bitmap_set_run(&h->held, data / b->info.page_size,
                              (hole - data) / b->info.page_size);
        }
        add_unsent(m, h, b);
    }
}

static void describe_block(FfDump *d, unsigned i, const HeldBlock *h)
{
    g_autofree char *group = g_strdup_printf("block %u", i);
    g_autofree char *memory = g_strdup_printf("%u.memory", i);
    g_autofree char *pages = g_strdup_printf("%u.pages", i);
    g_autofree char *sums = g_strdup_printf("%u.sums", i);

    g_key_file_set_string(d->about, group, "id", h->info.id);
    g_key_file_set_uint64(d->about, group, "size", h->info.size);
    g_key_file_set_uint64(d->about, group, "page-size", h->info.page_size);
    g_key_file_set_uint64(d->about, group, "address", h->info.gpa);
    g_key_file_set_string(d->about, group, "memory", memory);
    g_key_file_set_string(d->about, group, "pages", pages);
    g_key_file_set_string(d->about, group, "sums", sums);
    g_key_file_set_uint64(d->about, group, "held", ff_bitmap_count(&h->held));
}

static void set_sum(FfDump *d, const char *group, const char *key, uint64_t sum)
{
    g_autofree char *text = g_strdup_printf("%016" G_GINT64_MODIFIER "x", sum);

    g_key_file_set_string(d->about, group, key, text);
}

static void describe_dump(FfDump *d, FfMigration *m)
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
    g_key_file_set_integer(d->about, "dump", "format", FF_DUMP_FORMAT);
    g_key_file_set_string(d->about, "dump", "written", when);
    g_key_file_set_string(d->about, "dump", "role", m->side->name);
    g_key_file_set_string(d->about, "dump", "session", session->str);
    g_key_file_set_uint64(d->about, "dump", "epoch", d->moment.epoch);
    g_key_file_set_string(d->about, "dump", "phase", phases[MIN(d->moment.phase, FF_PHASE_DEAD)]);
    g_key_file_set_string(d->about, "dump", "run-right",
                          rights[MIN(d->moment.right, FF_RUN_GIVEN)]);
    g_key_file_set_string(d->about, "dump", "run-state", run_state);
    g_key_file_set_boolean(d->about, "dump", "released",
                           !m->side->receives && g_atomic_int_get(&m->ram.released));
    g_key_file_set_integer(d->about, "dump", "blocks", m->ram.n_blocks);
    if (d->device_fd >= 0) {
        g_key_file_set_string(d->about, "dump", "device-state", "device-state");
    }
}

static uint64_t pieces_of(const FfRamBlock *info)
{
    return (info->size + FF_DUMP_PIECE - 1) / FF_DUMP_PIECE;
}

FfDump *ff_dump_new(FfMigration *m, GError **error)
{
    ff_mutex_lock(&m->control->lock);
    bool paused = m->control->status == FF_STATUS_POSTCOPY_PAUSED;
    /* A new engine says that it is paused before it has found what was received. */
    bool known = m->ram.n_blocks && (!m->side->receives || m->ram.received);
    int copy = ff_device_copy_fd_locked(&m->copy);
    int device = copy >= 0 ? fcntl(copy, F_DUPFD_CLOEXEC, 0) : -1;
    /* With the status: before anything is told to a source, it has another one. */
    Moment moment = moment_of(m->cfg.state);
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
    d->made = g_ptr_array_new_with_free_func(g_free);
    d->blocks = g_array_sized_new(FALSE, TRUE, sizeof(HeldBlock), m->ram.n_blocks);
    d->device_fd = device;
    d->state = m->cfg.state;
    d->moment = moment;
    d->frozen = !m->side->receives || d->moment.phase == FF_PHASE_LOADED;
    describe_dump(d, m);
    for (unsigned i = 0; i < m->ram.n_blocks; i++) {
        const FfBlock *b = &m->ram.blocks[i];
        HeldBlock h = {.info = b->info};
        h.info.id = g_strdup(b->info.id);
        h.info.memfd = fcntl(b->info.memfd, F_DUPFD_CLOEXEC, 0);
        h.sums = g_new0(uint64_t, pieces_of(&b->info));
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
        g_free(h->sums);
    }
    g_array_unref(d->blocks);
    g_ptr_array_unref(d->made);
    g_key_file_unref(d->about);
    if (d->device_fd >= 0) {
        close(d->device_fd);
    }
    g_free(d);
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool fail_file(GError **error, const char *what)
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
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n < 0 ? errno : ENOSPC;
            return -1;
        }
        done += n;
    }
    return 0;
}

static int make_file(FfDump *d, int dir, const char *name)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd >= 0) {
        g_ptr_array_add(d->made, g_strdup(name));
    }
    return fd;
}

/* What cannot be removed stays: the reason is that the dump failed. */
static void remove_made(FfDump *d, int dir)
{
    for (guint i = 0; i < d->made->len; i++) {
        (void)unlinkat(dir, d->made->pdata[i], 0);
    }
}

/* Reads [AT, END) of FROM into TO, which is zeros, and writes it; holes stay holes. */
static int copy_extent(int fd, int from, off_t at, off_t end, char *to, uint64_t *bytes)
{
    off_t begin = at;

    while (at < end) {
        /* hugetlbfs knows no holes: there everything is data. */
        off_t data = ff_holes_next_data(from, at, end);
        if (data < 0 && errno == ENXIO) {
            return 0;
        }
        at = data < 0 ? at : MAX(at, data);
        if (at >= end) {
            return 0;
        }
        off_t hole = data < 0 ? end : ff_holes_end_of_data(from, at, end);
        ssize_t n = pread(from, to + (at - begin), MIN(end, hole < 0 ? end : hole) - at, at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n == 0) {
            errno = ENODATA; /* the memory is shorter than it was */
        }
        if (n <= 0 || write_all(fd, to + (at - begin), n, at) < 0) {
            return -1;
        }
        *bytes += n;
        at += n;
    }
    return 0;
}

/* What is held of piece I, and its sum. BUF is zeros, before and after. */
static int write_piece(int fd, HeldBlock *h, uint64_t i, char *buf, uint64_t *bytes)
{
    uint64_t ps = h->info.page_size, at = i * FF_DUMP_PIECE, before = *bytes, n;
    uint64_t end = MIN(at + FF_DUMP_PIECE, h->info.size), last = (end + ps - 1) / ps;
    int rc = 0;

    /* No page after the piece is looked at: a run may be all of the block. */
    for (uint64_t p = at / ps; rc == 0 && p < last; p += MAX(n, 1)) {
        for (n = 0; p + n < last && ff_bitmap_test(&h->held, p + n); n++) {
        }
        uint64_t from = MAX(at, p * ps), to = MIN(end, (p + n) * ps);
        rc = n ? copy_extent(fd, h->info.memfd, from, to, buf + (from - at), bytes) : 0;
    }
    h->sums[i] = ff_xxh64(buf, end - at, 0);
    if (*bytes > before) {
        memset(buf, 0, FF_DUMP_PIECE);
    }
    return rc;
}

static int write_memory(int fd, HeldBlock *h, uint64_t *bytes)
{
    g_autofree char *buf = g_malloc0(FF_DUMP_PIECE);
    int rc = ftruncate(fd, h->info.size);

    for (uint64_t i = 0; rc == 0 && i < pieces_of(&h->info); i++) {
        rc = write_piece(fd, h, i, buf, bytes);
    }
    memset(buf, 0, FF_DUMP_PIECE); /* it held guest memory */
    return rc;
}

/* N words of a list, and what the list's checksum is. */
static int write_words(int fd, uint64_t *words, uint64_t n, uint64_t *sum)
{
    g_autofree uint64_t *le = g_new(uint64_t, n);

    for (uint64_t i = 0; i < n; i++) {
        le[i] = GUINT64_TO_LE(words[i]);
    }
    *sum = ff_xxh64(le, n * sizeof(*le), 0);
    return write_all(fd, le, n * sizeof(*le), 0);
}

/* It is small: at most 256 MiB are loaded of it (content/image/dump-files.c). */
static int write_device(FfDump *d, int fd)
{
    struct stat st;
    off_t size = fstat(d->device_fd, &st) < 0 ? -1 : st.st_size, at = 0;
    g_autofree char *buf = g_malloc(MAX(size, 1));

    while (at < size) {
        ssize_t n = pread(d->device_fd, buf + at, size - at, at);
        if (n <= 0) {
            return -1;
        }
        at += n;
    }
    g_key_file_set_uint64(d->about, "dump", "device-state-bytes", MAX(size, 0));
    set_sum(d, "dump", "device-state-sum", ff_xxh64(buf, MAX(size, 0), 0));
    return size < 0 ? -1 : write_all(fd, buf, size, 0);
}

/* RC is what the writing of FD (taken) came to. */
static bool finish_file(int fd, int rc, const char *name, GError **error)
{
    bool ok = fd >= 0 && rc == 0 && fsync(fd) == 0;

    if (!ok) {
        fail_file(error, name);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static bool write_list(FfDump *d, int dir, unsigned i, const char *what, uint64_t *words,
                       uint64_t n, GError **error)
{
    g_autofree char *name = g_strdup_printf("%u.%s", i, what);
    g_autofree char *group = g_strdup_printf("block %u", i);
    g_autofree char *key = g_strdup_printf("%s-sum", what);
    uint64_t sum = 0;
    int fd = make_file(d, dir, name);
    int rc = fd < 0 ? -1 : write_words(fd, words, n, &sum);

    set_sum(d, group, key, sum);
    return finish_file(fd, rc, name, error);
}

static bool write_block(FfDump *d, int dir, unsigned i, uint64_t *bytes, GError **error)
{
    HeldBlock *h = &g_array_index(d->blocks, HeldBlock, i);
    g_autofree char *memory = g_strdup_printf("%u.memory", i);
    int fd = make_file(d, dir, memory);

    return finish_file(fd, fd < 0 ? -1 : write_memory(fd, h, bytes), memory, error) &&
           write_list(d, dir, i, "pages", h->held.words, ff_bitmap_words(h->held.n_pages), error) &&
           write_list(d, dir, i, "sums", h->sums, pieces_of(&h->info), error);
}

/* The description comes last: a directory that has it is whole. */
static bool write_about(FfDump *d, int dir, GError **error)
{
    gsize len;
    g_autofree char *text = g_key_file_to_data(d->about, NULL, NULL);
    g_autofree char *sealed = ff_dump_seal(text, &len);
    int fd = make_file(d, dir, FF_DUMP_ABOUT);

    return finish_file(fd, fd < 0 ? -1 : write_all(fd, sealed, len, 0), FF_DUMP_ABOUT, error);
}

/* A side that uses a dump believes that its memory is that of one moment, of a guest that was
 * given. */
static bool check_moment(const FfDump *d, GError **error)
{
    Moment now = moment_of(d->state);

    if (d->frozen && !is_same(&now, &d->moment)) {
        g_set_error_literal(error, FF_M_ERROR, 0,
                            "the migration went on while its memory was written, so that this is "
                            "no dump: pause it (migrate-pause) and dump again");
        return false;
    }
    return true;
}

static bool write_files(FfDump *d, int dir, uint64_t *bytes, GError **error)
{
    for (guint i = 0; i < d->blocks->len; i++) {
        if (!write_block(d, dir, i, bytes, error)) {
            return false;
        }
    }
    if (d->device_fd >= 0) {
        int fd = make_file(d, dir, "device-state");
        if (!finish_file(fd, fd < 0 ? -1 : write_device(d, fd), "device-state", error)) {
            return false;
        }
    }
    FF_FAULT_AT("dump-written");
    return check_moment(d, error) && write_about(d, dir, error) &&
           (fsync(dir) == 0 || fail_file(error, "the directory"));
}

/* The directory itself may be new. */
static bool sync_name(const char *directory, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(directory);
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return true; /* it may be entered and not read */
    }
    bool ok =
        FF_FAULT_CALL("dump-parent", fsync(fd)) == 0 || errno == EINVAL || fail_file(error, parent);
    close(fd);
    return ok;
}

bool ff_dump_write(FfDump *d, const char *directory, uint64_t *bytes, GError **error)
{
    *bytes = 0;
    if (!g_path_is_absolute(directory)) {
        g_set_error(error, FF_M_ERROR, 0, "'%s' is no absolute path", directory);
        return false;
    }
    bool ours = mkdir(directory, 0700) == 0;
    if (!ours && errno != EEXIST) {
        return fail_file(error, directory);
    }
    int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        return fail_file(error, directory);
    }
    bool ok = sync_name(directory, error) && write_files(d, dir, bytes, error);
    if (!ok) {
        g_prefix_error(error, "%s: ", directory);
        remove_made(d, dir);
    }
    close(dir);
    if (!ok && ours) {
        (void)unlinkat(AT_FDCWD, directory, AT_REMOVEDIR);
    }
    return ok;
}
