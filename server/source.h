/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where content comes from: bytes from 0 to a size, of a file. A raw file is its bytes; of a
 * mapped-ram file they are those of its blocks, one after the other in the order of its table;
 * either can be compressed in zstd's seekable format.
 *
 * A file that was changed since it was opened for the first time (its size, or the time of its last
 * change) has other content than its clients' memory: nothing of it is given out any more.
 *
 * Or from another host, where another pager has such a file; or from there by way of a store.
 *
 * A source is made by one thread and then only read: any thread, each with a reader of its own.
 */
#ifndef FF_SERVER_SOURCE_H
#define FF_SERVER_SOURCE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/remote.h"
#include "server/store.h"
#include "snapshot/input.h"

typedef struct FfSource FfSource;
typedef struct FfSourceReader FfSourceReader;

/* Bytes [START, START + LEN) of the source are at FILE of the file. */
typedef struct {
    uint64_t start, len, file;
} FfSourceExtent;

/* KNOWN: the stamp of an earlier source of the same file, which it must have still; or NULL. ERROR
 * (G_IO_ERROR, one line that names PATH). */
FfSource *ff_source_open(const char *path, const FfInputStamp *known, GError **error);
/* Of EXTENTS (FfSourceExtent, by START, without gaps; taken), which are SIZE bytes of PATH. */
FfSource *ff_source_open_extents(const char *path, GArray *extents, uint64_t size,
                                 const FfInputStamp *known, GError **error);
/* REMOTE is taken. KNOWN as above: nobody is connected to; or NULL: its stamp is asked for. NULL
 * and ERROR. */
FfSource *ff_source_open_remote(FfRemote *remote, const FfInputStamp *known, GError **error);
/* The pages of PART, of STORE (both borrowed). A read waits for its page, until *CANCEL is true
 * (and ff_store_wake() was called). */
FfSource *ff_source_open_store(FfStore *store, const FfStorePart *part, const bool *cancel);
const FfInputStamp *ff_source_stamp(const FfSource *s);
/* After all readers. Can be NULL. */
void ff_source_free(FfSource *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfSource, ff_source_free)
uint64_t ff_source_size(const FfSource *s);
bool ff_source_is_compressed(const FfSource *s);
/* It is on another host. */
bool ff_source_is_remote(const FfSource *s);
/* Its content is in a file of this host. */
bool ff_source_is_file(const FfSource *s);
/* By which it is opened; borrowed. */
const char *ff_source_path(const FfSource *s);
/* Each of the N PLACES of the file becomes a place of the source. FALSE: one of them is not that of
 * a whole page (4 KiB) of it. */
bool ff_source_find(const FfSource *s, uint64_t *places, uint64_t n);

FfSourceReader *ff_source_reader(FfSource *s, GError **error);
/* What it reads somebody waits for. */
void ff_source_reader_hurry(FfSourceReader *r);
void ff_source_reader_free(FfSourceReader *r);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfSourceReader, ff_source_reader_free)
/* *LEN bytes from AT on, or fewer (*LEN; a multiple of PIECE, which AT and *LEN are as well):
 * either *ZERO, and BUF is as it was, or they are in BUF. FALSE and ERROR: they cannot be read. */
bool ff_source_read(FfSourceReader *r, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                    bool *zero, GError **error);

/* For ff_source_read_cached(); this may wait. NULL: nothing of S is ever known without a wait
 * (another host, a compressed file, a file system that does not say), or it cannot be opened. */
FfSourceReader *ff_source_cached_reader(FfSource *s);
/* LEN bytes from AT on, as above, if they are known without a wait. FALSE: ff_source_read() says
 * more. */
bool ff_source_read_cached(FfSourceReader *r, uint64_t at, void *buf, uint64_t len, bool *zero);

/* Is what is AT (a page) in the file, which is not compressed, and at its place *FILE? FALSE: it is
 * zeros. */
bool ff_source_place(FfSourceReader *r, uint64_t at, uint64_t *file);
/* LEN bytes from AT on are zeros, as the same file has nothing there. */
bool ff_source_is_hole(FfSourceReader *r, uint64_t at, uint64_t len);

#endif
