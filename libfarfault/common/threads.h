/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads of the library. A program that handles signals must not find them in one of ours. */
#ifndef FARFAULT_THREADS_H
#define FARFAULT_THREADS_H

#include <glib.h>
#include <signal.h>

/* Around the start of a thread of ours. */
void ff_block_signals(sigset_t *old);
void ff_unblock_signals(const sigset_t *old);
/* One that blocks all signals. NULL: -EAGAIN, said. */
GThread *ff_thread_new(const char *name, GThreadFunc fn, void *opaque);

#endif
