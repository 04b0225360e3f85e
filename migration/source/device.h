/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device state on its way to the peer.
 */
#ifndef FF_MIGRATION_SOURCE_DEVICE_H
#define FF_MIGRATION_SOURCE_DEVICE_H

#include "migration/source/side.h"

/* Bytes per second of a link that has not been measured, or not without a rate limit: 1 Gbit/s. */
#define FF_RECKONED_RATE 125000000ull

/* A thread, before there is a peer: reads what device state will hold again, firmware and a
 * display's memory. Returns an FfDelta, NULL if there is none. S is an FfSource. */
gpointer ff_source_read_base(gpointer s);
/* FALSE and ERROR: QEMU's memory that does not go ahead in the base would keep the guest still for
 * longer than the client's downtime-limit, and not just for some milliseconds. After it was read;
 * coordinator. */
bool ff_source_private_fits(FfSource *s, GError **error);
/* Sends it, if the peer takes it (else it counts as private_rest from now on), no faster than PACE
 * (NULL: no limit). Coordinator, before PREPARE. A broken channel is the reader's to tell. */
void ff_source_send_base(FfSource *s, FfPace *pace);
/* Device thread: N bytes of QEMU's stream, in the shortest way that is worth it. 0 or -errno. */
int ff_source_send_device(FfSource *s, FfDevicePacing *pacing, FfCompressing *pk, const void *data,
                          size_t n);

#endif
