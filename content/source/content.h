/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content: the bytes that pages are filled from, from 0 to a size (docs/design/content.md). Of a
 * raw file or an export they are its bytes; of a mapped-ram file those of its blocks, one after the
 * other in the order of its table; either can be compressed in zstd's seekable format.
 *
 * Content does not change once it is opened. What was opened is known by its identity: of what has
 * another one by now nothing is given out any more.
 *
 * A content is made by one thread and then only read: any thread, each with a reader of its own.
 */
#ifndef FF_CONTENT_SOURCE_CONTENT_H
#define FF_CONTENT_SOURCE_CONTENT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "content/image/input.h"

typedef struct FfContent FfContent;
typedef struct FfContentReader FfContentReader;

/* By which content is known again. Compared as bytes. */
typedef struct {
    FfInputStamp stamp; /* of a file; else its size alone, as it is stored */
    uint64_t digest;    /* of what has no time: of its table of pages, or of some pages; else 0 */
} FfContentIdentity;

/* Bytes [START, START + LEN) of the content are at FILE of what it is stored in. */
typedef struct {
    uint64_t start, len, file;
} FfContentExtent;

/* How a server is reached. Each can be NULL. */
typedef struct {
    const char *tls_creds; /* a folder with keys.psk, or certificates by QEMU's names */
    const char *plugin;    /* a path of farfault-nbd.so, for nbd: URIs */
} FfContentAccess;

/* ---- opening --------------------------------------------------------------------------------- */

/* It is a URI of a server, and no path. */
bool ff_content_is_uri(const char *uri);
/* What is in front of the ":" of URI (g_free); NULL: no scheme is. */
char *ff_content_scheme(const char *uri);
/* Those that are known; NULL-terminated. */
extern const char *const ff_content_schemes[];
/* URI: a path, or one of ff_content_is_uri(). KNOWN: what an earlier content of URI was, which it
 * must be still; or NULL. ACCESS can be NULL. NULL and ERROR (G_IO_ERROR, one line that names URI).
 */
FfContent *ff_content_open(const char *uri, const FfContentIdentity *known,
                           const FfContentAccess *access, GError **error);
/* Of MAP (FfContentExtent, by START, without gaps; taken), which are SIZE bytes of the file PATH.
 */
FfContent *ff_content_open_map(const char *path, GArray *map, uint64_t size,
                               const FfContentIdentity *known, GError **error);
/* Of the file FD (taken; PATH in errors), as its bytes are. */
FfContent *ff_content_open_fd(int fd, const char *path, const FfContentIdentity *known,
                              GError **error);
/* Of the export URI, the same. */
FfContent *ff_content_open_bytes(const char *uri, const FfContentAccess *access, GError **error);
/* The bytes of the file of a saved guest, unpacked: at the places that FfSaved has. UNDER (taken)
 * is that file, in which the guest begins at OFFSET (FF_SAVED_OFFSET_LOOK). */
FfContent *ff_content_open_saved(FfContent *under, int64_t offset, GError **error);
/* After all readers. Can be NULL. */
void ff_content_free(FfContent *c);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfContent, ff_content_free)

const FfContentIdentity *ff_content_identity(const FfContent *c);
uint64_t ff_content_size(const FfContent *c);
/* Its URI or path; borrowed. */
const char *ff_content_name(const FfContent *c);
bool ff_content_is_compressed(const FfContent *c);
/* Another process or host has it, and can fail in one way after the other. */
bool ff_content_is_far(const FfContent *c);
/* It is in a file of this host. */
bool ff_content_is_file(const FfContent *c);

/* ---- reading --------------------------------------------------------------------------------- */

/* NULL and ERROR. */
FfContentReader *ff_content_reader(FfContent *c, GError **error);
/* What it reads somebody waits for. */
void ff_content_reader_hurry(FfContentReader *r);
/* Of a server: its reads end at UNTIL (monotonic us; 0: at the limits of its own). */
void ff_content_reader_until(FfContentReader *r, int64_t until);
void ff_content_reader_free(FfContentReader *r);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfContentReader, ff_content_reader_free)

/* Closes connections that nobody uses just now: a server may have room for one. */
void ff_content_rest(FfContent *c);

/* Of an error: the server is gone, or does not answer; it may be back later. */
#define FF_CONTENT_GONE G_IO_ERROR_NOT_CONNECTED
/* The same: it is not what was opened. */
#define FF_CONTENT_CHANGED G_IO_ERROR_WRONG_ETAG
/* The same: its server answers, but others read all the time. */
#define FF_CONTENT_BUSY G_IO_ERROR_BUSY

/* Only what is known without a wait. */
#define FF_CONTENT_NOWAIT 1u

/* *LEN bytes from AT on, or fewer (*LEN; a multiple of PIECE, which AT and *LEN are as well):
 * either *ZERO, and BUF is as it was, or they are in BUF. FALSE and ERROR: they cannot be read.
 * FLAGS: with FF_CONTENT_NOWAIT all or nothing, and FALSE without an ERROR. */
bool ff_content_read(FfContentReader *r, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                     unsigned flags, bool *zero, GError **error);
/* For reads with FF_CONTENT_NOWAIT; this may wait. NULL: nothing of C is ever known without a wait
 * (another host, a compressed file, a file system that does not say), or it cannot be opened. */
FfContentReader *ff_content_nowait_reader(FfContent *c);

/* LEN bytes from AT on, as they are: whether they are zeros is nobody's question, nor whether C is
 * still what was opened. */
bool ff_content_read_bytes(FfContentReader *r, uint64_t at, void *buf, uint64_t len,
                           GError **error);
/* What R has read is of what was opened. FALSE and ERROR (FF_CONTENT_CHANGED): it is not, or nobody
 * can say. */
bool ff_content_check(FfContentReader *r, GError **error);
/* What R reads, for the parsers of saved guests. R outlives it. */
FfInput *ff_content_input(FfContentReader *r, GError **error);

/* ---- where it is stored ---------------------------------------------------------------------- */

/* Each of the N PLACES of the file becomes a place of the content. FALSE: one of them is not that
 * of a whole page (4 KiB) of it. */
bool ff_content_find(const FfContent *c, uint64_t *places, uint64_t n);
/* Is what is AT (a page) in a file, which is not compressed, and at its place *FILE? FALSE: it is
 * zeros. */
bool ff_content_place(FfContentReader *r, uint64_t at, uint64_t *file);
/* LEN bytes from AT on are zeros, as the same file has nothing there. */
bool ff_content_is_hole(FfContentReader *r, uint64_t at, uint64_t len);

#endif
