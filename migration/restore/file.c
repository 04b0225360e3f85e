/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See file.h. QEMU compares next to nothing when it loads mapped-ram, so all is compared
 * here, before anything of this QEMU is changed: that the file has its end, machine type, UUID, and
 * each block of guest RAM. The other blocks (video memory, ROMs) QEMU itself compares, as they come
 * in its stream.
 *
 * System calls: memfd_create.
 */
#include "migration/restore/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "content/image/completeness.h"
#include "content/image/digest.h"
#include "content/image/mapped.h"
#include "content/image/records.h"
#include "content/image/run-state.h"
#include "content/image/write.h"
#include "contract/state.h"
#include "migration/restore/lease.h"

/* Memory that is not guest RAM goes through this process; no QEMU has more of it. */
#define OTHERS_MAX (4ull << 30)
/* Of device state, in which the run state is looked for. */
#define TAIL_MAX (256u << 20)

static bool refuse_file(GError **error, const FfRestoreFile *f, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

static bool refuse_file(GError **error, const FfRestoreFile *f, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, format);
    what = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_set_error(error, FF_M_ERROR, 0, "%s: %s", f->path, what);
    return false;
}

/* ---- opening it ------------------------------------------------------------------------------ */

static bool read_head(FfRestoreFile *f, int64_t offset, GError **error)
{
    /* mapped-ram has no pages among its records. */
    static const FfPageSink nobody = {0};
    g_autoptr(GError) local = NULL;
    FfInput *in = ff_content_input(f->reader, error);

    if (!in) {
        return false;
    }
    if (ff_input_is_compressed(in)) { /* its pages would be read as they are after one of the two */
        ff_input_free(in);
        return refuse_file(error, f, "it is compressed twice");
    }
    f->saved = ff_saved_open(in, offset, &local);
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    if (f->saved->form != FF_SAVED_MAPPED) {
        return refuse_file(error, f,
                           "it is an ordinary stream, which only QEMU itself can load: make it "
                           "mapped-ram first (farfault convert --to mapped-ram)");
    }
    return ff_records_walk(f->saved, &nobody, NULL, error) && ff_tail_check(f->saved, error) &&
           ff_saved_digest(f->saved, &f->digest, error);
}

static void free_content(gpointer c)
{
    ff_content_free(c);
}

/* BYTES (taken): of the file. */
static bool take_content(FfRestoreFile *f, FfContent *bytes, int64_t offset, GError **error)
{
    FfContent *c = ff_content_open_saved(bytes, offset, error);

    if (!c) {
        return false;
    }
    const FfInputStamp *stamp = &ff_content_identity(c)->stamp;
    bool known = stamp->ino || ff_content_is_far(c);
    f->id = (FfRestoreId){known ? stamp->size : 0,
                          ff_content_is_far(c)
                              ? FF_STATE_NO_TIME
                              : stamp->sec * G_GINT64_CONSTANT(1000000000) + stamp->nsec};
    f->compressed = ff_content_is_compressed(c);
    f->content = ff_reader_file_new(c, free_content);
    f->reader = ff_content_reader(c, error);
    if (f->reader) {
        ff_content_reader_hurry(f->reader); /* whatever it reads a guest waits for */
    }
    return f->reader;
}

FfRestoreFile *ff_restore_file_open(int fd, const char *path, int64_t offset, GError **error)
{
    g_autoptr(FfRestoreFile) f = g_new0(FfRestoreFile, 1);

    f->fd = fd;
    f->path = g_strdup(path);
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) {
        refuse_file(error, f, "%s", g_strerror(errno));
        return NULL;
    }
    FfContent *bytes = ff_content_open_fd(copy, path, NULL, error);
    return bytes && take_content(f, bytes, offset, error) && read_head(f, offset, error)
               ? g_steal_pointer(&f)
               : NULL;
}

bool ff_restore_is_uri(const char *path)
{
    return ff_content_is_uri(path);
}

/* Beside this program, or where a build has it (g_free); NULL: nowhere. */
static char *find_plugin(void)
{
    static const char *const places[] = {".", "../content"};
    g_autofree char *exe = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *folder = exe ? g_path_get_dirname(exe) : NULL;

    for (unsigned i = 0; folder && i < G_N_ELEMENTS(places); i++) {
        g_autofree char *path = g_build_filename(folder, places[i], "farfault-nbd.so", NULL);
        if (g_file_test(path, G_FILE_TEST_IS_REGULAR)) {
            return g_steal_pointer(&path);
        }
    }
    return NULL;
}

