/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a pager over content is told, and tells; file.h. */
#ifndef FF_CONTENT_PAGERS_FILE_TYPES_H
#define FF_CONTENT_PAGERS_FILE_TYPES_H

#include <glib.h>
#include <stdbool.h>

#include "content/pagers/reader.h"
#include "content/source/content.h"
#include "uffd/pager.h"
#include "uffd/space.h"

/* Pages of the file, whatever those of the memory are. */
#define FF_FILE_PAGE 4096ull

/* For so long a server that does not answer is waited for, before FfFilePagerConfig.failed. */
#define FF_FILE_PATIENCE_US (30 * G_USEC_PER_SEC)

typedef struct FfFilePager FfFilePager;

/* A block of the space. */
typedef struct {
    uint64_t at;          /* of its page 0 in the content, bytes */
    uint64_t n_pages;     /* of FF_FILE_PAGE */
    uint64_t page_size;   /* of the block, bytes */
    const uint64_t *data; /* borrowed; a bit for each of them: it stands in the file, else it is
                             zeros */
} FfFileBlock;

/* The first thing that went wrong since ff_file_pager_start(). */
typedef struct {
    int error;       /* errno; ESTALE: it was changed; ENODATA: it was cut; EBADMSG: it cannot be
                        unpacked; ENOTCONN: its server is gone; what READ says */
    uint64_t at;     /* in the content, bytes */
    bool waits;      /* somebody waits for that page */
    const char *why; /* the content's own words, during the call; NULL: it has none */
} FfFileError;

/* Pages that the fill brings before all others, in this order, from a file of their own. Of blocks
 * with large pages there are none. */
typedef struct {
    int fd;                 /* taken by ff_file_pager_new(); -1: there are none */
    uint64_t at, n;         /* page 0 in it, bytes; how many there are */
    const uint64_t *places; /* [n] in the file of the pager, bytes; borrowed */
    unsigned chunk;         /* so many are read together */
    /* The N bytes of CHUNK are right. */
    bool (*is_right)(uint64_t chunk, const void *data, size_t n, void *opaque);
    /* It is used no more: -errno; -EBADMSG: it is wrong. Called once; any thread of the pager. */
    void (*useless)(int rc, void *opaque);
    void *opaque;
} FfFileFirst;

/* Counted by all threads; any thread may look. */
typedef struct {
    uint64_t faults;      /* requests that were read for */
    uint64_t zeros;       /* requests that needed no reading */
    uint64_t fault_bytes; /* read for them */
    uint64_t fill_bytes;
    uint64_t first_bytes; /* read from FfFileFirst */
    uint64_t first_pages; /* of it that were placed: nobody had needed them before */
} FfFileCounts;

typedef struct {
    FfSpace *space;            /* borrowed */
    const FfFileBlock *blocks; /* of the space, in its order; copied */
    unsigned n_blocks;
    unsigned window; /* pages of the file that are read for a fault, at most; a power of 2 */
    FfFileFirst first;
    uint64_t record;             /* places of so many faults are kept, at most */
    void (*thread_begins)(void); /* of those that answer faults; can be NULL */
    /* Places zeros where nobody waits; 0 or -errno. NULL: ff_place_zero(). */
    int (*zero)(const FfRun *run, void *opaque);
    /* Reads N pages of the file, from FIRST of a block on, of which some stand there, in place of
     * the pager, which then needs no file: 0, or -errno with the place in *AT. Any thread of the
     * pager, which is R: what may not come back stands between ff_reader_enter() and
     * ff_reader_leave(), and after -ECANCELED, which is returned, OPAQUE may be gone. NULL: the
     * pager reads. */
    int (*read)(FfReader *r, unsigned block, uint64_t first, uint64_t n, uint8_t *to, uint64_t *at,
                void *opaque);
    unsigned fill; /* of READ, and of compressed content: so many bytes, a multiple of pages, are
                      read as a whole; 0: any */
    /* Reading failed: nothing is filled any more until ff_file_pager_start(); faults that can be
     * answered are. Called once. Any thread of the pager. */
    void (*failed)(const FfFileError *e, void *opaque);
    /* RUN cannot be placed: -errno. Any thread of the pager. */
    void (*cannot_place)(const FfRun *run, int rc, void *opaque);
    void *opaque;
} FfFilePagerConfig;

#endif
