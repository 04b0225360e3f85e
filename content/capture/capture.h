/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory of another process as it is at one instant, while the process runs: registered and
 * protected ahead of it, armed at it, written to a file after it. It knows nothing of devices, of
 * monitors, or of the rest of the file.
 *
 * The calls come in the order in which they stand here, from one thread, which may wait in each of
 * them; cancel and bandwidth from any, until ff_capture_end(). The fault thread is the capture's
 * own.
 */
#ifndef FF_CONTENT_CAPTURE_CAPTURE_H
#define FF_CONTENT_CAPTURE_CAPTURE_H

#include <glib.h>
#include <stdbool.h>

#include "content/capture/writer-io.h"
#include "content/image/output.h"
#include "uffd/backing.h"
#include "uffd/bitmap.h"
#include "uffd/callers.h"
#include "uffd/regions.h"
#include "uffd/run.h"

typedef struct {
    const char *name; /* for errors */
    FfBacking backing;
    const void *map; /* as FfWriterBlock.map */
} FfCaptureBlock;

/* Parts of errors. */
typedef struct {
    const char *memory;     /* what it is: "guest RAM" */
    const char *busy;       /* why another userfaultfd may have it; what to do */
    const char *needs;      /* what is missing where it cannot be protected */
    const char *given_back; /* "%" PRIu64 " " and then this: of pages that are lost */
} FfCaptureWords;

typedef struct {
    int uffd;       /* for protection alone, after UFFDIO_API; borrowed */
    int maps_fd;    /* of the process; borrowed */
    int pagemap_fd; /* likewise */
    int pidfd;      /* likewise; -1: huge mappings are not made again */
    const FfCaptureBlock *blocks;
    unsigned n_blocks;
    /* What of the blocks is where; FfRegion.file is the block. NULL: all of each, which is looked
     * for in maps_fd. */
    const FfRegion *ranges;
    unsigned n_ranges;
    uint64_t features;           /* that the userfaultfd has; 0: FF_UFFD_PROTECTION */
    const FfCaptureWords *words; /* static; NULL: those of a guest */
    uint64_t buffer;             /* bytes, as of ff_protect_new() */
    FfCallers *callers;          /* as in FfSpaceConfig; borrowed; can be NULL */
    void (*fault_thread)(void);  /* called by the fault thread when it begins; can be NULL */
    bool *stuck; /* can be NULL; set where there is no capture: ff_capture_end() would be FALSE */
    bool stands; /* nobody has a reason to write from ff_capture_arm() until ff_capture_stood() */
} FfCaptureConfig;

#define FF_CAPTURE_BUCKETS 32

/* Pages of all sizes count as one. */
typedef struct {
    uint64_t pages, left;       /* of the memory; of them that nobody has saved yet */
    uint64_t faults;            /* writes to protected pages after the instant */
    uint64_t waited;            /* of them that had to wait for room in the buffer, or the disk */
    unsigned slots, free_slots; /* of the buffer, pages */
    /* How long a write took to be answered, but for those that waited: [i] counts [2^i, 2^(i+1))
     * microseconds, [0] below 2. */
    uint64_t latency[FF_CAPTURE_BUCKETS];
    uint64_t latency_p99_us;      /* ff_protect_latency_p99() */
    unsigned passes;              /* before the instant */
    uint64_t prepared_last;       /* pages, of the last of them */
    uint64_t arm_us;              /* that arming took, with the process standing */
    uint64_t bytes, zeros, again; /* FfWriterStats; known at the end */
    FfWriterWay way;              /* likewise */
} FfCaptureStats;

typedef struct FfCapture FfCapture;

/* Registers the memory; from now on faults are answered. ERROR (G_IO_ERROR, one line). */
FfCapture *ff_capture_new(const FfCaptureConfig *cfg, GError **error);
/* Protects what is not protected, again and again, until little is left for ff_capture_arm(). The
 * process runs. */
bool ff_capture_prepare(FfCapture *c, GError **error);
/* The same once more, for what was written since: right before the process is stopped, if it takes
 * long to come to that. */
bool ff_capture_prepare_again(FfCapture *c, GError **error);
/* The instant: nobody writes to the memory from before this call until ff_capture_stood(). With
 * .stands a thread that does all the same never waits, and is noticed. */
bool ff_capture_arm(FfCapture *c, GError **error);
/* With .stands: from now on everybody may write. FALSE and ERROR: somebody has written before. */
bool ff_capture_stood(FfCapture *c, GError **error);
/* Just after it: the next run at or after RUN's first page of what was unmapped since
 * ff_capture_new(), and of which there is nothing to save. FALSE: there is none. */
bool ff_capture_next_gap(const FfCapture *c, FfRun *run);
/* Writes the memory to FD (regular file, open for writing; borrowed), page 0 of block i at byte
 * PLACES[i] (multiple of 4096; modulo 2^64 where the ranges have not the block's first pages).
 * Returns when all of it is there. ERROR: G_IO_ERROR_CANCELLED; the
 * disk; the process gave memory back. WAY: the best that may be used. */
bool ff_capture_write(FfCapture *c, int fd, const uint64_t *places, FfWriterWay way,
                      GError **error);
/* The same in a row: each page of 4096 bytes once, in any order. BYTES NULL: zeros. FALSE and
 * ERROR: enough. */
typedef bool FfCapturePut(void *opaque, unsigned block, uint64_t page, const uint8_t *bytes,
                          GError **error);
bool ff_capture_stream(FfCapture *c, FfCapturePut *put, void *opaque, GError **error);
/* To somebody who wants some pages at once, and those that somebody writes to in time; the others
 * stay where they are. */
typedef struct {
    /* A page that is waited for; it is asked for again until it was put. FALSE: none. */
    bool (*next)(void *opaque, FfRun *page);
    /* RUN holds DATA, once for each page. FALSE and ERROR: enough. */
    bool (*put)(void *opaque, const FfRun *run, const void *data, GError **error);
    /* Nobody wants anything any more. */
    bool (*is_over)(void *opaque);
} FfCaptureTaker;
/* Returns when it is over, and all that was kept by then is no more than dropped. */
bool ff_capture_serve(FfCapture *c, const FfCaptureTaker *taker, void *opaque, GError **error);
/* Any thread: there may be something to do for ff_capture_serve(). */
void ff_capture_wake(FfCapture *c);
/* After ff_capture_write(): the pages of BLOCK that the file has, the others are zero. */
const FfBitmap *ff_capture_data(const FfCapture *c, unsigned block);
/* Lets every thread that waits continue, takes the memory out of the userfaultfd, and ends the
 * fault thread. At any time after ff_capture_new(), once. FALSE: something could not be taken out,
 * and the userfaultfd must be closed. */
bool ff_capture_end(FfCapture *c);
/* After ff_capture_end(). Can be NULL. */
void ff_capture_free(FfCapture *c);

/* Any thread, until ff_capture_end(): what is being done ends soon. A thread that writes to the
 * memory continues at once, however long the disk takes. */
void ff_capture_cancel(FfCapture *c);
void ff_capture_set_bandwidth(FfCapture *c, uint64_t bytes_per_second); /* 0: no limit */
/* Also after it, of the caller's thread; then without what the buffer says. */
FfCaptureStats ff_capture_stats(FfCapture *c);

#endif
