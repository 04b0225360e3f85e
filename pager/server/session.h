/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One space of another process in the pager: a client, or a child that it has forked. It has
 * threads of its own, so no client waits for another one (docs/design/pager.md, "Who places").
 */
#ifndef FF_PAGER_SERVER_SESSION_H
#define FF_PAGER_SERVER_SESSION_H

#include "pager/holder/wire.h"
#include "pager/server/sessions.h"

/* ALL has what the caller knows of (sessions.h), and zeros. */
void ff_sessions_init(FfSessions *all);

/* All is placed from now on, whatever keeps it back. */
void ff_sessions_hurry(FfSessions *all);
/* A space as the holder told of it; FDS (FF_HOLD_FDS) are taken. Its threads do not run yet. */
void ff_session_add(FfSessions *all, const FfHoldMessage *msg, const int *fds);
/* Starts those that do not run yet, after the holder has said READY. Each ends by itself, and says
 * so to the holder. FALSE: there are no threads for all, and it is to be tried again. */
bool ff_sessions_start_all(FfSessions *all);

#endif
