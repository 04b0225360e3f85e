/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Addresses of migrations. No state; any thread.
 * System calls: socket, bind, listen, accept4, connect, getsockname, getpeername,
 * getsockopt, setsockopt, unlink.
 */
#include "net/address.h"
#include "net/resolve.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gunixsocketaddress.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A host that is there answers within this time; the kernel would try for two minutes. */
#define CONNECT_DEADLINE_S 20

void ff_address_free(FfAddress *a)
{
    if (a) {
        g_free(a->path);
        g_free(a->host);
        g_free(a->port);
        g_free(a);
    }
}

static bool has_option(char **options, const char *name)
{
    g_autofree char *on = g_strdup_printf("%s=on", name);

    return g_strv_contains((const char *const *)options, name) ||
           g_strv_contains((const char *const *)options, on);
}

/* Of the options that QEMU allows after the port the others (",to=") do not concern us. */
static int family_of(const char *port)
{
    g_auto(GStrv) options = g_strsplit(port, ",", -1);
    bool ipv4 = has_option(options, "ipv4"), ipv6 = has_option(options, "ipv6");

    return ipv4 == ipv6 ? AF_UNSPEC : ipv4 ? AF_INET : AF_INET6;
}

int ff_address_port(const char *text)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET}, *list;
    guint64 port;
    int number;

    if (g_ascii_string_to_unsigned(text, 10, 0, 65535, &port, NULL)) {
        return (int)port;
    }
    /* Else a number, as getaddrinfo() sees it, has a sign, or is too large. */
    if (!g_ascii_isalpha(*text) || getaddrinfo(NULL, text, &hints, &list)) {
        return -1;
    }
    number = ntohs(((struct sockaddr_in *)list->ai_addr)->sin_port);
    freeaddrinfo(list);
    return number;
}

static bool parse_tcp(FfAddress *a, const char *s, const char *uri, GError **error)
{
    const char *colon;

    if (*s == '[') {
        const char *end = strchr(s, ']');
        if (!end || end[1] != ':') {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                        "malformed address '%s': expected tcp:[ADDRESS]:PORT", uri);
            return false;
        }
        a->host = g_strndup(s + 1, end - s - 1);
        colon = end + 1;
    } else {
        colon = strchr(s, ':');
        if (!colon) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                        "error parsing address '%s': expected tcp:HOST:PORT", uri);
            return false;
        }
        a->host = g_strndup(s, colon - s);
    }
    g_autofree char *text = g_strndup(colon + 1, strcspn(colon + 1, ","));
    int port = ff_address_port(text);

    a->family = family_of(colon + 1);
    if (port < 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "address '%s' has no valid port: expected 0 to 65535, or the name of a service",
                    uri);
        return false;
    }
    a->port = g_strdup_printf("%d", port);
    return true;
}

FfAddress *ff_address_parse(const char *uri, GError **error)
{
    g_autoptr(FfAddress) a = g_new0(FfAddress, 1);

    if (g_str_has_prefix(uri, "unix:")) {
        a->is_unix = true;
        a->path = g_strdup(uri + strlen("unix:"));
        if (!*a->path || strlen(a->path) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                        "UNIX socket path '%s' is empty or too long (at most %zu bytes)", a->path,
                        sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
            return NULL;
        }
        return g_steal_pointer(&a);
    }
    if (g_str_has_prefix(uri, "tcp:")) {
        return parse_tcp(a, uri + strlen("tcp:"), uri, error) ? g_steal_pointer(&a) : NULL;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "unknown migration protocol: %s",
                uri);
    return NULL;
}

char *ff_address_uri(const FfAddress *a)
{
    if (a->is_unix) {
        return g_strdup_printf("unix:%s", a->path);
    }
    return g_strdup_printf(strchr(a->host, ':') ? "tcp:[%s]:%s%s" : "tcp:%s:%s%s", a->host, a->port,
                           a->family == AF_INET    ? ",ipv4=on"
                           : a->family == AF_INET6 ? ",ipv6=on"
                                                   : "");
}

