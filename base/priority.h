/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How the kernel's scheduler is to treat the calling thread. Best effort: what is not permitted
 * or not known to this kernel is left as it is.
 */
#ifndef FF_BASE_PRIORITY_H
#define FF_BASE_PRIORITY_H

#include <stdbool.h>

/* Somebody waits for what this thread does: it runs shortly, and soon after it wakes up. Threads
 * that it starts are ordinary. The first call must come before any thread is started. */
void ff_priority_urgent(void);
/* The same; FALSE: nothing was changed, as this process may raise no thread: one that has a low
 * priority keeps it. */
bool ff_priority_can_rise(void);
/* This thread moves much data and nobody waits for it: it never preempts others. */
void ff_priority_bulk(void);
/* One that must wake in time, before nobody else: it works for some microseconds, then waits. */
void ff_priority_link(void);
/* Work that can wait for ever: another thread that wants the processor nearly always has it. */
void ff_priority_low(void);

#endif
