/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading the file of a saved guest; see input.h. Nothing is mapped: a file that becomes shorter
 * under us is an error, and no SIGBUS.
 *
 * System calls: open, fstat, pread64, preadv2, lseek(SEEK_DATA, SEEK_END).
 */
#include "content/image/input.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "content/image/seekable.h"

#define WINDOW (1u << 20)
#define FRAME_MAX (8u << 20) /* a page that is waited for must not cost more than this */

struct FfInput {
    char *path;
    int fd;
    const uint8_t *data; /* in place of the fd */
    FfInputRead read;    /* the same */
    void *opaque;
    uint64_t file_size, stored;
    FfInputStamp opened;
    FfSeekable *packed; /* NULL: as it is */
};

static bool fail_errno(const FfInput *in, int err, GError **error)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err), "%s: %s", in->path, g_strerror(err));
    return false;
}

/* FfSeekableRead */
static bool read_file(void *opaque, uint64_t at, void *to, size_t n, GError **error)
{
    FfInput *in = opaque;

    if (at > in->file_size || n > in->file_size - at) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_PARTIAL_INPUT,
                    "%s: the file is cut: it ends at byte %" PRIu64, in->path, in->file_size);
        return false;
    }
    if (in->data) {
        memcpy(to, in->data + at, n);
        return true;
    }
    if (in->read) {
        return in->read(in->opaque, at, to, n, error);
    }
    for (size_t done = 0; done < n;) {
        ssize_t got = FF_FAULT_CALL("read-input",
                                    pread(in->fd, (char *)to + done, n - done, (off_t)(at + done)));

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_errno(in, errno, error);
        }
        if (got == 0) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_PARTIAL_INPUT,
                        "%s: the file was cut: nothing is at byte %" PRIu64, in->path, at + done);
            return false;
        }
        done += got;
    }
    return true;
}

static bool look_for_frames(FfInput *in, GError **error)
{
    uint8_t magic[4];

    if (in->file_size < sizeof(magic)) {
        return true;
    }
    if (!read_file(in, 0, magic, sizeof(magic), error)) {
        return false;
    }
    if (!ff_seekable_is(magic)) {
        return true;
    }
    in->packed = ff_seekable_new(in->path, in->file_size, FRAME_MAX, read_file, in, error);
    return in->packed != NULL;
}

FfInput *ff_input_open_plain_fd(int fd, const char *name, GError **error)
{
    g_autoptr(FfInput) in = g_new0(FfInput, 1);
    struct stat st;

    in->path = g_strdup(name);
    in->fd = fd;
    if (fstat(in->fd, &st) < 0) {
        fail_errno(in, errno, error);
        return NULL;
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_REGULAR_FILE, "%s: not a regular file", name);
        return NULL;
    }
    off_t end = lseek(in->fd, 0, SEEK_END);
    if (end < 0) {
        fail_errno(in, errno, error);
        return NULL;
    }
    in->file_size = end;
    in->stored = S_ISREG(st.st_mode) ? (uint64_t)st.st_blocks * 512 : in->file_size;
    if (!ff_input_stamp(in, &in->opened)) {
        fail_errno(in, errno, error);
        return NULL;
    }
    return g_steal_pointer(&in);
}

FfInput *ff_input_open_fd(int fd, const char *name, GError **error)
{
    g_autoptr(FfInput) in = ff_input_open_plain_fd(fd, name, error);

    return in && look_for_frames(in, error) ? g_steal_pointer(&in) : NULL;
}

FfInput *ff_input_open_plain(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */

    if (fd < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s%s", path,
                    g_strerror(errno),
                    errno == ENOENT ? ": give the path of a saved guest's file" : "");
        return NULL;
    }
    return ff_input_open_plain_fd(fd, path, error);
}

FfInput *ff_input_open(const char *path, GError **error)
{
    g_autoptr(FfInput) in = ff_input_open_plain(path, error);

    return in && look_for_frames(in, error) ? g_steal_pointer(&in) : NULL;
}

FfInput *ff_input_new_reads(const char *name, uint64_t size, FfInputRead read, void *opaque,
                            GError **error)
{
    g_autoptr(FfInput) in = g_new0(FfInput, 1);

    in->path = g_strdup(name);
    in->fd = -1;
    in->read = read;
    in->opaque = opaque;
    in->file_size = in->stored = size;
    return look_for_frames(in, error) ? g_steal_pointer(&in) : NULL;
}

FfInput *ff_input_new_memory(const char *name, const void *data, size_t n, GError **error)
{
    g_autoptr(FfInput) in = g_new0(FfInput, 1);

    in->path = g_strdup(name);
    in->fd = -1;
    in->data = data;
    in->file_size = in->stored = n;
    return look_for_frames(in, error) ? g_steal_pointer(&in) : NULL;
}

void ff_input_free(FfInput *in)
{
    if (!in) {
        return;
    }
    ff_seekable_free(in->packed);
    if (in->fd >= 0) {
        close(in->fd);
    }
    g_free(in->path);
    g_free(in);
}

const char *ff_input_path(const FfInput *in)
{
    return in->path;
}

uint64_t ff_input_size(const FfInput *in)
{
    return in->packed ? ff_seekable_size(in->packed) : in->file_size;
}

