/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The thread that answers requests.
 */
#ifndef FF_MIGRATION_SOURCE_URGENT_H
#define FF_MIGRATION_SOURCE_URGENT_H

#include "migration/source/side.h"

/* S is an FfSource. */
gpointer ff_source_urgent(gpointer s);

#endif
