/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Compresses a file frame by frame; see seekable-write.h. The frame of a hole is made once, and
 * written as often as there are holes. Memory: two buffers, and the table, 8 bytes a frame.
 *
 * System calls: lseek(SEEK_DATA, SEEK_END), pread64.
 */
#include "content/image/seekable-write.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "content/image/seekable.h"

#define LEVEL 3
#define FRAMES_MAX 0x8000000u
#define SKIPPABLE_MAGIC 0x184d2a5eu
#define TABLE_MAGIC 0x8f92eab1u
#define FOOTER 9

typedef struct {
    FfOutput *out;
    int fd;
    uint64_t size;
    ZSTD_CCtx *ctx;
    uint8_t *in, *packed, *zeros; /* zeros: the packed frame of a hole */
    size_t room, n_zeros;
    GByteArray *table;
    FfSeekableStop *stop; /* can be NULL */
    void *opaque;
} Packer;

static bool fail_write(GError **error, int err, const char *what)
{
    g_set_error(error, G_IO_ERROR, err ? g_io_error_from_errno(err) : G_IO_ERROR_FAILED, "%s: %s",
                what, err ? g_strerror(err) : "cannot be compressed");
    return false;
}

static void put_le32(GByteArray *b, uint32_t value)
{
    uint32_t le = GUINT32_TO_LE(value);

    g_byte_array_append(b, (const uint8_t *)&le, sizeof(le));
}

static bool put_frame(Packer *p, const uint8_t *packed, size_t n, size_t size, GError **error)
{
    put_le32(p->table, n);
    put_le32(p->table, size);
    return ff_output_append(p->out, packed, n, error);
}

static bool read_plain(Packer *p, uint64_t at, size_t n, GError **error)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(p->fd, p->in + done, n - done, (off_t)(at + done));

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return fail_write(error, got < 0 ? errno : EIO, "the image to compress");
        }
        done += got;
    }
    return true;
}

/* Packs IN (N bytes) into TO. 0: an ERROR. */
static size_t pack_frame(Packer *p, uint8_t *to, size_t n, GError **error)
{
    size_t packed = ZSTD_compress2(p->ctx, to, p->room, p->in, n);

    if (ZSTD_isError(packed)) {
        fail_write(error, 0, "the image");
        return 0;
    }
    return packed;
}

/* The place after the hole that begins at AT. */
static uint64_t hole_end(const Packer *p, uint64_t at)
{
    off_t data = lseek(p->fd, (off_t)at, SEEK_DATA);

    if (data < 0) {
        return errno == ENXIO ? p->size : at;
    }
    return data;
}

static bool pack_all(Packer *p, GError **error)
{
    uint64_t data = 0; /* there is none before it */

    memset(p->in, 0, FF_SEEKABLE_FRAME);
    p->n_zeros = pack_frame(p, p->zeros, FF_SEEKABLE_FRAME, error);
    if (!p->n_zeros) {
        return false;
    }
    for (uint64_t at = 0; at < p->size;) {
        size_t n = MIN(p->size - at, FF_SEEKABLE_FRAME);

        if (p->stop && p->stop(p->opaque)) {
            g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "interrupted");
            return false;
        }
        if (data <= at) {
            data = hole_end(p, at);
        }
        if (data >= at + n && n == FF_SEEKABLE_FRAME) {
            if (!put_frame(p, p->zeros, p->n_zeros, n, error)) {
                return false;
            }
        } else {
            size_t packed = read_plain(p, at, n, error) ? pack_frame(p, p->packed, n, error) : 0;

            if (!packed || !put_frame(p, p->packed, packed, n, error)) {
                return false;
            }
        }
        at += n;
    }
    return true;
}

static bool put_table(Packer *p, GError **error)
{
    g_autoptr(GByteArray) head = g_byte_array_new();
    uint8_t descriptor = 0; /* no checksums here: each frame has its own */
    uint32_t n = p->table->len / 8;

    put_le32(head, SKIPPABLE_MAGIC);
    put_le32(head, p->table->len + FOOTER);
    put_le32(p->table, n);
    g_byte_array_append(p->table, &descriptor, 1);
    put_le32(p->table, TABLE_MAGIC);
    return ff_output_append(p->out, head->data, head->len, error) &&
           ff_output_append(p->out, p->table->data, p->table->len, error);
}

bool ff_seekable_write(FfOutput *plain, FfOutput *out, FfSeekableStop *stop, void *opaque,
                       GError **error)
{
    Packer p = {.out = out,
                .fd = ff_output_fd(plain),
                .room = ZSTD_compressBound(FF_SEEKABLE_FRAME),
                .stop = stop,
                .opaque = opaque};
    off_t size = lseek(p.fd, 0, SEEK_END);
    bool ok;

    p.size = MAX(size, 0);
    if (size < 0 || p.size / FF_SEEKABLE_FRAME >= FRAMES_MAX) {
        return fail_write(error, size < 0 ? errno : EFBIG, "the image to compress");
    }
    p.ctx = ZSTD_createCCtx();
    p.in = g_malloc(FF_SEEKABLE_FRAME);
    p.packed = g_malloc(p.room);
    p.zeros = g_malloc(p.room);
    p.table = g_byte_array_new();
    ok = p.ctx && !ZSTD_isError(ZSTD_CCtx_setParameter(p.ctx, ZSTD_c_compressionLevel, LEVEL)) &&
         !ZSTD_isError(ZSTD_CCtx_setParameter(p.ctx, ZSTD_c_checksumFlag, 1));
    ok = ok ? pack_all(&p, error) && put_table(&p, error) : fail_write(error, ENOMEM, "zstd");
    ZSTD_freeCCtx(p.ctx);
    g_byte_array_unref(p.table);
    g_free(p.in);
    g_free(p.packed);
    g_free(p.zeros);
    return ok;
}
