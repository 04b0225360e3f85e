/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Migration URIs, as far as farfault migrate must make one up: "tcp:HOST:PORT" (an IPv6 host
 * in brackets) and "unix:PATH". Pure functions; any thread.
 */
#include "cli/common/uri.h"
#include "qmp/json.h"

#include <gio/gio.h>
#include <string.h>

static char *tcp_uri(const char *host, const char *port)
{
    return strchr(host, ':') && *host != '[' ? g_strdup_printf("tcp:[%s]:%s", host, port)
                                             : g_strdup_printf("tcp:%s:%s", host, port);
}

char *ff_uri_default_listen(const char *src_host, const char *dst_host, GError **error)
{
    if (dst_host) {
        return tcp_uri(dst_host, "0");
    }
    if (!src_host) {
        return g_strdup("tcp:127.0.0.1:0");
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                "the source is on %s and cannot know this host's address: say where the "
                "destination listens with --uri tcp:HOST:PORT",
                src_host);
    return NULL;
}

char *ff_uri_from_info(JsonObject *info)
{
    JsonArray *list = ff_json_array(info, "socket-address");
    JsonObject *address;
    const char *type, *host, *port, *path;

    if (!list || !json_array_get_length(list)) {
        return NULL;
    }
    address = ff_json_node_object(json_array_get_element(list, 0));
    type = ff_json_string_or(address, "type", "");
    if (!strcmp(type, "inet")) {
        host = ff_json_string(address, "host");
        port = ff_json_string(address, "port");
        return host && port ? tcp_uri(host, port) : NULL;
    }
    path = ff_json_string(address, "path");
    return !strcmp(type, "unix") && path ? g_strdup_printf("unix:%s", path) : NULL;
}

/* Splits "tcp:HOST:PORT[,...]" at the colon before PORT; FALSE for other URIs. */
static bool split_tcp(const char *uri, char **host, char **port)
{
    const char *colon;

    if (!g_str_has_prefix(uri, "tcp:")) {
        return false;
    }
    uri += 4;
    colon = *uri == '[' ? strstr(uri, "]:") : strchr(uri, ':');
    if (!colon) {
        return false;
    }
    colon += *uri == '[';
    *host = g_strndup(uri, colon - uri);
    *port = g_strndup(colon + 1, strcspn(colon + 1, ","));
    return true;
}

bool ff_uri_any_port(const char *uri)
{
    g_autofree char *host = NULL, *port = NULL;

    return split_tcp(uri, &host, &port) && (!*port || !strcmp(port, "0"));
}

bool ff_uri_same_port(const char *a, const char *b)
{
    g_autofree char *a_host = NULL, *a_port = NULL, *b_host = NULL, *b_port = NULL;

    return split_tcp(a, &a_host, &a_port) && split_tcp(b, &b_host, &b_port)
               ? !strcmp(a_port, b_port)
               : !strcmp(a, b);
}

char *ff_uri_for_source(const char *actual, const char *dst_host)
{
    g_autofree char *host = NULL, *port = NULL;

    if (!split_tcp(actual, &host, &port)) {
        return g_strdup(actual);
    }
    if (!*host || !strcmp(host, "0.0.0.0")) {
        return tcp_uri(dst_host ? dst_host : "127.0.0.1", port);
    }
    if (!strcmp(host, "[::]")) {
        return tcp_uri(dst_host ? dst_host : "::1", port);
    }
    return g_strdup(actual);
}
