/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Byte streams with fds (conn.h).
 *
 * Where the fds stand in the stream decides which command they belong to, but one recvmsg()
 * may return plain bytes and, after them, the beginning of a message with fds. So a unix
 * socket is looked at first (MSG_PEEK without room for fds: MSG_CTRUNC tells that some are
 * there, nothing is installed). Only then are the bytes up to the fds read one at a time; the
 * kernel hands out fds with the first byte they were sent with, and QEMU reads so always.
 *
 * One thread; no locks.
 */
#include "guest/relay/conn.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/rights.h"
#include "net/outbox.h"

#define READ_CHUNK (64 * 1024)

struct FfConn {
    unsigned refs;
    int in;
    bool socket, unix_socket;
    bool reading, ended, gone, finish, dead;
    const FfConnOps *ops;
    void *opaque;
    FfOutbox out;
    GSource *in_source;
};

static void conn_unref(FfConn *conn)
{
    if (--conn->refs == 0) {
        g_free(conn);
    }
}

void ff_conn_free(FfConn *conn)
{
    conn->dead = true;
    ff_outbox_unwatch(&conn->in_source);
    ff_outbox_clear(&conn->out);
    close(conn->in);
    if (conn->out.fd != conn->in) {
        close(conn->out.fd);
    }
    conn_unref(conn);
}

static void conn_end(FfConn *conn, bool gone)
{
    if (conn->gone || (conn->ended && !gone)) {
        return;
    }
    conn->ended = true;
    conn->gone = gone;
    if (gone) {
        ff_outbox_clear(&conn->out);
    }
    conn->ops->end(conn, gone, conn->opaque);
}

static void conn_shut_if_finished(FfConn *conn)
{
    if (conn->finish && conn->socket && !conn->out.queued) {
        shutdown(conn->out.fd, SHUT_WR);
    }
}

static void conn_written(int rc, void *opaque)
{
    FfConn *conn = opaque;

    if (rc < 0) {
        conn_end(conn, true);
        return;
    }
    conn_shut_if_finished(conn);
    if (conn->ops->drained) {
        conn->ops->drained(conn, conn->opaque);
    }
}

void ff_conn_write(FfConn *conn, const void *buf, size_t len, const int *fds, unsigned n_fds)
{
    if (conn->gone || !len) {
        ff_outbox_close_fds(fds, n_fds);
    } else {
        ff_outbox_send(&conn->out, buf, len, fds, n_fds);
    }
}

int ff_conn_in(const FfConn *conn)
{
    return conn->in;
}

int ff_conn_out(const FfConn *conn)
{
    return conn->out.fd;
}

size_t ff_conn_queued(const FfConn *conn)
{
    return conn->out.queued;
}

unsigned ff_conn_queued_fds(const FfConn *conn)
{
    return conn->out.queued_fds;
}

void ff_conn_finish(FfConn *conn)
{
    conn->finish = true;
    conn_shut_if_finished(conn);
}

/* How many bytes can be read before the next fds; *FDS_NEXT if fds come within them. */
static ssize_t conn_peek(FfConn *conn, char *buf, bool *fds_next)
{
    struct iovec iov = {buf, READ_CHUNK};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    do {
        n = recvmsg(conn->in, &msg, MSG_DONTWAIT | MSG_PEEK);
    } while (n < 0 && errno == EINTR);
    *fds_next = n > 0 && (msg.msg_flags & MSG_CTRUNC);
    return n < 0 ? -errno : n;
}

/* One portion. RIGHTS came with its first byte. Returns bytes, 0 at the end, -errno. */
static ssize_t conn_read(FfConn *conn, char *buf, FfRights *rights)
{
    bool fds_next;
    ssize_t n;

    rights->n = 0;
    if (!conn->unix_socket) {
        do {
            n = read(conn->in, buf, READ_CHUNK);
        } while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
    }
    n = conn_peek(conn, buf, &fds_next);
    if (n <= 0) {
        return n;
    }
    return ff_rights_receive(conn->in, buf, fds_next ? 1 : n, rights);
}

/* Whether the peer has closed both directions. */
static bool conn_hung_up(const FfConn *conn)
{
    struct pollfd pfd = {conn->in, 0, 0};

    return poll(&pfd, 1, 0) == 1 && (pfd.revents & (POLLHUP | POLLERR));
}

static void conn_rewatch(FfConn *conn);

