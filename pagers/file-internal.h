/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the pager of files: the object, and what file.c and file-first.c share. Threads and locks
 * are those of file.c.
 */
#ifndef FF_PAGERS_FILE_INTERNAL_H
#define FF_PAGERS_FILE_INTERNAL_H

#include "net/sync.h"
#include "pagers/file-types.h"
#include "uffd/bitmap.h"

#define FAULT_THREADS 2
#define FILL_THREADS 2
#define RING 256

typedef struct {
    FfFileBlock file;
    FfBitmap data;              /* over file.data */
    FfBitmap wanted;            /* by page of the space: requested, and not taken by a thread */
    uint64_t n_pages, per_page; /* pages of the space; of the file in one */
} FfFilePagerBlock;

typedef struct {
    unsigned block;
    uint64_t page;
} Request;

/* A thread, as its own functions see it. */
typedef struct {
    FfFilePager *p; /* not after -ECANCELED */
    FfReader *reader;
    FfReaderFile *file; /* borrowed from the pager */
} FfFileWorker;

struct FfFilePager {
    FfPager pager; /* first */
    FfFilePagerConfig cfg;
    FfFilePagerBlock *blocks;
    size_t buf_len;
    uint64_t page_max; /* pages of the file in the largest page */
    uint64_t fill_bytes;
    FfReaderFile *urgent_file, *fill_file; /* NULL: not started, or .read reads */
    FfFileId id;
    FfReader *fault[FAULT_THREADS], *fill[FILL_THREADS];
    gint broken; /* atomic; reading has failed, and it was said, or it pauses. Observers: the
                    fill */
    gint ends;   /* atomic; all threads are to end. Observers: they */
    FfFileCounts counts; /* each atomic */

    FfMutex ring_lock;
    FfCond asked;
    Request ring[RING]; /* ring_lock */
    unsigned head, n;   /* ring_lock */
    bool overflow;      /* ring_lock; some are in `wanted` alone */

    uint64_t *record;            /* ring_lock; [cfg.record] places of faults */
    uint64_t n_record, n_places; /* ring_lock; how many there are; there is room for */

    FfMutex huge_lock; /* held while huge pages are placed */

    FfReaderFile *first_file; /* NULL: none */
    gint first_useless;       /* atomic; it was said. Observers: the fill */

    FfMutex cursor_lock;
    FfCond filling;
    bool fills;        /* cursor_lock; not FfFileFirst alone */
    uint64_t at_first; /* cursor_lock; chunk of it */
    unsigned at_block; /* cursor_lock */
    uint64_t at_page;  /* cursor_lock */
};

/* file-place.c */
void ff_file_count(uint64_t *n, uint64_t more);
/* Places DATA where RUN is missing. *SOME: what it has come to. 0 or -errno. */
int ff_file_place_missing(FfFilePager *p, const FfRun *run, const uint8_t *data, FfRun *some);
void ff_file_cannot_place(FfFilePager *p, const FfRun *run, int rc);

/* file-first.c: of FfFileFirst the next chunk, pages [FIRST, END), that has one which is missing.
 * FALSE: none. */
bool ff_file_first_next(FfFilePager *p, uint64_t *first, uint64_t *end);
/* Reads it, and places what is missing. FALSE: W ends. */
bool ff_file_first_bring(FfFileWorker *w, uint64_t first, uint64_t end);

#endif
