/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who was started by given processes, and by those, and so on: also what is another program by now
 * (execve), in another session, or left by a parent that has ended. The kernel tells of each fork
 * (the connector of process events, in the first pid, time and network namespaces; before Linux 6.6
 * with CAP_NET_ADMIN); without it, and of those that were there before, /proc/PID/task/TID/children
 * does: then one whose parent ended before anybody looked is not found.
 *
 * All of one thread.
 */
#ifndef FF_PAGER_HOLDER_DESCENDANTS_H
#define FF_PAGER_HOLDER_DESCENDANTS_H

#include <glib.h>

/* What outlives the process that knows them: who they are, and what the kernel has said that was
 * not heard yet. It is made before that process is forked. */
typedef struct FfDescendantsLog FfDescendantsLog;
FfDescendantsLog *ff_descendants_log_new(void);
void ff_descendants_log_free(FfDescendantsLog *log);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDescendantsLog, ff_descendants_log_free)
/* What the kernel says comes there; -1: it says nothing. In a process that has been forked it may
 * be moved to another number first. */
int ff_descendants_log_fd(const FfDescendantsLog *log);
void ff_descendants_log_move(FfDescendantsLog *log, int fd);

typedef struct FfDescendants FfDescendants;

/* Those that LOG, which is the caller's, has. One at a time. */
FfDescendants *ff_descendants_new(FfDescendantsLog *log);
void ff_descendants_free(FfDescendants *o);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDescendants, ff_descendants_free)

/* The process of PIDFD, which stays the caller's, and who it has started. Nothing is done for one
 * that has ended, that has no pid in /proc, or where /proc is of other pids than ours. */
void ff_descendants_add(FfDescendants *o, int pidfd);
/* Takes in what the kernel has said. Waits for nothing. */
void ff_descendants_hear(FfDescendants *o);
/* Looks into /proc for who is not known. Waits for nothing. */
void ff_descendants_look(FfDescendants *o);
/* Kills all of them, and waits until they are gone. */
void ff_descendants_kill(FfDescendants *o);

#endif
