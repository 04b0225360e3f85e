/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pieces of guest RAM, as large as a huge page, are whole at a destination.
 *
 * Threads: who places, and one that takes pieces; no lock, since placers may be on the fault path.
 */
#ifndef FF_MIGRATION_DESTINATION_PIECES_H
#define FF_MIGRATION_DESTINATION_PIECES_H

#include "migration/common/ram.h"
#include "uffd/huge.h"

typedef struct FfPieces FfPieces;

/* Of RAM (borrowed), but for blocks of huge pages, and for less than a piece. None is whole yet.
 * NULL and errno. */
FfPieces *ff_pieces_new(const FfRam *ram);
void ff_pieces_free(FfPieces *p); /* can be NULL */
/* How many BLOCK has. */
uint64_t ff_pieces_in(const FfPieces *p, unsigned block);
/* RUN was placed, and marked. P can be NULL. Any thread; nothing is allocated. */
void ff_pieces_placed(FfPieces *p, const FfRun *run);
/* Finds those that came before. */
void ff_pieces_check_all(FfPieces *p);
/* Takes a whole one that was not taken yet. FALSE: there is none just now. */
bool ff_pieces_take(FfPieces *p, unsigned *block, uint64_t *piece);
/* There is one. */
bool ff_pieces_is_left(const FfPieces *p);
/* Waits until one more is whole, or for ff_pieces_wake(), by any thread. */
void ff_pieces_wait(FfPieces *p);
void ff_pieces_wake(FfPieces *p);

#endif
