/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that takes over from another one lives where that one does: with its limits, priority,
 * umask and processors and, if that is allowed, in its control groups.
 */
#ifndef FF_LAUNCH_PLACE_H
#define FF_LAUNCH_PLACE_H

#include <sys/types.h>

/* The calling process takes PID's place, as far as it may. Any thread. */
void ff_place_take(pid_t pid);

#endif
