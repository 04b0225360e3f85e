/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Framed I/O over the socket between relay and engine (the frames are in link.h).
 *
 * Writing: frames wait in a queue; each tries to go out at once, and the socket is watched for
 * room only while the queue is not empty, so an idle link costs nothing. The fds of a frame go
 * in the sendmsg() of its first byte. Reading: bytes are gathered until a frame is whole; fds
 * are gathered in a queue of their own, and since both keep their order a frame's n_fds says
 * which are its own, wherever the kernel cut the stream.
 *
 * One thread: that of the link's main context. No locks.
 */
#include "state/link.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/rights.h"

#define READ_CHUNK (64 * 1024)
/* Read per wakeup at most; the other sources of the context get their turn then. */
#define READS_PER_TURN 16

typedef struct {
    GByteArray *bytes; /* header and payload */
    size_t sent;
    int *fds; /* owned; NULL once they are sent */
    unsigned n_fds;
} OutFrame;

struct FfLink {
    gatomicrefcount refs; /* the owner's, and one while a callback may free the link */
    int fd;               /* -1: dead */
    GMainContext *context;
    const FfLinkOps *ops; /* NULL: freed, no more callbacks */
    void *opaque;
    GQueue out; /* OutFrame * */
    size_t out_bytes;
    GByteArray *in;
    GArray *in_fds; /* of int */
    GSource *in_source, *out_source;
};

static void out_frame_free(void *data)
{
    OutFrame *frame = data;

    for (unsigned i = 0; frame->fds && i < frame->n_fds; i++) {
        if (frame->fds[i] >= 0) {
            close(frame->fds[i]);
        }
    }
    g_free(frame->fds);
    g_byte_array_unref(frame->bytes);
    g_free(frame);
}

