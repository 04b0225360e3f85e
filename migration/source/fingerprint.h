/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * FARFAULT_DEBUG_HASH: whether a stopped source's RAM stays as it is. The coordinator.
 */
#ifndef FF_MIGRATION_SOURCE_FINGERPRINT_H
#define FF_MIGRATION_SOURCE_FINGERPRINT_H

#include "migration/source/side.h"

/* Notes what guest RAM holds, unless it is noted. */
void ff_fingerprint_take(FfSource *s);
/* Says whether it still does. */
void ff_fingerprint_check(FfSource *s);

#endif
