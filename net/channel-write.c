/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing to a channel. See channel-write.h for the threads.
 *
 * Under TLS a writer gathers its frames into records in a buffer that belongs to the thread that
 * has the turn; the session has a lock of its own (tls.h), poll() is outside of it.
 *
 * Locks: writer.lock is a leaf; it is held only to take and give the turn, never over I/O.
 * System calls: sendmsg, shutdown, setsockopt, ioctl.
 */
#include "net/channel-write.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/failpoints.h"
#include "net/channel-internal.h"
#include "net/window-trial.h"

static void count_sent(FfChannel *ch, size_t n)
{
    __atomic_fetch_add(&ch->sent, n, __ATOMIC_RELAXED);
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

void ff_channel_leave_to_vmm(FfChannel *ch)
{
    int none = 0;

    setsockopt(ch->fd, SOL_SOCKET, SO_KEEPALIVE, &none, sizeof(none));
    setsockopt(ch->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &none, sizeof(none));
    setsockopt(ch->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &none, sizeof(none));
    ff_channel_set_deadline(ch, 0);
}

/* Somebody waits to write. A peer that takes nothing in time is gone, and in the middle of a frame
 * nobody else may write any more. */
static int wait_for_peer(FfChannel *ch, short events)
{
    int ms = g_atomic_int_get(&ch->deadline);
    int64_t begin = g_get_monotonic_time();
    int rc = ff_channel_wait(ch, events, ms > 0 ? ms : -1);

    __atomic_fetch_add(&ch->waited_us, g_get_monotonic_time() - begin, __ATOMIC_RELAXED);
    if (rc == -ETIMEDOUT) {
        ff_channel_died(ch, ETIMEDOUT);
        ff_channel_shutdown(ch);
    }
    return rc;
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

static void advance_iov(struct iovec **iov, int *n, size_t done)
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
static size_t gather_record(uint8_t *record, struct iovec **iov, int *n)
{
    size_t have = 0;

    while (*n > 0 && have < FF_TLS_RECORD) {
        size_t take = MIN((*iov)->iov_len, FF_TLS_RECORD - have);
        memcpy(record + have, (*iov)->iov_base, take);
        have += take;
        advance_iov(iov, n, take);
    }
    return have;
}

static int write_tls(FfChannel *ch, struct iovec *iov, int n)
{
    while (n > 0) {
        size_t have = gather_record(ch->record, &iov, &n);
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
            ff_channel_died(ch, err ? err : EPIPE);
            return err ? -err : -EPIPE;
        }
        count_sent(ch, have);
    }
    return 0;
}

/* While a bulk socket's window is bounded it goes out in pieces which the kernel does not join: a
 * packet that it holds together delays what comes after it. */
static ssize_t send_some(FfChannel *ch, struct iovec *iov, int n)
{
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = n};
    size_t bytes = 0, cut = 0, piece = (size_t)g_atomic_int_get(&ch->piece);
    int flags = MSG_NOSIGNAL;

    if (piece) {
        for (m.msg_iovlen = 0; m.msg_iovlen < (size_t)n && bytes < piece;) {
            bytes += iov[m.msg_iovlen++].iov_len;
        }
        cut = bytes > piece ? bytes - piece : 0;
        flags |= MSG_EOR;
    }
    iov[m.msg_iovlen - 1].iov_len -= cut;
    ssize_t done = sendmsg(ch->fd, &m, flags);
    iov[m.msg_iovlen - 1].iov_len += cut;
    return done;
}

static int write_all(FfChannel *ch, struct iovec *iov, int n)
{
    advance_iov(&iov, &n, 0);
    if (ch->tls) {
        return write_tls(ch, iov, n);
    }
    while (n > 0) {
        ssize_t done = FF_FAULT_CALL("send", send_some(ch, iov, n));
        if (done >= 0) {
            count_sent(ch, done);
            advance_iov(&iov, &n, done);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            int rc = wait_for_peer(ch, POLLOUT);
            if (rc < 0) {
                return rc;
            }
        } else if (errno != EINTR) {
            int err = errno;
            ff_channel_died(ch, err);
            return -err;
        }
    }
    return 0;
}

