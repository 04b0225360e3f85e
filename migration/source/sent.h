/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page frames that were sent on one channel and not yet acknowledged, for release-ram: what the
 * peer has placed is given up here.
 *
 * A ring without a lock: the channel's sender logs, the main reader takes out. The sender may be on
 * the fault path, so it does not allocate. When the ring is full a run is not logged, and stays.
 */
#ifndef FF_MIGRATION_SOURCE_SENT_H
#define FF_MIGRATION_SOURCE_SENT_H

#include "migration/common/ram.h"

#define FF_SENT_MAX 65536

typedef struct {
    uint64_t frame; /* its number on the channel, from 1 on */
    FfRun run;
} FfSentRun;

typedef struct {
    FfSentRun *ring; /* [FF_SENT_MAX]; NULL: nothing is logged */
    uint64_t frames; /* the sender's: page frames so far */
    unsigned head;   /* atomic; the sender's. Observer: the main reader */
    unsigned tail;   /* atomic; the main reader's. Observer: the sender */
} FfSentLog;

/* Before the channel is used: makes the ring, and forgets what an older channel has sent. */
void ff_sent_begin(FfSentLog *log);
/* One more frame with RUN was sent. KEEP: it is counted, and not given up. */
void ff_sent_log(FfSentLog *log, const FfRun *run, bool keep);
/* TRUE and *RUN: the peer has placed the frames up to number COUNT, this run among them. */
bool ff_sent_take(FfSentLog *log, uint64_t count, FfRun *run);
/* No thread is left. */
void ff_sent_clear(FfSentLog *log);

#endif
