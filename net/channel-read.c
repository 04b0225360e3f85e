/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading from a channel. See channel-read.h. The reader's thread; no lock.
 * System calls: recv, recvmsg.
 */
#include "net/channel-read.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/deadline.h"
#include "base/failpoints.h"
#include "net/channel-internal.h"

static void count_received(FfChannel *ch, size_t n)
{
    __atomic_fetch_add(&ch->received, n, __ATOMIC_RELAXED);
}

static FfIo read_tls(FfChannel *ch, void *buf, size_t len, size_t *done)
{
    short events;
    FfIo io = ff_tls_read(ch->tls, buf, len, done, &events);

    ch->read_events = events ? events : POLLIN;
    if (io == FF_IO_DONE) {
        count_received(ch, *done);
    } else if (io == FF_IO_DEAD && ff_tls_errno(ch->tls)) {
        ff_channel_died(ch, ff_tls_errno(ch->tls));
    }
    return io;
}

/* ---- what was read and given back ------------------------------------------------------------ */

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

/* ---- reading ahead --------------------------------------------------------------------------- */

/* One recv: what was asked for, and after it what is to be read ahead. */
static ssize_t receive_ahead(FfChannel *ch, void *buf, size_t len)
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
        n = FF_FAULT_CALL("recv", receive_ahead(ch, buf, len));
    } while (n < 0 && errno == EINTR);
    *done = n > 0 ? MIN((size_t)n, len) : 0;
    if (n > 0) {
        count_received(ch, n);
        return FF_IO_DONE;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return FF_IO_AGAIN;
    }
    return n == 0 ? FF_IO_DEAD : ff_channel_died(ch, errno);
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
            gint64 left = end < 0 ? -1 : ff_deadline_left_ms(end);
            int rc = ff_channel_wait(ch, ch->read_events, left);
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

bool ff_channel_pending(FfChannel *ch)
{
    return ch->unread || (ch->tls ? ff_tls_pending(ch->tls) : ch->ahead.end > ch->ahead.at);
}

int ff_channel_wait_readable(FfChannel *ch, int timeout_ms)
{
    if (ff_channel_pending(ch)) {
        return 0;
    }
    return ff_channel_wait(ch, ch->read_events, timeout_ms);
}

int ff_channel_peek(FfChannel *ch, uint8_t *first, int deadline_ms)
{
    int rc = ff_channel_wait(ch, POLLIN, deadline_ms);
    ssize_t n = rc < 0 ? -1 : recv(ch->fd, first, 1, MSG_PEEK);

    if (rc < 0) {
        return rc;
    }
    return n == 1 ? 0 : n == 0 ? -EPIPE : -errno;
}
