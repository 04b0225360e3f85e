/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager's part of a record: what a space consists of, in a form in which the next pager takes
 * it over. Two copies of the ranges, of which `applied` of the record names the valid one; and for
 * each page whether it was placed. What is never written costs no memory.
 *
 * One pager writes. The ranges: the fault thread of the space; bits: the threads that place.
 */
#ifndef FF_PAGER_SERVER_IMAGE_H
#define FF_PAGER_SERVER_IMAGE_H

#include <assert.h>

#include "content/source/content.h"
#include "pager/holder/space-record.h"
#include "uffd/space.h"

#define FF_IMAGE_BLOCKS 128
#define FF_IMAGE_RANGES 65536 /* as the mappings of a process, by default */
#define FF_IMAGE_UNMAPS 1024

typedef enum { FF_SHARING_UNKNOWN, FF_SHARING_PRIVATE, FF_SHARING_SHARED } FfSharing;

typedef struct {
    uint64_t size, page_size;
    uint64_t content; /* where its content begins in the source */
    uint64_t bits;    /* where its bits are in the image */
    uint32_t sharing; /* FfSharing: with children that the process forks */
    uint32_t reserved;
    /* Of a client whose memory is ours (FfDialect): */
    uint64_t gpa, file_offset;  /* guest-physical; in its memfd */
    FfContentIdentity identity; /* of its content */
} FfImageBlock;

typedef struct {
    uint64_t addr, len, offset;
    uint64_t block;
} FfImageRange;

typedef struct {
    uint64_t n_ranges, n_unmaps;
    FfImageRange range[FF_IMAGE_RANGES];
    struct {
        uint64_t start, end;
    } unmap[FF_IMAGE_UNMAPS];
} FfImageCopy;

/* Of a space and all pagers that it has had. Each atomic. */
typedef struct {
    uint64_t faults;               /* requests for pages, by somebody who waits */
    uint64_t demand, bulk;         /* pages that were placed for them, and for nobody */
    uint64_t zeros;                /* pages of those that were zeros */
    uint64_t data;                 /* bytes of those that were not */
    uint64_t given_back, unmapped; /* pages, by the process */
    uint64_t events, pagers;
    uint64_t demand_us, demand_us_max; /* from a request to its page */
    uint64_t set, set_used;            /* pages of its working set; of those: placed from it */
} FfImageCounts;

/* What a dialect (server/dialects/) keeps of a client for the next pager, and for its children. */
typedef union {
    struct {
        int32_t pid;             /* whose images */
        FfInputStamp pagemap;    /* of its images */
        FfContentIdentity pages; /* the same */
    } criu;
    struct {
        uint32_t begun; /* its memory was found empty when it asked for the first time */
    } cloud_hypervisor;
} FfImageOwn;

typedef struct {
    uint64_t size; /* of all this, bytes */
    uint32_t n_blocks, reserved;
    uint64_t features; /* of the userfaultfd */
    FfImageCounts counts;
    FfImageOwn own;
    FfImageBlock block[FF_IMAGE_BLOCKS];
    FfImageCopy copy[2];
} FfImage;
static_assert(sizeof(FfImageRange) == 32 && sizeof(FfImage) % 8 == 0, "bits follow, as words");

/* Makes it in MEMFD, where BLOCKS need only size, page_size, content, sharing. NULL and errno. */
FfImage *ff_image_create(int memfd, const FfImageBlock *blocks, unsigned n);
/* The one that is there. NULL and errno. */
FfImage *ff_image_map(int memfd);
void ff_image_unmap(FfImage *image);
uint64_t *ff_image_bits(FfImage *image, unsigned block);

/* The ranges of SPACE are those that a new image begins with. FALSE: as below. */
bool ff_image_begin(FfImage *image, const FfSpace *space);
/* The state of SPACE after event SEQ is the valid one from now on. FALSE: it has too many ranges,
 * and nothing has changed. */
bool ff_image_store(FfImage *image, FfSpaceRecord *rec, const FfSpace *space, uint64_t seq);
/* Blocks, bits and ranges into the new SPACE. 0 or -errno. */
int ff_image_load(FfImage *image, const FfSpaceRecord *rec, FfSpace *space);

#define ff_image_count(image, what, n)                                                             \
    __atomic_fetch_add(&(image)->counts.what, (n), __ATOMIC_RELAXED)

#endif
