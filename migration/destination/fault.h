/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The postcopy fault thread: started, stopped, and connected to the source.
 */
#ifndef FF_MIGRATION_DESTINATION_FAULT_H
#define FF_MIGRATION_DESTINATION_FAULT_H

#include "migration/destination/side.h"

/* Starts it, over the connection as it stands; without one a thread that waits is noted, and
 * waits. */
void ff_dest_fault_start(FfDestination *d);
/* It must end, also if it has not begun. */
void ff_dest_fault_end(FfDestination *d);
/* Ends it and waits for that. The next one begins with asking for what this one has asked for. */
void ff_dest_fault_stop(FfDestination *d);

#endif
