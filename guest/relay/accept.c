/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a monitor's clients come from: a listening socket (one client at a time, come and go),
 * a connection made elsewhere, one that is made here and again after "reconnect" seconds, or
 * stdio. Its timer is that of a reconnect, while nobody is connected, or of the next accept() where
 * the last one found no room.
 *
 * Names are resolved once, at the start, before the launcher continues: a resolver may block.
 * One thread; no locks.
 */
#include "guest/relay/accept.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <sys/stat.h>

#include "base/io-result.h"

struct FfAccept {
    FfRelay *relay;
    const FfRelayMonitor *plan;
    FfAcceptClient *client;
    void *opaque;
    struct addrinfo *addresses, *next;
    GSource *source; /* listening, connecting, or the timer */
    int connecting;  /* fd, -1 */
    bool told;       /* that the peer cannot be reached */
    bool shut;       /* the socket is another QEMU's still: nobody is accepted */
};

/* Until accept() is tried again when there was no room for a client. */
#define SHORT_S 1

static void accept_connect(FfAccept *a);

static void source_clear(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

static void accept_watch(FfAccept *a, int fd, GIOCondition condition, GUnixFDSourceFunc func)
{
    a->source = g_unix_fd_source_new(fd, condition);
    g_source_set_callback(a->source, G_SOURCE_FUNC(func), a, NULL);
    g_source_attach(a->source, NULL);
}

static const char *kind_of_client(const FfAccept *a)
{
    return a->plan->backend ? "vhost-user back-end" : "monitor";
}

static void accept_client(FfAccept *a, int fd)
{
    int one = 1;

    a->told = false;
    /* As QEMU does; fails on a unix socket, which needs it not. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    a->client(fd, fd, a->opaque);
}

static void accept_later(FfAccept *a, unsigned seconds, GSourceFunc func)
{
    a->source = g_timeout_source_new_seconds(seconds);
    g_source_set_callback(a->source, func, a, NULL);
    g_source_attach(a->source, NULL);
}

static gboolean accept_again(gpointer data)
{
    FfAccept *a = data;

    source_clear(&a->source);
    ff_accept_next(a);
    return G_SOURCE_REMOVE;
}

/* The guest is, or may be, another QEMU's, whose relay has the same socket: who comes waits there.
 */
static bool is_anothers(const FfAccept *a)
{
    unsigned moved = a->plan->backend ? 0 : FF_MARK_MOVED; /* of back-ends that is vhost-conn.c's */

    return ff_state_is_marked(a->relay->state, FF_MARK_BORROWED | moved);
}

static gboolean accept_ready(gint listener, GIOCondition condition, gpointer data)
{
    FfAccept *a = data;

    if (is_anothers(a)) {
        source_clear(&a->source);
        a->shut = true;
        return G_SOURCE_REMOVE;
    }
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0 && !ff_io_is_short(errno)) {
        return G_SOURCE_CONTINUE; /* the client left again; the next wakes us */
    }
    if (fd < 0 && !a->told) {
        ff_relay_log(a->relay, "%s '%s': no client can come in, it is tried again: %s",
                     kind_of_client(a), a->plan->id, g_strerror(errno));
        a->told = true;
    }
    source_clear(&a->source);
    if (fd < 0) {
        accept_later(a, SHORT_S, accept_again);
    } else {
        accept_client(a, fd);
    }
    return G_SOURCE_REMOVE;
}

static gboolean accept_retry(gpointer data)
{
    FfAccept *a = data;

    source_clear(&a->source);
    accept_connect(a);
    return G_SOURCE_REMOVE;
}

static void accept_failed(FfAccept *a, int error)
{
    if (!a->told) {
        ff_relay_log(a->relay, "%s '%s': cannot connect to %s%s%s: %s", kind_of_client(a),
                     a->plan->id, a->plan->path ? a->plan->path : a->plan->host,
                     a->plan->path ? "" : ":", a->plan->path ? "" : a->plan->port,
                     g_strerror(error));
        a->told = true;
    }
    if (a->plan->reconnect) {
        accept_later(a, a->plan->reconnect, accept_retry);
    }
}

static void accept_made(FfAccept *a, int fd)
{
    a->next = a->addresses;
    accept_client(a, fd);
}

static gboolean accept_connected(gint fd, GIOCondition condition, gpointer data)
{
    FfAccept *a = data;
    int error = 0;
    socklen_t len = sizeof(error);

    source_clear(&a->source);
    a->connecting = -1;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (!error) {
        accept_made(a, fd);
        return G_SOURCE_REMOVE;
    }
    close(fd);
    a->next = a->next ? a->next->ai_next : NULL;
    if (a->next) {
        accept_connect(a);
    } else {
        a->next = a->addresses;
        accept_failed(a, error);
    }
    return G_SOURCE_REMOVE;
}

/* No back-end is wanted until the guest is taken back, and there is no word of that. */
static bool is_wanted(const FfAccept *a)
{
    return !a->plan->backend || !ff_state_is_marked(a->relay->state, FF_MARK_MOVED);
}

static void accept_connect(FfAccept *a)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    const struct sockaddr *addr = (struct sockaddr *)&un;
    socklen_t len = sizeof(un);
    int fd, domain = AF_UNIX;

    if (!is_wanted(a)) {
        ff_accept_next(a);
        return;
    }
    if (a->plan->path) {
        size_t path_len = strlen(a->plan->path);

        if (path_len >= sizeof(un.sun_path) - a->plan->abstract) {
            accept_failed(a, ENAMETOOLONG);
            return;
        }
        memcpy(un.sun_path + a->plan->abstract, a->plan->path, path_len);
        /* An abstract name is all of its bytes: "tight", QEMU's default. */
        len = offsetof(struct sockaddr_un, sun_path) + path_len + 1;
    } else if (a->next) {
        addr = a->next->ai_addr;
        len = a->next->ai_addrlen;
        domain = a->next->ai_family;
    } else {
        accept_failed(a, EHOSTUNREACH);
        return;
    }
    fd = socket(domain, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = fd < 0 ? -1 : connect(fd, addr, len);

    if (rc < 0 && (fd < 0 || errno != EINPROGRESS)) {
        int error = errno;

        if (fd >= 0) {
            close(fd);
        }
        accept_failed(a, error);
    } else if (rc == 0 && a->plan->backend) {
        /* At once, before an engine can have the guest run: QEMU 7.2 does not see that a back-end
         * is away from a device that was not started yet, and starts it all the same. */
        accept_made(a, fd);
    } else {
        a->connecting = fd;
        accept_watch(a, fd, G_IO_OUT, accept_connected);
    }
}

static void accept_resolve(FfAccept *a)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int ret = getaddrinfo(a->plan->host, a->plan->port, &hints, &a->addresses);

    if (ret) {
        ff_relay_log(a->relay, "monitor '%s': cannot resolve %s:%s: %s", a->plan->id, a->plan->host,
                     a->plan->port, gai_strerror(ret));
        a->addresses = NULL;
    }
    a->next = a->addresses;
}

