/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where the clients of a relay that has ended came to. The only thread of a command. */
#ifndef FF_GUEST_LAUNCH_ATTACH_LISTEN_H
#define FF_GUEST_LAUNCH_ATTACH_LISTEN_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <sys/socket.h>

#include "guest/launch/launch-relay.h"

/* Listens at ADDRESS for monitor ID; a unix socket belongs to AS. MADE gets its path (char *).
 * INSTEAD: of the process that listens there (a unix socket). Returns the fd, close-on-exec; -1 and
 * ERROR (one line). */
int ff_attach_listen(const struct sockaddr *address, socklen_t len, const FfRunas *as, bool instead,
                     GPtrArray *made, const char *id, GError **error);

/* The path of a unix socket at which the relay of QEMU PID has listened by PLAN, and where no
 * client reaches it now: it has gone, or is another process's (g_free). NULL: there is none. */
char *ff_attach_lost_socket(pid_t pid, JsonObject *plan);

#endif
