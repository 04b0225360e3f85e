/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What files of the agent share, from the bottom up. */
#ifndef FF_GUEST_AGENT_INTERNAL_H
#define FF_GUEST_AGENT_INTERNAL_H

#include <stdint.h>

/* ---- thread.c ---- */

/* The agent's own threads. */

/* RUN(NULL) in a thread that nobody waits for, and that takes none of QEMU's signals. Any thread.
 * Returns 0 or -errno. */
int ff_thread_start(void *(*run)(void *));

/* ---- close-inherited.c ---- */

/* What this process has no more. */

/* In the place of the file that is FD, and keeps its number, comes one that never has anything to
 * say, so that QEMU is not woken by it again; unless there is no such file to be had. Any thread.
 */
void ff_quiet_put_over(int fd);

/* ---- accept.c ---- */

/* Who connects to a QEMU that has not got its guest yet, or has it no more (contract/discards.h).
 */

/* ACCEPTS: of the shared memory, for as long as this process lives. Before there is another thread.
 */
void ff_accept_start(const uint32_t *accepts);

/* ---- front.c ---- */

/*
 * The process that others know as the guest's, which runs in this one
 * (guest/relay/behind-placeholder.h).
 */

/*
 * TEXT: FF_AGENT_ENV_FRONT. When that process ends, this one is killed. Before there is another
 * thread. Returns 0 or -errno: then nobody does.
 */
int ff_placeholder_watch(const char *text);

#endif
