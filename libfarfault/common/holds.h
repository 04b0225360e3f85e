/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which blocks stay in memory for the threads that touch them.
 *
 * An instruction can need several blocks at once, and is executed again from its beginning after
 * each that was missing. So what is loaded for a thread must not make what was loaded for it before
 * leave: a thread holds the blocks that it has missed last. How it works, and why there is progress
 * then: holds.c. Used under one lock of the caller's.
 */
#ifndef FARFAULT_HOLDS_H
#define FARFAULT_HOLDS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What one instruction can need: two operands (movs, cmps, push and call of memory), each across a
 * border. The area of xsave is no longer than that. Those that touch more places (gather, scatter,
 * tiles, rep) continue after a fault where they were, an element or a row at a time. More need only
 * ENTER with a nesting level, on a stack that is in such memory. */
#define FF_HOLDS_BLOCKS 4

typedef struct FfHolds FfHolds;

FfHolds *ff_holds_new(void);
/* Can be NULL. */
void ff_holds_free(FfHolds *h);
/* The thread TID waits for BLOCK, which it holds from now on. GONE: the block is not in memory. */
void ff_holds_wait(FfHolds *h, pid_t tid, uint64_t block, bool gone);
/* The threads that wait for BLOCK have it, or touch it once more. */
void ff_holds_given(FfHolds *h, uint64_t block);
/* A thread holds BLOCK. */
bool ff_holds_has(const FfHolds *h, uint64_t block);
/* Threads that have had the time to execute their instruction hold nothing any more. */
void ff_holds_expire(FfHolds *h);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfHolds, ff_holds_free)

#endif
