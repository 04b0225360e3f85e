/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What farfault pager says, on stderr, from both of its processes. */
#ifndef FF_PAGER_HOLDER_LOG_H
#define FF_PAGER_HOLDER_LOG_H

#include <glib.h>

/* One line. It waits for nobody: what a terminal, a pipe or a socket does not take at once is lost,
 * and the next line says how many were. Any thread. */
void ff_say(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* What was opened for it is closed: of a process that was forked, before it says anything, if it
 * has closed what it has inherited. */
void ff_say_forked(void);

#endif
