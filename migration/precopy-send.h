/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sends the windows of precopy's rounds over all bulk connections; see precopy-send.c. All of it is
 * the coordinator's.
 */
#ifndef FF_MIGRATION_PRECOPY_SEND_H
#define FF_MIGRATION_PRECOPY_SEND_H

#include "migration/internal.h"
#include "uffd/tracking.h"

/* Before the first round; makes m->rounds. PIECES stay the caller's. OVER says, between two runs,
 * whether a round is to end early. FALSE and ERROR: the connection is lost, or it was cancelled. */
bool ff_rounds_begin(FfMigration *m, const FfPiece *pieces, bool (*over)(FfMigration *m),
                     GError **error);
/* Sends what is dirty in the pieces [FIRST, END), which are protected and drained. *OVER: the round
 * ended early. What others have claimed may still be on its way. 0 or -errno; -ECANCELED: the
 * events say why. */
int ff_rounds_send(FfMigration *m, unsigned first, unsigned end, bool *over);
/* The end of a round, before the next scan: what is sent from here on cannot be overtaken by what
 * was sent before. FALSE and ERROR as above. */
bool ff_rounds_settle(FfMigration *m, GError **error);
/* Behind the last round. SETTLED: it was ended as above; else whoever shuts the channels down joins
 * the senders. */
void ff_rounds_end(FfMigration *m, bool settled);
/* When no sender is left. */
void ff_rounds_free(FfMigration *m);
/* Waits until the rate limit allows more; then, what was sent. */
void ff_rounds_pace(FfMigration *m);
void ff_rounds_charge(FfMigration *m, uint64_t bytes);
/* Bytes on the bulk connections, and those that compression has saved on them, in precopy. */
uint64_t ff_rounds_bytes(const FfMigration *m);
uint64_t ff_rounds_saved(const FfMigration *m);
/* Of these what the main connection has carried in rounds, and the microseconds that it took
 * without waits for the rate limit. */
uint64_t ff_rounds_main(const FfMigration *m, int64_t *us);

#endif
