/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object of a connection between engines: its socket, its end, how many bytes it carried. See
 * channel.h for the threads. No lock.
 * System calls: poll, shutdown, setsockopt, getpeername, close.
 */
#include "net/channel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/channel-internal.h"

/* A peer that answers nothing for this long is gone (milliseconds; TCP_USER_TIMEOUT). */
#define PEER_TIMEOUT_MS 30000
/* Unsent data that the kernel may hold for a bulk socket (bytes). What is queued there stands in
 * front of nothing urgent, but what is claimed early cannot be asked for any more. */
#define BULK_NOTSENT_LOWAT (128 * 1024)
/* The same for what is sent on the urgent socket though nobody has asked for it yet. */
#define AHEAD_NOTSENT_LOWAT (16 * 1024)

static char *describe_peer(int fd)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage st;
    } a = {0};
    socklen_t len = sizeof(a);
    char text[INET6_ADDRSTRLEN] = "";

    if (getpeername(fd, &a.sa, &len) < 0) {
        return g_strdup("unknown peer");
    }
    switch (a.sa.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &a.in.sin_addr, text, sizeof(text));
        return g_strdup_printf("tcp %s:%u", text, ntohs(a.in.sin_port));
    case AF_INET6:
        inet_ntop(AF_INET6, &a.in6.sin6_addr, text, sizeof(text));
        return g_strdup_printf("tcp [%s]:%u", text, ntohs(a.in6.sin6_port));
    default:
        return g_strdup("unix socket");
    }
}

static void set_options(int fd, FfChannelKind kind)
{
    int one = 1, timeout = PEER_TIMEOUT_MS, idle = 5, lowat = BULK_NOTSENT_LOWAT,
        ahead = AHEAD_NOTSENT_LOWAT;

    /* These fail on unix sockets, which need none of them. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
    if (kind == FF_CHANNEL_URGENT) {
        int prio = 6; /* TC_PRIO_INTERACTIVE: first band of pfifo_fast */
        setsockopt(fd, SOL_SOCKET, SO_PRIORITY, &prio, sizeof(prio));
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &ahead, sizeof(ahead));
        /* One that paces (bbr) holds single answers back: it takes them for all that the link can
         * do. */
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", strlen("reno"));
    } else {
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

FfChannel *ff_channel_new(int fd, FfChannelKind kind)
{
    FfChannel *ch = g_new0(FfChannel, 1);

    ch->fd = fd;
    ch->kind = kind;
    ch->peer = describe_peer(fd);
    ch->read_events = POLLIN;
    ff_mutex_init(&ch->writer.lock);
    ff_cond_init(&ch->writer.turn);
    set_options(fd, kind);
    return ch;
}

void ff_channel_set_urgent(FfChannel *ch)
{
    set_options(ch->fd, FF_CHANNEL_URGENT);
}

int ff_channel_release(FfChannel *ch)
{
    int fd = fcntl(ch->fd, F_DUPFD_CLOEXEC, 0);

    /* The flag belongs to the open file, hence to the copy too. */
    fcntl(ch->fd, F_SETFL, fcntl(ch->fd, F_GETFL) & ~O_NONBLOCK);
    ff_channel_free(ch);
    return fd;
}

void ff_channel_free(FfChannel *ch)
{
    if (!ch) {
        return;
    }
    ff_tls_session_free(ch->tls);
    g_clear_pointer(&ch->unread, g_byte_array_unref);
    if (ch->record) {
        memset(ch->record, 0, FF_TLS_RECORD); /* guest memory in the clear */
        g_free(ch->record);
    }
    g_free(ch->ahead.buf);
    close(ch->fd);
    ff_mutex_clear(&ch->writer.lock);
    ff_cond_clear(&ch->writer.turn);
    g_free(ch->peer);
    g_free(ch);
}

void ff_channel_shutdown(FfChannel *ch)
{
    g_atomic_int_set(&ch->closed, 1);
    shutdown(ch->fd, SHUT_RDWR);
}

int ff_channel_fd(const FfChannel *ch)
{
    return ch->fd;
}

int ff_channel_error(const FfChannel *ch)
{
    return g_atomic_int_get(&ch->error);
}

const char *ff_channel_strerror(const FfChannel *ch, int rc)
{
    const char *why = ch->tls ? ff_tls_why(ch->tls) : NULL;

    return why ? why : g_strerror(rc < 0 ? -rc : rc);
}

const char *ff_channel_peer(const FfChannel *ch)
{
    return ch->peer;
}

uint64_t ff_channel_bytes(const FfChannel *ch)
{
    return __atomic_load_n(&ch->sent, __ATOMIC_RELAXED) + ff_channel_received(ch);
}

uint64_t ff_channel_received(const FfChannel *ch)
{
    return __atomic_load_n(&ch->received, __ATOMIC_RELAXED);
}

FfIo ff_channel_died(FfChannel *ch, int err)
{
    g_atomic_int_compare_and_exchange(&ch->error, 0, err);
    return FF_IO_DEAD;
}

int ff_channel_wait(FfChannel *ch, short events, int timeout)
{
    struct pollfd p = {.fd = ch->fd, .events = events};
    int rc;

    do {
        rc = poll(&p, 1, timeout);
    } while (rc < 0 && errno == EINTR);
    if (rc == 0) {
        return -ETIMEDOUT;
    }
    return rc < 0 ? -errno : 0;
}
