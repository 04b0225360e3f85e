/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything that nobody has asked for. Bulk threads.
 */
#ifndef FF_MIGRATION_SOURCE_BULK_H
#define FF_MIGRATION_SOURCE_BULK_H

#include "migration/source/side.h"

/* The main connection's bulk thread, which starts the others; S is an FfSource. */
gpointer ff_source_bulk(gpointer s);
/* Sends the holes among N pages from FIRST on, as far as they are dirty, as runs of zero pages.
 * Before any of these pages is looked at, which would fill it. 0 or -errno. */
int ff_source_send_holes_of(FfSource *s, unsigned block, uint64_t first, uint64_t n);

#endif
