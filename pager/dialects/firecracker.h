/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Firecracker's first message: one JSON array of regions. It is taken for hostile. No state; any
 * thread.
 */
#ifndef FF_PAGER_DIALECTS_FIRECRACKER_H
#define FF_PAGER_DIALECTS_FIRECRACKER_H

#include "pager/dialects/regions.h"

/* The regions of the LEN bytes at TEXT, whose content is SOURCE_SIZE bytes in all (at most
 * FF_REGIONS in REGIONS): their number, or 0 and ERROR (G_IO_ERROR, one line). */
unsigned ff_firecracker_parse(const char *text, size_t len, uint64_t source_size,
                              FfRegionOfClient *regions, GError **error);

#endif
