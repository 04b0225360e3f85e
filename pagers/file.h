/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pager whose content is in a file: each page of a block stands there at its own place, or is
 * zeros. Threads of its own answer who waits, others fill what nobody has asked for.
 *
 * A page that cannot be read stays missing, and who waits for it waits: never zeros. The same goes
 * for a file that has changed since it was opened.
 *
 * Made, started and stopped by one thread. The fault thread asks: no allocation, no disk, no lock
 * that anybody holds while he reads.
 */
#ifndef FF_PAGERS_FILE_H
#define FF_PAGERS_FILE_H

#include <glib.h>
#include <stdbool.h>

#include "pagers/reader.h"
#include "uffd/pager.h"
#include "uffd/space.h"

/* Pages of the file, whatever those of the memory are. */
#define FF_FILE_PAGE 4096ull

typedef struct FfFilePager FfFilePager;

/* A block of the space. */
typedef struct {
    uint64_t at;          /* of its page 0 in the file, bytes */
    uint64_t n_pages;     /* of FF_FILE_PAGE */
    uint64_t page_size;   /* of the block, bytes */
    const uint64_t *data; /* borrowed; a bit for each of them: it stands in the file, else it is
                             zeros */
} FfFileBlock;

/* The first thing that went wrong since ff_file_pager_start(). */
typedef struct {
    int error;   /* errno; ESTALE: the file was changed; ENODATA: it was cut; what READ says */
    uint64_t at; /* in the file, bytes */
    bool waits;  /* somebody waits for that page */
} FfFileError;

/* Counted by all threads; any thread may look. */
typedef struct {
    uint64_t faults;      /* requests that were read for */
    uint64_t zeros;       /* requests that needed no reading */
    uint64_t fault_bytes; /* read for them */
    uint64_t fill_bytes;
} FfFileCounts;

typedef struct {
    FfSpace *space;            /* borrowed */
    const FfFileBlock *blocks; /* of the space, in its order; copied */
    unsigned n_blocks;
    unsigned window; /* pages of the file that are read for a fault, at most; a power of 2 */
    void (*thread_begins)(void); /* of those that answer faults; can be NULL */
    /* Places zeros where nobody waits; 0 or -errno. NULL: ff_place_zero(). */
    int (*zero)(const FfRun *run, void *opaque);
    /* Reads N pages of the file, from FIRST of a block on, of which some stand there, in place of
     * the pager, which then needs no file: 0, or -errno with the place in *AT. Any thread of the
     * pager. NULL: the pager reads. */
    int (*read)(unsigned block, uint64_t first, uint64_t n, uint8_t *to, uint64_t *at,
                void *opaque);
    unsigned fill; /* with READ: bytes that the fill reads together; a multiple of pages */
    /* Reading failed: nothing is filled any more until ff_file_pager_start(); faults that can be
     * answered are. Called once. Any thread of the pager. */
    void (*failed)(const FfFileError *e, void *opaque);
    /* RUN cannot be placed: -errno. Any thread of the pager. */
    void (*cannot_place)(const FfRun *run, int rc, void *opaque);
    void *opaque;
} FfFilePagerConfig;

FfFilePager *ff_file_pager_new(const FfFilePagerConfig *cfg);
/* After ff_file_pager_stop(), and when no fault thread asks any more. P can be NULL. */
void ff_file_pager_free(FfFilePager *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfFilePager, ff_file_pager_free)

/* For ff_space_set_pager(). */
FfPager *ff_file_pager_pager(FfFilePager *p);
/* The pages are read by URGENT, for who waits, and by FILL: two descriptions of one file, both
 * taken, which was ID when it was opened first (with FfFilePagerConfig.read: -1, -1, NULL). Faults
 * are answered from now on. */
void ff_file_pager_start(FfFilePager *p, int urgent, int fill, const FfFileId *id);
/* Begins to fill what nobody has asked for. After start. */
void ff_file_pager_fill(FfFilePager *p);
/* Nothing is filled any more, nor any failure told, until the next start; who waits is answered. */
void ff_file_pager_pause(FfFilePager *p);
/* Ends the threads, and closes the file. A thread whose read does not come back is left behind, and
 * touches nothing of the pager nor of the space any more. Requests that were not answered are
 * forgotten: before the next start ff_faults_stop(), and ff_faults_again() for who still waits. */
void ff_file_pager_stop(FfFilePager *p);
FfFileCounts ff_file_pager_counts(const FfFilePager *p);

#endif
