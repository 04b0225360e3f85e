/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a new engine does with a migration whose engine died.
 */
#ifndef FF_MIGRATION_ADOPT_H
#define FF_MIGRATION_ADOPT_H

#include "migration/destination/side.h"
#include "migration/source/side.h"

/* Before the coordinator starts: takes the state of the engine that died. Returns the first
 * status. */
FfStatus ff_adopt_source_begin(FfSource *s);
FfStatus ff_adopt_destination_begin(FfDestination *d);
/* The coordinator. */
void ff_adopt_source(FfSource *s);
void ff_adopt_destination(FfDestination *d);

#endif
