/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading zstd's seekable format; see seekable.h. The table is checked against the size of the
 * file before a byte is unpacked, and what is kept of it grows with what was read of it: a table
 * that promises much costs nothing. The frame that was unpacked last is kept.
 *
 * A frame can be empty: the format's own library ends a file with one whose size is a multiple of
 * the frames', and what plain zstd skips has a size of 0 as well.
 */
#include "content/image/seekable.h"

#include <errno.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <zstd.h>

#include "content/image/xxh64.h"

/* Of the format. */
#define SKIPPABLE_MAGIC 0x184d2a5eu
#define TABLE_MAGIC 0x8f92eab1u
#define FRAMES_MAX 0x8000000u
#define FOOTER 9
#define HAS_CHECKSUMS 0x80
#define RESERVED_BITS 0x7c
#define PIECE 8192 /* entries of the table that are read at once */

typedef struct {
    uint64_t packed_end, end; /* of this frame: in the file, and unpacked */
    uint32_t checksum;        /* of the table; 0 if it has none */
} Frame;

struct FfSeekable {
    char *path;
    FfSeekableRead read;
    void *opaque;
    uint32_t frame_max, largest;
    bool has_checksums;
    GArray *frames; /* Frame; of all that ff_seekable_dup() made, and not changed any more */
    ZSTD_DCtx *ctx;
    uint8_t *in, *out; /* of the frame CURRENT; grow */
    size_t in_room, out_room;
    guint current; /* G_MAXUINT: none */
};

static uint32_t read_le32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

bool ff_seekable_is(const uint8_t magic[4])
{
    return read_le32(magic) == ZSTD_MAGICNUMBER;
}

static bool fail_path(const char *path, GError **error, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
static bool fail_path(const char *path, GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: %s", path, text);
    return false;
}

static bool fail_memory(const char *path, GError **error, const char *what)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(ENOMEM), "%s: no memory for %s: %s", path,
                what, g_strerror(ENOMEM));
    return false;
}

/* One entry of the table. ROOM: bytes of the file that no frame before it has. */
static bool add_frame(FfSeekable *s, const uint8_t *entry, uint64_t room, GError **error)
{
    Frame last = {0};
    uint32_t packed = read_le32(entry), size = read_le32(entry + 4);

    if (s->frames->len) {
        last = g_array_index(s->frames, Frame, s->frames->len - 1);
    }
    if (!packed || packed > room || (size && packed > ZSTD_compressBound(s->frame_max))) {
        return fail_path(s->path, error,
                         "damaged: frame %u is %" PRIu32 " bytes of %" PRIu32 " compressed",
                         s->frames->len, size, packed);
    }
    if (size > s->frame_max) {
        return fail_path(s->path, error,
                         "frame %u is of %" PRIu32
                         " bytes, which would all be unpacked for one page: "
                         "compress it in frames of %" PRIu32 " MiB at most",
                         s->frames->len, size, s->frame_max >> 20);
    }
    Frame frame = {last.packed_end + packed, last.end + size,
                   s->has_checksums ? read_le32(entry + 8) : 0};
    g_array_append_val(s->frames, frame);
    s->largest = size ? MAX(s->largest, MAX(size, packed)) : s->largest;
    return true;
}

static bool read_table(FfSeekable *s, uint64_t size, GError **error)
{
    uint8_t footer[FOOTER], head[8];

    if (size < FOOTER + sizeof(head) || !s->read(s->opaque, size - FOOTER, footer, FOOTER, error)) {
        return error && *error ? false : fail_path(s->path, error, "the compressed file is cut");
    }
    if (read_le32(footer + 5) != TABLE_MAGIC) {
        return fail_path(
            s->path, error,
            "compressed, without the table of frames at its end: the file is cut, or must be "
            "unpacked first (zstd -d)");
    }
    s->has_checksums = footer[4] & HAS_CHECKSUMS;
    uint64_t n = read_le32(footer), each = s->has_checksums ? 12 : 8;
    uint64_t table = n * each + FOOTER;
    if (footer[4] & RESERVED_BITS || n > FRAMES_MAX || table + sizeof(head) > size) {
        return fail_path(s->path, error, "damaged: a table of %" PRIu64 " frames does not fit", n);
    }
    uint64_t at = size - table, frames_end = at - sizeof(head);
    if (!s->read(s->opaque, frames_end, head, sizeof(head), error)) {
        return false;
    }
    if (read_le32(head) != SKIPPABLE_MAGIC || read_le32(head + 4) != table) {
        return fail_path(s->path, error,
                         "damaged: the table of frames does not begin where it should");
    }
    /* GLib's array would end a program that has no memory for it. */
    g_autofree Frame *room = g_try_new(Frame, 2 * n + 1);
    g_autofree uint8_t *piece = room ? g_try_malloc(PIECE * 12) : NULL;
    if (!piece) {
        return fail_memory(s->path, error, "the table of frames");
    }
    g_clear_pointer(&room, g_free);
    for (uint64_t i = 0; i < n;) {
        uint64_t some = MIN(n - i, PIECE);

        if (!s->read(s->opaque, at, piece, some * each, error)) {
            return false;
        }
        for (uint64_t k = 0; k < some; k++) {
            Frame *last =
                s->frames->len ? &g_array_index(s->frames, Frame, s->frames->len - 1) : NULL;

            if (!add_frame(s, piece + k * each, frames_end - (last ? last->packed_end : 0),
                           error)) {
                return false;
            }
        }
        at += some * each;
        i += some;
    }
    if (!n || g_array_index(s->frames, Frame, n - 1).packed_end != frames_end) {
        return fail_path(s->path, error,
                         "damaged: the frames of the table are not those of the file");
    }
    return ff_seekable_size(s) > 0 || fail_path(s->path, error, "nothing is in it");
}

