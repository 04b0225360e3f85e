/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Byte streams with fds (conn.h).
 *
 * Where the fds stand in the stream decides which command they belong to, but one recvmsg()
 * may return plain bytes and, behind them, the beginning of a message with fds. So a unix
 * socket is looked at first (MSG_PEEK without room for fds: MSG_CTRUNC tells that some are
 * there, nothing is installed). Only then are the bytes up to the fds read one at a time; the
 * kernel hands out fds with the first byte they were sent with, and QEMU reads so always.
 *
 * One thread; no locks.
 */
#include "relay/conn.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/rights.h"

#define READ_CHUNK (64 * 1024)

typedef struct {
    GBytes *bytes;
    size_t sent;
    int *fds; /* owned; NULL when there are none or they are sent */
    unsigned n_fds;
} Chunk;

struct FfConn {
    unsigned refs;
    int in, out;
    bool socket, unix_socket;
    bool reading, ended, gone, finish, dead;
    const FfConnOps *ops;
    void *opaque;
    GQueue queue; /* Chunk * */
    size_t queued;
    GSource *in_source, *out_source;
};

static void close_fds(const int *fds, unsigned n_fds)
{
    for (unsigned i = 0; i < n_fds; i++) {
        close(fds[i]);
    }
}

static void chunk_free(void *data)
{
    Chunk *chunk = data;

    if (chunk->fds) {
        close_fds(chunk->fds, chunk->n_fds);
    }
    g_free(chunk->fds);
    g_bytes_unref(chunk->bytes);
    g_free(chunk);
}

static void source_clear(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

static void conn_unref(FfConn *conn)
{
    if (--conn->refs == 0) {
        g_free(conn);
    }
}

void ff_conn_free(FfConn *conn)
{
    conn->dead = true;
    source_clear(&conn->in_source);
    source_clear(&conn->out_source);
    g_queue_clear_full(&conn->queue, chunk_free);
    close(conn->in);
    if (conn->out != conn->in) {
        close(conn->out);
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
        g_queue_clear_full(&conn->queue, chunk_free);
        conn->queued = 0;
        source_clear(&conn->out_source);
    }
    conn->ops->end(conn, gone, conn->opaque);
}

/* Sends up to LEN bytes, FDS with the first. Returns bytes or -errno. */
static ssize_t conn_send(FfConn *conn, const void *buf, size_t len, const int *fds, unsigned n_fds)
{
    ssize_t n;

    if (conn->socket) {
        return ff_rights_send(conn->out, buf, len, fds, conn->unix_socket ? n_fds : 0);
    }
    do {
        n = write(conn->out, buf, len);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Writes from the queue. Returns 0 when it is empty, or -errno. */
static int conn_flush(FfConn *conn)
{
    Chunk *chunk;

    while ((chunk = g_queue_peek_head(&conn->queue))) {
        gsize size;
        const char *data = g_bytes_get_data(chunk->bytes, &size);
        ssize_t n = conn_send(conn, data + chunk->sent, size - chunk->sent, chunk->fds,
                              chunk->fds ? chunk->n_fds : 0);

        if (n < 0) {
            return n;
        }
        if (chunk->fds) {
            close_fds(chunk->fds, chunk->n_fds);
            g_clear_pointer(&chunk->fds, g_free);
        }
        chunk->sent += n;
        conn->queued -= n;
        if (chunk->sent == size) {
            chunk_free(g_queue_pop_head(&conn->queue));
        }
    }
    if (conn->finish && conn->socket) {
        shutdown(conn->out, SHUT_WR);
    }
    return 0;
}

static gboolean conn_writable(gint fd, GIOCondition condition, gpointer data)
{
    FfConn *conn = data;
    int ret = conn_flush(conn);
    gboolean more;

    if (ret == -EAGAIN) {
        return G_SOURCE_CONTINUE;
    }
    conn->refs++;
    source_clear(&conn->out_source);
    if (ret < 0) {
        conn_end(conn, true);
    } else if (conn->ops->drained) {
        conn->ops->drained(conn, conn->opaque);
    }
    more = conn->out_source ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
    conn_unref(conn);
    return more;
}

static GSource *conn_watch(FfConn *conn, int fd, GIOCondition condition, GUnixFDSourceFunc func)
{
    GSource *source = g_unix_fd_source_new(fd, condition);

    g_source_set_callback(source, G_SOURCE_FUNC(func), conn, NULL);
    /* No main loop is run inside a callback here; GLib would take the fd out of its set and put it
     * back around each call, with four system calls. libvirt's start has 400 commands. */
    g_source_set_can_recurse(source, TRUE);
    g_source_attach(source, NULL);
    return source;
}

void ff_conn_write(FfConn *conn, const void *buf, size_t len, const int *fds, unsigned n_fds)
{
    Chunk *chunk;
    ssize_t n = 0;

    if (conn->gone || !len) {
        close_fds(fds, n_fds);
        return;
    }
    if (g_queue_is_empty(&conn->queue)) {
        n = conn_send(conn, buf, len, fds, n_fds);
        if (n > 0) {
            close_fds(fds, n_fds);
            n_fds = 0;
        }
        if ((size_t)n == len) {
            return;
        }
        /* An error other than "full" comes again from the watch, which may call back. */
        n = MAX(n, 0);
    }
    chunk = g_new0(Chunk, 1);
    chunk->bytes = g_bytes_new((const char *)buf + n, len - n);
    chunk->n_fds = n_fds;
    chunk->fds = n_fds ? g_memdup2(fds, sizeof(int) * n_fds) : NULL;
    g_queue_push_tail(&conn->queue, chunk);
    conn->queued += len - n;
    if (!conn->out_source) {
        conn->out_source = conn_watch(conn, conn->out, G_IO_OUT, conn_writable);
    }
}

size_t ff_conn_queued(const FfConn *conn)
{
    return conn->queued;
}

void ff_conn_finish(FfConn *conn)
{
    conn->finish = true;
    if (g_queue_is_empty(&conn->queue) && conn->socket) {
        shutdown(conn->out, SHUT_WR);
    }
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
            source_clear(&conn->in_source);
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

    source_clear(&conn->in_source);
    if (!conn->gone && (conn->socket || (condition & G_IO_IN))) {
        conn->in_source = conn_watch(conn, conn->in, condition, conn_readable);
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
    conn->out = out;
    conn->ops = ops;
    conn->opaque = opaque;
    conn->socket = in == out && getsockopt(in, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0;
    conn->unix_socket = conn->socket && domain == AF_UNIX;
    conn->reading = true;
    g_queue_init(&conn->queue);
    g_unix_set_fd_nonblocking(in, TRUE, NULL);
    g_unix_set_fd_nonblocking(out, TRUE, NULL);
    conn_rewatch(conn);
    return conn;
}
