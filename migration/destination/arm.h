/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arming and disarming guest RAM: the space of the destination's QEMU. The coordinator.
 */
#ifndef FF_MIGRATION_DESTINATION_ARM_H
#define FF_MIGRATION_DESTINATION_ARM_H

#include "migration/destination/side.h"

/* Drops what is not valid from guest RAM and arms the userfaultfd over it. */
bool ff_dest_arm(FfDestination *d, GError **error);
/* The same after the engine that did it has died: guest RAM stays as it is; a thread that waits
 * is told again. */
bool ff_dest_arm_again(FfDestination *d, GError **error);
/* Nobody waits any more, and a thread that touches a hole finds zeros. */
void ff_dest_disarm(FfDestination *d);
/* Ends the connection (after the grant: pauses) because of RC: the first page of RUN that is not
 * here cannot be placed, or RUN, which is, cannot be given zeros. Any thread. */
void ff_dest_cannot_place(FfDestination *d, const FfRun *run, int rc);

#endif