FfRestoreFile *ff_restore_file_open_uri(const char *uri, int64_t offset, GError **error)
{
    g_autoptr(FfRestoreFile) f = g_new0(FfRestoreFile, 1);
    g_autofree char *plugin = find_plugin();
    const FfContentAccess access = {.plugin = plugin};

    f->fd = -1;
    f->path = g_strdup(uri);
    FfContent *bytes = ff_content_open_bytes(uri, &access, error);
    if (!bytes || !take_content(f, bytes, offset, error) || !read_head(f, offset, error)) {
        return NULL;
    }
    /* Each connection was compared with that. */
    if (f->digest != ff_content_identity(ff_reader_file_what(f->content))->digest) {
        refuse_file(error, f, "it was changed while it was read");
        return NULL;
    }
    return g_steal_pointer(&f);
}

bool ff_restore_file_answers(const FfRestoreFile *f, GError **error)
{
    char magic[4];

    ff_content_reader_until(f->reader, g_get_monotonic_time() + FF_FILE_PATIENCE_US);
    bool answers = ff_content_read_bytes(f->reader, 0, magic, sizeof(magic), error);
    ff_content_reader_until(f->reader, 0);
    return answers;
}

/* FD stays the caller's. NULL: it is none. */
static FfSaved *open_saved(int fd, const char *path, int64_t offset)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    g_autoptr(GError) error = NULL;
    FfInput *in = copy < 0 ? NULL : ff_input_open_fd(copy, path, NULL);
    g_autoptr(FfSaved) saved = in ? ff_saved_open(in, offset, &error) : NULL;

    return error ? NULL : g_steal_pointer(&saved);
}

const char *ff_restore_file_doubt(int fd, const char *path, int64_t offset)
{
    g_autoptr(FfSaved) saved = open_saved(fd, path, offset);

    if (!saved) {
        return "the file is no saved guest that could be restored lazily (farfault info says why)";
    }
    if (saved->form != FF_SAVED_MAPPED) {
        return "the file is an ordinary stream, which cannot be restored lazily: see farfault "
               "convert";
    }
    return ff_lease_is_possible(fd)
               ? NULL
               : "the file is not QEMU's user's own, is open for writing, or its file system has "
                 "no leases: who overwrites it could not be held back, so that it is not restored "
                 "lazily";
}

bool ff_restore_file_is_mapped(int fd, int64_t offset)
{
    g_autoptr(FfSaved) saved = open_saved(fd, "", offset);

    return saved && saved->form == FF_SAVED_MAPPED;
}

void ff_restore_file_free(FfRestoreFile *f)
{
    if (!f) {
        return;
    }
    for (unsigned i = 0; i < f->n_blocks; i++) {
        g_free((uint64_t *)f->blocks[i].data);
    }
    g_free(f->blocks);
    ff_saved_free(f->saved);
    ff_content_reader_free(f->reader);
    ff_reader_file_unref(f->content);
    ff_close_fd(&f->fd);
    g_free(f->path);
    g_free(f);
}

/* ---- whether it is this guest ---------------------------------------------------------------- */

/* FfMappedRun */
static bool note_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    ff_bitmap_set_run(opaque, first, n);
    return true;
}

static bool take_block(FfRestoreFile *f, const FfBlock *ours, const FfSavedBlock *b,
                       FfFileBlock *to, GError **error)
{
    if (b->size != ours->info.size) {
        return refuse_file(error, f,
                           "its memory block '%s' has %" PRIu64 " MiB, that of this QEMU %" PRIu64
                           " MiB: start QEMU as the saved guest was started",
                           b->name, b->size >> 20, ours->info.size >> 20);
    }
    if (ff_saved_block_is_outside(f->saved, b)) {
        return refuse_file(error, f, "it was saved without its memory (x-ignore-shared)");
    }
    uint64_t n = b->size / FF_SAVED_PAGE, *words = g_new0(uint64_t, ff_bitmap_words(n));
    FfBitmap bitmap;

    ff_bitmap_init_over(&bitmap, words, n);
    *to = (FfFileBlock){
        .at = b->pages, .n_pages = n, .page_size = ours->info.page_size, .data = words};
    return ff_mapped_runs(f->saved, b, note_run, &bitmap, error);
}

