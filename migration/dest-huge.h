/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The last work of a destination whose guest is whole: huge pages of its memory, which came in
 * small ones. Nobody waits for it; it ends when the migration is freed. The coordinator.
 */
#ifndef FF_MIGRATION_DEST_HUGE_H
#define FF_MIGRATION_DEST_HUGE_H

#include "migration/dest-side.h"

/* While the VMM lends its memory: keeps what is needed, where it is worth while. */
void ff_dest_huge_keep(FfDestination *d);
/* Nothing is registered any more. */
void ff_dest_huge_make(FfDestination *d);
void ff_dest_huge_clear(FfDestination *d);

#endif
