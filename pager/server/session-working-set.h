/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A session's working set (content/image/working-set.h): one that an earlier client has left is
 * placed before all else that nobody waits for; or it is found out, and written for later clients.
 * It is for speed alone: what is wrong with it is said, and nothing else comes of that.
 */
#ifndef FF_PAGER_SERVER_SESSION_WORKING_SET_H
#define FF_PAGER_SERVER_SESSION_WORKING_SET_H

#include "pager/server/session-internal.h"

/* Owner, before the session's other threads run: opens the set, or gets ready to find it out. */
void ff_set_begin(FfSession *s);
void ff_set_end(FfSession *s);
/* Fault thread: somebody waits for RUN. */
void ff_set_note(FfSession *s, const FfRun *run);
/* Owner: for some seconds nothing is placed that nobody waits for. Then what was needed is written,
 * by a thread of its own. Returns at once if there is nothing to be found out. */
void ff_set_learn(FfSession *s);
/* Owner: places the set, if there is one. */
void ff_set_place(FfSession *s);
/* This thread places it. */
bool ff_set_is_placing(void);

#endif
