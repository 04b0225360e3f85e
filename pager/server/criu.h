/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CRIU's images of one process: which of its memory is restored lazily, and where that is.
 *
 *     pagemap-PID.img   runs of pages, in the order in which they are in pages-ID.img
 *     mm-PID.img        mappings
 *
 * Everything in them is taken for damaged.
 */
#ifndef FF_PAGER_SERVER_CRIU_H
#define FF_PAGER_SERVER_CRIU_H

#include "content/source/content.h"

typedef struct {
    uint64_t addr, len, offset; /* OFFSET: in the content */
} FfCriuRange;

typedef struct {
    GArray *ranges;     /* FfCriuRange, by address; none is in two mappings */
    FfContent *source;  /* content: that of all ranges, one after the other */
    FfInputStamp stamp; /* of pagemap-PID.img */
} FfCriu;

void ff_criu_clear(FfCriu *c);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfCriu, ff_criu_clear)

/* Of process PID in the folder DIR (an fd). PAGES: as in ff_content_open(). ERROR (G_IO_ERROR). */
bool ff_criu_open(FfCriu *c, int dir, int pid, const FfContentIdentity *pages, GError **error);
/* The same of one whose lazy pages a page server has: there is no source. Their *SIZE in bytes can
 * be 0. */
bool ff_criu_open_lazy(FfCriu *c, int dir, int pid, uint64_t *size, GError **error);
/* The same of what is in the two files, without a source: *PAGES_ID names the third one; it has
 * EXTENTS, which are all *SIZE bytes of the content. ELSEWHERE: a page server has the lazy pages,
 * whatever the third one has. */
bool ff_criu_parse(FfCriu *c, bool elsewhere, const uint8_t *pagemap, size_t pagemap_len,
                   const uint8_t *mm, size_t mm_len, uint32_t *pages_id, GArray *extents,
                   uint64_t *size, GError **error);

#endif
