/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a destination listens and where the source connects to. Pure functions; any thread.
 */
#ifndef FF_CLI_COMMON_URI_H
#define FF_CLI_COMMON_URI_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

/*
 * What the destination is to listen on when nobody said: the host that its monitor is reached
 * at, any free port. Hosts are NULL for monitors that are unix sockets. Returns NULL with ERROR
 * if it cannot be known.
 */
char *ff_uri_default_listen(const char *src_host, const char *dst_host, GError **error);

/* The URI of the first entry of "socket-address" in a destination's query-migrate INFO; NULL if
 * it does not listen. */
char *ff_uri_from_info(JsonObject *info);

/*
 * What the source connects to, for a destination that listens on ACTUAL: a host that means "any
 * address" is replaced by DST_HOST, or by the loopback address if that is NULL.
 */
char *ff_uri_for_source(const char *actual, const char *dst_host);

/* Two tcp URIs of one port, or twice the same URI. */
bool ff_uri_same_port(const char *a, const char *b);

/* TRUE if URI asks for any free port ("tcp:HOST:0"). */
bool ff_uri_any_port(const char *uri);

#endif
