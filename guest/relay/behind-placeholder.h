/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU that has the guest, while others know it by another process, the front (placeholder.h).
 * The main loop's thread. Where there is no front these do nothing.
 */
#ifndef FF_GUEST_RELAY_BEHIND_PLACEHOLDER_H
#define FF_GUEST_RELAY_BEHIND_PLACEHOLDER_H

#include "guest/relay/shared.h"

/* From now on this QEMU ends with the front. */
void ff_behind_start(FfRelay *relay);
/* HEIR, a pidfd (borrowed), may get the guest from this QEMU: the front's relay is told. */
void ff_behind_next(FfRelay *relay, int heir);
/* The guest is this QEMU's: the front's relay is told. Nor the second time. */
void ff_behind_taken(FfRelay *relay);
/* QEMU has ended its main loop. */
void ff_behind_orderly(FfRelay *relay);
/* It has ended. */
void ff_behind_end(FfRelay *relay);

#endif
