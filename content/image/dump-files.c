/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a dump. See dump-files.h for the threads, docs/dump.md for the format.
 *
 * The description ends with its own checksum, and has those of the lists: which pages are held, and
 * the sums of memory. So everything that is believed was verified, and a file that was cut, is of
 * another dump, or has lost its holes or its content on the way is found by the one that reads it.
 *
 * System calls: openat, pread64, fstat, lseek(SEEK_DATA).
 */
#include "content/image/dump-files.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "content/image/pageset.h"
#include "content/image/xxh64.h"

#define ABOUT_MAX (1u << 20)
#define BLOCKS_MAX 128
#define BLOCK_MAX (1ull << 46)
#define DEVICES_MAX (256u << 20)
#define END "[end]\nsum="
#define END_SIZE (sizeof(END) - 1 + 16 + 1)

static bool refuse_dump(GError **error, const FfDumpFiles *f, const char *name, const char *format,
                        ...) G_GNUC_PRINTF(4, 5);

static bool refuse_dump(GError **error, const FfDumpFiles *f, const char *name, const char *format,
                        ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, format);
    what = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s/%s: %s", f->path, name, what);
    return false;
}

static bool refuse_errno(GError **error, const FfDumpFiles *f, const char *name, int rc)
{
    return refuse_dump(error, f, name, "%s (errno %d)%s", g_strerror(-rc), -rc,
                       rc == -EACCES ? ": give the dump to the user that reads it (chown -R)" : "");
}

/* ---- files ----------------------------------------------------------------------------------- */

/* -ENODATA: it is shorter. */
static int read_at(int fd, uint64_t at, void *to, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got =
            FF_FAULT_CALL("read-dump", pread(fd, (char *)to + done, n - done, (off_t)(at + done)));

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? -errno : -ENODATA;
        }
        done += (size_t)got;
    }
    return 0;
}

