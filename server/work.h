/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that place a session's pages. */
#ifndef FF_SERVER_WORK_H
#define FF_SERVER_WORK_H

#include "server/session-internal.h"

/* All of these: the owner. Those that wait for what somebody waits for. */
bool ff_work_start(FfSession *s, GError **error);
/* All pages, until none is missing, or the end. */
void ff_work_bulk(FfSession *s);
void ff_work_join(FfSession *s);
/* Until MS have passed, or the end (TRUE). */
bool ff_work_pause(FfSession *s, unsigned ms);
/* This thread places what somebody waits for. */
bool ff_work_is_demand(void);

#endif
