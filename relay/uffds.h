/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's userfaultfds (state/kinds.h), as the agent has handed them over. Those for missing pages
 * and for tracking are the engine's from its start on, and stay here as well. The one for
 * synchronous write protection has one holder at a time: the engine that has asked for it, else the
 * relay. So whoever of them ends, those that wait in it continue, as the kernel does that when the
 * last fd is closed. The main loop's thread.
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
/* The one for synchronous write protection, under its NAME, for the engine; the caller's from now
 * on. -1, and why in *WHY. */
int ff_uffds_take(FfRelay *relay, const char *name, const char **why);
/* The engine is done with it, and nothing is registered in it. FD is taken. */
void ff_uffds_give(FfRelay *relay, const char *name, int fd);
/* What the engine has not given back has ended with it. */
void ff_uffds_engine_ended(FfRelay *relay);

#endif