struct addrinfo *ff_address_look_up(const FfAddress *a, GError **error)
{
    struct addrinfo *list = NULL;
    int rc = ff_resolve_now(*a->host ? a->host : "localhost", a->port, AF_UNSPEC, &list);

    if (rc) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_HOST_NOT_FOUND, "%s: %s", a->host,
                    gai_strerror(rc));
    }
    return list;
}

/* GLib's resolver takes no numbers in the forms of inet_aton() ("0", "127.1"), QEMU's does. */
GSocketConnectable *ff_address_connectable(const char *host, uint16_t port)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                             .ai_socktype = SOCK_STREAM};
    g_autofree char *number = g_strdup_printf("%u", port);
    struct addrinfo *list = NULL;

    if (!*host || getaddrinfo(host, number, &hints, &list)) {
        return g_network_address_new(*host ? host : "localhost", port);
    }
    GSocketAddress *to = g_socket_address_new_from_native(list->ai_addr, list->ai_addrlen);

    freeaddrinfo(list);
    return G_SOCKET_CONNECTABLE(to);
}

int ff_address_connect(const FfAddress *a, GCancellable *cancel, GError **error)
{
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketConnectable) to = NULL;

    g_socket_client_set_enable_proxy(client, FALSE);
    g_socket_client_set_timeout(client, CONNECT_DEADLINE_S);
    if (a->family != AF_UNSPEC) { /* to an address of another one its socket does not connect */
        g_socket_client_set_family(client, a->family == AF_INET ? G_SOCKET_FAMILY_IPV4
                                                                : G_SOCKET_FAMILY_IPV6);
    }
    if (a->is_unix) {
        to = G_SOCKET_CONNECTABLE(g_unix_socket_address_new(a->path));
    } else {
        to = ff_address_connectable(a->host, (uint16_t)g_ascii_strtoull(a->port, NULL, 10));
    }
    g_autoptr(GError) local = NULL;
    g_autoptr(GSocketConnection) c = g_socket_client_connect(client, to, cancel, &local);
    if (!c) {
        if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
            g_propagate_error(error, g_steal_pointer(&local));
        } else {
            g_set_error(error, local->domain, local->code, "Failed to connect to '%s%s%s': %s",
                        a->is_unix ? a->path : a->host, a->is_unix ? "" : ":",
                        a->is_unix ? "" : a->port, local->message);
        }
        return -1;
    }
    /* GLib keeps its own fd; ours is a duplicate with a life of its own. */
    int fd = fcntl(g_socket_get_fd(g_socket_connection_get_socket(c)), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "dup: %s", g_strerror(errno));
    }
    return fd;
}

int ff_address_connect_path(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = -1, err = ENAMETOOLONG;

    if (g_strlcpy(un.sun_path, path, sizeof(un.sun_path)) < sizeof(un.sun_path)) {
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        err = fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0 ? errno : 0;
    }
    if (err && fd >= 0) {
        close(fd);
    }
    return err ? -err : fd;
}

int ff_address_open(int fd, const char *uri, FfAddress **address, GCancellable *cancel,
                    GError **error)
{
    if (fd >= 0) {
        *address = ff_address_of_peer(fd);
        return fd;
    }
    *address = ff_address_parse(uri, error);
    return *address ? ff_address_connect(*address, cancel, error) : -1;
}

