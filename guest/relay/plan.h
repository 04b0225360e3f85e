/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the launcher tells the relay: a JSON text in a memfd, and the fds it names. */
#ifndef FF_GUEST_RELAY_PLAN_H
#define FF_GUEST_RELAY_PLAN_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/types.h>

#include "contract/state.h"
#include "guest/agent/agent.h"
#include "guest/vhost/session.h"

typedef enum {
    FF_RELAY_LISTEN,       /* fd: accept clients, one at a time */
    FF_RELAY_CONNECTED,    /* fd: the one client */
    FF_RELAY_CONNECT_UNIX, /* connect to path; fd >= 0: the first connection is made already */
    FF_RELAY_CONNECT_TCP,  /* connect to host, port */
    FF_RELAY_STDIO,        /* in, out */
    FF_RELAY_SPARE,        /* nobody: a back-end's that is plugged later (hotplug-vhost.h) */
    FF_RELAY_DOOR,         /* who asks for it (replace-relay.h) */
} FfRelayKind;

/* A client that the relay before this one had, and its connection to QEMU: both at rest between two
 * messages. */
typedef struct {
    int in, out; /* the client's; the same one for a socket */
    int qemu;
    bool negotiated, oob_enabled, qemu_oob; /* as in FfMonitor */
    char *greeting;                         /* QEMU's, as it came */
    GHashTable *named_fds;                  /* as in FfMonitor; NULL: none */
} FfRelaySession;

/* The same of a vhost-user back-end. */
typedef struct {
    int backend, qemu;
    bool cannot_wait; /* as in FfVhostConn */
    FfVhostRest *rest;
    FfVhostKnown *known; /* where there is no connection: of the last one; only described */
} FfRelayBackend;

typedef struct {
    char *id;
    int qemu; /* O_PATH of QEMU's private listening socket */
    FfRelayKind kind;
    int fd, in, out;          /* -1 where it does not apply */
    char *path, *host, *port; /* can be NULL */
    bool abstract;            /* PATH is in the abstract namespace */
    unsigned reconnect;       /* seconds; 0: never */
    char *unlink;             /* socket to remove at QEMU's end; can be NULL */
    dev_t unlink_dev;         /* it is removed only while it is still this inode */
    ino_t unlink_ino;
    bool backend;            /* no monitor: a vhost-user back-end comes here */
    bool network;            /* of a network, and no disk */
    bool followed;           /* engines may ask for a log of what it writes */
    int in_qemu;             /* QEMU's number of the listening socket of a spare one; else -1 */
    bool spare;              /* it was one; once plugged it is as any other, and never one again */
    FfRelaySession *session; /* NULL: none was left */
    FfRelayBackend *had;     /* a back-end's; NULL: none was left */
    FfVhostKnown *known;     /* what it has told the QEMU that has it still; NULL: it is free */
    pid_t known_pid;         /* which process that was; 0: not known */
} FfRelayMonitor;

typedef struct {
    char *id;
    uint64_t size, page_size;
    int fd;
} FfRelayRam;

typedef struct {
    char *name, *json; /* the whole text of HOLD */
    int fd;
} FfRelayHeld;

/* A file that QEMU has made beside that of another QEMU, and that takes its place. */
typedef struct {
    char *now, *then;
    dev_t dev; /* which file it is, */
    ino_t ino; /* once it has taken that; 0: it has not */
} FfRelayName;

/* A copy of an fd that QEMU was given by its number. */
typedef struct {
    int number, fd;
} FfRelayGiven;

/* What the agent had told the relay before this one. */
typedef struct {
    FfAgentHello hello;
    int fds[FF_AGENT_MAX_FDS];
    unsigned n_fds;
} FfRelayAgent;

typedef struct {
    char *text; /* of all this */
    pid_t qemu_pid;
    int agent_fd, ready_fd, stderr_fd; /* -1: none */
    int other_fd;   /* a pidfd of the QEMU whose guest this one is to take over; -1: none */
    int other_door; /* of that one's relay (clients.h); -1: an older farfault lends none */
    int front_fd; /* a pidfd of the QEMU that stays as the front (placeholder.h); -1: there is none
                   */
    int front_door;   /* of that one's relay; -1: it has ended */
    int taps_fd;      /* an eventfd: the taps are this QEMU's; -1: it needs none */
    int succeeds;     /* a socket of the relay whose place is taken (replace-relay.h); -1: none */
    int qemu_monitor; /* O_PATH of the private monitor's listening socket */
    char *engine;
    int state_fd; /* the state memfd, with the relay's lock; -1: the relay makes one */
    char *name, *incoming, *engine_refused; /* can be NULL */
    char *userfault_fix;                    /* what lets this user wait for faults; can be NULL */
    FfPolicy policy;
    FfUntracked untracked;
    FfRestoreWish restore;
    bool daemonize, start_paused, incoming_taken;
    int door_inner, door; /* of the relay before this one (clients.h); -1: it makes its own */
    bool other_stays;     /* other_fd is the front's */
    bool borrowed;        /* memory and listening monitors are those of another QEMU still */
    char *command_line;   /* QEMU's, a JSON array; NULL: an older launcher did not say */
    bool attached;        /* QEMU runs already, and lost its relay */
    GPtrArray *monitors;  /* FfRelayMonitor * */
    GPtrArray *backends;  /* FfRelayMonitor *: those that are .backend */
    GPtrArray *ram;       /* FfRelayRam * */
    GPtrArray *names;     /* FfRelayName * */
    GArray *given;        /* of FfRelayGiven */
    GPtrArray *held;      /* FfRelayHeld *: what the last relay held */
    FfRelayAgent *agent;  /* NULL: the agent itself speaks */
    GArray *fds;          /* of int: every fd that the text names */
} FfRelayPlan;

/* Reads the plan from FD and closes FD. NULL and ERROR if it is not one. */
FfRelayPlan *ff_relay_plan_read(int fd, GError **error);

#endif
