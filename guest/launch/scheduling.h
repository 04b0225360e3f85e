/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that takes over from another one lives where that one does: with its limits, priority,
 * scheduling policy, umask and processors and, if that is allowed, in its control groups.
 */
#ifndef FF_GUEST_LAUNCH_SCHEDULING_H
#define FF_GUEST_LAUNCH_SCHEDULING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The calling process takes PID's place, as far as it may: priority, scheduling policy and
 * processors are those of PID's first thread, and become those of the calling thread, and of what
 * it starts. A policy that it may not have is said on standard error. Any thread. */
void ff_scheduling_take(pid_t pid);

/* How much memory (bytes) the host has available, and this process's control groups may still take,
 * caches counted as taken. Any thread. */
uint64_t ff_scheduling_memory_left(void);

/* The thread TO of another process gets the processors and the scheduling policy of THREAD of
 * process PID, and its control groups where they are not those of the whole process, as far as the
 * caller may. Any thread. */
void ff_scheduling_take_thread(pid_t pid, pid_t thread, pid_t to);

/* The calling process, root's, becomes PID's user, with its groups; without capabilities then. That
 * is not undone by exec(). 0: it has, or is that user; -errno. Any thread, for all of them. */
int ff_scheduling_become(pid_t pid);
/* PID is another user's than root, and has capabilities, which ff_scheduling_become() does not
 * give. */
bool ff_scheduling_has_capabilities(pid_t pid);

#endif
