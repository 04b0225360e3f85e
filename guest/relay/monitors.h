/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All client monitors. The main loop's thread. */
#ifndef FF_GUEST_RELAY_MONITORS_H
#define FF_GUEST_RELAY_MONITORS_H

#include "guest/relay/engine-ops.h"
#include "guest/relay/shared.h"

/* What the engine's side asks of them. */
extern const FfEngineOps ff_monitors_engine_ops;

void ff_monitors_start(FfRelay *relay);
void ff_monitors_hear_out(FfRelay *relay); /* QEMU has ended */
void ff_monitors_end(FfRelay *relay);

#endif