uint64_t ff_input_stored(const FfInput *in)
{
    return in->packed ? in->file_size : in->stored;
}

bool ff_input_is_compressed(const FfInput *in)
{
    return in->packed != NULL;
}

void ff_input_forget(FfInput *in)
{
    if (in->packed) {
        ff_seekable_forget(in->packed);
    }
}

bool ff_input_read(FfInput *in, uint64_t at, void *to, size_t n, GError **error)
{
    return in->packed ? ff_seekable_read(in->packed, at, to, n, error)
                      : read_file(in, at, to, n, error);
}

bool ff_input_can_read_cached(const FfInput *in)
{
    char byte;
    struct iovec iov = {&byte, 1};

    return !in->packed && in->fd >= 0 &&
           (preadv2(in->fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno == EAGAIN);
}

bool ff_input_read_cached(FfInput *in, uint64_t at, void *to, size_t n)
{
    struct iovec iov = {to, n};

    return !in->packed && in->fd >= 0 &&
           preadv2(in->fd, &iov, 1, (off_t)at, RWF_NOWAIT) == (ssize_t)n;
}

uint64_t ff_input_next_data(FfInput *in, uint64_t at)
{
    off_t data;

    if (in->packed || in->fd < 0 || at >= in->file_size) {
        return MIN(at, ff_input_size(in));
    }
    data = lseek(in->fd, (off_t)at, SEEK_DATA);
    if (data < 0) {
        return errno == ENXIO ? in->file_size : at;
    }
    return MIN((uint64_t)data, in->file_size);
}

FfInputStamp ff_input_stamp_of(const struct stat *st)
{
    return (FfInputStamp){(uint64_t)st->st_size, st->st_mtim.tv_sec, st->st_mtim.tv_nsec,
                          st->st_dev, st->st_ino};
}

bool ff_input_stamp(const FfInput *in, FfInputStamp *stamp)
{
    struct stat st;

    *stamp = (FfInputStamp){.size = in->file_size};
    if (in->fd < 0) {
        return true;
    }
    if (fstat(in->fd, &st) < 0) {
        return false;
    }
    if (S_ISREG(st.st_mode)) {
        *stamp = ff_input_stamp_of(&st);
    }
    return true;
}

bool ff_input_is_unchanged(const FfInput *in, GError **error)
{
    FfInputStamp now;

    if (!ff_input_stamp(in, &now)) {
        return fail_errno(in, errno, error);
    }
    if (in->fd >= 0 &&
        (now.size != in->opened.size || now.sec != in->opened.sec || now.nsec != in->opened.nsec)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "%s: it was written to while it was read: try again when nobody does",
                    in->path);
        return false;
    }
    return true;
}

/* ---- in a row -------------------------------------------------------------------------------- */

void ff_cursor_init(FfCursor *c, FfInput *in, uint64_t at)
{
    *c = (FfCursor){.in = in, .at = at, .window = g_malloc(WINDOW)};
}

void ff_cursor_clear(FfCursor *c)
{
    g_clear_pointer(&c->window, g_free);
    g_clear_error(&c->error);
}

void ff_cursor_fail(FfCursor *c, const char *format, ...)
{
    va_list args;

    if (c->error) {
        return;
    }
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(&c->error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: %s", c->in->path, text);
}

const uint8_t *ff_cursor_bytes(FfCursor *c, size_t n)
{
    g_assert(n <= WINDOW);
    if (c->error) {
        return NULL;
    }
    if (c->at < c->window_at || c->at - c->window_at > c->window_len ||
        c->window_len - (c->at - c->window_at) < n) {
        uint64_t size = ff_input_size(c->in);
        uint64_t left = c->at < size ? size - c->at : 0;

        c->window_at = c->at;
        c->window_len = 0;
        if (!ff_input_read(c->in, c->at, c->window, MAX(MIN(left, WINDOW), n), &c->error)) {
            return NULL;
        }
        c->window_len = MAX(MIN(left, WINDOW), n);
    }
    const uint8_t *bytes = c->window + (c->at - c->window_at);
    c->at += n;
    return bytes;
}

static uint64_t read_number(FfCursor *c, unsigned n)
{
    const uint8_t *bytes = ff_cursor_bytes(c, n);
    uint64_t value = 0;

    for (unsigned i = 0; bytes && i < n; i++) {
        value = value << 8 | bytes[i];
    }
    return value;
}

uint8_t ff_cursor_u8(FfCursor *c)
{
    return read_number(c, 1);
}

uint16_t ff_cursor_u16(FfCursor *c)
{
    return read_number(c, 2);
}

uint32_t ff_cursor_u32(FfCursor *c)
{
    return read_number(c, 4);
}

uint64_t ff_cursor_u64(FfCursor *c)
{
    return read_number(c, 8);
}

char *ff_cursor_text(FfCursor *c, size_t n, const char *what)
{
    uint64_t at = c->at;
    const uint8_t *bytes = ff_cursor_bytes(c, n);

    for (size_t i = 0; bytes && i < n; i++) {
        if (!g_ascii_isprint(bytes[i])) {
            ff_cursor_fail(c, "damaged: %s at byte %" PRIu64 " is no text", what, at);
            return NULL;
        }
    }
    return bytes ? g_strndup((const char *)bytes, n) : NULL;
}
