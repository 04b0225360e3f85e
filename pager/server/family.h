/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one process of a family (a client and its descendants) means for the others: forks, shared
 * memory that is given back, and ends of processes.
 */
#ifndef FF_PAGER_SERVER_FAMILY_H
#define FF_PAGER_SERVER_FAMILY_H

#include "pager/server/session-internal.h"

/* Fault thread of S: its process has forked, and the gate is closed. */
void ff_family_fork(FfSession *s, uint64_t child);
/* Fault thread of S, the gate is closed: RUN was given back, and with it that of all relatives that
 * share the memory. */
void ff_family_gave_back(FfSession *s, const FfRun *run);
/* Somebody of the family ROOT may have ended: one that has is given up. Any thread. */
void ff_family_probe(FfSessions *all, uint64_t root);

#endif
