/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The working set of a saved guest: the pages that it needed first when it was restored, in that
 * order and compact, in a file of its own beside it (FILE.ws). It is worth only speed: what is not
 * known to be right is not used.
 *
 * Little-endian: the head; for each page its place in FILE; for each chunk of pages its sum; from
 * the next multiple of 4 KiB on the pages. Version 2 has runs of pages without data after them,
 * which are hints: FILE says what is there. A farfault that knows version 1 alone refuses it.
 */
#ifndef FF_CONTENT_IMAGE_WORKING_SET_H
#define FF_CONTENT_IMAGE_WORKING_SET_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define FF_WORKING_SET_PAGE 4096ull
/* Pages that have a sum together. */
#define FF_WORKING_SET_CHUNK 64
/* Of FILE's set: FILE.ws. */
#define FF_WORKING_SET_SUFFIX ".ws"
/* More is no working set. */
#define FF_WORKING_SET_MAX (1ull << 20)

/* Of which file it is. */
typedef struct {
    uint64_t size;
    int64_t mtime_ns;
    uint64_t digest; /* ff_saved_digest() */
} FfWorkingSetFile;

typedef struct {
    char magic[8];
    FfWorkingSetFile file;
    uint64_t n;        /* pages */
    uint64_t sum;      /* of the places and the sums */
    uint64_t head_sum; /* of all before it */
} FfWorkingSetHead;
_Static_assert(sizeof(FfWorkingSetHead) == 56, "as in the file");

/* After the pages: version 2. */
typedef struct {
    uint64_t n;   /* runs */
    uint64_t sum; /* of them */
} FfWorkingSetZeros;
_Static_assert(sizeof(FfWorkingSetZeros) == 16, "as in the file");

/* Pages that have no place in FILE, by their numbers in the memory that is saved there. */
typedef struct {
    uint64_t first, n;
} FfWorkingSetRun;
_Static_assert(sizeof(FfWorkingSetRun) == 16, "as in the file");

typedef struct {
    int fd;
    uint64_t n;       /* pages */
    uint64_t *places; /* [n]; bytes in FILE, not compared with it */
    uint64_t *sums;   /* of chunks */
    uint64_t at;      /* of the first page */
    uint64_t n_zeros; /* runs */
    FfWorkingSetRun *zeros;
} FfWorkingSet;

/* That of the file FD, which is FILE. NULL without an ERROR: there is none. NULL with one, one
 * line: it is damaged, of another file, or of somebody who may not write to FD. */
FfWorkingSet *ff_working_set_open(const char *path, int fd, const FfWorkingSetFile *file,
                                  GError **error);
/* The same of DATA, in a file of its own: for fuzzing. FD is taken. */
FfWorkingSet *ff_working_set_read(const char *name, int fd, const FfWorkingSetFile *file,
                                  GError **error);
void ff_working_set_free(FfWorkingSet *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfWorkingSet, ff_working_set_free)
/* DATA, the N bytes of CHUNK, are what was written. */
bool ff_working_set_is_right(const FfWorkingSet *w, uint64_t chunk, const void *data, size_t n);

/* Reads the pages of CHUNK to BUF, which has room for FF_WORKING_SET_CHUNK: how many, all of them
 * right; or 0 and ERROR. */
uint64_t ff_working_set_read_chunk(const FfWorkingSet *w, uint64_t chunk, void *buf,
                                   GError **error);

/* Writes one: N pages (at most FF_WORKING_SET_MAX) of FD, which is FILE, from PLACES. It has its
 * name when all of it is on the disk; one that is there already is removed before. N_ZEROS can be
 * 0. ERROR: FILE has changed; it cannot be written; what has its name is no working set. */
bool ff_working_set_write(const char *path, int fd, const FfWorkingSetFile *file,
                          const uint64_t *places, uint64_t n, const FfWorkingSetRun *zeros,
                          uint64_t n_zeros, GError **error);

#endif
