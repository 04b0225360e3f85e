/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HELLO, a source's first word to a destination that does not know it. The coordinator.
 */
#ifndef FF_MIGRATION_SOURCE_HELLO_H
#define FF_MIGRATION_SOURCE_HELLO_H

#include "migration/source/side.h"

/* Where a migration begins: a connection that stands, with its main reader. */
bool ff_source_hello(FfSource *s, GError **error);

#endif
