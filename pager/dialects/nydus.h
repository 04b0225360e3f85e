/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The message with which clients of nydusd hand over their memory. It is taken for hostile. No
 * state; any thread. */
#ifndef FF_PAGER_DIALECTS_NYDUS_H
#define FF_PAGER_DIALECTS_NYDUS_H

#include "pager/dialects/regions.h"

/* The regions of the LEN bytes at TEXT (at most FF_REGIONS in REGIONS), which need not be in the
 * content, nor beside each other: their number, or 0 and ERROR (G_IO_ERROR, one line). *COPIES: the
 * client wants its pages copied; else it would map files. */
unsigned ff_nydus_parse(const char *text, size_t len, FfRegionOfClient *regions, bool *copies,
                        GError **error);

#endif
