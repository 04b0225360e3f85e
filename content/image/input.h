/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file of a saved guest, for reading: at any place (FfInput), or in a row (FfCursor). It is what
 * it is, or it is zstd's seekable format, and then its places are those of what it unpacks to.
 * Everything in it is taken for hostile.
 *
 * An FfInput and its cursors belong to one thread.
 */
#ifndef FF_CONTENT_IMAGE_INPUT_H
#define FF_CONTENT_IMAGE_INPUT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

typedef struct FfInput FfInput;

/* Opens PATH. ERROR (G_IO_ERROR) if that fails, it is no regular file or block device, or its table
 * of frames is not right. */
FfInput *ff_input_open(const char *path, GError **error);
/* The same for FD (taken), which is NAME in errors. */
FfInput *ff_input_open_fd(int fd, const char *name, GError **error);
/* The same for DATA, which the caller keeps: for fuzzing. NAME stands in errors. */
FfInput *ff_input_new_memory(const char *name, const void *data, size_t n, GError **error);
/* PATH's bytes as they are, also of a compressed file. */
FfInput *ff_input_open_plain(const char *path, GError **error);
/* The same for FD (taken), which is NAME in errors. */
FfInput *ff_input_open_plain_fd(int fd, const char *name, GError **error);
/* What READ has, SIZE bytes. NAME stands in errors. OPAQUE must outlive it. */
typedef bool (*FfInputRead)(void *opaque, uint64_t at, void *to, size_t n, GError **error);
FfInput *ff_input_new_reads(const char *name, uint64_t size, FfInputRead read, void *opaque,
                            GError **error);
void ff_input_free(FfInput *in);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfInput, ff_input_free)

const char *ff_input_path(const FfInput *in);
/* Bytes, unpacked. */
uint64_t ff_input_size(const FfInput *in);
/* Bytes that its disk holds of it; of a compressed file its size. */
uint64_t ff_input_stored(const FfInput *in);
bool ff_input_is_compressed(const FfInput *in);
/* Nothing stays unpacked: the next read is of the file. */
void ff_input_forget(FfInput *in);
/* Reads [AT, AT + N), or an ERROR. */
bool ff_input_read(FfInput *in, uint64_t at, void *to, size_t n, GError **error);
/* The same of bytes that the kernel has in memory, so that this waits for no disk. FALSE: they are
 * not, or it cannot be known (a compressed file, one of a file system that has no such reads). */
bool ff_input_read_cached(FfInput *in, uint64_t at, void *to, size_t n);
/* It has such reads. */
bool ff_input_can_read_cached(const FfInput *in);
/* The first place from AT on that may have bytes other than zero; its size: none. */
uint64_t ff_input_next_data(FfInput *in, uint64_t at);

/* By which a file that was written to, cut or replaced is known again. Only the size of what is no
 * file. */
typedef struct {
    uint64_t size; /* bytes, as it is on the disk */
    int64_t sec, nsec;
    uint64_t dev, ino;
} FfInputStamp;
/* Of a regular file. */
FfInputStamp ff_input_stamp_of(const struct stat *st);
/* As it is now. FALSE: it cannot be asked. */
bool ff_input_stamp(const FfInput *in, FfInputStamp *stamp);
/* It is as it was when it was opened: what was read of it is of one moment. FALSE and ERROR: it was
 * written to or cut meanwhile, or cannot be asked. */
bool ff_input_is_unchanged(const FfInput *in, GError **error);

/* ---- in a row -------------------------------------------------------------------------------- */

typedef struct {
    FfInput *in;
    uint64_t at;   /* of the next byte */
    GError *error; /* the first one; what is read after it is zeros */
    uint64_t window_at;
    size_t window_len;
    uint8_t *window;
} FfCursor;

void ff_cursor_init(FfCursor *c, FfInput *in, uint64_t at);
void ff_cursor_clear(FfCursor *c);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfCursor, ff_cursor_clear)

/* N bytes (1 MiB at most), valid until the next call; NULL: c->error. */
const uint8_t *ff_cursor_bytes(FfCursor *c, size_t n);
/* Big-endian. */
uint8_t ff_cursor_u8(FfCursor *c);
uint16_t ff_cursor_u16(FfCursor *c);
uint32_t ff_cursor_u32(FfCursor *c);
uint64_t ff_cursor_u64(FfCursor *c);
/* N bytes of printable ASCII (g_free); NULL: c->error, which names WHAT. */
char *ff_cursor_text(FfCursor *c, size_t n, const char *what);
/* Sets c->error, unless there is one. */
void ff_cursor_fail(FfCursor *c, const char *format, ...) G_GNUC_PRINTF(2, 3);

#endif
