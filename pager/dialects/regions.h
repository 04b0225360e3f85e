/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Regions of a client's memory as Firecracker names them, and other programs after it. All that is
 * said of them is taken for hostile. No state; any thread.
 */
#ifndef FF_PAGER_DIALECTS_REGIONS_H
#define FF_PAGER_DIALECTS_REGIONS_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pager/server/dialect.h"
#include "pager/server/image.h"

#define FF_REGIONS 128

typedef struct {
    uint64_t addr, size, page_size; /* bytes */
    uint64_t offset;                /* of its content */
} FfRegionOfClient;

/* The members of ARRAY (can be NULL), at most FF_REGIONS in REGIONS; PAGE_SIZE: what one of them
 * says, 0: nothing that can be. Their number; 0 and ERROR (G_IO_ERROR, one line). */
unsigned ff_regions_parse(JsonArray *array, uint64_t (*page_size)(JsonObject *o),
                          FfRegionOfClient *regions, GError **error);
/* All N are whole pages, in a content of SOURCE_SIZE bytes, and beside each other. WHOLE: they have
 * all of it, each byte once. FALSE and ERROR. */
bool ff_regions_check(const FfRegionOfClient *regions, unsigned n, uint64_t source_size, bool whole,
                      GError **error);
/* The image of a client that has them, and FEATURES of its userfaultfd. NULL and ERROR. */
FfImage *ff_regions_image(FfSession *s, const FfRegionOfClient *regions, unsigned n,
                          uint64_t features, GError **error);

/* Of clients whose content is the pager's: FfDialect.open_source and .serve. */
bool ff_regions_open_source(FfSession *s, GError **error);
void ff_regions_serve(FfSession *s);

#endif
