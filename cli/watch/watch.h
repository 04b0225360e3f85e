/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault status --watch. One thread: the main loop of the default context.
 */
#ifndef FF_CLI_WATCH_WATCH_H
#define FF_CLI_WATCH_WATCH_H

#include "cli/common/record.h"

/* Shows what the one or two QMP ADDRESSES (NULL-terminated) say, until what is under way there, or
 * begins next, is over. INTERVAL_MS: between two questions; 0: 500 on a terminal, 1000 elsewhere.
 * RECORD: from the begin of it on what is said goes there too; NULL: nowhere. Returns the exit
 * status. */
int ff_watch(char *const *addresses, unsigned interval_ms, FfRecord *record);

#endif