FfAccept *ff_accept_new(FfRelay *relay, const FfRelayMonitor *plan, FfAcceptClient *client,
                        void *opaque)
{
    FfAccept *a = g_new0(FfAccept, 1);

    a->relay = relay;
    a->plan = plan;
    a->client = client;
    a->opaque = opaque;
    a->connecting = -1;
    if (plan->host && plan->port) {
        accept_resolve(a);
    }
    if (plan->session || plan->had) {
        return a; /* the client is there already: ff_accept_next() when it has gone */
    }
    if (plan->kind == FF_RELAY_STDIO) {
        client(plan->in, plan->out, opaque);
    } else if (plan->kind == FF_RELAY_LISTEN) {
        g_unix_set_fd_nonblocking(plan->fd, TRUE, NULL);
        ff_accept_next(a);
    } else if (plan->fd >= 0) {
        accept_client(a, plan->fd);
    } else if (plan->kind != FF_RELAY_DOOR) {
        accept_connect(a);
    }
    return a;
}

void ff_accept_next(FfAccept *a)
{
    source_clear(&a->source); /* a back-end may be tried for while QEMU has gone */
    if (a->plan->kind == FF_RELAY_LISTEN) {
        a->shut = is_anothers(a);
        if (!a->shut) {
            accept_watch(a, a->plan->fd, G_IO_IN, accept_ready);
        }
    } else if (a->plan->reconnect && (a->plan->path || a->addresses)) {
        accept_later(a, a->plan->reconnect, accept_retry);
    }
}

void ff_accept_give(FfAccept *a, int fd)
{
    accept_client(a, fd);
}

void ff_accept_open(FfAccept *a)
{
    if (a->shut) {
        ff_accept_next(a);
    }
}

/* QEMU has ended, and the process that started it may have started the next one already, which
 * listens at the same path: that socket is not ours. */
static void remove_socket(const FfStateHeader *state, const FfRelayMonitor *plan)
{
    struct stat st;

    if (ff_state_is_marked(state, FF_MARK_BORROWED | FF_MARK_MOVED)) {
        return; /* it was, or is, another QEMU's */
    }
    if (stat(plan->unlink, &st) == 0 && st.st_dev == plan->unlink_dev &&
        st.st_ino == plan->unlink_ino) {
        unlink(plan->unlink);
    }
}

void ff_accept_end(FfAccept *a)
{
    source_clear(&a->source);
    if (a->connecting >= 0) {
        close(a->connecting);
    }
    if (a->addresses) {
        freeaddrinfo(a->addresses);
    }
    if (a->plan->kind == FF_RELAY_LISTEN) {
        close(a->plan->fd);
    }
    if (a->plan->unlink) {
        remove_socket(a->relay->state, a->plan);
    }
    g_free(a);
}
