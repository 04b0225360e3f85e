/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's urgent reader.
 */
#ifndef FF_MIGRATION_DESTINATION_URGENT_H
#define FF_MIGRATION_DESTINATION_URGENT_H

#include "migration/destination/side.h"

/* D is an FfDestination. */
gpointer ff_dest_urgent_reader(gpointer d);

#endif
