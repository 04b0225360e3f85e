/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that come while the guest still runs at the source.
 */
#ifndef FF_MIGRATION_DESTINATION_PRECOPY_H
#define FF_MIGRATION_DESTINATION_PRECOPY_H

#include "migration/destination/side.h"

/* Empties guest RAM, which this side's firmware has touched, unless that was done. Main reader,
 * before any other reader takes a page. 0 or -errno (then the migration cannot continue). */
int ff_dest_empty(FfDestination *d);
/* A page is written over what was there. Readers; of a page one at a time. */
int ff_dest_write(FfDestination *d, const FfFrame *f, const void *data);
/* Forgets RUNS; DROP: also takes them out of memory. Main reader. */
int ff_dest_stale(FfDestination *d, const FfStaleRun *runs, unsigned n, bool drop);
/* Takes everything out of guest RAM that was not received. Coordinator, before it arms. */
bool ff_dest_drop_missing(FfDestination *d, GError **error);

#endif
