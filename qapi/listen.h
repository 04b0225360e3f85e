/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Listening sockets as QEMU makes them for -incoming and migrate-incoming.
 *
 * Any thread; nothing here waits.
 */
#ifndef FF_QAPI_LISTEN_H
#define FF_QAPI_LISTEN_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <netdb.h>

#include "qapi/uri.h"

/*
 * Listens at TARGET (TCP: at LIST, every address of the host; unix: at the path, removed first;
 * LIST is NULL). Returns the fds (of int, non-blocking, close-on-exec) and sets *ADDRESSES to what
 * query-migrate shows as socket-address; NULL and ERROR (QEMU's text) if none could be made.
 */
GArray *ff_listen(const FfUri *target, const struct addrinfo *list, JsonArray **addresses,
                  GError **error);

/* Where FDS (of int) listen, for query-migrate. */
JsonArray *ff_listen_addresses(GArray *fds);
/* The path of the unix socket that FD is (g_free); NULL: it is none. */
char *ff_listen_path(int fd);

#endif
