/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's readers, one thread for each channel but the urgent one.
 */
#ifndef FF_MIGRATION_DESTINATION_READ_H
#define FF_MIGRATION_DESTINATION_READ_H

#include "migration/destination/side.h"

gpointer ff_dest_main_reader(gpointer d); /* FfDestination */
gpointer ff_dest_bulk_reader(gpointer b); /* FfBulkChannel */

#endif
