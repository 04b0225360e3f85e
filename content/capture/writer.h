/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes the memory that is protected (uffd/protect.h) into a file, each page at its place, while
 * the process that has it runs: what it held when it was armed. Pages of zeros are not written, so
 * the file must read as zeros there.
 *
 * One thread, by ff_writer_run(); ff_writer_wake(), ff_writer_cancel() and what else says so from
 * any. The owner lifts what is left (ff_protect_free()) and decides what becomes of the file.
 */
#ifndef FF_CONTENT_CAPTURE_WRITER_H
#define FF_CONTENT_CAPTURE_WRITER_H

#include "content/capture/writer-io.h"
#include "uffd/backing.h"
#include "uffd/bitmap.h"
#include "uffd/protect.h"

/* A block of the space. */
typedef struct {
    FfBacking backing;
    /* All of it, shared, never written to; of FF_BACKING_SHARED alone, and of a file that nobody
     * makes shorter. NULL: it is read. */
    const void *map;
    uint64_t file_offset; /* of its first page in the file; multiple of 4096 */
} FfWriterBlock;

typedef struct {
    FfProtect *protect;
    int fd; /* regular file, open for writing; borrowed. Its O_DIRECT is changed */
    const FfWriterBlock *blocks;
    unsigned n_blocks;
    FfWriterWay way; /* the best that may be used */
    unsigned depth;  /* runs in flight; 0: 16 */
} FfWriterConfig;

typedef struct {
    uint64_t bytes, runs; /* written */
    uint64_t zeros;       /* pages that were not, as they hold nothing else */
    uint64_t again;       /* pages that were in flight when somebody wanted them */
    FfWriterWay way;      /* in the end */
} FfWriterStats;

typedef struct FfWriter FfWriter;

/* 0; -errno. */
int ff_writer_new(const FfWriterConfig *cfg, FfWriter **result);
void ff_writer_free(FfWriter *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfWriter, ff_writer_free)

/* Writes until nothing is left. Nothing is in flight afterwards. 0; -ECANCELED; -errno: of the
 * disk, or of memory that cannot be read. What ff_protect_lost() counts is zeros in the file. */
int ff_writer_run(FfWriter *w);
/* There may be something to do: FfPager.written, full, removed, and FfSpaceOps.failed say so. Never
 * waits. */
void ff_writer_wake(FfWriter *w);
/* ff_writer_run() ends when what is in flight has been written. */
void ff_writer_cancel(FfWriter *w);
/* 0: no limit, as at the beginning. A page that somebody waits for is written at once. Any thread.
 */
void ff_writer_set_bandwidth(FfWriter *w, uint64_t bytes_per_second);
/* After ff_writer_run(): the pages of BLOCK that the file has, the others are zero. */
const FfBitmap *ff_writer_data(const FfWriter *w, unsigned block);
/* Any thread. */
FfWriterStats ff_writer_stats(const FfWriter *w);

#endif
