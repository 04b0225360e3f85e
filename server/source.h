/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the pager's content comes from (content/source/content.h), with two backends of its own:
 * another pager, on another host; and pages that come from CRIU's page server, by way of a store.
 */
#ifndef FF_SERVER_SOURCE_H
#define FF_SERVER_SOURCE_H

#include "content/source/content.h"
#include "server/store.h"

/* URI is of a server, and no file of this host. */
bool ff_source_is_far(const char *uri);
/* As ff_content_open(); URI can also be that of another pager ("tcp:...", "tls:..."). */
FfContent *ff_source_open(const char *uri, const FfContentIdentity *known,
                          const FfContentAccess *access, GError **error);
/* The pages of PART, of STORE (both borrowed). A read waits for its page, until *CANCEL is true
 * (and ff_store_wake() was called). */
FfContent *ff_source_open_store(FfStore *store, const FfStorePart *part, const bool *cancel);

#endif
