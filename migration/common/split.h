/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one half of a migration knows of itself. The driver.
 */
#ifndef FF_MIGRATION_COMMON_SPLIT_H
#define FF_MIGRATION_COMMON_SPLIT_H

#include "migration/common/connection.h"
#include "migration/common/device-copy.h"
#include "migration/common/ram.h"
#include "uffd/waits.h"

/* NULL: there are no halves. What one side alone knows is the caller's to add. WAITS: NULL, nobody
 * waits on this side. */
FfSplit *ff_split_new(FfControl *control, const FfRam *ram, const FfWaits *waits,
                      const FfStateHeader *state, const FfDeviceCopy *copy);
void ff_split_free(FfSplit *half);

#endif
