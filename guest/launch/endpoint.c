/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two sides of a monitor that the relay stands in for.
 *
 * The client's side is opened with QEMU's manners and QEMU's error messages, because users and
 * tools read them. The private side is a unix socket whose name is gone before anybody else can
 * see it: Linux lets connect() reach the inode through /proc/self/fd of an O_PATH descriptor.
 * Its former absolute path must not exist any more: QEMU unlinks the name that getsockname()
 * tells when it closes the socket, and keeps quiet only at ENOENT.
 *
 * Threads: the launcher's only thread.
 */
#include "guest/launch/endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "contract/private-socket.h"

/* First number for fds of ours that live over exec. Callers give QEMU small numbers. */
#define FIRST_FD 100

int ff_fd_high(int fd)
{
    if (fd < 0) {
        return fd;
    }
    int high = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD);
    if (high < 0) { /* RLIMIT_NOFILE below FIRST_FD */
        high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    }
    int err = errno;
    close(fd);
    errno = err;
    return high;
}

static void G_GNUC_PRINTF(3, 4) set_errno(GError **error, int err, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err), "%s: %s", text, g_strerror(err));
}

static bool unix_address(const char *path, bool abstract, struct sockaddr_un *addr, socklen_t *len,
                         GError **error)
{
    size_t n = strlen(path);
    memset(addr, 0, sizeof(*addr));
    addr->sun_family = AF_UNIX;
    if (n + abstract > sizeof(addr->sun_path)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FILENAME_TOO_LONG,
                    "UNIX socket path '%s' is too long", path);
        return false;
    }
    memcpy(addr->sun_path + abstract, path, n);
    *len = offsetof(struct sockaddr_un, sun_path) + abstract + n;
    return true;
}

static int listen_unix(const FfPlanMonitor *mon, FfEndpoint *ep, GError **error)
{
    struct sockaddr_un addr;
    socklen_t len;
    if (!unix_address(mon->path, mon->abstract, &addr, &len, error)) {
        return -1;
    }
    if (!mon->abstract && unlink(mon->path) < 0 && errno != ENOENT) {
        set_errno(error, errno, "Failed to unlink socket %s", mon->path);
        return -1;
    }
    int fd = ff_fd_high(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (fd < 0) {
        set_errno(error, errno, "Failed to create Unix socket");
        return -1;
    }
    if (bind(fd, (struct sockaddr *)&addr, len) < 0) {
        set_errno(error, errno, "Failed to bind socket to %s", mon->path);
        close(fd);
        return -1;
    }
    if (!mon->abstract) {
        ep->unlink_path = g_canonicalize_filename(mon->path, NULL);
    }
    if (listen(fd, 1) < 0) {
        set_errno(error, errno, "Failed to listen on socket");
        close(fd);
        return -1;
    }
    return fd;
}

static int connect_unix(const FfPlanMonitor *mon, GError **error)
{
    struct sockaddr_un addr;
    socklen_t len;
    if (!unix_address(mon->path, mon->abstract, &addr, &len, error)) {
        return -1;
    }
    int fd = ff_fd_high(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (fd < 0) {
        set_errno(error, errno, "Failed to create socket");
        return -1;
    }
    if (connect(fd, (struct sockaddr *)&addr, len) < 0) {
        set_errno(error, errno, "Failed to connect to '%s'", mon->path);
        close(fd);
        return -1;
    }
    return fd;
}

typedef struct addrinfo AddrList;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AddrList, freeaddrinfo)

/* FAMILY: AF_INET, AF_INET6 or AF_UNSPEC. HOST NULL or "": any address, for listening. */
static AddrList *resolve_address(const FfPlanMonitor *mon, int family, GError **error)
{
    bool any = !mon->host || !*mon->host;
    bool listening = mon->kind == FF_CLIENT_LISTEN_TCP;
    struct addrinfo hints = {
        .ai_family = family,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = listening ? AI_PASSIVE : 0,
    };
    AddrList *list = NULL;
    int rc = getaddrinfo(any ? NULL : mon->host, mon->port, &hints, &list);
    if (rc != 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "address resolution failed for %s:%s: %s",
                    any ? "" : mon->host, mon->port, gai_strerror(rc));
        return NULL;
    }
    return list;
}

