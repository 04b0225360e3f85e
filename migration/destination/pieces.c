/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See pieces.h. A bit for each piece that is whole and was not taken yet; an eventfd for who waits
 * for one.
 *
 * System calls: eventfd2, read, write, close.
 */
#include "migration/destination/pieces.h"

#include <sys/eventfd.h>
#include <unistd.h>

#define PER_PIECE (FF_HUGE_PAGE / 4096)

struct FfPieces {
    const FfRam *ram;
    unsigned n_blocks;
    FfBitmap *whole; /* of each block; no bits: it has no pieces */
    unsigned looks;  /* atomic; orders the placers, who are its observers */
    int wake; /* eventfd: one more is whole. Its count never comes to an end: no write waits */
};

FfPieces *ff_pieces_new(const FfRam *ram)
{
    int wake = eventfd(0, EFD_CLOEXEC);

    if (wake < 0) {
        return NULL;
    }
    FfPieces *p = g_new(FfPieces, 1);
    *p = (FfPieces){
        .ram = ram,
        .n_blocks = ram->n_blocks,
        .whole = g_new0(FfBitmap, ram->n_blocks),
        .wake = wake,
    };
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        const FfRamBlock *info = &ram->blocks[i].info;

        if (info->page_size == 4096 && info->size >= FF_HUGE_PAGE) {
            ff_bitmap_init(&p->whole[i], info->size / FF_HUGE_PAGE, false);
        }
    }
    return p;
}

void ff_pieces_free(FfPieces *p)
{
    if (!p) {
        return;
    }
    for (unsigned i = 0; i < p->n_blocks; i++) {
        ff_bitmap_clear(&p->whole[i]);
    }
    close(p->wake);
    g_free(p->whole);
    g_free(p);
}

uint64_t ff_pieces_in(const FfPieces *p, unsigned block)
{
    return p->whole[block].n_pages;
}

/* TRUE: it is whole, and was not before. */
static bool check_piece(FfPieces *p, unsigned block, uint64_t piece)
{
    const FfBitmap *placed = &p->ram->blocks[block].bitmap;

    return ff_bitmap_count_run(placed, piece * PER_PIECE, PER_PIECE) == PER_PIECE &&
           ff_bitmap_set(&p->whole[block], piece);
}

void ff_pieces_placed(FfPieces *p, const FfRun *run)
{
    uint64_t n = p ? p->whole[run->block].n_pages : 0;
    uint64_t end = MIN(n, (run->first + run->n + PER_PIECE - 1) / PER_PIECE);

    if (!n) {
        return;
    }
    /* The marks before the looks: of two threads that place the last pages the one that comes
     * second here sees all. */
    __atomic_fetch_add(&p->looks, 1, __ATOMIC_ACQ_REL);
    for (uint64_t i = run->first / PER_PIECE; i < end; i++) {
        if (check_piece(p, run->block, i)) {
            ff_pieces_wake(p);
        }
    }
}

void ff_pieces_check_all(FfPieces *p)
{
    for (unsigned i = 0; i < p->n_blocks; i++) {
        for (uint64_t piece = 0; piece < p->whole[i].n_pages; piece++) {
            check_piece(p, i, piece);
        }
    }
}

bool ff_pieces_take(FfPieces *p, unsigned *block, uint64_t *piece)
{
    for (unsigned i = 0; i < p->n_blocks; i++) {
        if (ff_bitmap_claim_run(&p->whole[i], 0, p->whole[i].n_pages, 1, piece)) {
            *block = i;
            return true;
        }
    }
    return false;
}

bool ff_pieces_is_left(const FfPieces *p)
{
    for (unsigned i = 0; i < p->n_blocks; i++) {
        if (ff_bitmap_count(&p->whole[i])) {
            return true;
        }
    }
    return false;
}

void ff_pieces_wait(FfPieces *p)
{
    uint64_t n;

    (void)!read(p->wake, &n, sizeof(n)); /* EINTR is one look more */
}

void ff_pieces_wake(FfPieces *p)
{
    uint64_t one = 1;

    (void)!write(p->wake, &one, sizeof(one));
}
