/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections between engines. See channel.h for the threads.
 *
 * Under TLS a writer gathers its frames into records in a buffer that belongs to whoever has the
 * turn; the session has a lock of its own (tls.h), poll() is outside of it.
 *
 * Locks: writer.lock is a leaf; it is held only to take and give the turn, never over I/O.
 * System calls: sendmsg, recv, recvmsg, poll, shutdown, setsockopt, getsockopt, getpeername, ioctl,
 * close.
 */
#include "net/channel.h"
#include "fault/fault.h"
#include "net/sync.h"
#include "net/tls.h"
#include "net/window.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A peer that answers nothing for this long is gone (milliseconds; TCP_USER_TIMEOUT). */
#define PEER_TIMEOUT_MS 30000
/* Unsent data that the kernel may hold for a bulk socket (bytes). What is queued there stands in
 * front of nothing urgent, but what is claimed early cannot be asked for any more. */
#define BULK_NOTSENT_LOWAT (128 * 1024)
/* While a bulk socket's window is bounded (a slow link) it goes out in pieces of so many bytes,
 * which the kernel does not join: a packet that it holds together delays what comes behind it. */
#define BULK_PIECE (32 * 1024)
/* The same for what is sent on the urgent socket though nobody has asked for it yet. */
#define AHEAD_NOTSENT_LOWAT (16 * 1024)

/* How long a refused peer has to read why (milliseconds). A server has more than that one to talk
 * to; a client that has refused its server has all the time that the server may need to end. */
#define SERVER_LINGER_MS 1000
#define CLIENT_LINGER_MS 5000

struct FfChannel {
    int fd;
    FfChannelKind kind;
    char *peer;
    gint error;         /* atomic; first errno that killed it. Observer: any thread */
    gint closed;        /* atomic; ff_channel_shutdown was called */
    uint64_t sent;      /* atomic, relaxed; observer: statistics */
    uint64_t received;  /* the same; observer also: who looks whether the peer lives */
    gint deadline;      /* atomic; ms for a write without any progress, 0: none */
    FfTlsSession *tls;  /* NULL: in the clear. Set before other threads use the channel */
    uint8_t *record;    /* [FF_TLS_RECORD]; its user has the turn. NULL: in the clear */
    short read_events;  /* reader; what a read that is to be repeated waits for */
    GByteArray *unread; /* reader; comes before all else. NULL: nothing */
    struct {            /* reader; NULL: nothing is read ahead */
        uint8_t *buf;
        size_t size, at, end;
    } ahead;
    FfWindow window; /* who waits for room to write bulk, one thread at a time */
    gint bounded;    /* atomic; window.bytes is not 0. Observer: writers */
    struct {
        FfMutex lock;
        FfCond turn;
        bool busy;
        unsigned urgent_waiting;
    } writer;
};

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

static void count_sent(FfChannel *ch, size_t n)
{
    __atomic_fetch_add(&ch->sent, n, __ATOMIC_RELAXED);
}

static void count_received(FfChannel *ch, size_t n)
{
    __atomic_fetch_add(&ch->received, n, __ATOMIC_RELAXED);
}

static FfIo died(FfChannel *ch, int err)
{
    g_atomic_int_compare_and_exchange(&ch->error, 0, err);
    return FF_IO_DEAD;
}

/* TIMEOUT in milliseconds, -1 for none. 0, -ETIMEDOUT or -errno. */
static int wait_for(FfChannel *ch, short events, int timeout)
{
    struct pollfd p = {.fd = ch->fd, .events = events};
    int rc;

    do {
        rc = poll(&p, 1, timeout);
    } while (rc < 0 && errno == EINTR);
    if (rc == 0) {
        return -ETIMEDOUT;
    }
    /* An error or a hang-up is told by the read or write that follows. */
    return rc < 0 ? -errno : 0;
}

