/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See outbox.h. System calls: write, close. */
#include "net/outbox.h"

#include <errno.h>
#include <glib-unix.h>
#include <unistd.h>

#include "base/rights.h"

typedef struct {
    GBytes *bytes;
    size_t sent;
    int *fds; /* owned; NULL when there are none or they are sent */
    unsigned n_fds;
} Chunk;

void ff_outbox_close_fds(const int *fds, unsigned n_fds)
{
    for (unsigned i = 0; i < n_fds; i++) {
        close(fds[i]);
    }
}

static void drop_fds(Chunk *chunk)
{
    if (chunk->fds) {
        ff_outbox_close_fds(chunk->fds, chunk->n_fds);
    }
    g_clear_pointer(&chunk->fds, g_free);
    chunk->n_fds = 0;
}

static void chunk_free(void *data)
{
    Chunk *chunk = data;

    drop_fds(chunk);
    g_bytes_unref(chunk->bytes);
    g_free(chunk);
}

/* ---- watches --------------------------------------------------------------------------------- */

GSource *ff_outbox_watch(int fd, GIOCondition condition, GMainContext *context,
                         gboolean (*func)(int fd, GIOCondition condition, gpointer data),
                         gpointer data)
{
    GSource *source = g_unix_fd_source_new(fd, condition);

    g_source_set_callback(source, G_SOURCE_FUNC(func), data, NULL);
    g_source_attach(source, context);
    return source;
}

void ff_outbox_unwatch(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Up to LEN bytes, FDS with the first. Returns bytes or -errno. */
static ssize_t send_some(FfOutbox *box, const void *buf, size_t len, const int *fds, unsigned n_fds)
{
    ssize_t n;

    if (box->kind != FF_OUTBOX_PLAIN) {
        return ff_rights_send(box->fd, buf, len, fds, box->kind == FF_OUTBOX_RIGHTS ? n_fds : 0);
    }
    do {
        n = write(box->fd, buf, len);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

int ff_outbox_flush(FfOutbox *box)
{
    Chunk *chunk;

    while ((chunk = g_queue_peek_head(&box->chunks))) {
        gsize size;
        const char *data = g_bytes_get_data(chunk->bytes, &size);
        ssize_t n =
            send_some(box, data + chunk->sent, size - chunk->sent, chunk->fds, chunk->n_fds);

        if (n < 0) {
            return n;
        }
        box->queued_fds -= chunk->n_fds;
        drop_fds(chunk);
        chunk->sent += n;
        box->queued -= n;
        if (chunk->sent == size) {
            chunk_free(g_queue_pop_head(&box->chunks));
        }
    }
    return 0;
}

static gboolean on_writable(int fd, GIOCondition condition, gpointer data)
{
    FfOutbox *box = data;
    int rc = ff_outbox_flush(box);

    if (rc == -EAGAIN) {
        return G_SOURCE_CONTINUE;
    }
    ff_outbox_unwatch(&box->watch);
    box->over(rc, box->opaque);
    return G_SOURCE_REMOVE;
}

void ff_outbox_send(FfOutbox *box, const void *buf, size_t len, const int *fds, unsigned n_fds)
{
    ssize_t n = 0;

    if (g_queue_is_empty(&box->chunks)) {
        n = send_some(box, buf, len, fds, n_fds);
        if (n > 0) {
            ff_outbox_close_fds(fds, n_fds);
            n_fds = 0;
        }
        if ((size_t)n == len) {
            return;
        }
        /* An error other than "full" comes again from the watch, which may call back. */
        n = MAX(n, 0);
    }
    Chunk *chunk = g_new0(Chunk, 1);
    chunk->bytes = g_bytes_new((const char *)buf + n, len - n);
    chunk->n_fds = n_fds;
    chunk->fds = n_fds ? g_memdup2(fds, sizeof(int) * n_fds) : NULL;
    g_queue_push_tail(&box->chunks, chunk);
    box->queued += len - n;
    box->queued_fds += n_fds;
    if (!box->watch) {
        box->watch = ff_outbox_watch(box->fd, G_IO_OUT, box->context, on_writable, box);
        /* No main loop is run inside such a callback; GLib would take the fd out of its set and put
         * it back around each call, with four system calls. */
        g_source_set_can_recurse(box->watch, TRUE);
    }
}

void ff_outbox_clear(FfOutbox *box)
{
    ff_outbox_unwatch(&box->watch);
    g_queue_clear_full(&box->chunks, chunk_free);
    box->queued = 0;
    box->queued_fds = 0;
}
