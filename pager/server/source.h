/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A backend of content (content/source/content.h) of the pager's own: pages that come from CRIU's
 * page server, by way of a memfd.
 */
#ifndef FF_PAGER_SERVER_SOURCE_H
#define FF_PAGER_SERVER_SOURCE_H

#include "content/source/content.h"
#include "pager/server/fetched-pages.h"

/* The pages of PART, of STORE (both borrowed). A read waits for its page, until *CANCEL is true
 * (and ff_fetched_wake() was called). */
FfContent *ff_source_open_fetched(FfFetchedPages *fetched, const FfFetchedPart *part,
                                  const bool *cancel);

#endif
