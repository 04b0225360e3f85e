/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Framed I/O over the socket between relay and engine (the frames are in link.h).
 *
 * Writing is net/outbox.c: the fds of a frame go in the sendmsg() of its first byte. Reading: bytes
 * are gathered until a frame is whole; fds
 * are gathered in a queue of their own, and since both keep their order a frame's n_fds says
 * which are its own, wherever the kernel cut the stream.
 *
 * One thread: that of the link's main context. No locks.
 */
#include "contract/link.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/rights.h"
#include "net/outbox.h"

#define READ_CHUNK (64 * 1024)
/* Read per wakeup at most; the other sources of the context get their turn then. */
#define READS_PER_TURN 16

struct FfLink {
    gatomicrefcount refs; /* the owner's, and one while a callback may free the link */
    int fd;               /* -1: dead */
    GMainContext *context;
    const FfLinkOps *ops; /* NULL: freed, no more callbacks */
    void *opaque;
    FfOutbox out;
    GByteArray *in;
    GArray *in_fds; /* of int */
    GSource *in_source;
};

static void link_shut(FfLink *link)
{
    ff_outbox_unwatch(&link->in_source);
    ff_outbox_clear(&link->out);
    if (link->fd >= 0) {
        close(link->fd);
        link->fd = -1;
    }
    ff_outbox_close_fds((const int *)link->in_fds->data, link->in_fds->len);
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

/* A broken socket is reported by the reader, after what the peer said last. */
static void link_written(int rc, void *opaque)
{
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
    link->out = (FfOutbox){.fd = fd,
                           .kind = FF_OUTBOX_RIGHTS,
                           .context = link->context,
                           .over = link_written,
                           .opaque = link};
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    link->in_source =
        ff_outbox_watch(fd, G_IO_IN | G_IO_HUP | G_IO_ERR, link->context, link_readable, link);
    return link;
}

/* Copies of the N fds, for the one that sends them. Returns 0 or -errno. */
static int duplicate_fds(const int *fds, unsigned n, int *copies)
{
    for (unsigned i = 0; i < n; i++) {
        copies[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
        if (copies[i] < 0) {
            int rc = -errno;

            ff_outbox_close_fds(copies, i);
            return rc;
        }
    }
    return 0;
}

int ff_link_send(FfLink *link, FfLinkType type, unsigned mon, uint32_t seq, const void *payload,
                 size_t length, const int *fds, unsigned n_fds)
{
    FfLinkHeader header = {.length = length, .type = type, .mon = mon, .seq = seq, .n_fds = n_fds};
    int copies[FF_LINK_MAX_FDS];

    if (length > FF_LINK_MAX_PAYLOAD || n_fds > FF_LINK_MAX_FDS) {
        return -EMSGSIZE;
    }
    if (link->fd < 0) {
        return -EPIPE;
    }
    int rc = duplicate_fds(fds, n_fds, copies);
    if (rc < 0) {
        return rc;
    }
    g_autofree char *frame = g_malloc(sizeof(header) + length);
    memcpy(frame, &header, sizeof(header));
    if (length) {
        memcpy(frame + sizeof(header), payload, length);
    }
    ff_outbox_send(&link->out, frame, sizeof(header) + length, copies, n_fds);
    return 0;
}

size_t ff_link_queued(const FfLink *link)
{
    return link->out.queued;
}

int ff_link_flush(FfLink *link)
{
    int ret;

    if (link->fd < 0) {
        return -EPIPE;
    }
    while ((ret = ff_outbox_flush(&link->out)) == -EAGAIN) {
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
