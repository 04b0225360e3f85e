/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Huge pages of a destination's guest memory, which comes in small ones.
 */
#ifndef FF_MIGRATION_DESTINATION_HUGE_H
#define FF_MIGRATION_DESTINATION_HUGE_H

#include "migration/destination/side.h"

typedef struct FfDestHuge FfDestHuge;

/* Coordinator: the last stale page is dropped, and the guest may run. Begins to make huge pages,
 * where it is worth while. */
void ff_dest_huge_begin(FfDestination *d);
/* Coordinator: ends the thread. What it has not done yet is kept. */
void ff_dest_huge_end(FfDestination *d);
/* After that: there is something to finish. Any thread. */
bool ff_dest_huge_is_left(const FfDestination *d);
/* Coordinator, after the end of the migration: does the rest, until the migration is freed. */
void ff_dest_huge_finish(FfDestination *d);
/* No thread is left that places. */
void ff_dest_huge_clear(FfDestination *d);

#endif
