/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two sides of a monitor that the relay stands in for: the endpoint that its client was
 * promised on QEMU's command line, and the private socket that QEMU is given in its place.
 */
#ifndef FF_GUEST_LAUNCH_ENDPOINT_H
#define FF_GUEST_LAUNCH_ENDPOINT_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#include "guest/launch/argv.h"

/* What stands open for the client of one monitor. Inherited fds keep their numbers. */
typedef struct {
    int fd;            /* listening or connected; -1: stdio, or a re-connecting client that was
                          not there at the start */
    int in, out;       /* FF_CLIENT_STDIO only, else -1 */
    char *unlink_path; /* unix socket to be removed at the end, absolute; can be NULL */
} FfEndpoint;

/*
 * Opens what MON describes, as QEMU would: an existing unix socket is replaced, a refused
 * connection is an error unless MON re-connects. ERROR has QEMU's words. Blocks while it
 * connects. New fds are close-on-exec, with high numbers.
 */
bool ff_endpoint_open(const FfPlanMonitor *mon, FfEndpoint *endpoint, GError **error);
/* Takes back what ff_endpoint_open() left in the file system, and frees ENDPOINT's members. */
void ff_endpoint_undo(FfEndpoint *endpoint);

/* A listening unix socket without a name, for one peer that knows its inode. */
typedef struct {
    int listen_fd; /* for QEMU */
    int path_fd;   /* O_PATH of its inode: connect() to "/proc/self/fd/N" reaches it */
} FfPrivateSocket;

/*
 * Makes N private sockets. Their directory, readable by this user alone, is removed before this
 * returns: only a process that inherits PATH_FD can connect. OWNER and GROUP: user that will
 * connect, or -1 for this one.
 */
bool ff_private_sockets_new(FfPrivateSocket *sockets, size_t n, uid_t owner, gid_t group,
                            GError **error);

/*
 * Moves FD above the numbers that a caller may have given QEMU by number, close-on-exec.
 * Returns the new number; FD is closed. Negative FDs pass through.
 */
int ff_fd_high(int fd);

#endif
