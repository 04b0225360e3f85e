/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest RAM: which blocks, mapped where, how much of it is done. See ram.h for the threads.
 * System calls: mmap, munmap, madvise.
 */
#include "migration/common/ram.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/failpoints.h"
#include "migration/common/stats.h"

bool ff_ram_set_blocks(FfRam *ram, FfControl *control, GPtrArray *blocks, GError **error)
{
    if (blocks->len == 0 || blocks->len > FF_MAX_BLOCKS) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the guest has %u blocks of RAM that farfault can move, expected 1 to %u",
                    blocks->len, FF_MAX_BLOCKS);
        return false;
    }
    g_autofree FfFrameBlock *fb = g_new0(FfFrameBlock, blocks->len);
    uint64_t pages = 0, bytes = 0;
    for (unsigned i = 0; i < blocks->len; i++) {
        const FfRamBlock *b = blocks->pdata[i];
        if (b->page_size > FF_FRAME_MAX_DATA || b->size % b->page_size) {
            g_set_error(error, FF_M_ERROR, 0,
                        "memory backend '%s' has pages of %" G_GUINT64_FORMAT
                        " bytes: farfault moves pages of up to 2 MiB, use smaller hugepages",
                        b->id, b->page_size);
            return false;
        }
        fb[i] = (FfFrameBlock){b->size, b->page_size};
        pages += b->size / b->page_size;
        bytes += b->size;
    }
    /* Published whole: the driver looks at the totals at any time. */
    ff_mutex_lock(&control->lock);
    ram->n_blocks = blocks->len;
    ram->blocks = g_new0(FfBlock, ram->n_blocks);
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        ram->blocks[i].info = *(FfRamBlock *)blocks->pdata[i];
        ram->blocks[i].info.id = g_strdup(ram->blocks[i].info.id);
        ram->blocks[i].n_pages = fb[i].size / fb[i].page_size;
    }
    ram->frame_blocks = g_steal_pointer(&fb);
    ram->total_pages = pages;
    ram->total_bytes = bytes;
    ff_mutex_unlock(&control->lock);
    return true;
}

bool ff_ram_map(FfRam *ram, GError **error)
{
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        FfBlock *b = &ram->blocks[i];
        if (b->map) {
            continue; /* of an attempt that has failed */
        }
        /* Huge pages that the guest gave back may be another's: none is asked for. */
        void *p = FF_FAULT_MAP("map-ram", mmap(NULL, b->info.size, PROT_READ,
                                               MAP_SHARED | MAP_NORESERVE, b->info.memfd, 0));
        if (p == MAP_FAILED) {
            g_set_error(error, FF_M_ERROR, 0, "guest RAM '%s' cannot be mapped: %s", b->info.id,
                        g_strerror(errno));
            return false;
        }
        madvise(p, b->info.size, MADV_DONTDUMP);
        b->map = p;
        ff_bitmap_init(&b->bitmap, b->n_pages, true);
    }
    return true;
}

/* ---- for the next engine --------------------------------------------------------------------- */

void ff_ram_store(const FfRam *ram, FfStateHeader *state)
{
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        const FfRamBlock *b = &ram->blocks[i].info;
        g_strlcpy(state->block[i].id, b->id, sizeof(state->block[i].id));
        state->block[i].size = b->size;
        state->block[i].page_size = b->page_size;
        state->block[i].gpa = b->gpa;
    }
    state->n_blocks = ram->n_blocks;
}

static FfRamBlock *find_block(GPtrArray *blocks, const FfStateBlock *sb)
{
    for (guint i = 0; i < blocks->len; i++) {
        FfRamBlock *b = blocks->pdata[i];
        if (strncmp(b->id, sb->id, sizeof(sb->id)) == 0 && b->size == sb->size &&
            b->page_size == sb->page_size) {
            return b;
        }
    }
    return NULL;
}

bool ff_ram_adopt(FfRam *ram, FfControl *control, GPtrArray *blocks, const FfStateHeader *state,
                  GError **error)
{
    g_autoptr(GPtrArray) ours = g_ptr_array_new();

    if (ram->n_blocks) {
        return true; /* by an attempt that has failed later */
    }
    for (unsigned i = 0; i < MIN(state->n_blocks, FF_STATE_MAX_BLOCKS); i++) {
        FfRamBlock *b = find_block(blocks, &state->block[i]);
        if (!b) {
            g_set_error(error, FF_M_ERROR, 0, "guest RAM '%.*s' is not there any more",
                        (int)sizeof(state->block[i].id), state->block[i].id);
            return false;
        }
        g_ptr_array_add(ours, b);
    }
    if (!ff_ram_set_blocks(ram, control, ours, error)) {
        return false;
    }
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        ram->blocks[i].info.gpa = state->block[i].gpa;
    }
    return true;
}

/* ---- what is done ---------------------------------------------------------------------------- */

void ff_ram_reset(FfBitmap *bitmap, const FfBlock *b, bool set)
{
    ff_bitmap_clear(bitmap);
    ff_bitmap_init(bitmap, b->n_pages, set);
}

uint64_t ff_ram_remaining(const FfRam *ram)
{
    uint64_t done = ff_counted(ram->done_bytes);

    return ram->total_bytes - MIN(ram->total_bytes, done);
}

void ff_ram_done(FfRam *ram, uint64_t pages, uint64_t bytes)
{
    ff_count(ram->done_bytes, bytes);
    __atomic_add_fetch(&ram->done_pages, pages, __ATOMIC_ACQ_REL);
}

void ff_ram_undone(FfRam *ram, const FfBlock *b, uint64_t n)
{
    __atomic_sub_fetch(&ram->done_pages, n, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&ram->done_bytes, n * b->info.page_size, __ATOMIC_RELAXED);
}

FfRegions *ff_ram_regions(const FfRam *ram, int maps_fd, GError **error)
{
    g_autofree int *fds = g_new(int, ram->n_blocks);
    g_autofree uint64_t *sizes = g_new(uint64_t, ram->n_blocks);

    for (unsigned i = 0; i < ram->n_blocks; i++) {
        fds[i] = ram->blocks[i].info.memfd;
        sizes[i] = ram->blocks[i].info.size;
    }
    return ff_regions_new(maps_fd, fds, sizes, ram->n_blocks, error);
}

bool ff_ram_is_mapped(const FfRam *ram, int maps_fd, GError **error)
{
    g_autoptr(FfRegions) regions = ff_ram_regions(ram, maps_fd, error);

    return regions != NULL;
}

void ff_ram_clear(FfRam *ram)
{
    for (unsigned i = 0; i < ram->n_blocks && ram->blocks; i++) {
        FfBlock *b = &ram->blocks[i];
        if (b->map) {
            munmap(b->map, b->info.size);
        }
        ff_bitmap_clear(&b->bitmap);
        g_free(b->fingerprint);
        g_free(b->info.id);
    }
    g_free(ram->blocks);
    g_free(ram->frame_blocks);
    if (ram->received) {
        munmap(ram->received, ram->received_len);
    }
}