/* NAME is getsockname() or getpeername(). */
static FfAddress *of_socket(int fd, int (*name)(int, struct sockaddr *, socklen_t *))
{
    union {
        struct sockaddr sa;
        struct sockaddr_un un;
        struct sockaddr_storage st;
    } u = {0};
    socklen_t len = sizeof(u);

    if (name(fd, &u.sa, &len) < 0) {
        return NULL;
    }
    if (u.sa.sa_family == AF_UNIX) {
        struct stat st;
        size_t n = len > offsetof(struct sockaddr_un, sun_path)
                       ? len - offsetof(struct sockaddr_un, sun_path)
                       : 0;
        g_autofree char *path = g_strndup(u.un.sun_path, n);
        if (!*path || stat(path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
            return NULL;
        }
        FfAddress *a = g_new0(FfAddress, 1);
        a->is_unix = true;
        a->path = g_steal_pointer(&path);
        return a;
    }
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getnameinfo(&u.sa, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return NULL;
    }
    FfAddress *a = g_new0(FfAddress, 1);
    a->host = g_strdup(host);
    a->port = g_strdup(port);
    return a;
}

FfAddress *ff_address_of_peer(int fd)
{
    return of_socket(fd, getpeername);
}

static int listen_error(GError **error, const char *where, int err)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err), "Failed to listen on '%s': %s",
                where, g_strerror(err));
    return -1;
}

static int listen_unix(const FfAddress *a, GError **error)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return listen_error(error, a->path, errno);
    }
    g_strlcpy(un.sun_path, a->path, sizeof(un.sun_path));
    /* The name gets the socket's rights. */
    if ((unlink(a->path) < 0 && errno != ENOENT) || fchmod(fd, 0600) < 0 ||
        bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0 || listen(fd, 16) < 0) {
        int err = errno;
        close(fd);
        return listen_error(error, a->path, err);
    }
    return fd;
}

static int listen_on(const struct addrinfo *ai)
{
    int one = 1, zero = 0;
    int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);

    if (fd < 0) {
        return -errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (ai->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
    }
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 16) < 0) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd;
}

int ff_address_listen_at(const FfAddress *a, const struct addrinfo *list, GError **error)
{
    g_autofree char *where = g_strdup_printf("%s:%s", a->host, a->port);
    int fd = -EADDRNOTAVAIL;

    /* IPv6 first where any address is meant: such a socket takes IPv4 as well. */
    for (int pass = 0; pass < 2 && fd < 0; pass++) {
        for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
            if ((ai->ai_family == AF_INET6) == (pass == 0)) {
                fd = listen_on(ai);
            }
        }
    }
    return fd < 0 ? listen_error(error, where, -fd) : fd;
}

int ff_address_listen(const FfAddress *a, GError **error)
{
    struct addrinfo *list;

    if (a->is_unix) {
        return listen_unix(a, error);
    }
    int rc = ff_resolve_now(a->host, a->port, a->family, &list);
    if (rc != 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_HOST_NOT_FOUND,
                    "address resolution failed for %s:%s: %s", a->host, a->port, gai_strerror(rc));
        return -1;
    }
    int fd = ff_address_listen_at(a, list, error);
    freeaddrinfo(list);
    return fd;
}

bool ff_address_is_listening(int fd)
{
    int on = 0;
    socklen_t len = sizeof(on);

    return fd >= 0 && !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) && on;
}

char *ff_address_of_listener(int fd)
{
    g_autoptr(FfAddress) a = of_socket(fd, getsockname);

    return a ? ff_address_uri(a) : NULL;
}

int ff_address_accept(int listen_fd, GCancellable *cancel, GError **error)
{
    for (;;) {
        GPollFD p[2] = {{.fd = listen_fd, .events = G_IO_IN}};
        int n = 1 + (cancel && g_cancellable_make_pollfd(cancel, &p[1]));
        gint rc = g_poll(p, n, -1);
        int err = errno;
        if (n == 2) {
            g_cancellable_release_fd(cancel);
        }
        if (g_cancellable_set_error_if_cancelled(cancel, error)) {
            return -1;
        }
        if (rc > 0) {
            int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd >= 0) {
                return fd;
            }
            err = errno;
        } else if (rc == 0) {
            continue;
        }
        if (err != EINTR && err != ECONNABORTED && err != EAGAIN) {
            g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err), "accept: %s",
                        g_strerror(err));
            return -1;
        }
    }
}
