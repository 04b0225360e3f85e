/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which processes are guests of farfault, and what their QEMU keeps for a new relay. All of it
 * comes from QEMU's process, so it is hostile input. All functions: the only thread of a command.
 */
#ifndef FF_GUEST_LAUNCH_ATTACH_FIND_H
#define FF_GUEST_LAUNCH_ATTACH_FIND_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

/* The next process in PROC, which is /proc (can be NULL); 0 at the end. */
pid_t ff_next_process(GDir *proc);

/* The plan that process PID keeps for a relay that comes later: an object. *OWNER (can be NULL):
 * the user who made it; it is sealed, so it says what that user said. NULL and ERROR (one line) if
 * it keeps none, or may not be looked at. */
JsonNode *ff_attach_plan(pid_t pid, uid_t *owner, GError **error);
/* The process that TARGET names: a process id, or the path of a unix socket on which the relay of a
 * guest listened for QMP clients ("unix:" before it is allowed). 0 and ERROR if there is none. */
pid_t ff_attach_find(const char *target, GError **error);
/* Opens the state memfd of the guest of process PID and of PLAN, for reading: under a number of
 * QEMU's (an older farfault) or in its parcel. -1 if this user may not take it. */
int ff_attach_open_state(pid_t pid, JsonObject *plan);
/* The relay (and engine) of that guest has ended. */
bool ff_attach_is_orphan(pid_t pid, JsonObject *plan);
/* The processes that this user may look at and whose relay (and engine) has ended (pid_t). */
GArray *ff_attach_orphans(void);
/* A guest without live snapshots until it is started again. */
typedef struct {
    pid_t pid;
    bool lost; /* it had them; else an older farfault has started it */
} FfAttachLoss;
/* Those that this user may look at and whose relay has noted it (FfAttachLoss). */
GArray *ff_attach_unprotectable(void);
/* The relay of the guest of process PID, as its state has it; 0: one of a farfault that did not say
 * so yet; -1: the state cannot be read. */
pid_t ff_attach_relay(pid_t pid, JsonObject *plan);
/* Process PID is a relay, by its name. */
bool ff_attach_is_relay(pid_t pid);
/* The QEMU that RELAY serves. 0: of all whose relay has listened at PATH (absolute) the one that
 * was started last, as that one has taken the name. 0 if there is none. */
pid_t ff_attach_served(const char *path, pid_t relay);
typedef struct {
    pid_t pid, relay; /* .relay 0: it gives its place to no other */
    bool here;        /* its program was where that of this farfault is */
} FfAttachOld;
/* Those whose relay runs a program that is not installed any more, as a newer farfault is
 * (FfAttachOld). Only those that this user may look at; root for all. */
GArray *ff_attach_outdated(void);
/* What /proc says of fd N of process PID, e.g. "/memfd:farfault-pc.ram (deleted)" (g_free); NULL if
 * there is no such fd. */
char *ff_attach_link(pid_t pid, int fd);
/* The numbers of all fds of process PID, ascending (int); NULL and ERROR. */
GArray *ff_attach_fds(pid_t pid, GError **error);
/* The socket address of MONITOR, a monitor of the plan, as it was listened on. FALSE: none. */
gboolean ff_attach_address(JsonObject *monitor, struct sockaddr_storage *address, socklen_t *len);

#endif