static bool compare_blocks(FfRestoreFile *f, const FfRam *ram, GError **error)
{
    uint64_t others = f->saved->memory;

    f->n_blocks = ram->n_blocks;
    f->blocks = g_new0(FfFileBlock, ram->n_blocks);
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        const char *id = ram->blocks[i].info.id;
        int number = ff_saved_find(f->saved, id);

        if (number < 0) {
            return refuse_file(error, f,
                               number == -1
                                   ? "it has no memory block '%s', as this QEMU has: start "
                                     "QEMU as the saved guest was started, without memory that "
                                     "no device uses"
                                   : "it has more than one memory block '%s'",
                               id);
        }
        const FfSavedBlock *b = ff_saved_block(f->saved, number);
        if (!take_block(f, &ram->blocks[i], b, &f->blocks[i], error)) {
            return false;
        }
        others -= b->size;
    }
    return others <= OTHERS_MAX ||
           refuse_file(error, f, "it has %" PRIu64 " MiB in memory blocks that this QEMU has not",
                       others >> 20);
}

bool ff_restore_file_compare(FfRestoreFile *f, const FfRam *ram, const char *machine,
                             const uint8_t *uuid, GError **error)
{
    static const uint8_t none[16];

    if (machine && strcmp(machine, f->saved->machine) != 0) {
        return refuse_file(error, f,
                           "it is of a machine '%s', this QEMU is a '%s': start it with "
                           "-machine %s",
                           f->saved->machine, machine, f->saved->machine);
    }
    if (uuid && f->saved->has_uuid && memcmp(uuid, none, sizeof(none)) != 0 &&
        memcmp(uuid, f->saved->uuid, sizeof(none)) != 0) {
        return refuse_file(error, f, "it is of a guest with another UUID than this QEMU has");
    }
    return compare_blocks(f, ram, error);
}

uint64_t ff_restore_file_data(const FfRestoreFile *f)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < f->n_blocks; i++) {
        FfBitmap data;

        ff_bitmap_init_over(&data, (uint64_t *)f->blocks[i].data, f->blocks[i].n_pages);
        pages += ff_bitmap_count(&data);
    }
    return pages * FF_FILE_PAGE;
}

/* ---- its devices ----------------------------------------------------------------------------- */

GBytes *ff_restore_file_tail(const FfRestoreFile *f, GError **error)
{
    uint64_t n = f->saved->end - f->saved->tail;

    if (n > TAIL_MAX) {
        refuse_file(error, f, "damaged: %" PRIu64 " MiB of device state", n >> 20);
        return NULL;
    }
    g_autofree uint8_t *tail = g_malloc(n);
    return ff_input_read(f->saved->in, f->saved->tail, tail, n, error)
               ? g_bytes_new_take(g_steal_pointer(&tail), n)
               : NULL;
}

char *ff_restore_file_run_state(const FfRestoreFile *f, GError **error)
{
    g_autoptr(GBytes) tail = ff_restore_file_tail(f, error);

    return tail ? ff_run_state_read(g_bytes_get_data(tail, NULL), g_bytes_get_size(tail)) : NULL;
}

static FfOutput *new_memory(const FfRestoreFile *f, GError **error)
{
    int fd = memfd_create("devices", MFD_CLOEXEC);

    if (fd < 0) {
        refuse_file(error, f, "no memory for its device state: %s", g_strerror(errno));
        return NULL;
    }
    return ff_output_new_fd(fd, f->path, error);
}

int ff_restore_file_devices(const FfRestoreFile *f, const FfRam *ram, FfVmmMemory *memory,
                            char **run_state, GError **error)
{
    guint n = f->saved->blocks->len;
    g_autofree uint64_t *addresses = g_new0(uint64_t, n);
    g_autofree bool *left_out = g_new0(bool, n);
    g_autoptr(FfOutput) o = new_memory(f, error);

    for (unsigned i = 0; i < ram->n_blocks && o; i++) {
        const char *id = ram->blocks[i].info.id;
        int number = ff_saved_find(f->saved, id);

        g_assert(number >= 0); /* ff_restore_file_compare() has found it */
        left_out[number] = true;
        if (!memory->address(memory, id, &addresses[number], error)) {
            return -1;
        }
    }
    *run_state = o ? ff_restore_file_run_state(f, error) : NULL;
    if (!*run_state || !ff_write_devices(f->saved, addresses, left_out, o, error)) {
        return -1;
    }
    /* All of it was read by now, and is what was compared. */
    if (!ff_content_check(f->reader, NULL)) {
        refuse_file(error, f, "it was changed while it was read");
        return -1;
    }
    int fd = fcntl(ff_output_fd(o), F_DUPFD_CLOEXEC, 3);
    if (fd < 0) {
        refuse_file(error, f, "%s", g_strerror(errno));
    }
    return fd;
}
