/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts the relay of a guest that is about to become one.
 */
#ifndef FF_GUEST_LAUNCH_LAUNCH_RELAY_H
#define FF_GUEST_LAUNCH_LAUNCH_RELAY_H

#include <gio/gio.h>
#include <json-glib/json-glib.h>

#include "guest/launch/argv.h"
#include "guest/launch/endpoint.h"

/* What stops a launch, in printf's words: one line, of which main() makes the program's. */
#define ff_launch_fail(error, ...) g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, __VA_ARGS__)

/* The user that -runas names. .uid is -1 when there is none. */
typedef struct {
    uid_t uid;
    gid_t gid;
    const char *user; /* for initgroups(); NULL for "UID:GID" */
} FfRunas;

/* Members of the plan that only attach.c reads. QEMU's copies of the state memfd and of the names
 * of its private monitors lie in a parcel (fdstore.h): the state, the engine's monitor, those of
 * the plan in its order. Its number in QEMU, and which file the state memfd is, as /proc/locks says
 * it.
 */
#define FF_PLAN_KEPT "kept"
#define FF_PLAN_STATE_FILE "state-file"
/* In place of the parcel, where there can be none: the number of QEMU's copy of the state memfd.
 * The names have the numbers that they have in the plan. */
#define FF_PLAN_KEPT_STATE "kept-state"
/* The socket address of a listening monitor (base64). */
#define FF_PLAN_ADDRESS "address"
/* The kind of a private socket that QEMU has for a chardev that is added later. */
#define FF_PLAN_SPARE "spare"
#define FF_PLAN_DOOR "door"

/* An fd that QEMU was given by NUMBER; FD: a copy of it. */
typedef struct {
    int number, fd;
} FfGivenFd;

/* What the relay inherits and is told. All fds are close-on-exec here; the relay gets copies of
 * the same numbers. */
typedef struct {
    const FfPlan *plan;
    const char *policy, *untracked, *restore;
    const char *userfault_fix;       /* what lets this user wait for faults; NULL: it may */
    const int *ram_fds;              /* one per plan->ram */
    const FfPrivateSocket *monitors; /* one per plan->monitors */
    const FfEndpoint *endpoints;     /* one per plan->monitors */
    const FfPrivateSocket *qemu_monitor;
    int agent_fd;   /* -1: no agent */
    int state_fd;   /* with the lock; -1: the relay makes its own, and no relay can come after it */
    int kept;       /* the parcel for QEMU; -1: none */
    int kept_state; /* QEMU's copy of the state, if there is no parcel; -1: none */
    FfRunas runas;
    char *const *command_line; /* QEMU's as it was given, without QEMU; NULL-terminated */
    int other_fd;              /* a pidfd of that QEMU; -1: none */
    int other_door;            /* of its relay; -1: none */
    int front_fd, front_door;  /* the same of the process that stays (guest/relay/placeholder.h) */
    bool other_stays;          /* that is the same one */
    const GArray *given;       /* of FfGivenFd: what QEMU was given by number; NULL: nothing */
    int taps_fd;   /* an eventfd that gives QEMU its taps (guest/agent/taps.h); -1: it needs none */
    bool borrowed; /* guest RAM and listening monitors are another QEMU's still */
    GPtrArray *names;   /* of FfInheritedName *: what is renamed when they are not; can be NULL */
    JsonObject **known; /* one per plan->monitors, of a back-end that is another QEMU's still; NULL:
                           all are this one's */
} FfRelayStart;

/* A relay's program as it is to be started: the plan, and the fds that the plan names. */
typedef struct {
    const char *text;      /* JSON */
    GArray *fds;           /* of int; inherited under the same numbers */
    const FfRunas *as;     /* the user that it becomes; .uid -1: nobody else */
    bool mute;             /* it has no stderr */
    const char *otherwise; /* what did not happen if it does not stand */
    const char *guest;     /* its name, for ps; can be NULL */
    /* FF_RELAY_USER: it becomes the user itself, and not before its exec; NULL: AS it is. */
    const char *itself;
    int its_own; /* one of FDS that is closed here once the relay has it; -1: none */
} FfRelayProgram;

/*
 * Starts it, neither child nor parent of this process, and waits for the byte that it writes into
 * READY_FD when it stands. READY, READY_FD: as ff_relay_ready() made them; closed. *PLAN_FD (can be
 * NULL): the plan's memfd, sealed, close-on-exec. Returns the PID; 0 and ERROR.
 */
pid_t ff_relay_spawn(const FfRelayProgram *program, int ready, int ready_fd, int *plan_fd,
                     GError **error);

/* A pipe whose writing end (with a high number) is to be the plan's "ready-fd". Returns the reading
 * end, -1 and ERROR. */
int ff_relay_ready(int *ready_fd, GError **error);

/*
 * Opens the state memfd FD again and takes the lock that relay and engine hold as long as one of
 * them lives. MS: how long to wait for it. Returns the new fd (close-on-exec, a high number),
 * -EWOULDBLOCK if somebody has it, or -errno.
 */
int ff_relay_lock(int fd, unsigned ms);

/* Becomes that user for good; nothing if .uid is -1. Returns 0 or -1 (errno). */
int ff_runas_become(const FfRunas *runas);
/* The same as FfRelayProgram.itself (g_free); NULL if it is nobody else. */
char *ff_runas_text(const FfRunas *runas);
/* Reads the argument of -runas, as QEMU does: a user's name, or UID:GID. */
bool ff_runas_parse(const char *text, FfRunas *runas, GError **error);

/*
 * Starts the relay as a process that is neither child nor parent of this one, and returns when
 * it stands. On failure nothing of it is left but what it printed to stderr. *PLAN_FD: the plan's
 * memfd, sealed, close-on-exec.
 */
bool ff_relay_start(const FfRelayStart *start, int *plan_fd, GError **error);

#endif
