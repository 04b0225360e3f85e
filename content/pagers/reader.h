/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A thread that reads a file for a pager, and can be left behind: a read that does not come back
 * (a network file system whose server is gone) holds up no thread that ends the pager.
 *
 * Between two reads the thread uses what its owner has. When a read returns -ECANCELED the owner
 * may be gone: the thread touches nothing of it any more, and returns.
 */
#ifndef FF_CONTENT_PAGERS_READER_H
#define FF_CONTENT_PAGERS_READER_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* What a file is as long as nobody writes to it. */
typedef struct {
    uint64_t size;
    int64_t mtime_ns; /* 0: of a block device, which has none for its content */
} FfFileId;

/* 0 or -errno. */
int ff_file_id(int fd, FfFileId *id);
/* 0: FD is ID still; -ESTALE: it is not; another -errno. */
int ff_file_check(int fd, const FfFileId *id);

/* An fd that several threads read: closed by the last one. */
typedef struct FfReaderFile FfReaderFile;
FfReaderFile *ff_reader_file_new(int fd); /* FD is taken */
/* What is more than an fd: the last one frees WHAT. */
FfReaderFile *ff_reader_file_new_of(gpointer what, GDestroyNotify free);
FfReaderFile *ff_reader_file_ref(FfReaderFile *f);
void ff_reader_file_unref(FfReaderFile *f); /* F can be NULL */

typedef struct FfReader FfReader;
typedef void (*FfReaderFunc)(FfReader *r, void *owner);

/* Starts a thread NAME that runs RUN, with a page-aligned buffer of BUF_LEN bytes, of which no
 * memory is used before it is read into. */
FfReader *ff_reader_start(const char *name, size_t buf_len, FfReaderFunc run, void *owner);
/* Waits until RUN has returned, or leaves the thread behind in a read that takes longer than a
 * moment. R is gone. RUN has been told to end by other means. */
void ff_reader_end(FfReader *r);

/* ---- the thread itself ----------------------------------------------------------------------- */

uint8_t *ff_reader_buffer(const FfReader *r);
/* It was left behind. */
bool ff_reader_is_left(const FfReader *r);
/* All of [AT, AT + N) into TO, which is in the buffer. 0; -errno; -ENODATA: the file has no such
 * bytes; -ECANCELED: it was left behind. */
int ff_reader_read(FfReader *r, FfReaderFile *f, uint64_t at, uint8_t *to, size_t n);
/* 0: F is ID still; -ESTALE: it is not. Else as above. */
int ff_reader_check(FfReader *r, FfReaderFile *f, const FfFileId *id);
/* Around a read of the thread's own: between the two it uses what F has and what is the thread's,
 * and nothing of its owner. LEAVE returns RC, which the read came to, or -ECANCELED. */
void ff_reader_enter(FfReader *r, FfReaderFile *f);
int ff_reader_leave(FfReader *r, int rc);

#endif
