/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's userfaultfds (contract/kinds.h), as the agent has handed them over. Those for missing
 * pages and for tracking are the engine's from its start on, and stay here as well.
 *
 * The one for synchronous write protection is lent to the engine that asks for it, and this copy
 * keeps it alive if that engine dies: a thread that waits in it waits for the next engine, which
 * takes the protection away and gives it back. Has none done that FF_UFFDS_LIFT_MS later, this copy
 * is closed, or when the one ends that is at it just then. Then the last one is gone, so everybody
 * continues, as the kernel does that; and the guest has no live snapshots any more.
 *
 * But the kernel may hold an engine that was killed, and its copy, as a disk does not answer, and
 * no other engine is started before it is dead. Then this process takes the protection away, in a
 * thread of its own, and if it cannot, tries again each second. QEMU may discard memory again then.
 * The next engine looks once more, however late. The main loop's thread.
 */
#ifndef FF_GUEST_RELAY_UFFDS_H
#define FF_GUEST_RELAY_UFFDS_H

#include "guest/relay/shared.h"

/* None, and no reason yet. */
void ff_uffds_init(FfGuest *guest);
/* A hand-over replaces the one before it whole. FDS: those that HELLO says there are; taken. */
void ff_uffds_adopt(FfRelay *relay, const FfAgentHello *hello, const int *fds);
/* How many fds HELLO says there are. */
unsigned ff_uffds_count(const FfAgentHello *hello);
#define FF_UFFDS_LIFT_MS 1000
/* The one for synchronous write protection, under its NAME, for the engine; borrowed. -1, and why
 * in *WHY. */
int ff_uffds_take(FfRelay *relay, const char *name, const char **why);
/* This process takes the protection away just now: FfGuest.uffd_free is called when it has. */
bool ff_uffds_must_wait(const FfRelay *relay, const char *name);
/* It could not be sent. */
void ff_uffds_untake(FfRelay *relay);
/* The engine is done with it, and nothing is registered in it. FD is taken. -1: the engine has
 * closed its copy, and something may be registered still. */
void ff_uffds_give(FfRelay *relay, const char *name, int fd);
/* The engine's link has ended. KILLED: it is not dead yet, but has a SIGKILL before it, with which
 * no thread comes out of the kernel. Else it is dead, or may continue: then what it writes may
 * still be taken for a snapshot, and nothing is lifted that it relies on. */
void ff_uffds_engine_ended(FfRelay *relay, bool killed);
/* No engine runs any more. */
void ff_uffds_engine_dead(FfRelay *relay);

#endif
