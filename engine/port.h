/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver's way out: FfDriverPort over the link to the relay and QEMU's private monitor.
 *
 * The main loop's thread only.
 */
#ifndef FF_ENGINE_PORT_H
#define FF_ENGINE_PORT_H

#include "contract/link.h"
#include "engine/init.h"
#include "qapi/driver.h"

typedef struct FfEnginePort FfEnginePort;

/* Connects to the private monitor. INIT and LINK are borrowed for its life. FAIL is called with
 * OPAQUE when this engine is to end as one that crashed (FfDriverPort.fail). */
FfEnginePort *ff_engine_port_new(FfEngineInit *init, FfLink *link, void (*fail)(void *opaque),
                                 void *opaque, GError **error);
const FfDriverConfig *ff_engine_port_config(FfEnginePort *port);
/* DRIVER hears of QEMU's events from now on. */
void ff_engine_port_set_driver(FfEnginePort *port, FfDriver *driver);
void ff_engine_port_free(FfEnginePort *port);

#endif
