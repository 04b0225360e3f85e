/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The postcopy fault thread.
 */
#ifndef FF_MIGRATION_DEST_FAULT_H
#define FF_MIGRATION_DEST_FAULT_H

#include "migration/dest-side.h"

/* D is an FfDestination. */
gpointer ff_dest_fault(gpointer d);

#endif
