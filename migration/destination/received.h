/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The received bitmaps of a destination: in the state memfd, after its header, so that an engine
 * that adopts knows which pages are here.
 *
 * Thread: the coordinator.
 */
#ifndef FF_MIGRATION_DESTINATION_RECEIVED_H
#define FF_MIGRATION_DESTINATION_RECEIVED_H

#include "migration/common/ram.h"

/* Maps them as the bitmaps of RAM's blocks. FRESH: stores the blocks in STATE (STATE_FD is its
 * memfd, which grows), lays the bitmaps out and clears them. Else: those of the engine before us.
 */
bool ff_received_map(FfRam *ram, FfControl *control, FfStateHeader *state, int state_fd, bool fresh,
                     GError **error);

#endif
