/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a snapshot (snapshot.c) and ff_fork() (fork.c) have in common.
 */
#ifndef FARFAULT_CAPTURE_H
#define FARFAULT_CAPTURE_H

#include <signal.h>

#include "farfault/farfault.h"

/* In FF_PREPARING: as ff_snapshot_prepare(). */
int ff_memory_prepare(FfMemory *m, const FfSnapshotOptions *options);
/* The child that was made for ff_fork(), which was not called; if there is one (fork.c). */
void ff_fork_drop(FfMemory *m);
/* Everybody goes on, nothing is registered any more; what is known of it is in M's stats. The
 * caller is the one whom m->state is about (FF_PREPARING, FF_SAVING). Twice is fine. */
void ff_capture_finish(FfMemory *m);
/* Around the start of a thread of ours. */
void ff_block_signals(sigset_t *old);
void ff_unblock_signals(const sigset_t *old);

#endif
