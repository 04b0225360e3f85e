/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a migration goes to or comes from: parsing of "tcp:HOST:PORT[,ipv4][,ipv6]" and
 * "unix:PATH" as QEMU writes them, connecting and listening. Blocking calls take a GCancellable.
 * Any thread.
 */
#ifndef FF_NET_ADDRESS_H
#define FF_NET_ADDRESS_H

#include <gio/gio.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    bool is_unix;
    char *path;        /* unix */
    char *host, *port; /* tcp; host "" = any address; port is a number */
    int family;        /* tcp; AF_UNSPEC: any */
} FfAddress;

/* NULL and ERROR if URI is neither kind or malformed. "tcp:[::1]:PORT" has brackets. */
FfAddress *ff_address_parse(const char *uri, GError **error);
void ff_address_free(FfAddress *a);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfAddress, ff_address_free)

/* TEXT as a port, a number or the name of a service; -1: it is neither. */
int ff_address_port(const char *text);
/* HOST ("": this one) and PORT for GSocketClient, which looks a name up. HOST is taken as QEMU
 * takes it, "0" and "127.1" too. */
GSocketConnectable *ff_address_connectable(const char *host, uint16_t port);
/* Where to connect to, of a TCP address; "" is this host. Waits for the name server. NULL and ERROR
 * (HOST_NOT_FOUND); else freeaddrinfo(). */
struct addrinfo *ff_address_look_up(const FfAddress *a, GError **error);
/* Connects; returns an fd (close-on-exec), or -1 and ERROR. */
int ff_address_connect(const FfAddress *a, GCancellable *cancel, GError **error);
/* The connection that a client has given: FD, taken, if it is >= 0; else one to URI. *ADDRESS is
 * where to connect once more (ff_address_free), NULL if there is no such place. Returns an fd, or
 * -1 and ERROR, with *ADDRESS set if URI was good. */
int ff_address_open(int fd, const char *uri, FfAddress **address, GCancellable *cancel,
                    GError **error);
/* Connects to a unix socket of this host that is served already: waits only if many do. Returns a
 * blocking fd (close-on-exec), or -errno. */
int ff_address_connect_path(const char *path);
/* As it was parsed; g_free. */
char *ff_address_uri(const FfAddress *a);
/* The address of the peer of FD, to connect to once more; NULL if it has none that can be
 * connected to (socketpair, unlinked or unnamed unix socket). */
FfAddress *ff_address_of_peer(int fd);

/* Listens (a unix path is unlinked first, as QEMU does). Returns an fd, or -1 and ERROR. The host's
 * name is asked for, which may take any time: not for a main loop. */
int ff_address_listen(const FfAddress *a, GError **error);
/* The same for a TCP address whose host has the addresses LIST. Does not wait. */
int ff_address_listen_at(const FfAddress *a, const struct addrinfo *list, GError **error);
/* FD (can be -1) is a listening socket. */
bool ff_address_is_listening(int fd);
/* The URI under which FD (listening) is reached, with the port that the kernel chose; NULL for a
 * unix socket that has no name any more. g_free. */
char *ff_address_of_listener(int fd);
/* Waits for a connection. Returns an fd, or -1 and ERROR (G_IO_ERROR_CANCELLED). */
int ff_address_accept(int listen_fd, GCancellable *cancel, GError **error);

#endif
