/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU whose guest has gone, and that stays (guest/relay/placeholder.h). Who is connected to its
 * serial ports, guest agent and screen must see an end, as if it had ended: each connection that
 * QEMU has accepted is shut down, through a copy of its socket. What it connected itself (storage)
 * it closes when it ends; it has no use for it any more. At a path it may listen still: the other
 * QEMU's socket is there by now (guest/relay/socket-renames.c). A port it gives up, for the other
 * QEMU's screen.
 *
 * The coordinator's thread. System calls: openat, getdents64, pidfd_getfd, getsockname, getsockopt,
 * shutdown, close.
 */
#include "guest/qemu/internal.h"

#include <fnmatch.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "contract/private-socket.h"
#include "guest/qemu/call.h"

/* For a QEMU that may hang. */
#define DEADLINE_MS 2000

typedef struct {
    int fd;
    struct sockaddr_storage name;
    socklen_t len;
    bool listens;
} Socket;

static void clear_socket(gpointer p)
{
    close(((Socket *)p)->fd);
}

/* A monitor's, or the private one. */
static bool is_own(const struct sockaddr_storage *name)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)(const void *)name;

    return name->ss_family == AF_UNIX && fnmatch(FF_PRIVATE_PATTERN, un->sun_path, 0) == 0;
}

/* FALSE: it is no stream socket with a name. */
static bool read_socket(int fd, Socket *s)
{
    int type, listens = 0;
    socklen_t len = sizeof(type), listens_len = sizeof(listens);

    *s = (Socket){.fd = fd, .len = sizeof(s->name)};
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM ||
        getsockname(fd, (struct sockaddr *)&s->name, &s->len) < 0 ||
        s->len <= sizeof(s->name.ss_family) || is_own(&s->name)) {
        return false;
    }
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_len);
    s->listens = listens;
    return true;
}

/* Of Socket; all of PID's that have a name. */
static GArray *sockets_of(int pid, int pidfd)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(Socket));
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *number;

    g_array_set_clear_func(all, clear_socket);
    while (dir && (number = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, number, NULL);
        g_autofree char *link = g_file_read_link(path, NULL);
        int fd = link && g_str_has_prefix(link, "socket:")
                     ? (int)syscall(SYS_pidfd_getfd, pidfd, atoi(number), 0)
                     : -1;
        Socket s;

        if (fd >= 0 && read_socket(fd, &s)) {
            g_array_append_val(all, s);
        } else if (fd >= 0) {
            close(fd);
        }
    }
    return all;
}

static uint16_t port_of(const Socket *s)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&s->name;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&s->name;

    return s->name.ss_family == AF_INET    ? in->sin_port
           : s->name.ss_family == AF_INET6 ? in6->sin6_port
                                           : 0;
}

/* A connection that was accepted has its listener's name; where that is any address, its port. */
static bool is_of(const Socket *s, const Socket *listener)
{
    return s->name.ss_family == AF_UNIX
               ? s->len == listener->len && memcmp(&s->name, &listener->name, s->len) == 0
               : port_of(s) && port_of(s) == port_of(listener);
}

static bool was_accepted(const GArray *all, const Socket *s)
{
    for (guint i = 0; !s->listens && i < all->len; i++) {
        const Socket *l = &g_array_index(all, Socket, i);

        if (l->listens && is_of(s, l)) {
            return true;
        }
    }
    return false;
}

/* At a path the other QEMU's socket is by now, which this one would remove as its own. */
static bool listens_at_port(const GArray *all)
{
    for (guint i = 0; i < all->len; i++) {
        const Socket *s = &g_array_index(all, Socket, i);

        if (s->listens && port_of(s)) {
            return true;
        }
    }
    return false;
}

/* QEMU closes all sockets of the server, and makes none. Without a server it is an error. */
static void close_vnc(FfQemu *qemu)
{
    JsonObject *args = json_object_new();
    g_autoptr(GError) ignored = NULL;

    json_object_set_string_member(args, "type", "vnc");
    json_object_set_array_member(args, "addresses", json_array_new());
    g_autoptr(JsonNode) node =
        ff_qemu_call_within(qemu, "display-update", args, DEADLINE_MS, &ignored);
}

void ff_qemu_leave(FfVmmState *state, int pidfd)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    g_autoptr(GArray) all = sockets_of(qemu->qemu_pid, pidfd);

    if (listens_at_port(all)) {
        close_vnc(qemu);
    }
    for (guint i = 0; i < all->len; i++) {
        const Socket *s = &g_array_index(all, Socket, i);

        if (was_accepted(all, s)) {
            shutdown(s->fd, SHUT_RDWR);
        }
    }
}
