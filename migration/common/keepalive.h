/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the peer of a connection lives: see keepalive.c. Both functions: the coordinator.
 */
#ifndef FF_MIGRATION_COMMON_KEEPALIVE_H
#define FF_MIGRATION_COMMON_KEEPALIVE_H

#include "migration/common/connection.h"
#include "migration/common/ram.h"
#include "migration/common/stats.h"

/* The peer has greeted: from here on it is looked after, until ff_keepalive_end(). RAM and STATS
 * tell whether anything moves. GUEST_STOPPED: of a source, atomic; NULL: this side is the
 * destination. All of them must stay. */
void ff_keepalive_start(FfConnection *conn, const FfRam *ram, const FfStats *stats,
                        const gint *guest_stopped);
/* The connection ends. */
void ff_keepalive_end(FfConnection *conn);

#endif