/* The port in an address of either family, network order. */
static in_port_t *port_of(struct sockaddr *addr)
{
    return addr->sa_family == AF_INET6 ? &((struct sockaddr_in6 *)(void *)addr)->sin6_port
                                       : &((struct sockaddr_in *)(void *)addr)->sin_port;
}

/* Tries AI's port and those above it, up to TO. Returns the listening socket or -errno. */
static int listen_address(struct addrinfo *ai, unsigned to, bool v6_only)
{
    in_port_t *port = port_of(ai->ai_addr);
    unsigned first = ntohs(*port);
    unsigned last = MAX(to, first);
    int err = EADDRINUSE;
    for (unsigned p = first; p <= last; p++) {
        int on = 1, v6 = v6_only;
        int fd = ff_fd_high(socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (fd < 0) {
            return -errno;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (ai->ai_family == AF_INET6) {
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6, sizeof(v6));
        }
        *port = htons(p);
        if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, 1) == 0) {
            return fd;
        }
        err = errno;
        close(fd);
        if (err != EADDRINUSE) {
            break;
        }
    }
    return -err;
}

/*
 * QEMU may listen on several addresses of one name; one socket is enough here: an unspecified
 * address is served for both families by one IPv6 socket, and of a name's addresses the IPv4
 * one is taken first, which is what "localhost" without ipv6=on is used for.
 */
static int listen_tcp(const FfPlanMonitor *mon, GError **error)
{
    bool any = !mon->host || !*mon->host;
    bool want4 = mon->ipv4 || !mon->ipv6, want6 = mon->ipv6 || !mon->ipv4;
    const int order[2] = {any ? AF_INET6 : AF_INET, any ? AF_INET : AF_INET6};
    int err = 0;
    g_autoptr(GError) unresolved = NULL;

    for (int i = 0; i < 2; i++) {
        if (order[i] == AF_INET6 ? !want6 : !want4) {
            continue;
        }
        g_clear_error(&unresolved);
        g_autoptr(AddrList) list = resolve_address(mon, order[i], &unresolved);
        for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
            int fd = listen_address(ai, mon->to, !(any && want4));
            if (fd >= 0) {
                return fd;
            }
            err = -fd;
        }
    }
    if (err) {
        set_errno(error, err, "Failed to find an available port");
    } else {
        g_propagate_error(error, g_steal_pointer(&unresolved));
    }
    return -1;
}

static int connect_tcp(const FfPlanMonitor *mon, GError **error)
{
    int family = mon->ipv4 == mon->ipv6 ? AF_UNSPEC : mon->ipv4 ? AF_INET : AF_INET6;
    g_autoptr(AddrList) list = resolve_address(mon, family, error);
    if (!list) {
        return -1;
    }
    int err = 0;
    for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        int fd = ff_fd_high(socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (fd >= 0 && connect(fd, ai->ai_addr, ai->ai_addrlen) == 0) {
            return fd;
        }
        err = errno;
        if (fd >= 0) {
            close(fd);
        }
    }
    set_errno(error, err, "Failed to connect to '%s:%s'", mon->host, mon->port);
    return -1;
}

static int connect_client(const FfPlanMonitor *mon, GError **error)
{
    GError *err = NULL;
    int fd = mon->kind == FF_CLIENT_CONNECT_UNIX ? connect_unix(mon, &err) : connect_tcp(mon, &err);
    if (fd < 0 && mon->reconnect) {
        g_error_free(err); /* as in QEMU: the client may come later */
        return -1;
    }
    if (fd < 0) {
        g_propagate_error(error, err);
    }
    return fd;
}

/* QEMU removes the name of a listening unix socket at its end, of an inherited one as well. */
static char *name_of_listener(int fd)
{
    struct sockaddr_un addr = {0};
    socklen_t len = sizeof(addr);
    if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0 || addr.sun_family != AF_UNIX ||
        addr.sun_path[0] == '\0') {
        return NULL;
    }
    g_autofree char *name = g_strndup(addr.sun_path, sizeof(addr.sun_path));
    return g_canonicalize_filename(name, NULL);
}

static bool check_inherited(int fd, GError **error)
{
    if (fcntl(fd, F_GETFD) < 0) {
        set_errno(error, errno, "Unable to query fd %d", fd);
        return false;
    }
    return true;
}

