/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the destination says on the main channel.
 */
#ifndef FF_MIGRATION_SOURCE_READER_H
#define FF_MIGRATION_SOURCE_READER_H

#include "migration/source/side.h"

/* The main reader's thread; S is an FfSource. */
gpointer ff_source_main_reader(gpointer s);

#endif
