/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A compressed file (zstd's seekable format) under a restore's pager: each of its threads unpacks
 * what it needs by itself. The frames' checksums are verified, and after each read the file's size
 * and mtime are compared with those of the beginning, as of a plain file.
 */
#ifndef FF_MIGRATION_RESTORE_PACKED_H
#define FF_MIGRATION_RESTORE_PACKED_H

#include "content/pagers/reader.h"

/* Bytes that the fill unpacks together: a frame of ours. */
#define FF_PACKED_FILL (128u << 10)

typedef struct FfPacked FfPacked;

/* FD (borrowed) is the file of PATH, which is ID. NULL and errno. */
FfPacked *ff_packed_new(int fd, const char *path, const FfFileId *id);
/* P can be NULL. What a thread needs that was left behind (content/pagers/reader.h) stays until it
 * is back.
 */
void ff_packed_free(FfPacked *p);
/* [AT, AT + N) of what P unpacks to, into TO, which is in R's buffer. Any thread of a pager, which
 * is R, and which ends before the next file is opened. 0; -ESTALE: the file was changed; -EBADMSG:
 * it is damaged; -ENODATA: it was cut; -ECANCELED: R was left behind; another -errno. */
int ff_packed_read(const FfPacked *p, FfReader *r, uint64_t at, uint8_t *to, size_t n);

#endif
