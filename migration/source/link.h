/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the link is the limit: then one bulk connection is enough, its sender must be prompt, and
 * compression can pay.
 */
#ifndef FF_MIGRATION_SOURCE_LINK_H
#define FF_MIGRATION_SOURCE_LINK_H

#include "migration/source/side.h"

/* For the thread that sends bulk on the main channel: before the switch the coordinator, after it
 * the bulk thread. */
bool ff_source_link_bound(FfSource *source);

#endif
