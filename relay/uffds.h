/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's userfaultfds (state/kinds.h), as the agent has handed them over. Those for missing pages
 * and for tracking are the engine's from its start on, and stay here as well.
 *
 * The one for synchronous write protection is lent to the engine that asks for it, and this copy
 * keeps it alive if that engine dies: who waits in it waits for the next engine, which takes the
 * protection away and gives it back. Has none done that FF_UFFDS_LIFT_MS later, this copy is
 * closed. Then the last one is gone (or is, with an engine that is at it just now), so everybody
 * continues, as the kernel does that; and the guest has no live snapshots any more. The main loop's
 * thread.
 */
#ifndef FF_RELAY_UFFDS_H
#define FF_RELAY_UFFDS_H

#include "relay/shared.h"

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
/* It could not be sent. */
void ff_uffds_untake(FfRelay *relay);
/* The engine is done with it, and nothing is registered in it. FD is taken. -1: the engine has
 * closed its copy, and something may be registered still. */
void ff_uffds_give(FfRelay *relay, const char *name, int fd);
/* The engine's link has ended, and it is dead or as good as dead. */
void ff_uffds_engine_ended(FfRelay *relay);

#endif
