/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a claimed run to frames on a channel. Threads: each one that sends.
 */
#ifndef FF_MIGRATION_SOURCE_SEND_H
#define FF_MIGRATION_SOURCE_SEND_H

#include "migration/source/side.h"

/* Pages of one write, at most; of small ones FF_RUN_MAX_BYTES. */
#define FF_SEND_MAX_PAGES (FF_RUN_MAX_BYTES / 4096)

/* What sending on one channel needs, and no more: nothing here has a lock but the channel, so the
 * fault path has it as well. */
typedef struct {
    const FfBlock *blocks;
    FfChannel *ch;
    FfSentLog *log; /* NULL: nothing is given up */
    FfStats *stats;
    uint64_t *done_pages, *done_bytes, *data_bytes; /* atomics */
    const gint *guest_stopped;
    uint32_t epoch;
} FfSender;

FfSender ff_source_sender(FfSource *s, FfChannel *ch);

/* Sends a claimed run over CH; zero pages are found here. PK: the sender's, with which the rest may
 * be compressed; NULL: it goes as it is. 0 or -errno. */
int ff_source_send_run(FfSource *s, FfChannel *ch, FfCompressing *pk, unsigned block,
                       uint64_t first, uint64_t n);
/* The same for a run that is known to be zero. */
int ff_source_send_zero(FfSource *s, FfChannel *ch, unsigned block, uint64_t first, uint64_t n);
/* The fault path: sends N claimed runs, FF_SEND_MAX_PAGES in all or one huge page, by one write in
 * front of what others wait to write. Does not allocate. 0 or -errno. */
int ff_sender_urgent(const FfSender *k, const FfRun *runs, unsigned n);
/* Decides whether the next run over CH is compressed (PK->on). Between a wait for CH to be writable
 * and ff_source_send_run(), CH's sender. */
void ff_source_decide_compressing(FfSource *s, FfChannel *ch, FfCompressing *pk);
/* What the source says of itself in HELLO and RESUME. */
uint32_t ff_source_features(const FfSource *s);
/* Whether device state may be sent compressed, or as a delta, whoever the peer is. */
bool ff_source_may_compress_device(const FfSource *s);
/* The peer takes that, too. */
bool ff_source_compresses_device(const FfSource *s);
/* Main reader: the peer has placed COUNT page frames of the channel with INDEX. */
void ff_source_acked(FfSource *s, unsigned index, uint64_t count);
/* A connection begins: nothing was sent on it. No sender runs. */
void ff_source_begin_sent(FfSource *s);

#endif