/* Reads until nothing is there (ALL) or one portion. FALSE: ended, or the conn is freed. */
static bool conn_read_turn(FfConn *conn, bool all)
{
    g_autofree char *buf = g_malloc(READ_CHUNK);
    size_t budget = 256 * 1024; /* the other monitors get their turn then */
    ssize_t n;

    do {
        FfRights rights;

        n = conn_read(conn, buf, &rights);
        if (n == -EAGAIN) {
            return true;
        }
        if (n <= 0) {
            /* Plain fds that are no socket cannot tell a half: reading is over, that is all. */
            conn_end(conn, n < 0 || (conn->socket && conn_hung_up(conn)));
            if (!conn->dead) {
                conn_rewatch(conn);
            }
            return false;
        }
        conn->ops->data(conn, buf, n, rights.fd, rights.n, conn->opaque);
        budget -= MIN(budget, (size_t)n);
        if (!all && n < READ_CHUNK) {
            break; /* most likely that was all: poll() says so for less */
        }
    } while (!conn->dead && (all || (conn->reading && budget)));
    return !conn->dead;
}

static gboolean conn_readable(gint fd, GIOCondition condition, gpointer data)
{
    FfConn *conn = data;
    gboolean more;

    conn->refs++;
    if (conn->ended) {
        conn_end(conn, true); /* only a hang-up wakes then */
        if (!conn->dead) {
            ff_outbox_unwatch(&conn->in_source);
        }
    } else {
        /* Not wanted: a hang-up. What the peer said before still counts; it is no more than
         * the socket's buffer. */
        conn_read_turn(conn, !conn->reading);
    }
    more = conn->in_source ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
    conn_unref(conn);
    return more;
}

/* While nothing is wanted, poll() reports a hang-up all the same. */
static void conn_rewatch(FfConn *conn)
{
    GIOCondition condition =
        conn->reading && !conn->ended ? G_IO_IN | G_IO_HUP | G_IO_ERR : G_IO_HUP | G_IO_ERR;

    ff_outbox_unwatch(&conn->in_source);
    if (!conn->gone && (conn->socket || (condition & G_IO_IN))) {
        conn->in_source = ff_outbox_watch(conn->in, condition, NULL, conn_readable, conn);
        /* No main loop is run inside it: see net/outbox.c. libvirt's start has 400 commands. */
        g_source_set_can_recurse(conn->in_source, TRUE);
    }
}

void ff_conn_set_reading(FfConn *conn, bool reading)
{
    if (conn->reading != reading) {
        conn->reading = reading;
        conn_rewatch(conn);
    }
}

void ff_conn_read_rest(FfConn *conn)
{
    conn->refs++;
    if (!conn->ended) {
        conn_read_turn(conn, true);
    }
    conn_unref(conn);
}

FfConn *ff_conn_new(int in, int out, const FfConnOps *ops, void *opaque)
{
    FfConn *conn = g_new0(FfConn, 1);
    int domain = 0;
    socklen_t len = sizeof(domain);

    conn->refs = 1;
    conn->in = in;
    conn->ops = ops;
    conn->opaque = opaque;
    conn->socket = in == out && getsockopt(in, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0;
    conn->unix_socket = conn->socket && domain == AF_UNIX;
    conn->reading = true;
    conn->out = (FfOutbox){
        .fd = out,
        .kind = conn->unix_socket ? FF_OUTBOX_RIGHTS
                : conn->socket    ? FF_OUTBOX_SOCKET
                                  : FF_OUTBOX_PLAIN,
        .over = conn_written,
        .opaque = conn,
    };
    g_unix_set_fd_nonblocking(in, TRUE, NULL);
    g_unix_set_fd_nonblocking(out, TRUE, NULL);
    conn_rewatch(conn);
    return conn;
}

/* connect() by the O_PATH fd: the socket's name is gone from the file system. */
static int connect_to_path(const char *path, int type)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(addr.sun_path)) {
        return -ENAMETOOLONG;
    }
    int s = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    strcpy(addr.sun_path, path);
    if (s >= 0 && connect(s, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int ret = -errno;

        close(s);
        return ret;
    }
    return s < 0 ? -errno : s;
}

int ff_conn_to_path(const char *path)
{
    return connect_to_path(path, SOCK_STREAM);
}

static int connect_to(int fd, int type)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);

    return connect_to_path(path, type);
}

int ff_conn_to_qemu(int fd)
{
    return connect_to(fd, SOCK_STREAM);
}

/* A process that connects with another type is told so (EPROTOTYPE), if there is somebody. */
bool ff_conn_qemu_listens(int fd)
{
    int s = connect_to(fd, SOCK_SEQPACKET);

    if (s >= 0) {
        close(s);
    }
    return s != -ECONNREFUSED;
}
