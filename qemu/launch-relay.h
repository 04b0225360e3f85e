/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts the relay of a guest that is about to become one.
 */
#ifndef FF_QEMU_LAUNCH_RELAY_H
#define FF_QEMU_LAUNCH_RELAY_H

#include "qemu/argv.h"
#include "qemu/endpoint.h"

/* Whom -runas names. .uid is -1 when there is none. */
typedef struct {
    uid_t uid;
    gid_t gid;
    const char *user; /* for initgroups(); NULL for "UID:GID" */
} FfRunas;

/* What the relay inherits and is told. All fds are close-on-exec here; the relay gets copies of
 * the same numbers. */
typedef struct {
    const FfPlan *plan;
    const char *policy;
    const int *ram_fds;              /* one per plan->ram */
    const FfPrivateSocket *monitors; /* one per plan->monitors */
    const FfEndpoint *endpoints;     /* one per plan->monitors */
    const FfPrivateSocket *qemu_monitor;
    int agent_fd; /* -1: no agent */
    FfRunas runas;
} FfRelayStart;

/* Reads the argument of -runas, as QEMU does: a user's name, or UID:GID. */
bool ff_runas_parse(const char *text, FfRunas *runas, GError **error);

/*
 * Starts the relay as a process that is neither child nor parent of this one, and returns when
 * it stands. On failure nothing of it is left but what it printed to stderr.
 */
bool ff_relay_start(const FfRelayStart *start, GError **error);

#endif