/* A file of SIZE bytes; -1 and ERROR. */
static int open_file(const FfDumpFiles *f, const char *name, uint64_t size, GError **error)
{
    struct stat st;
    int fd = openat(f->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0) {
        refuse_errno(error, f, name, -errno);
    } else if (!S_ISREG(st.st_mode)) {
        refuse_dump(error, f, name, "not a regular file");
    } else if ((uint64_t)st.st_size != size) {
        refuse_dump(error, f, name,
                    "it was cut or damaged: it has %" PRIu64 " bytes, and must have %" PRIu64,
                    (uint64_t)st.st_size, size);
    } else {
        return fd;
    }
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

/* N bytes of which the checksum is SUM, into memory of their own (free()); NULL and ERROR. */
static void *read_list(const FfDumpFiles *f, const char *name, uint64_t n, uint64_t sum,
                       GError **error)
{
    int fd = open_file(f, name, n, error);
    void *data = fd < 0 ? NULL : calloc(1, n);

    if (fd < 0) {
        return NULL;
    }
    int rc = data ? read_at(fd, 0, data, n) : -ENOMEM;
    close(fd);
    if (rc < 0) {
        refuse_errno(error, f, name, rc);
    } else if (ff_xxh64(data, n, 0) != sum) {
        refuse_dump(error, f, name, "damaged: its checksum does not match");
    } else {
        return data;
    }
    free(data);
    return NULL;
}

/* ---- the description ------------------------------------------------------------------------- */

char *ff_dump_seal(const char *text, gsize *len)
{
    char *sealed =
        g_strdup_printf("%s" END "%016" PRIx64 "\n", text, ff_xxh64(text, strlen(text), 0));

    *len = strlen(sealed);
    return sealed;
}

/* Of LEN bytes. */
static bool is_sealed(const char *text, size_t len)
{
    g_autofree char *own = NULL;

    if (len < END_SIZE) {
        return false;
    }
    own = g_strdup_printf(END "%016" PRIx64 "\n", ff_xxh64(text, len - END_SIZE, 0));
    return memcmp(text + len - END_SIZE, own, END_SIZE) == 0;
}

static bool read_about(FfDumpFiles *f, GKeyFile *about, GError **error)
{
    static const char not_whole[] = "no dump, or one that did not come to its end";
    struct stat st;
    int fd = openat(f->dir, FF_DUMP_ABOUT, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > ABOUT_MAX) {
        int rc = fd < 0 ? -errno : -EINVAL;
        if (fd >= 0) {
            close(fd);
        }
        return rc == -ENOENT || rc == -EINVAL ? refuse_dump(error, f, FF_DUMP_ABOUT, not_whole)
                                              : refuse_errno(error, f, FF_DUMP_ABOUT, rc);
    }
    size_t len = (size_t)st.st_size;
    g_autofree char *text = g_malloc0(len + 1);
    int rc = read_at(fd, 0, text, len);
    close(fd);
    if (rc < 0) {
        return refuse_errno(error, f, FF_DUMP_ABOUT, rc);
    }
    /* The sum first: but one of before there was any is told from a damaged one. */
    bool sealed = is_sealed(text, len);
    bool parsed = g_key_file_load_from_data(about, text, len, G_KEY_FILE_NONE, NULL);
    int format = parsed ? g_key_file_get_integer(about, "dump", "format", NULL) : 0;
    if (!sealed && format == 1) {
        return refuse_dump(
            error, f, FF_DUMP_ABOUT,
            "of format 1, which has no checksums: it cannot be verified, so it is not "
            "used: dump that side again with this farfault");
    }
    if (!sealed || !parsed) {
        return refuse_dump(error, f, FF_DUMP_ABOUT,
                           "it was cut or damaged: its checksum does not match");
    }
    return format == FF_DUMP_FORMAT ||
           refuse_dump(error, f, FF_DUMP_ABOUT,
                       "of format %d, of which this farfault knows nothing", format);
}

static bool read_hex(const GKeyFile *about, const char *group, const char *key, uint8_t *out,
                     size_t n)
{
    g_autofree char *text = g_key_file_get_string((GKeyFile *)about, group, key, NULL);

    if (!text || strlen(text) != 2 * n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        int high = g_ascii_xdigit_value(text[2 * i]), low = g_ascii_xdigit_value(text[2 * i + 1]);

        if (high < 0 || low < 0) {
            return false;
        }
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* What can stand in a message of one line. Frees what cannot. */
static bool take_text(const GKeyFile *about, const char *group, const char *key, char **text)
{
    *text = g_key_file_get_string((GKeyFile *)about, group, key, NULL);
    for (const char *c = *text; c && *c; c++) {
        if (!g_ascii_isprint(*c)) {
            g_clear_pointer(text, g_free);
            return false;
        }
    }
    return *text != NULL;
}

static bool sum_of(const GKeyFile *about, const char *group, const char *key, uint64_t *sum)
{
    uint8_t bytes[sizeof(*sum)];

    if (!read_hex(about, group, key, bytes, sizeof(bytes))) {
        return false;
    }
    memcpy(sum, bytes, sizeof(*sum));
    *sum = GUINT64_FROM_BE(*sum);
    return true;
}

/* ---- a block --------------------------------------------------------------------------------- */

static bool is_size(const FfDumpBlock *b)
{
    return b->page_size >= 4096 && (b->page_size & (b->page_size - 1)) == 0 &&
           b->page_size <= 1ull << 30 && b->size && b->size <= BLOCK_MAX &&
           b->size % b->page_size == 0;
}

/* No other block before block I has its name. */
static bool is_new(const FfDumpFiles *f, unsigned i)
{
    for (unsigned j = 0; j < i; j++) {
        if (!strcmp(f->blocks[j].id, f->blocks[i].id)) {
            return false;
        }
    }
    return true;
}

static bool read_block(FfDumpFiles *f, unsigned i, GKeyFile *about, GError **error)
{
    FfDumpBlock *b = &f->blocks[i];
    g_autofree char *group = g_strdup_printf("block %u", i);
    g_autofree char *memory = g_strdup_printf("%u.memory", i);
    g_autofree char *pages = g_strdup_printf("%u.pages", i);
    g_autofree char *sums = g_strdup_printf("%u.sums", i);
    uint64_t pages_sum, sums_sum;

    bool named = take_text(about, group, "id", &b->id) && is_new(f, i);
    b->size = g_key_file_get_uint64(about, group, "size", NULL);
    b->page_size = g_key_file_get_uint64(about, group, "page-size", NULL);
    b->address = g_key_file_get_uint64(about, group, "address", NULL);
    b->memory_path = g_build_filename(f->path, memory, NULL);
    if (!named || !is_size(b) || !sum_of(about, group, "pages-sum", &pages_sum) ||
        !sum_of(about, group, "sums-sum", &sums_sum)) {
        return refuse_dump(error, f, FF_DUMP_ABOUT, "block %u makes no sense", i);
    }
    b->n_pages = b->size / b->page_size;
    b->n_pieces = (b->size + FF_DUMP_PIECE - 1) / FF_DUMP_PIECE;
    b->held = read_list(f, pages, (b->n_pages + 63) / 64 * 8, pages_sum, error);
    b->sums = b->held ? read_list(f, sums, b->n_pieces * 8, sums_sum, error) : NULL;
    for (uint64_t p = 0; b->sums && p < b->n_pieces; p++) {
        b->sums[p] = GUINT64_FROM_LE(b->sums[p]);
    }
    b->fd = b->sums ? open_file(f, memory, b->size, error) : -1;
    return b->fd >= 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static bool read_all(FfDumpFiles *f, GError **error)
{
    g_autoptr(GKeyFile) about = g_key_file_new();

    if (!read_about(f, about, error)) {
        return false;
    }
    int n = g_key_file_get_integer(about, "dump", "blocks", NULL);
    f->epoch = g_key_file_get_uint64(about, "dump", "epoch", NULL);
    f->device_bytes = g_key_file_get_uint64(about, "dump", "device-state-bytes", NULL);
    f->released = !g_key_file_has_key(about, "dump", "released", NULL) ||
                  g_key_file_get_boolean(about, "dump", "released", NULL);
    if (!take_text(about, "dump", "role", &f->role) ||
        !take_text(about, "dump", "phase", &f->phase) ||
        !take_text(about, "dump", "run-right", &f->run_right) ||
        !take_text(about, "dump", "run-state", &f->run_state) || n < 1 || n > BLOCKS_MAX ||
        !read_hex(about, "dump", "session", f->session, sizeof(f->session)) ||
        (f->device_bytes && !sum_of(about, "dump", "device-state-sum", &f->device_sum))) {
        return refuse_dump(error, f, FF_DUMP_ABOUT, "it makes no sense");
    }
    f->blocks = g_new0(FfDumpBlock, n);
    for (; f->n_blocks < (unsigned)n; f->n_blocks++) {
        f->blocks[f->n_blocks].fd = -1;
        if (!read_block(f, f->n_blocks, about, error)) {
            f->n_blocks++;
            return false;
        }
    }
    return true;
}

FfDumpFiles *ff_dump_files_open(int dir, const char *path, GError **error)
{
    g_autoptr(FfDumpFiles) f = g_new0(FfDumpFiles, 1);

    f->dir = dir;
    f->path = g_strdup(path);
    return read_all(f, error) ? g_steal_pointer(&f) : NULL;
}

void ff_dump_files_free(FfDumpFiles *f)
{
    if (!f) {
        return;
    }
    for (unsigned i = 0; i < f->n_blocks; i++) {
        FfDumpBlock *b = &f->blocks[i];

        if (b->fd >= 0) {
            close(b->fd);
        }
        free(b->held);
        free(b->sums);
        g_free(b->id);
        g_free(b->memory_path);
    }
    if (f->dir >= 0) {
        close(f->dir);
    }
    g_free(f->blocks);
    g_free(f->role);
    g_free(f->phase);
    g_free(f->run_right);
    g_free(f->run_state);
    g_free(f->path);
    g_free(f);
}

/* ---- its memory ------------------------------------------------------------------------------ */

uint64_t ff_dump_piece_size(const FfDumpBlock *b, uint64_t piece)
{
    return MIN(FF_DUMP_PIECE, b->size - piece * FF_DUMP_PIECE);
}

bool ff_dump_piece_is_zero(const FfDumpBlock *b, uint64_t piece)
{
    static const uint8_t zeros[FF_DUMP_PIECE];
    static gsize known;
    static uint64_t sum;

    if (g_once_init_enter(&known)) {
        sum = ff_xxh64(zeros, sizeof(zeros), 0);
        g_once_init_leave(&known, 1);
    }
    uint64_t n = ff_dump_piece_size(b, piece);
    return b->sums[piece] == (n == sizeof(zeros) ? sum : ff_xxh64(zeros, n, 0));
}

/* A hole that is to be zeros need not be read. */
static bool is_hole(const FfDumpBlock *b, uint64_t piece)
{
    off_t at = (off_t)(piece * FF_DUMP_PIECE), data = lseek(b->fd, at, SEEK_DATA);

    return data < 0 ? errno == ENXIO : data >= at + (off_t)ff_dump_piece_size(b, piece);
}

int ff_dump_read(const FfDumpBlock *b, uint64_t piece, uint8_t *buf)
{
    uint64_t n = ff_dump_piece_size(b, piece);
    struct stat st;

    if (ff_dump_piece_is_zero(b, piece) && is_hole(b, piece)) {
        /* After its end a file has no hole. */
        if (fstat(b->fd, &st) < 0 || (uint64_t)st.st_size != b->size) {
            return -ENODATA;
        }
        memset(buf, 0, n);
        return 0;
    }
    int rc = read_at(b->fd, piece * FF_DUMP_PIECE, buf, n);

    return rc < 0 ? rc : ff_xxh64(buf, n, 0) == b->sums[piece] ? 0 : -EBADMSG;
}

void ff_dump_set_error(const FfDumpBlock *b, uint64_t piece, int rc, GError **error)
{
    if (rc == -EBADMSG) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: damaged: the checksum of the MiB at byte %" PRIu64 " does not match",
                    b->memory_path, piece * FF_DUMP_PIECE);
    } else if (rc == -ENODATA) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: it was cut: not all is there of the MiB at byte %" PRIu64, b->memory_path,
                    piece * FF_DUMP_PIECE);
    } else {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "%s: cannot be read at byte %" PRIu64 ": %s (errno %d)", b->memory_path,
                    piece * FF_DUMP_PIECE, g_strerror(-rc), -rc);
    }
}

GBytes *ff_dump_read_devices(const FfDumpFiles *f, GError **error)
{
    static const char name[] = "device-state";

    if (!f->device_bytes) {
        refuse_dump(error, f, name, "this dump has no device state");
        return NULL;
    }
    if (f->device_bytes > DEVICES_MAX) {
        refuse_dump(error, f, name, "%" PRIu64 " MiB of device state are more than is read",
                    f->device_bytes >> 20);
        return NULL;
    }
    void *data = read_list(f, name, f->device_bytes, f->device_sum, error);
    return data ? g_bytes_new_with_free_func(data, f->device_bytes, free, data) : NULL;
}
