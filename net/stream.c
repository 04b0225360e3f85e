/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See stream.h. Between two sockets the bytes are moved by splice(2) through a pipe and never
 * enter this process; plain text of TLS passes through a buffer, which is wiped.
 *
 * System calls: pipe2, splice, recv, send, shutdown, close.
 */
#include "net/channel-read.h"
#include "net/channel-tls.h"
#include "net/channel-write.h"
#include "net/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/secret.h"

#define PIPE_BYTES (1 << 20)
#define BUFFER_BYTES (4 * FF_TLS_RECORD)
#define HANDSHAKE_DEADLINE_MS 10000

struct FfStream {
    int fd;             /* -1: channel */
    FfChannel *channel; /* NULL: fd */
};

FfStream *ff_stream_new(int fd)
{
    FfStream *end = g_new0(FfStream, 1);

    end->fd = fd;
    return end;
}

FfStream *ff_stream_new_channel(FfChannel *channel)
{
    ff_channel_leave_to_vmm(channel);
    return ff_channel_has_tls(channel) ? ff_stream_new_tls(channel)
                                       : ff_stream_new(ff_channel_release(channel));
}

FfStream *ff_stream_new_tls(FfChannel *channel)
{
    FfStream *end = ff_stream_new(-1);

    end->channel = channel;
    return end;
}

bool ff_stream_secure(FfStream *end, FfTls *tls, const char *hostname, GError **error)
{
    return ff_channel_start_tls(end->channel, tls, hostname, HANDSHAKE_DEADLINE_MS, error);
}

void ff_stream_free(FfStream *end)
{
    if (end) {
        if (end->fd >= 0) {
            close(end->fd);
        }
        ff_channel_free(end->channel);
        g_free(end);
    }
}

void ff_stream_shutdown(FfStream *end)
{
    if (end->channel) {
        ff_channel_shutdown(end->channel);
    } else {
        shutdown(end->fd, SHUT_RDWR);
    }
}

/* ---- by the byte ----------------------------------------------------------------------------- */

/* Some bytes, at least one; 0: no more come. */
static size_t read_some(FfStream *end, void *buf, size_t n)
{
    if (!end->channel) {
        ssize_t got;

        do {
            got = recv(end->fd, buf, n, 0);
        } while (got < 0 && errno == EINTR);
        return got > 0 ? (size_t)got : 0;
    }
    size_t got = 0;
    FfIo io;

    while ((io = ff_channel_read(end->channel, buf, n, &got)) == FF_IO_AGAIN) {
        if (ff_channel_wait_readable(end->channel, -1) < 0) {
            return 0;
        }
    }
    return io == FF_IO_DONE ? got : 0;
}

bool ff_stream_read_all(FfStream *end, void *buf, size_t n)
{
    for (size_t have = 0, got; have < n; have += got) {
        got = read_some(end, (char *)buf + have, n - have);
        if (!got) {
            return false;
        }
    }
    return true;
}

bool ff_stream_write_all(FfStream *end, const void *buf, size_t n)
{
    if (end->channel) {
        struct iovec iov = {(void *)buf, n};

        return ff_channel_write_all(end->channel, &iov, 1, false) == 0;
    }
    for (size_t done = 0; done < n;) {
        ssize_t put = send(end->fd, (const char *)buf + done, n - done, MSG_NOSIGNAL);

        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return false;
        }
        done += (size_t)put;
    }
    return true;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* FALSE: TO takes no more. */
static bool splice_all(int from, int to, const int ends[2])
{
    for (;;) {
        ssize_t n = splice(from, NULL, ends[1], NULL, PIPE_BYTES, SPLICE_F_MOVE);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return true;
        }
        while (n > 0) {
            ssize_t m = splice(ends[0], NULL, to, NULL, (size_t)n, SPLICE_F_MOVE);

            if (m < 0 && errno == EINTR) {
                continue;
            }
            if (m <= 0) {
                return false;
            }
            n -= m;
        }
    }
}

static bool copy_by_pipe(FfStream *from, FfStream *to)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0) {
        return false;
    }
    fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES); /* smaller where the limit says so */
    bool ok = splice_all(from->fd, to->fd, ends);

    close(ends[0]);
    close(ends[1]);
    return ok;
}

static bool copy_by_buffer(FfStream *from, FfStream *to)
{
    g_autofree char *buf = g_malloc(BUFFER_BYTES);
    bool ok = true;
    size_t n;

    while (ok && (n = read_some(from, buf, BUFFER_BYTES))) {
        ok = ff_stream_write_all(to, buf, n);
    }
    ff_wipe(buf, BUFFER_BYTES);
    return ok;
}

void ff_stream_copy(FfStream *from, FfStream *to)
{
    bool ok = from->channel || to->channel ? copy_by_buffer(from, to) : copy_by_pipe(from, to);

    if (!ok) {
        ff_stream_shutdown(from);
    }
    if (to->channel) {
        ff_channel_finish(to->channel);
    } else {
        shutdown(to->fd, SHUT_WR);
    }
}
