/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sends the windows of precopy's rounds over all bulk connections; see precopy-send.c. All of it is
 * the coordinator's.
 */
#ifndef FF_MIGRATION_SOURCE_PRECOPY_SEND_H
#define FF_MIGRATION_SOURCE_PRECOPY_SEND_H

#include "migration/source/side.h"
#include "uffd/tracking.h"

/* Before the first round; makes s->rounds. PIECES stay the caller's. OVER says, between two runs,
 * whether a round is to end early. FALSE and ERROR: the connection is lost, or it was cancelled. */
bool ff_rounds_begin(FfSource *s, const FfPiece *pieces, bool (*over)(FfSource *s), GError **error);
/* Sends what is dirty in the pieces [FIRST, END), which are protected and drained. *OVER: the round
 * ended early. What others have claimed may still be on its way. 0 or -errno; -ECANCELED: the
 * events say why. */
int ff_rounds_send(FfSource *s, unsigned first, unsigned end, bool *over);
/* Between two windows: nobody claims in the one before any more. */
void ff_rounds_settle(FfSource *s);
/* The end of a round, before the next scan: what is sent from here on cannot be overtaken by what
 * was sent before. FALSE and ERROR as above. */
bool ff_rounds_finish(FfSource *s, GError **error);
/* After the last round. FINISHED: it was ended as above; else the thread that shuts the channels
 * down joins the senders. */
void ff_rounds_end(FfSource *s, bool finished);
/* When no sender is left. */
void ff_rounds_free(FfSource *s);
/* The rate limit of all that is sent in precopy. */
FfPace *ff_rounds_pace(FfSource *s);
/* Main reader: ROUND was answered by F. FALSE: it was not said. */
bool ff_rounds_answered(FfSource *s, const FfFrame *f);
/* Bytes on the bulk connections, and those that compression has saved on them, in precopy. */
uint64_t ff_rounds_bytes(const FfSource *s);
uint64_t ff_rounds_saved(const FfSource *s);
/* Of these what the main connection has carried in rounds, and the microseconds that it took
 * without waits for the rate limit. */
uint64_t ff_rounds_main(const FfSource *s, int64_t *us);

#endif