bool ff_endpoint_open(const FfPlanMonitor *mon, FfEndpoint *ep, GError **error)
{
    *ep = (FfEndpoint){.fd = -1, .in = -1, .out = -1};
    switch (mon->kind) {
    case FF_CLIENT_LISTEN_UNIX:
        ep->fd = listen_unix(mon, ep, error);
        return ep->fd >= 0;
    case FF_CLIENT_LISTEN_TCP:
        ep->fd = listen_tcp(mon, error);
        return ep->fd >= 0;
    case FF_CLIENT_LISTEN_FD:
        ep->fd = mon->fd;
        ep->unlink_path = name_of_listener(mon->fd);
        return check_inherited(mon->fd, error);
    case FF_CLIENT_CONNECTED_FD:
        ep->fd = mon->fd;
        return check_inherited(mon->fd, error);
    case FF_CLIENT_CONNECT_UNIX:
    case FF_CLIENT_CONNECT_TCP:
        ep->fd = connect_client(mon, error);
        return ep->fd >= 0 || mon->reconnect;
    case FF_CLIENT_SPARE:
    case FF_CLIENT_DOOR:
        return true;
    case FF_CLIENT_STDIO:
        ep->in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, FIRST_FD);
        ep->out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, FIRST_FD);
        if (ep->in < 0 || ep->out < 0) {
            set_errno(error, errno, "cannot use stdin and stdout");
            return false;
        }
        return true;
    }
    g_assert_not_reached();
}

void ff_endpoint_undo(FfEndpoint *ep)
{
    if (ep->unlink_path) {
        unlink(ep->unlink_path);
    }
    g_clear_pointer(&ep->unlink_path, g_free);
}

/* Makes a 0700 directory whose path leaves room for a socket name. */
static char *make_private_dir(GError **error)
{
    const char *const parents[] = {
        g_getenv("XDG_RUNTIME_DIR"), g_getenv("TMPDIR"), "/tmp", "/dev/shm", "/run", "/var/tmp",
    };
    int err = ENOENT;
    for (size_t i = 0; i < G_N_ELEMENTS(parents); i++) {
        if (!parents[i] || parents[i][0] != '/' || strlen(parents[i]) > 64) {
            continue;
        }
        g_autofree char *dir = g_build_filename(parents[i], FF_PRIVATE_FOLDER, NULL);
        if (g_mkdtemp(dir)) {
            return g_steal_pointer(&dir);
        }
        err = errno;
    }
    set_errno(error, err, "no directory for private sockets (tried TMPDIR, /tmp, /dev/shm, /run)");
    return NULL;
}

/* Returns 0 or -errno. PATH is gone again in either case. */
static int make_private_socket(FfPrivateSocket *s, const char *path, uid_t owner, gid_t group)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    s->path_fd = -1;
    /* QEMU's main loop and its monitor thread both accept a client that is there before the second
     * has taken the monitor over; without SOCK_NONBLOCK the one that comes second waits in accept()
     * for ever, and with it the main loop. The sockets that accept() makes do not inherit it. */
    s->listen_fd = ff_fd_high(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    /* connect() asks for write permission on the inode, whatever the umask was */
    if (s->listen_fd >= 0 && bind(s->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 &&
        chmod(path, 0600) == 0 &&
        ((owner == (uid_t)-1 && group == (gid_t)-1) || chown(path, owner, group) == 0) &&
        listen(s->listen_fd, 8) == 0) {
        s->path_fd = ff_fd_high(open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC));
    }
    int err = s->path_fd >= 0 ? 0 : -errno;
    unlink(path);
    return err;
}

bool ff_private_sockets_new(FfPrivateSocket *sockets, size_t n, uid_t owner, gid_t group,
                            GError **error)
{
    g_autofree char *dir = make_private_dir(error);
    if (!dir) {
        return false;
    }
    int err = 0;
    g_autofree char *path = g_build_filename(dir, FF_PRIVATE_NAME, NULL);
    for (size_t i = 0; i < n && !err; i++) {
        err = make_private_socket(&sockets[i], path, owner, group);
    }
    rmdir(dir);
    if (err) {
        set_errno(error, -err, "cannot make a private monitor socket in %s", dir);
    }
    return !err;
}
