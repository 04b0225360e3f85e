/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A 64-bit checksum against damage: XXH64 with seed 0, as `xxhsum -H1` computes it. Not against
 * somebody who can choose the content. No state, any thread.
 */
#ifndef FF_SNAPSHOT_SUM_H
#define FF_SNAPSHOT_SUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t ff_sum(const void *data, size_t n);

#endif
