/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device state into the destination's QEMU, and its answer.
 */
#ifndef FF_MIGRATION_DESTINATION_DEVICE_H
#define FF_MIGRATION_DESTINATION_DEVICE_H

#include "migration/destination/side.h"

/* Main reader: device state for QEMU. Does not wait. */
void ff_dest_feed(FfDestination *d, const uint8_t *data, size_t len);
gpointer ff_dest_feeder(gpointer d);      /* FfDestination */
gpointer ff_dest_return_path(gpointer d); /* FfDestination */
/* Driver: QEMU has ended. If the source does not know why, the coordinator is told to tell it. */
void ff_dest_vmm_ended(FfDestination *d);
/* Coordinator, before the grant: what is to be said of ERROR (g_free). If a command failed because
 * QEMU has ended, that is it. */
char *ff_dest_reason(FfDestination *d, const GError *error);

/* What the source is told of it (g_free). Any thread. */
char *ff_dest_end_text(FfDestination *d);

#endif