static void source_clear(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

static void link_shut(FfLink *link)
{
    source_clear(&link->in_source);
    source_clear(&link->out_source);
    if (link->fd >= 0) {
        close(link->fd);
        link->fd = -1;
    }
    g_queue_clear_full(&link->out, out_frame_free);
    link->out_bytes = 0;
    for (guint i = 0; i < link->in_fds->len; i++) {
        close(g_array_index(link->in_fds, int, i));
    }
    g_array_set_size(link->in_fds, 0);
    g_byte_array_set_size(link->in, 0);
}

static void link_unref(FfLink *link)
{
    if (g_atomic_ref_count_dec(&link->refs)) {
        link_shut(link);
        g_array_unref(link->in_fds);
        g_byte_array_unref(link->in);
        g_clear_pointer(&link->context, g_main_context_unref);
        g_free(link);
    }
}

/* The link is over; tells the owner once. */
static void link_fail(FfLink *link, const GError *error)
{
    const FfLinkOps *ops = link->ops;

    link_shut(link);
    if (ops) {
        link->ops = NULL;
        ops->closed(link, error, link->opaque);
    }
}

static void link_fail_protocol(FfLink *link, const char *what)
{
    g_autoptr(GError) error =
        g_error_new(G_FILE_ERROR, G_FILE_ERROR_INVAL, "link between relay and engine: %s", what);

    link_fail(link, error);
}

/* Writes what the socket takes. Returns 0 when the queue is empty, -EAGAIN, or the error. */
static int link_write(FfLink *link)
{
    OutFrame *frame;

    while ((frame = g_queue_peek_head(&link->out))) {
        ssize_t n = ff_rights_send(link->fd, frame->bytes->data + frame->sent,
                                   frame->bytes->len - frame->sent, frame->fds,
                                   frame->fds ? frame->n_fds : 0);

        if (n < 0) {
            return n;
        }
        for (unsigned i = 0; frame->fds && i < frame->n_fds; i++) {
            close(frame->fds[i]);
        }
        g_clear_pointer(&frame->fds, g_free);
        frame->sent += n;
        link->out_bytes -= n;
        if (frame->sent == frame->bytes->len) {
            out_frame_free(g_queue_pop_head(&link->out));
        }
    }
    return 0;
}

static gboolean link_writable(gint fd, GIOCondition condition, gpointer data)
{
    FfLink *link = data;

    /* A broken socket is reported by the reader, after what the peer said last. */
    if (link_write(link) != -EAGAIN) {
        source_clear(&link->out_source);
    }
    return link->out_source ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

/* Hands out the whole frames of the buffer. FALSE: the link is over. */
static bool link_dispatch(FfLink *link)
{
    size_t done = 0;

    while (link->in->len - done >= sizeof(FfLinkHeader)) {
        FfLinkHeader header;
        g_autoptr(GBytes) payload = NULL;
        g_autofree int *fds = NULL;

        memcpy(&header, link->in->data + done, sizeof(header));
        if (header.length > FF_LINK_MAX_PAYLOAD || header.n_fds > FF_LINK_MAX_FDS) {
            link_fail_protocol(link, "a frame is over the limits");
            return false;
        }
        if (link->in->len - done - sizeof(header) < header.length) {
            break;
        }
        if (header.n_fds > link->in_fds->len) {
            link_fail_protocol(link, "a frame came without its fds");
            return false;
        }
        payload = g_bytes_new(link->in->data + done + sizeof(header), header.length);
        done += sizeof(header) + header.length;
        if (header.n_fds) {
            fds = g_memdup2(link->in_fds->data, sizeof(int) * header.n_fds);
            g_array_remove_range(link->in_fds, 0, header.n_fds);
        }
        link->ops->frame(link, &header, payload, fds, link->opaque);
        for (unsigned i = 0; i < header.n_fds; i++) {
            if (fds[i] >= 0) {
                close(fds[i]);
            }
        }
        if (!link->ops || link->fd < 0) {
            return false;
        }
    }
    if (done) {
        g_byte_array_remove_range(link->in, 0, done);
        explicit_bzero(link->in->data + link->in->len, done); /* commands may tell secrets */
    }
    return true;
}

/* Returns bytes, 0 at the end, or -errno; -EMFILE: fds were lost. */
static ssize_t link_recv(FfLink *link)
{
    guint len = link->in->len;
    FfRights rights;

    g_byte_array_set_size(link->in, len + READ_CHUNK);
    ssize_t n = ff_rights_receive(link->fd, link->in->data + len, READ_CHUNK, &rights);
    g_byte_array_set_size(link->in, len + MAX(n, 0));
    if (n < 0) {
        return n;
    }
    g_array_append_vals(link->in_fds, rights.fd, rights.n);
    bool many = link->in_fds->len > FF_LINK_MAX_FDS + FF_RIGHTS_MAX;
    return rights.lost || many ? -EMFILE : n;
}

static void link_read_turn(FfLink *link)
{
    for (int i = 0; i < READS_PER_TURN; i++) {
        ssize_t n = link_recv(link);

        if (n == -EAGAIN) {
            return;
        }
        if (n == 0 || n == -ECONNRESET) {
            if (link->in->len) {
                link_fail_protocol(link, "it ended in the middle of a frame");
            } else {
                link_fail(link, NULL);
            }
            return;
        }
        if (n < 0) {
            link_fail_protocol(link, n == -EMFILE ? "fds were lost: too many open files"
                                                  : g_strerror(-n));
            return;
        }
        if (!link_dispatch(link) || n < READ_CHUNK) {
            return;
        }
    }
}

static gboolean link_readable(gint fd, GIOCondition condition, gpointer data)
{
    FfLink *link = data;
    gboolean more;

    g_atomic_ref_count_inc(&link->refs);
    link_read_turn(link);
    more = link->in_source ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
    link_unref(link);
    return more;
}

void ff_link_read_now(FfLink *link)
{
    g_atomic_ref_count_inc(&link->refs);
    link_read_turn(link);
    link_unref(link);
}

static GSource *link_watch(FfLink *link, GIOCondition condition, GUnixFDSourceFunc func)
{
    GSource *source = g_unix_fd_source_new(link->fd, condition);

    g_source_set_callback(source, G_SOURCE_FUNC(func), link, NULL);
    g_source_attach(source, link->context);
    return source;
}

FfLink *ff_link_new(int fd, GMainContext *context, const FfLinkOps *ops, void *opaque)
{
    FfLink *link = g_new0(FfLink, 1);

    g_atomic_ref_count_init(&link->refs);
    link->fd = fd;
    link->context = context ? g_main_context_ref(context) : NULL;
    link->ops = ops;
    link->opaque = opaque;
    link->in = g_byte_array_new();
    link->in_fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_queue_init(&link->out);
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    link->in_source = link_watch(link, G_IO_IN | G_IO_HUP | G_IO_ERR, link_readable);
    return link;
}

int ff_link_send(FfLink *link, FfLinkType type, unsigned mon, uint32_t seq, const void *payload,
                 size_t length, const int *fds, unsigned n_fds)
{
    FfLinkHeader header = {.length = length, .type = type, .mon = mon, .seq = seq, .n_fds = n_fds};
    OutFrame *frame;

    if (length > FF_LINK_MAX_PAYLOAD || n_fds > FF_LINK_MAX_FDS) {
        return -EMSGSIZE;
    }
    if (link->fd < 0) {
        return -EPIPE;
    }
    frame = g_new0(OutFrame, 1);
    frame->bytes = g_byte_array_sized_new(sizeof(header) + length);
    g_byte_array_append(frame->bytes, (const guint8 *)&header, sizeof(header));
    if (length) {
        g_byte_array_append(frame->bytes, payload, length);
    }
    frame->n_fds = n_fds;
    frame->fds = n_fds ? g_new(int, n_fds) : NULL;
    for (unsigned i = 0; i < n_fds; i++) {
        frame->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
        if (frame->fds[i] < 0) {
            int ret = -errno;

            frame->n_fds = i;
            out_frame_free(frame);
            return ret;
        }
    }
    g_queue_push_tail(&link->out, frame);
    link->out_bytes += frame->bytes->len;
    if (!link->out_source && link_write(link) == -EAGAIN) {
        link->out_source = link_watch(link, G_IO_OUT, link_writable);
    }
    return 0;
}

size_t ff_link_queued(const FfLink *link)
{
    return link->out_bytes;
}

int ff_link_flush(FfLink *link)
{
    int ret;

    if (link->fd < 0) {
        return -EPIPE;
    }
    while ((ret = link_write(link)) == -EAGAIN) {
        struct pollfd pfd = {link->fd, POLLOUT, 0};

        if (poll(&pfd, 1, -1) < 0 && errno != EINTR) {
            return -errno;
        }
    }
    return ret;
}

void ff_link_free(FfLink *link)
{
    if (link) {
        link->ops = NULL;
        link_shut(link);
        link_unref(link);
    }
}