#ifdef FF_FAULTS
/* 1: it is written. 0: it is still to be. -errno. */
static int fault_message(FfChannel *ch, const struct iovec *iov, int n)
{
    const FfFrame *f = iov[0].iov_base;
    bool frame = iov[0].iov_len >= sizeof(*f) && f->magic == GUINT32_TO_LE(FF_FRAME_MAGIC);

    return frame ? ff_fault_message(ch->kind == FF_CHANNEL_URGENT ? "urgent" : "main",
                                    ff_frame_name(GUINT16_FROM_LE(f->type)), ch->fd, iov, n)
                 : 0;
}
#else
static int fault_message(FfChannel *ch, const struct iovec *iov, int n)
{
    return 0;
}
#endif

int ff_channel_write_all(FfChannel *ch, struct iovec *iov, int n, bool urgent)
{
    take_turn(ch, urgent);
    int rc = g_atomic_int_get(&ch->closed) ? -EPIPE : fault_message(ch, iov, n);
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
    advance_iov(iov, n, done);
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
    size_t have = ch->tls ? gather_record(ch->record, &iov, &n) : 0;
    while ((io = write_last(ch, &iov, &n, have, &events)) == FF_IO_AGAIN) {
        int64_t left = (end - g_get_monotonic_time()) / 1000;
        if (left <= 0 || ff_channel_wait(ch, events, (int)left) < 0) {
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
    if (!g_atomic_int_get(&ch->closed) && ff_channel_wait(ch, POLLOUT, 0) == 0) {
        ff_frame_encode(&f);
        rc = fault_message(ch, &iov, 1);
        rc = rc == 0 ? write_all(ch, &iov, 1) : MIN(rc, 0);
    }
    /* The thread that has closed the channel meanwhile knows of it. */
    rc = g_atomic_int_get(&ch->closed) ? 0 : rc;
    give_turn(ch);
    return rc;
}

void ff_channel_finish(FfChannel *ch)
{
    short events;

    take_turn(ch, true);
    while (ch->tls && ff_tls_finish(ch->tls, &events) == FF_IO_AGAIN &&
           ff_channel_wait(ch, events, -1) == 0) {
    }
    shutdown(ch->fd, SHUT_WR);
    give_turn(ch);
}

int ff_channel_wait_writable(FfChannel *ch)
{
    if (!ch->window.leads) {
        ch->window.trial = (unsigned)g_atomic_int_get(&ch->trial);
    }
    ff_window_follow(&ch->window, ch->fd, ff_channel_waited_us(ch));
    g_atomic_int_set(&ch->piece, (gint)ff_window_piece(&ch->window));
    int rc = wait_for_peer(ch, POLLOUT);

    if (rc == 0 && g_atomic_int_get(&ch->closed)) {
        return -EPIPE;
    }
    return rc;
}

bool ff_channel_lead(FfChannel *ch, const FfLinkRate *rate, bool slow, bool others)
{
    return ff_window_lead(&ch->window, rate, slow, others, g_get_monotonic_time());
}

void ff_channel_settle(FfChannel *ch)
{
    ff_window_settle(&ch->window, g_get_monotonic_time());
}

void ff_channel_follow(FfChannel *ch, const FfChannel *leader)
{
    g_atomic_int_set(&ch->trial, (gint)ff_window_trial(&leader->window));
}

uint64_t ff_channel_unsent(const FfChannel *ch)
{
    int bytes = 0;

    return ioctl(ch->fd, SIOCOUTQNSD, &bytes) == 0 && bytes > 0 ? bytes : 0;
}

uint64_t ff_channel_waited_us(const FfChannel *ch)
{
    return __atomic_load_n(&ch->waited_us, __ATOMIC_RELAXED);
}

uint64_t ff_channel_rate(const FfChannel *ch)
{
    return ch->window.rate;
}