void ff_channel_set_deadline(FfChannel *ch, int ms)
{
    unsigned timeout = ms;

    g_atomic_int_set(&ch->deadline, ms);
    if (ms > 0) {
        /* Also for what the kernel has taken already, and for a peer that is only silent. */
        setsockopt(ch->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
    }
}

/* Somebody waits to write. A peer that takes nothing in time is gone, and in the middle of a frame
 * nobody else may write any more. */
static int wait_for_peer(FfChannel *ch, short events)
{
    int ms = g_atomic_int_get(&ch->deadline);
    int rc = wait_for(ch, events, ms > 0 ? ms : -1);

    if (rc == -ETIMEDOUT) {
        died(ch, ETIMEDOUT);
        ff_channel_shutdown(ch);
    }
    return rc;
}

static FfIo read_tls(FfChannel *ch, void *buf, size_t len, size_t *done)
{
    short events;
    FfIo io = ff_tls_read(ch->tls, buf, len, done, &events);

    ch->read_events = events ? events : POLLIN;
    if (io == FF_IO_DONE) {
        count_received(ch, *done);
    } else if (io == FF_IO_DEAD && ff_tls_errno(ch->tls)) {
        died(ch, ff_tls_errno(ch->tls));
    }
    return io;
}

/* ---- what was read and given back -------------------------------------------------------------
 */

void ff_channel_unread(FfChannel *ch, const void *bytes, size_t n)
{
    if (n) {
        ch->unread = g_byte_array_append(g_byte_array_new(), bytes, n);
    }
}

GByteArray *ff_channel_take_unread(FfChannel *ch)
{
    return g_steal_pointer(&ch->unread);
}

static size_t read_again(FfChannel *ch, void *buf, size_t len)
{
    size_t n = MIN(len, ch->unread->len);

    memcpy(buf, ch->unread->data, n);
    g_byte_array_remove_range(ch->unread, 0, n);
    if (!ch->unread->len) {
        g_clear_pointer(&ch->unread, g_byte_array_unref);
    }
    return n;
}

short ff_channel_read_events(const FfChannel *ch)
{
    return ch->read_events;
}

/* ---- reading ahead ----------------------------------------------------------------------------
 */

/* One recv: what was asked for, and behind it what is to be read ahead. */
static ssize_t receive(FfChannel *ch, void *buf, size_t len)
{
    struct iovec iov[2] = {{buf, len}, {ch->ahead.buf, ch->ahead.size}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t n;

    if (!ch->ahead.buf) {
        return recv(ch->fd, buf, len, 0);
    }
    n = recvmsg(ch->fd, &m, 0);
    ch->ahead.at = 0;
    ch->ahead.end = n > (ssize_t)len ? n - len : 0;
    return n;
}

static size_t take_ahead(FfChannel *ch, void *buf, size_t len)
{
    size_t n = MIN(len, ch->ahead.end - ch->ahead.at);

    if (n) {
        memcpy(buf, ch->ahead.buf + ch->ahead.at, n);
        ch->ahead.at += n;
    }
    return n;
}

FfIo ff_channel_read(FfChannel *ch, void *buf, size_t len, size_t *done)
{
    ssize_t n;

    if (ch->unread) {
        *done = read_again(ch, buf, len);
        return FF_IO_DONE;
    }
    if (ch->tls) {
        return read_tls(ch, buf, len, done);
    }
    *done = take_ahead(ch, buf, len);
    if (*done) {
        return FF_IO_DONE;
    }
    do {
        n = FF_FAULT_CALL("recv", receive(ch, buf, len));
    } while (n < 0 && errno == EINTR);
    *done = n > 0 ? MIN((size_t)n, len) : 0;
    if (n > 0) {
        count_received(ch, n);
        return FF_IO_DONE;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return FF_IO_AGAIN;
    }
    return n == 0 ? FF_IO_DEAD : died(ch, errno);
}

void ff_channel_read_ahead(FfChannel *ch, size_t bytes)
{
    if (!ch->tls && !ch->ahead.buf) {
        ch->ahead.buf = g_malloc(bytes);
        ch->ahead.size = bytes;
    }
}

const void *ff_channel_take(FfChannel *ch, size_t len)
{
    if (!ch->ahead.buf || ch->ahead.end - ch->ahead.at < len) {
        return NULL;
    }
    ch->ahead.at += len;
    return ch->ahead.buf + ch->ahead.at - len;
}

int ff_channel_read_all(FfChannel *ch, void *buf, size_t len, int deadline_ms)
{
    gint64 end = deadline_ms < 0 ? -1 : g_get_monotonic_time() + deadline_ms * 1000LL;
    size_t have = 0;

    while (have < len) {
        size_t n;
        switch (ff_channel_read(ch, (char *)buf + have, len - have, &n)) {
        case FF_IO_DONE:
            have += n;
            break;
        case FF_IO_AGAIN: {
            gint64 left = end < 0 ? -1 : MAX(0, (end - g_get_monotonic_time()) / 1000);
            int rc = wait_for(ch, ch->read_events, left);
            if (rc < 0) {
                return rc;
            }
            break;
        }
        case FF_IO_DEAD: {
            int err = ff_channel_error(ch);
            return err ? -err : have ? -ECONNRESET : -EPIPE;
        }
        }
    }
    return 0;
}

int ff_channel_read_frame(FfChannel *ch, FfFrame *f, int deadline_ms, const char **why)
{
    int rc = ff_channel_read_all(ch, f, sizeof(*f), deadline_ms);

    *why = NULL;
    return rc < 0 ? rc : ff_frame_decode(f, why);
}

/* The turn to write is given frame by frame, urgent writers first: a plain mutex would let a
 * bulk writer that has just left in again before a waiting urgent one wakes up. */
static void take_turn(FfChannel *ch, bool urgent)
{
    ff_mutex_lock(&ch->writer.lock);
    ch->writer.urgent_waiting += urgent;
    while (ch->writer.busy || (!urgent && ch->writer.urgent_waiting)) {
        ff_cond_wait(&ch->writer.turn, &ch->writer.lock);
    }
    ch->writer.urgent_waiting -= urgent;
    ch->writer.busy = true;
    ff_mutex_unlock(&ch->writer.lock);
}

static void give_turn(FfChannel *ch)
{
    ff_mutex_lock(&ch->writer.lock);
    ch->writer.busy = false;
    ff_cond_broadcast(&ch->writer.turn);
    ff_mutex_unlock(&ch->writer.lock);
}

static void advance(struct iovec **iov, int *n, size_t done)
{
    while (*n > 0 && done >= (*iov)->iov_len) {
        done -= (*iov)->iov_len;
        (*iov)++;
        (*n)--;
    }
    if (*n > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + done;
        (*iov)->iov_len -= done;
    }
}

/* Moves up to a record's worth of bytes out of *IOV. */
static size_t gather(uint8_t *record, struct iovec **iov, int *n)
{
    size_t have = 0;

    while (*n > 0 && have < FF_TLS_RECORD) {
        size_t take = MIN((*iov)->iov_len, FF_TLS_RECORD - have);
        memcpy(record + have, (*iov)->iov_base, take);
        have += take;
        advance(iov, n, take);
    }
    return have;
}

static int write_tls(FfChannel *ch, struct iovec *iov, int n)
{
    while (n > 0) {
        size_t have = gather(ch->record, &iov, &n);
        short events;
        FfIo io;

        while ((io = ff_tls_write(ch->tls, ch->record, have, &events)) == FF_IO_AGAIN) {
            int rc = wait_for_peer(ch, events);
            if (rc < 0) {
                return rc;
            }
        }
        if (io == FF_IO_DEAD) {
            int err = ff_tls_errno(ch->tls);
            died(ch, err ? err : EPIPE);
            return err ? -err : -EPIPE;
        }
        count_sent(ch, have);
    }
    return 0;
}

static ssize_t send_some(FfChannel *ch, struct iovec *iov, int n)
{
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = n};
    size_t bytes = 0, cut = 0;
    int flags = MSG_NOSIGNAL;

    if (g_atomic_int_get(&ch->bounded)) {
        for (m.msg_iovlen = 0; m.msg_iovlen < (size_t)n && bytes < BULK_PIECE;) {
            bytes += iov[m.msg_iovlen++].iov_len;
        }
        cut = bytes > BULK_PIECE ? bytes - BULK_PIECE : 0;
        flags |= MSG_EOR;
    }
    iov[m.msg_iovlen - 1].iov_len -= cut;
    ssize_t done = sendmsg(ch->fd, &m, flags);
    iov[m.msg_iovlen - 1].iov_len += cut;
    return done;
}

static int write_all(FfChannel *ch, struct iovec *iov, int n)
{
    advance(&iov, &n, 0);
    if (ch->tls) {
        return write_tls(ch, iov, n);
    }
    while (n > 0) {
        ssize_t done = FF_FAULT_CALL("send", send_some(ch, iov, n));
        if (done >= 0) {
            count_sent(ch, done);
            advance(&iov, &n, done);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            int rc = wait_for_peer(ch, POLLOUT);
            if (rc < 0) {
                return rc;
            }
        } else if (errno != EINTR) {
            int err = errno;
            died(ch, err);
            return -err;
        }
    }
    return 0;
}

#ifdef FF_FAULTS
/* 1: it is written. 0: it is still to be. -errno. */
static int fault(FfChannel *ch, const struct iovec *iov, int n)
{
    const FfFrame *f = iov[0].iov_base;
    bool frame = iov[0].iov_len >= sizeof(*f) && f->magic == GUINT32_TO_LE(FF_FRAME_MAGIC);

    return frame ? ff_fault_message(ch->kind == FF_CHANNEL_URGENT ? "urgent" : "main",
                                    ff_frame_name(GUINT16_FROM_LE(f->type)), ch->fd, iov, n)
                 : 0;
}
#else
static int fault(FfChannel *ch, const struct iovec *iov, int n)
{
    return 0;
}
#endif

int ff_channel_write_all(FfChannel *ch, struct iovec *iov, int n, bool urgent)
{
    take_turn(ch, urgent);
    int rc = g_atomic_int_get(&ch->closed) ? -EPIPE : fault(ch, iov, n);
    rc = rc == 0 ? write_all(ch, iov, n) : MIN(rc, 0);
    if (rc < 0) {
        /* Half a frame may be out: nothing that follows could be understood. */
        ff_channel_shutdown(ch);
    }
    give_turn(ch);
    return rc;
}

int ff_channel_send(FfChannel *ch, FfFrame f, const void *payload, bool urgent)
{
    struct iovec iov[2] = {{&f, sizeof(f)}, {(void *)payload, f.length}};

    ff_frame_encode(&f);
    return ff_channel_write_all(ch, iov, iov[1].iov_len ? 2 : 1, urgent);
}

/* The turn for the last words, until END_US. */
static bool take_last_turn(FfChannel *ch, int64_t end_us)
{
    ff_mutex_lock(&ch->writer.lock);
    ch->writer.urgent_waiting++;
    while (ch->writer.busy && g_get_monotonic_time() < end_us) {
        ff_cond_wait_until(&ch->writer.turn, &ch->writer.lock, end_us);
    }
    bool mine = !ch->writer.busy;
    ch->writer.urgent_waiting--;
    if (mine) {
        ch->writer.busy = true;
    } else {
        ff_cond_broadcast(&ch->writer.turn);
    }
    ff_mutex_unlock(&ch->writer.lock);
    return mine;
}

/* HAVE bytes of ch->record, with TLS; else of IOV, which moves on. */
static FfIo write_last(FfChannel *ch, struct iovec **iov, int *n, size_t have, short *events)
{
    struct msghdr m = {.msg_iov = *iov, .msg_iovlen = *n};

    if (ch->tls) {
        return ff_tls_write(ch->tls, ch->record, have, events);
    }
    *events = POLLOUT;
    ssize_t done = sendmsg(ch->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0) {
        return errno == EAGAIN || errno == EWOULDBLOCK ? FF_IO_AGAIN : FF_IO_DEAD;
    }
    count_sent(ch, done);
    advance(iov, n, done);
    return *n > 0 ? FF_IO_AGAIN : FF_IO_DONE;
}

bool ff_channel_send_last(FfChannel *ch, FfFrame f, const void *payload, unsigned within_ms)
{
    int64_t end = g_get_monotonic_time() + within_ms * 1000ll;
    struct iovec parts[2] = {{&f, sizeof(f)}, {(void *)payload, f.length}}, *iov = parts;
    int n = f.length ? 2 : 1;
    short events;
    FfIo io;

    ff_frame_encode(&f);
    if (!take_last_turn(ch, end)) {
        return false;
    }
    size_t have = ch->tls ? gather(ch->record, &iov, &n) : 0;
    while ((io = write_last(ch, &iov, &n, have, &events)) == FF_IO_AGAIN) {
        int64_t left = (end - g_get_monotonic_time()) / 1000;
        if (left <= 0 || wait_for(ch, events, (int)left) < 0) {
            break;
        }
    }
    give_turn(ch);
    return io == FF_IO_DONE;
}

/* FALSE: somebody is writing, or waits for it. */
static bool try_turn(FfChannel *ch)
{
    ff_mutex_lock(&ch->writer.lock);
    bool mine = !ch->writer.busy && !ch->writer.urgent_waiting;
    ch->writer.busy |= mine;
    ff_mutex_unlock(&ch->writer.lock);
    return mine;
}

size_t ff_channel_write_some(FfChannel *ch, const void *data, size_t len)
{
    ssize_t n = 0;

    if (try_turn(ch)) {
        n = g_atomic_int_get(&ch->closed) ? 0
                                          : send(ch->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        n = MAX(n, 0);
        count_sent(ch, n);
        give_turn(ch);
    }
    return n;
}

int ff_channel_try_send(FfChannel *ch, FfFrame f)
{
    struct iovec iov = {&f, sizeof(f)};
    int rc = 0;

    if (!try_turn(ch)) {
        return 0;
    }
    /* A socket that is writable takes a header whole. */
    if (!g_atomic_int_get(&ch->closed) && wait_for(ch, POLLOUT, 0) == 0) {
        ff_frame_encode(&f);
        rc = write_all(ch, &iov, 1);
    }
    /* Who has closed the channel meanwhile knows of it. */
    rc = g_atomic_int_get(&ch->closed) ? 0 : rc;
    give_turn(ch);
    return rc;
}

void ff_channel_finish(FfChannel *ch)
{
    short events;

    take_turn(ch, true);
    while (ch->tls && ff_tls_finish(ch->tls, &events) == FF_IO_AGAIN &&
           wait_for(ch, events, -1) == 0) {
    }
    shutdown(ch->fd, SHUT_WR);
    give_turn(ch);
}

int ff_channel_wait_writable(FfChannel *ch)
{
    ff_window_follow(&ch->window, ch->fd);
    g_atomic_int_set(&ch->bounded, ch->window.bytes != 0);
    int rc = wait_for_peer(ch, POLLOUT);

    if (rc == 0 && g_atomic_int_get(&ch->closed)) {
        return -EPIPE;
    }
    return rc;
}

bool ff_channel_bounded(FfChannel *ch)
{
    return g_atomic_int_get(&ch->bounded);
}

uint64_t ff_channel_unsent(const FfChannel *ch)
{
    int bytes = 0;

    return ioctl(ch->fd, SIOCOUTQNSD, &bytes) == 0 && bytes > 0 ? bytes : 0;
}

uint64_t ff_channel_rate(const FfChannel *ch)
{
    return ch->window.rate;
}

int ff_channel_wait_readable(FfChannel *ch, int timeout_ms)
{
    if (ff_channel_pending(ch)) {
        return 0;
    }
    return wait_for(ch, ch->read_events, timeout_ms);
}

bool ff_channel_pending(FfChannel *ch)
{
    return ch->unread || (ch->tls ? ff_tls_pending(ch->tls) : ch->ahead.end > ch->ahead.at);
}

/* ---- the beginning ----------------------------------------------------------------------------
 */

int ff_channel_peek(FfChannel *ch, uint8_t *first, int deadline_ms)
{
    int rc = wait_for(ch, POLLIN, deadline_ms);
    ssize_t n = rc < 0 ? -1 : recv(ch->fd, first, 1, MSG_PEEK);

    if (rc < 0) {
        return rc;
    }
    return n == 1 ? 0 : n == 0 ? -EPIPE : -errno;
}

static int64_t left_ms(int64_t end)
{
    return MAX(0, (end - g_get_monotonic_time() + 999) / 1000);
}

/* This side has refused the peer, by an alert or by TLS's end. A close now would break the
 * connection under a peer that is still writing, and it would never read it. */
static void linger(FfChannel *ch, int ms)
{
    int64_t end = g_get_monotonic_time() + ms * 1000LL;
    char sink[1024];

    shutdown(ch->fd, SHUT_WR);
    while (wait_for(ch, POLLIN, left_ms(end)) == 0 && recv(ch->fd, sink, sizeof(sink), 0) > 0) {
    }
}

void ff_channel_begin_tls(FfChannel *ch, FfTls *tls, const char *hostname)
{
    ch->record = g_malloc(FF_TLS_RECORD);
    ch->tls = ff_tls_session_new(tls, ch->fd, hostname);
}

/* RC: 0, the peer just ended; or -errno. */
static void set_tls_error(const FfChannel *ch, int rc, GError **error)
{
    const char *why = ff_tls_why(ch->tls);

    g_set_error(error, g_quark_from_static_string("farfault-tls"), 0,
                "TLS handshake with %s failed: %s", ch->peer,
                why                ? why
                : rc == -ETIMEDOUT ? "it was not finished in time"
                : rc == 0          ? "the peer closed the connection: see its log, and set "
                                     "tls-creds on both sides"
                                   : g_strerror(-rc));
}

FfIo ff_channel_step_tls(FfChannel *ch, short *events, GError **error)
{
    FfIo io = ff_tls_handshake(ch->tls, events);

    if (io == FF_IO_DEAD) {
        int err = ff_tls_errno(ch->tls);
        died(ch, err ? err : EPIPE);
        set_tls_error(ch, -err, error);
    }
    return io;
}

bool ff_channel_start_tls(FfChannel *ch, FfTls *tls, const char *hostname, int deadline_ms,
                          GError **error)
{
    int64_t end = g_get_monotonic_time() + deadline_ms * 1000LL;
    short events;
    FfIo io;

    if (!ch->tls) {
        ff_channel_begin_tls(ch, tls, hostname);
    }
    /* The deadline is for the whole: a peer that sends a byte now and then gains nothing. */
    while ((io = ff_channel_step_tls(ch, &events, error)) == FF_IO_AGAIN) {
        int rc = wait_for(ch, events, left_ms(end));
        if (rc < 0) {
            set_tls_error(ch, rc, error);
            return false;
        }
    }
    if (io == FF_IO_DEAD && ff_channel_error(ch) == EPROTO) {
        linger(ch, ff_tls_is_server(tls) ? SERVER_LINGER_MS : CLIENT_LINGER_MS);
    }
    return io == FF_IO_DONE;
}

bool ff_channel_has_tls(const FfChannel *ch)
{
    return ch->tls;
}

bool ff_channel_proved(const FfChannel *ch)
{
    return ch->tls && ff_tls_proved(ch->tls);
}

bool ff_channel_declined(const FfChannel *ch)
{
    return ch->tls && ff_tls_declined(ch->tls);
}

char *ff_channel_tls(const FfChannel *ch)
{
    return ch->tls ? ff_tls_describe(ch->tls) : NULL;
}
