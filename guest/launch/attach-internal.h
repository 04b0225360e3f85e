/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of farfault attach share: attach.c has the order, the others take what it needs.
 * Private to attach-*.c. One thread.
 */
#ifndef FF_GUEST_LAUNCH_ATTACH_INTERNAL_H
#define FF_GUEST_LAUNCH_ATTACH_INTERNAL_H

#include "contract/state.h"
#include "guest/launch/attach-find.h"
#include "guest/launch/fdstore.h"
#include "guest/launch/launch-relay.h"

/* What lies where in the parcel. */
enum { FF_ATTACH_STATE, FF_ATTACH_MONITOR, FF_ATTACH_NAMES };

typedef struct {
    pid_t pid;
    int pidfd;
    JsonNode *node;
    JsonObject *plan;
    FfRunas as;
    char *user;
    uid_t planner;           /* who made the plan */
    int kept[FF_PARCEL_MAX]; /* copies of what is in QEMU's parcel */
    int n_kept;              /* 0: it has none, and all have their numbers */
    int state_fd;            /* ours, with the lock */
    FfStateHeader *state;
    GArray *fds;      /* of int: the relay's */
    GPtrArray *made;  /* char *: unix sockets that this made */
    GPtrArray *notes; /* borrowed */
    int pact_fd;      /* of its upgrade, the relay's; -1: none */
    bool stays;       /* nobody takes the guest over any more: its sockets are this QEMU's */
    bool has_left;    /* the old QEMU of an upgrade, whose guest is the new one's */
    bool ends; /* the new QEMU of an upgrade, which never gets the guest: it has no clients */
    bool done;
} FfAttach;

/* ---- attach-take.c --------------------------------------------------------------------------- */

/* A line of .notes. */
void ff_attach_note(FfAttach *a, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* FD is the relay's from now on; -1 passes through. Returns its (high) number. */
int ff_attach_give(FfAttach *a, int fd);
/* The effective user of process PID; -1: it has ended. */
long ff_attach_uid(pid_t pid);
/* .pidfd, .node, .plan, .as, of a process of this namespace. */
bool ff_attach_open_process(FfAttach *a, GError **error);
bool ff_attach_open_parcel(FfAttach *a, GError **error);
/* Those of the plan; NULL: it has none. */
JsonArray *ff_attach_monitors(FfAttach *a);
/* Takes a copy of fd FD of QEMU, whose link begins with PREFIX (NULL: any). WHAT names it in ERROR.
 * Returns a close-on-exec fd, or -1. */
int ff_attach_take(FfAttach *a, int fd, const char *prefix, const char *what, GError **error);
/* A copy of the parcel's fd AT, or of QEMU's fd that MEMBER of O says. As ff_attach_take(). */
int ff_attach_take_kept(FfAttach *a, unsigned at, JsonObject *o, const char *member,
                        const char *prefix, const char *what, GError **error);

/* ---- attach-memory.c ------------------------------------------------------------------------- */

/* .state_fd and .state, with the lock; waits up to 5 s for an engine that still ends. */
bool ff_attach_take_state(FfAttach *a, GError **error);
/* RAM, and what QEMU keeps of a migration under way. */
bool ff_attach_take_memory(FfAttach *a, GError **error);
/* .stays: of the old QEMU of an upgrade, whose guest is not the new one's: it stays here;
 * .has_left: whose guest is. .ends: of a new one that has no guest. */
void ff_attach_settle_pact(FfAttach *a);

/* ---- attach-agent.c -------------------------------------------------------------------------- */

bool ff_attach_take_uffds(FfAttach *a, GError **error);

/* ---- attach-monitors.c ----------------------------------------------------------------------- */

/* What QEMU has of them. */
bool ff_attach_take_monitors(FfAttach *a, GError **error);
/* The clients' side; those for which there is no way any more are left out, and noted. */
bool ff_attach_make_endpoints(FfAttach *a, GError **error);

#endif
