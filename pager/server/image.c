/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The pager's part of a record; see image.h for the threads. System calls: ftruncate, fstat, mmap,
 * munmap. */
#include "pager/server/image.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "uffd/bitmap.h"

static FfImage *map_image(int memfd, uint64_t size)
{
    FfImage *image =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, (off_t)FF_SPACE_RECORD_SIZE);

    return image == MAP_FAILED ? NULL : image;
}

FfImage *ff_image_create(int memfd, const FfImageBlock *blocks, unsigned n)
{
    uint64_t size = sizeof(FfImage);

    if (!n || n > FF_IMAGE_BLOCKS) {
        errno = E2BIG;
        return NULL;
    }
    for (unsigned i = 0; i < n; i++) {
        size += ff_bitmap_words(blocks[i].size / blocks[i].page_size) * sizeof(uint64_t);
    }
    /* An earlier pager may have died in the middle of this, with the same blocks. */
    if (ftruncate(memfd, (off_t)(FF_SPACE_RECORD_SIZE + size)) < 0) {
        return NULL;
    }
    FfImage *image = map_image(memfd, size);
    if (!image) {
        return NULL;
    }
    image->size = size;
    image->n_blocks = n;
    uint64_t at = sizeof(FfImage);
    for (unsigned i = 0; i < n; i++) {
        image->block[i] = blocks[i];
        image->block[i].bits = at;
        at += ff_bitmap_words(blocks[i].size / blocks[i].page_size) * sizeof(uint64_t);
    }
    return image;
}

FfImage *ff_image_map(int memfd)
{
    struct stat st;

    if (fstat(memfd, &st) < 0) {
        return NULL;
    }
    if (st.st_size < (off_t)(FF_SPACE_RECORD_SIZE + sizeof(FfImage))) {
        errno = EINVAL;
        return NULL;
    }
    FfImage *image = map_image(memfd, st.st_size - FF_SPACE_RECORD_SIZE);
    if (image && image->size != st.st_size - FF_SPACE_RECORD_SIZE) {
        munmap(image, st.st_size - FF_SPACE_RECORD_SIZE);
        errno = EINVAL;
        return NULL;
    }
    return image;
}

void ff_image_unmap(FfImage *image)
{
    munmap(image, image->size);
}

uint64_t *ff_image_bits(FfImage *image, unsigned block)
{
    return (uint64_t *)((char *)image + image->block[block].bits);
}

typedef struct {
    FfImageCopy *copy;
    bool too_many;
} Store;

static void store_range(unsigned block, uint64_t addr, uint64_t len, uint64_t offset, void *opaque)
{
    Store *s = opaque;

    if (s->copy->n_ranges == FF_IMAGE_RANGES) {
        s->too_many = true;
        return;
    }
    s->copy->range[s->copy->n_ranges++] = (FfImageRange){addr, len, offset, block};
}

static void store_unmap(uint64_t start, uint64_t end, void *opaque)
{
    Store *s = opaque;

    if (s->copy->n_unmaps == FF_IMAGE_UNMAPS) {
        s->too_many = true;
        return;
    }
    s->copy->unmap[s->copy->n_unmaps].start = start;
    s->copy->unmap[s->copy->n_unmaps++].end = end;
}

static bool store_space(FfImageCopy *copy, const FfSpace *space)
{
    Store s = {.copy = copy};

    copy->n_ranges = copy->n_unmaps = 0;
    ff_space_each_range(space, store_range, &s);
    ff_space_each_expected(space, store_unmap, &s);
    return !s.too_many;
}

bool ff_image_begin(FfImage *image, const FfSpace *space)
{
    return store_space(&image->copy[0], space);
}

bool ff_image_store(FfImage *image, FfSpaceRecord *rec, const FfSpace *space, uint64_t seq)
{
    uint64_t other = (rec->applied & 1) ^ 1;

    if (!store_space(&image->copy[other], space)) {
        return false;
    }
    FF_FAULT_AT("event-stored");
    /* Observers: the holder, and the next pager, which sees the copy with it. */
    __atomic_store_n(&rec->applied, seq << 1 | other, __ATOMIC_RELEASE);
    FF_FAULT_AT("event-applied");
    return true;
}

static FfBacking backing_of(const FfImageBlock *b)
{
    return (FfBacking){b->page_size > 4096               ? FF_BACKING_HUGETLB
                       : b->sharing == FF_SHARING_SHARED ? FF_BACKING_SHARED
                                                         : FF_BACKING_PRIVATE,
                       -1, b->size, b->page_size};
}

int ff_image_load(FfImage *image, const FfSpaceRecord *rec, FfSpace *space)
{
    const FfImageCopy *copy = &image->copy[rec->applied & 1];

    for (unsigned i = 0; i < image->n_blocks; i++) {
        FfBacking b = backing_of(&image->block[i]);
        int rc = ff_space_add_block(space, &b, ff_image_bits(image, i));
        if (rc < 0) {
            return rc;
        }
    }
    for (uint64_t i = 0; i < copy->n_ranges; i++) {
        const FfImageRange *r = &copy->range[i];
        int rc = ff_space_add_range(space, r->addr, r->len, r->block, r->offset);
        if (rc < 0) {
            return rc;
        }
    }
    for (uint64_t i = 0; i < copy->n_unmaps; i++) {
        ff_space_expect_unmap(space, copy->unmap[i].start, copy->unmap[i].end);
    }
    return 0;
}
