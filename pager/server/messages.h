/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A session's messages and pager, as its space has them. */
#ifndef FF_PAGER_SERVER_MESSAGES_H
#define FF_PAGER_SERVER_MESSAGES_H

#include "pager/server/session-internal.h"

/* Fills FfSession.messages and pager. */
void ff_session_read_message(FfSession *s);

#endif
