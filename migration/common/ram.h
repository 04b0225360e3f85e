/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's memory as a migration sees it: blocks, their bitmaps, what is done of them.
 *
 * Threads: the coordinator makes and orders the blocks; from then on they stay as they are, and
 * any thread uses them. Totals are published under the control's lock, since the driver looks at
 * any time. Bitmaps and counters are atomics.
 */
#ifndef FF_MIGRATION_COMMON_RAM_H
#define FF_MIGRATION_COMMON_RAM_H

#include "contract/state.h"
#include "migration/common/control.h"
#include "net/frame.h"
#include "uffd/bitmap.h"
#include "uffd/regions.h"
#include "uffd/run.h"

typedef struct {
    FfRamBlock info;
    uint64_t n_pages;
    void *map;       /* S: the memfd, read-only. D: huge pages only, for precopy */
    FfBitmap bitmap; /* S: dirty/sent. D: received, in the state memfd */
    /* S: coordinator, then bulk; bytes in the memfd that were seen to have no hole. */
    uint64_t data_first, data_end;
    uint64_t *fingerprint; /* S: coordinator; migration/source/fingerprint.c; NULL: not wanted */
} FfBlock;

typedef struct {
    FfBlock *blocks;
    FfFrameBlock *frame_blocks; /* the same, for the decoder */
    unsigned n_blocks;
    uint64_t total_pages, total_bytes;
    uint64_t done_bytes; /* atomic: sent (S) or received (D) */
    uint64_t done_pages; /* atomic */
    /* D: the received bitmaps as they are mapped (migration/destination/received.c). Lock: whole.
     */
    void *received;
    size_t received_len;
    gint released; /* atomic; S: memory was given up (release-ram) */
    /* Atomic: this engine comes after one that died, and has not counted yet what that one had
     * done; a source does when the destination has named what it lacks. */
    gint uncounted;
} FfRam;

/* Takes over the VMM's BLOCKS (FfRamBlock *). FALSE and ERROR: farfault cannot move them. */
bool ff_ram_set_blocks(FfRam *ram, FfControl *control, GPtrArray *blocks, GError **error);
/* S: maps them read-only; every page is dirty. After a failure it may be called again. */
bool ff_ram_map(FfRam *ram, GError **error);
/* Notes the blocks for the engine that may have to adopt. */
void ff_ram_store(const FfRam *ram, FfStateHeader *state);
/* Takes the blocks of the migration whose engine died, in the order of the wire: those of BLOCKS
 * (FfRamBlock *) that STATE names. It may be called again. */
bool ff_ram_adopt(FfRam *ram, FfControl *control, GPtrArray *blocks, const FfStateHeader *state,
                  GError **error);
/* Sets a block's bits back: all SET (S, before what the peer has is known) or clear. Nobody else
 * uses the bitmap. */
void ff_ram_reset(FfBitmap *bitmap, const FfBlock *b, bool set);
/* Bytes that are not done yet. Any thread. */
uint64_t ff_ram_remaining(const FfRam *ram);
/* So many pages and bytes more are done. Any thread. */
void ff_ram_done(FfRam *ram, uint64_t pages, uint64_t bytes);
/* N pages of B are not done any more. Any thread. */
void ff_ram_undone(FfRam *ram, const FfBlock *b, uint64_t n);
/* Where QEMU has them mapped, by MAPS_FD (of its /proc/PID/maps). NULL and ERROR: one is not mapped
 * exactly once. */
FfRegions *ff_ram_regions(const FfRam *ram, int maps_fd, GError **error);
/* Whether each is mapped exactly once. FALSE and ERROR. */
bool ff_ram_is_mapped(const FfRam *ram, int maps_fd, GError **error);
/* Unmaps and frees what the blocks are; no thread is left that uses them. */
void ff_ram_clear(FfRam *ram);

#endif
