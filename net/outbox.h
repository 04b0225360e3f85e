/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What waits to be written to a socket, with the fds that go along: bytes go out at once as far as
 * the peer takes them, the rest waits in a queue of chunks, and the socket is watched for room only
 * while there is one. Behind the monitors' connections (guest/relay/conn.c) and the link between
 * relay and engine (contract/link.c).
 *
 * One thread: that of its main context. No locks.
 */
#ifndef FF_NET_OUTBOX_H
#define FF_NET_OUTBOX_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    FF_OUTBOX_RIGHTS, /* a unix socket */
    FF_OUTBOX_SOCKET, /* another one: fds are not sent */
    FF_OUTBOX_PLAIN,  /* no socket: likewise */
} FfOutboxKind;

typedef struct {
    int fd; /* the owner's */
    FfOutboxKind kind;
    GMainContext *context; /* the owner's; NULL: the default one */
    /* Nothing waits any more. RC: 0: all was written; -errno: it cannot be. May free the owner. */
    void (*over)(int rc, void *opaque);
    void *opaque;

    /* Its own. */
    GQueue chunks;
    size_t queued; /* bytes in them */
    unsigned queued_fds;
    GSource *watch;
} FfOutbox;

/* Writes BUF, or queues it. FDS (taken) go with the first byte. Calls nothing back: an error comes
 * from the watch. */
void ff_outbox_send(FfOutbox *box, const void *buf, size_t len, const int *fds, unsigned n_fds);
/* Writes what the peer takes. Returns 0 when nothing waits, -EAGAIN, or the error. */
int ff_outbox_flush(FfOutbox *box);
/* Forgets what waits. */
void ff_outbox_clear(FfOutbox *box);

/* Watches FD in CONTEXT. */
GSource *ff_outbox_watch(int fd, GIOCondition condition, GMainContext *context,
                         gboolean (*func)(int fd, GIOCondition condition, gpointer data),
                         gpointer data);
void ff_outbox_unwatch(GSource **source);
void ff_outbox_close_fds(const int *fds, unsigned n_fds);

#endif
