/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Named points at which a test makes the engine fail. Only where meson was told -Dfaults=true;
 * otherwise each of the macros is nothing, or the call that it is about.
 *
 * The environment variable FARFAULT_FAULTS says what happens where: DIR;POINT=ACTION;...
 *
 *   POINT   SIDE/STATE/PLACE/NAME, each perhaps with wildcards (fnmatch):
 *             SIDE   source, destination, snapshot; of an engine that has no migration yet:
 *                    first, next (one has died before it)
 *             STATE  the migration's status (migration/common/states.c);
 *                    adopting: before it has one
 *             PLACE  main, urgent: before a message is written there, NAME is the frame's
 *                    at:           a moment in the code
 *                    call:         a system call or an allocation
 *                    step:         something that must not be left out
 *           followed by #N: not before it is reached the Nth time
 *   ACTION  kill, abort         the process dies (SIGKILL, SIGABRT)
 *           relay, both         SIGKILL to its relay; to its relay, then to itself
 *           stop:MS, delay:MS   the process, or this thread, stands still
 *           cut:N               the connection is shut down after N bytes of the message
 *           dup                 the message is written twice
 *           flip:N              bit 0 of the message's byte N is inverted
 *           EAGAIN, ENOMEM, ENOSPC, ENOTCONN, EIO   the call fails
 *           skip, omit          the step is left out, as if it had been done; omit: each time
 *           hold                this thread waits until somebody opens DIR/hold, a FIFO, for
 *                               writing; each time. If there is a FIFO DIR/held, somebody must
 *                               open that one first, and knows then that it waits
 *
 * Each other one happens once in all: the file DIR/fault-I (I counts from 0) is made right before,
 * so an engine that is started again continues unharmed, and a test sees that the point was
 * reached.
 *
 * Any thread; no lock.
 */
#ifndef FF_BASE_FAILPOINTS_H
#define FF_BASE_FAILPOINTS_H

#ifdef FF_FAULTS

#include <stdbool.h>
#include <sys/uio.h>

void ff_fault_side(const char *side);
void ff_fault_state(const char *state);
void ff_fault_at(const char *name);
/* TRUE: the call is not to be made; errno is set. */
bool ff_fault_call(const char *name);
/* TRUE: the step is to be left out. */
bool ff_fault_skip(const char *name);
/* Of a test that has the code in its own process: HOOK is called at each point, before what the
 * environment says, with "at", "call" or "step" and the point's name. 0, or the errno of a call
 * that is not to be made; not 0: a step is left out. NULL: none. Before the threads that it is for.
 */
typedef int (*FfFaultHook)(const char *place, const char *name);
void ff_fault_hook(FfFaultHook hook);
/* A message is about to be written to FD. 0: write it. 1: it has been written. -errno. */
int ff_fault_message(const char *channel, const char *name, int fd, const struct iovec *iov, int n);

#define FF_FAULT_SIDE(side) ff_fault_side(side)
#define FF_FAULT_STATE(state) ff_fault_state(state)
#define FF_FAULT_AT(name) ff_fault_at(name)
#define FF_FAULT_CALL(name, call) (ff_fault_call(name) ? -1 : (call))
#define FF_FAULT_MAP(name, call) (ff_fault_call(name) ? MAP_FAILED : (call))
#define FF_FAULT_STEP(name, step) (ff_fault_skip(name) || (step))

#else

#define FF_FAULT_SIDE(side) ((void)0)
#define FF_FAULT_STATE(state) ((void)0)
#define FF_FAULT_AT(name) ((void)0)
#define FF_FAULT_CALL(name, call) (call)
#define FF_FAULT_MAP(name, call) (call)
#define FF_FAULT_STEP(name, step) (step)

#endif
#endif