/* Without a table. */
static FfSeekable *new_with(const char *path, uint32_t frame_max, FfSeekableRead read, void *opaque,
                            GError **error)
{
    ZSTD_DCtx *ctx = ZSTD_createDCtx();

    if (!ctx) {
        fail_memory(path, error, "zstd");
        return NULL;
    }
    FfSeekable *s = g_new0(FfSeekable, 1);
    *s = (FfSeekable){.path = g_strdup(path),
                      .read = read,
                      .opaque = opaque,
                      .frame_max = frame_max,
                      .ctx = ctx,
                      .current = G_MAXUINT};
    return s;
}

FfSeekable *ff_seekable_new(const char *path, uint64_t size, uint32_t frame_max,
                            FfSeekableRead read, void *opaque, GError **error)
{
    FfSeekable *s = new_with(path, frame_max, read, opaque, error);
    g_autoptr(GError) local = NULL;

    if (!s) {
        return NULL;
    }
    s->frames = g_array_new(FALSE, FALSE, sizeof(Frame));
    if (!read_table(s, size, &local)) {
        g_propagate_error(error, g_steal_pointer(&local));
        ff_seekable_free(s);
        return NULL;
    }
    return s;
}

FfSeekable *ff_seekable_dup(const FfSeekable *s, GError **error)
{
    FfSeekable *other = new_with(s->path, s->frame_max, s->read, s->opaque, error);

    if (other) {
        other->has_checksums = s->has_checksums;
        other->frames = g_array_ref(s->frames);
    }
    return other;
}

void ff_seekable_free(FfSeekable *s)
{
    if (!s) {
        return;
    }
    ZSTD_freeDCtx(s->ctx);
    g_clear_pointer(&s->frames, g_array_unref);
    g_free(s->in);
    g_free(s->out);
    g_free(s->path);
    g_free(s);
}

void ff_seekable_forget(FfSeekable *s)
{
    s->current = G_MAXUINT;
}

uint64_t ff_seekable_size(const FfSeekable *s)
{
    return g_array_index(s->frames, Frame, s->frames->len - 1).end;
}

uint32_t ff_seekable_largest(const FfSeekable *s)
{
    return s->largest;
}

/* The frame in which AT is, before the end. It is not empty. */
static guint find_frame(const FfSeekable *s, uint64_t at)
{
    guint low = 0, high = s->frames->len - 1;

    while (low < high) {
        guint middle = low + (high - low) / 2;

        if (at < g_array_index(s->frames, Frame, middle).end) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

FfSeekableFrame ff_seekable_frame(const FfSeekable *s, uint64_t at)
{
    guint i = find_frame(s, at);
    Frame frame = g_array_index(s->frames, Frame, i);
    Frame before = i ? g_array_index(s->frames, Frame, i - 1) : (Frame){0};

    return (FfSeekableFrame){i, before.end, frame.end, before.packed_end, frame.packed_end};
}

static bool make_room(uint8_t **buffer, size_t *room, size_t n)
{
    if (*room < n) {
        g_free(*buffer);
        *buffer = g_try_malloc(n);
        *room = *buffer ? n : 0;
    }
    return *room >= n;
}

/* What frame I was unpacked to has the sum of the table, if that has sums. */
static bool is_right(const FfSeekable *s, guint i, size_t size)
{
    return !s->has_checksums ||
           (uint32_t)ff_xxh64(s->out, size, 0) == g_array_index(s->frames, Frame, i).checksum;
}

/* Makes frame I, which is not empty, the current one. */
static bool unpack_frame(FfSeekable *s, guint i, GError **error)
{
    Frame frame = g_array_index(s->frames, Frame, i);
    Frame before = i ? g_array_index(s->frames, Frame, i - 1) : (Frame){0};
    size_t packed = frame.packed_end - before.packed_end, size = frame.end - before.end;

    if (s->current == i) {
        return true;
    }
    s->current = G_MAXUINT;
    if (!make_room(&s->in, &s->in_room, packed) || !make_room(&s->out, &s->out_room, size)) {
        g_autofree char *what = g_strdup_printf("frame %u of %zu bytes", i, size);
        return fail_memory(s->path, error, what);
    }
    if (!s->read(s->opaque, before.packed_end, s->in, packed, error)) {
        return false;
    }
    size_t got = ZSTD_decompressDCtx(s->ctx, s->out, size, s->in, packed);
    if (ZSTD_isError(got) || got != size || !is_right(s, i, size)) {
        return fail_path(s->path, error,
                         "damaged: frame %u at byte %" PRIu64 " cannot be unpacked: %s", i,
                         before.packed_end,
                         ZSTD_isError(got) ? ZSTD_getErrorName(got)
                         : got != size     ? "wrong size"
                                           : "the table has another checksum");
    }
    s->current = i;
    return true;
}

bool ff_seekable_read(FfSeekable *s, uint64_t at, void *to, size_t n, GError **error)
{
    uint64_t size = ff_seekable_size(s);

    if (at > size || n > size - at) {
        return fail_path(s->path, error, "cut: what is compressed ends at byte %" PRIu64, size);
    }
    for (guint i = n ? find_frame(s, at) : 0; n > 0; i++) {
        Frame frame = g_array_index(s->frames, Frame, i);
        uint64_t begin = i ? g_array_index(s->frames, Frame, i - 1).end : 0;
        size_t some = MIN(n, frame.end - at);

        if (some && !unpack_frame(s, i, error)) {
            return false;
        }
        if (some) {
            memcpy(to, s->out + (at - begin), some);
        }
        to = (char *)to + some;
        at += some;
        n -= some;
    }
    return true;
}
