/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that place a session's pages.
 */
#ifndef FF_PAGER_SERVER_WORK_H
#define FF_PAGER_SERVER_WORK_H

#include "pager/server/session-internal.h"

/* Of one thread, for runs of BUF_SIZE bytes at most (0: for ff_worker_put() alone). DEMAND: for
 * threads that wait. */
FfWorker *ff_worker_new(FfSession *s, uint64_t buf_size, bool demand);
void ff_worker_free(FfWorker *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfWorker, ff_worker_free)
/* Content of RUN, as far as it is missing. FALSE: some of it cannot be read now. There may be no
 * memory for some, without a word. */
bool ff_worker_place(FfWorker *w, const FfRun *run);

/* The same of RUN, which may be larger than BUF_SIZE, into TO: it is placed nowhere, and counted.
 */
bool ff_worker_read(FfWorker *w, const FfRun *run, void *to);

/* Fault thread, W being its own: a page of content that waits for nothing. FALSE: somebody else
 * must place it. */
bool ff_worker_place_at_once(FfWorker *w, const FfRun *run);

/* Pages that were read, DATA or zeros (NULL). FALSE: no more of it can be placed. */
bool ff_worker_put(FfWorker *w, const FfRun *run, const void *data);

/* Owner: until the limit allows more, and nobody waits. FALSE: the end, or it has enough memory. */
bool ff_work_wait_turn(FfSession *s);
/* A thread that waited since then (monotonic) has its page: counts, and bulk may continue if it was
 * the last. */
void ff_work_answered(FfSession *s, int64_t since_us);

/* All of these: the owner. DEMANDS threads (FF_SESSION_DEMANDS at most) that place what somebody
 * waits for. */
bool ff_work_start(FfSession *s, unsigned demands, GError **error);
/* All pages, until none is missing, or the end. */
void ff_work_bulk(FfSession *s);
void ff_work_join(FfSession *s);
/* What they shared. The fault thread adds to it until it has ended. */
void ff_work_clear(FfSession *s);
/* Until MS have passed, or the end (TRUE). */
bool ff_work_pause(FfSession *s, unsigned ms);
/* This thread places what somebody waits for. */
bool ff_work_is_demand(void);

#endif
