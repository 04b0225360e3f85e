/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The agent's own threads. */
#ifndef FF_GUEST_AGENT_THREAD_H
#define FF_GUEST_AGENT_THREAD_H

/* RUN(NULL) in a thread that nobody waits for, and that takes none of QEMU's signals. Any thread.
 * Returns 0 or -errno. */
int ff_thread_start(void *(*run)(void *));

#endif
