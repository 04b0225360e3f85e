/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source that a destination waits for at first. The coordinator.
 */
#ifndef FF_MIGRATION_DESTINATION_HELLO_H
#define FF_MIGRATION_DESTINATION_HELLO_H

#include "migration/destination/side.h"

/* Greets the source that has arrived, and starts its main reader. FF_M_ERROR_STRAY: it looks for
 * another migration, and this one's own may still come. */
bool ff_dest_hello(FfDestination *d, GError **error);

#endif
