/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A running guest into a file: the coordinator of a live snapshot. For its client it is a source's
 * migration without a peer; the right to run stays here, whatever happens.
 */
#ifndef FF_MIGRATION_SNAPSHOT_SNAPSHOT_H
#define FF_MIGRATION_SNAPSHOT_SNAPSHOT_H

#include "migration/snapshot/side.h"

void ff_snapshot_init(FfSnapshot *s);
/* The coordinator, from the beginning to the end. */
void ff_snapshot_coordinate(FfSnapshot *s);
/* Driver: it must end soon. The control's lock is held. */
void ff_snapshot_cancel_locked(FfSnapshot *s);
/* Driver, likewise: what of INFO is a snapshot's own. */
void ff_snapshot_describe_locked(const FfSnapshot *s, FfMigrationInfo *info);
/* No thread is left. */
void ff_snapshot_clear(FfSnapshot *s);

#endif
