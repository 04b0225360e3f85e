/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the pager of files: the object, and what its files share. Threads and locks are those of
 * file.c.
 */
#ifndef FF_CONTENT_PAGERS_FILE_INTERNAL_H
#define FF_CONTENT_PAGERS_FILE_INTERNAL_H

#include "base/sync.h"
#include "content/pagers/file-types.h"
#include "uffd/bitmap.h"

#define FAULT_THREADS 2
#define FILL_THREADS 8
#define CALM_FILL_THREADS 2 /* of them; the others only fill in a hurry */
#define RING 256

typedef struct {
    FfFileBlock file;
    FfBitmap data;              /* over file.data */
    FfBitmap wanted;            /* by page of the space: requested, and not taken by a thread */
    FfBitmap parked;            /* ring_lock; of those: not in the ring until a read ends */
    uint64_t n_pages, per_page; /* pages of the space; of the file in one */
} FfFilePagerBlock;

typedef struct {
    unsigned block;
    uint64_t page;
} Request;

/* Requests, all of pages with data or all of zeros. */
typedef struct {
    FfCond asked;
    Request ring[RING]; /* ring_lock */
    unsigned head, n;   /* ring_lock */
    bool overflow;      /* ring_lock; some are in `wanted` alone */
} FfFileQueue;

/* A thread that reads, as its own functions see it. */
typedef struct {
    FfFilePager *p; /* not after -ECANCELED */
    FfReader *reader;
    FfReaderFile *file; /* borrowed from the pager; NULL: .read reads */
    FfRun *reading;     /* its own of those of the pager; NULL: it fills */
    uint64_t *filling;  /* the same; NULL: it answers faults */
} FfFileWorker;

struct FfFilePager {
    FfPager pager; /* first */
    FfFilePagerConfig cfg;
    FfFilePagerBlock *blocks;
    size_t buf_len;
    uint64_t page_max; /* pages of the file in the largest page */
    uint64_t fill_bytes;
    FfReaderFile *content; /* NULL: not started, or .read reads */
    FfReader *fault[FAULT_THREADS], *fill[FILL_THREADS], *zero; /* this one reads nothing */
    gint broken; /* atomic; reading has failed, and it was said, or it pauses. Observers: the
                    fill */
    gint ends;   /* atomic; all threads must end. Observers: they */
    FfFileCounts counts; /* each atomic */

    FfMutex ring_lock;
    FfFileQueue data, zeros;
    FfRun reading[FAULT_THREADS];   /* ring_lock; for faults, each by one thread; n 0: nothing */
    uint64_t filling[FILL_THREADS]; /* atomic; in which piece each thread reads just now; 0: in
                                       none. Observers: those that answer faults */
    gint n_reading, n_filling;      /* atomic; those that belong to a thread */

    uint64_t *record;            /* ring_lock; [cfg.record] places of faults */
    uint64_t n_record, n_places; /* ring_lock; how many there are; there is room for */

    FfMutex huge_lock; /* held while huge pages are placed */

    FfReaderFile *first_file; /* NULL: none */
    gint first_useless;       /* atomic; it was said. Observers: the fill */

    FfMutex cursor_lock;
    FfCond fill_asked;
    bool fills;        /* cursor_lock; not FfFileFirst alone */
    bool hurries;      /* cursor_lock; with all threads */
    uint64_t at_first; /* cursor_lock; chunk of it */
    unsigned at_block; /* cursor_lock */
    uint64_t at_page;  /* cursor_lock */
};

/* file-queue.c. FfPager */
int ff_file_request(FfPager *pager, const FfRun *runs, unsigned n);
/* The next request: PAGE, and what is to be read with it. W does not read any more what it took
 * before. FALSE: the end. */
bool ff_file_take(FfFileWorker *w, FfRun *window, FfRun *page);
/* W, which has taken something, reads RUN of it alone. */
void ff_file_reads(FfFileWorker *w, const FfRun *run);
/* The same of zeros, for which nothing is read. */
bool ff_file_take_zeros(FfFilePager *p, FfRun *page);
/* So many pages are read together by the fill, at most, and those from a multiple of it on. */
uint64_t ff_file_fill_pages(const FfFilePager *p, unsigned block);
/* W fills, and reads RUN; has ended. */
void ff_file_fill_begins(FfFileWorker *w, const FfRun *run);
void ff_file_fill_ends(FfFileWorker *w);
void ff_file_queues_init(FfFilePager *p);
/* A thread that waits for a request ends. */
void ff_file_queues_end(FfFilePager *p);
/* No thread runs: all requests are forgotten. */
void ff_file_queues_empty(FfFilePager *p);
void ff_file_queues_clear(FfFilePager *p);

/* file-read.c: [AT, AT + N) of F into TO, which is in R's buffer. R is in a hurry: somebody waits.
 * UNTIL: what a server has not answered by then is no more waited for (0: see content.h). 0;
 * -errno, as FfFileError has it; -ENOTCONN: there is no server just now; -EBUSY: others had
 * it all the time; -ECANCELED: R was left behind. */
int ff_file_read(FfReader *r, FfReaderFile *f, bool hurry, int64_t until, uint64_t at, uint8_t *to,
                 size_t n);
/* What R has read from F is of what was opened: the same. */
int ff_file_read_is_right(FfReader *r, FfReaderFile *f);
/* Of the last of those that has failed, of this thread; NULL: none has. */
const char *ff_file_read_error(void);

/* file-place.c */
bool ff_file_has_data(const FfFilePagerBlock *b, uint64_t page);
void ff_file_count(uint64_t *n, uint64_t more);
/* Places DATA where RUN is missing. *SOME: what it has come to. 0 or -errno. */
int ff_file_place_missing(FfFilePager *p, const FfRun *run, const uint8_t *data, FfRun *some);
void ff_file_cannot_place(FfFilePager *p, const FfRun *run, int rc);

/* file-first.c: NULL: it cannot be read, which was said. */
FfReaderFile *ff_file_first_open(const FfFileFirst *first);
/* Of it the next chunk, pages [FIRST, END), that has one which is missing.
 * FALSE: none. */
bool ff_file_first_next(FfFilePager *p, uint64_t *first, uint64_t *end);
/* Reads it, and places what is missing. FALSE: W ends. */
bool ff_file_first_bring(FfFileWorker *w, uint64_t first, uint64_t end);

#endif
