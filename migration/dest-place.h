/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placing pages; arming and disarming the userfaultfd. Readers and the fault thread place, the
 * coordinator arms.
 */
#ifndef FF_MIGRATION_DEST_PLACE_H
#define FF_MIGRATION_DEST_PLACE_H

#include "migration/dest-side.h"

/* Drops what is not valid from guest RAM and arms the uffd over it. */
bool ff_dest_arm(FfDestination *d, GError **error);
/* The same after the engine that did it has died: guest RAM stays as it is; who waits is told
 * again. */
bool ff_dest_arm_again(FfDestination *d, GError **error);
/* Wakes everybody: who still misses a page is told anew by the kernel. */
void ff_dest_wake_all(FfDestination *d);
void ff_dest_disarm(FfDestination *d);
/* Places a run; 0 or -errno (then the migration cannot go on). */
int ff_dest_place(FfDestination *d, unsigned block, uint64_t page, uint64_t n, const void *data);
int ff_dest_place_zero(FfDestination *d, unsigned block, uint64_t page, uint64_t n);
/* A fault on a page that was received before: it was punched since (balloon), zeros are right.
 * Fault thread. 0 or -errno; -ELOOP: it was there so often in a row that something is wrong. */
int ff_dest_place_again(FfDestination *d, unsigned block, uint64_t page);
/* Ends the connection (after the grant: pauses) because of RC; returns it. */
int ff_dest_cannot_place(FfDestination *d, unsigned block, uint64_t page, int rc);

#endif
