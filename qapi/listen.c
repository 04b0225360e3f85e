/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Makes listening sockets, with the addresses, options and errors of QEMU's
 * util/qemu-sockets.c and io/net-listener.c: one socket per address of the host, success if one
 * of them could be made. Any thread.
 */
#include "qapi/listen.h"

#include <errno.h>
#include <gio/gio.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64 /* a source opens all its channels at once */

G_GNUC_PRINTF(2, 3) static int fail(GError **error, const char *format, ...)
{
    int code = errno;
    va_list args;

    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);

    va_end(args);
    g_clear_error(error);
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code), "%s: %s", what, g_strerror(code));
    return -1;
}

static JsonObject *inet_address(int fd)
{
    struct sockaddr_storage sa;
    socklen_t length = sizeof(sa);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(fd, (struct sockaddr *)&sa, &length) < 0 ||
        getnameinfo((struct sockaddr *)&sa, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV)) {
        return NULL;
    }
    JsonObject *address = json_object_new();

    json_object_set_string_member(address, "port", port);
    json_object_set_boolean_member(address, sa.ss_family == AF_INET ? "ipv4" : "ipv6", TRUE);
    json_object_set_string_member(address, "host", host);
    json_object_set_string_member(address, "type", "inet");
    return address;
}

static JsonObject *unix_address(const char *path)
{
    JsonObject *address = json_object_new();

    json_object_set_string_member(address, "path", path);
    json_object_set_string_member(address, "type", "unix");
    return address;
}

char *ff_listen_path(int fd)
{
    struct sockaddr_un sa = {0};
    socklen_t length = sizeof(sa);

    if (getsockname(fd, (struct sockaddr *)&sa, &length) < 0 || sa.sun_family != AF_UNIX ||
        !sa.sun_path[0]) {
        return NULL;
    }
    return g_strndup(sa.sun_path, sizeof(sa.sun_path));
}

JsonArray *ff_listen_addresses(GArray *fds)
{
    JsonArray *list = json_array_new();

    for (guint i = 0; i < fds->len; i++) {
        g_autofree char *path = ff_listen_path(g_array_index(fds, int, i));
        JsonObject *address = path ? unix_address(path) : inet_address(g_array_index(fds, int, i));

        if (address) {
            json_array_add_object_element(list, address);
        }
    }
    return list;
}

/* An IPv6 socket takes IPv4 too, unless somebody has that port already. */
static int bind_address(int fd, const struct addrinfo *ai)
{
    int off = 0, on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (ai->ai_family != AF_INET6) {
        return bind(fd, ai->ai_addr, ai->ai_addrlen);
    }
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (!bind(fd, ai->ai_addr, ai->ai_addrlen)) {
        return 0;
    }
    if (errno != EADDRINUSE) {
        return -1;
    }
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    return bind(fd, ai->ai_addr, ai->ai_addrlen);
}

static int listen_inet(const struct addrinfo *ai, GError **error)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        return fail(error, "Failed to create a socket");
    }
    if (bind_address(fd, ai) < 0) {
        fail(error,
             errno == EADDRINUSE ? "Failed to find an available port" : "Failed to bind socket");
    } else if (listen(fd, BACKLOG) < 0) {
        fail(error, errno == EADDRINUSE ? "Failed to find an available port"
                                        : "Failed to listen on socket");
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

static GArray *listen_tcp(const struct addrinfo *list, JsonArray *addresses, GError **error)
{
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_autoptr(GError) last = NULL;

    for (const struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        int fd = listen_inet(ai, &last);
        JsonObject *address = fd >= 0 ? inet_address(fd) : NULL;

        if (fd >= 0) {
            g_array_append_val(fds, fd);
        }
        if (address) {
            json_array_add_object_element(addresses, address);
        }
    }
    if (!fds->len) {
        g_propagate_error(error, g_steal_pointer(&last));
        return NULL;
    }
    return g_steal_pointer(&fds);
}

static GArray *listen_unix(const FfUri *target, JsonArray *addresses, GError **error)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    const char *said = ff_uri_said_path(target);
    GArray *fds;
    int fd;

    if (strlen(target->path) >= sizeof(sa.sun_path)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "UNIX socket path '%s' is too long", said);
        return NULL;
    }
    memcpy(sa.sun_path, target->path, strlen(target->path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        fail(error, "Failed to create Unix socket");
        return NULL;
    }
    if (unlink(target->path) < 0 && errno != ENOENT) {
        fail(error, "Failed to unlink socket %s", said);
    } else if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        fail(error, "Failed to bind socket to %s", said);
    } else if (listen(fd, BACKLOG) < 0) {
        fail(error, "Failed to listen on socket");
    } else {
        fds = g_array_new(FALSE, FALSE, sizeof(int));
        g_array_append_val(fds, fd);
        json_array_add_object_element(addresses, unix_address(said));
        return fds;
    }
    close(fd);
    return NULL;
}

GArray *ff_listen(const FfUri *target, const struct addrinfo *list, JsonArray **addresses,
                  GError **error)
{
    g_autoptr(JsonArray) shown = json_array_new();
    GArray *fds;

    if (target->kind == FF_URI_TCP) {
        fds = listen_tcp(list, shown, error);
    } else {
        fds = listen_unix(target, shown, error);
    }
    if (fds) {
        *addresses = g_steal_pointer(&shown);
    }
    return fds;
}
