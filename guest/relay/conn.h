/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection of a monitor: a byte stream both ways with fds at their exact place, for a
 * unix or TCP socket or a pair of plain fds (stdio). One thread (the main loop's); no locks.
 */
#ifndef FF_GUEST_RELAY_CONN_H
#define FF_GUEST_RELAY_CONN_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct FfConn FfConn;

typedef struct {
    /* Bytes came. The N_FDS fds (owned by the callee) came with BUF[0]. May free the conn. */
    void (*data)(FfConn *conn, const char *buf, size_t len, int *fds, unsigned n_fds, void *opaque);
    /* Nothing more will come. GONE: the peer takes nothing any more either. Comes once, or
     * twice if GONE follows later. May free the conn. */
    void (*end)(FfConn *conn, bool gone, void *opaque);
    /* The queue has become empty. May free the conn. */
    void (*drained)(FfConn *conn, void *opaque);
} FfConnOps;

/* Takes the fds (the same one twice for a socket) and makes them non-blocking. */
FfConn *ff_conn_new(int in, int out, const FfConnOps *ops, void *opaque);
/* What the peer takes now is written now, the rest queued. FDS (taken) go with the first
 * byte. Calls no callback. */
void ff_conn_write(FfConn *conn, const void *buf, size_t len, const int *fds, unsigned n_fds);
size_t ff_conn_queued(const FfConn *conn);
unsigned ff_conn_queued_fds(const FfConn *conn);
/* Its fds, which stay its own. */
int ff_conn_in(const FfConn *conn);
int ff_conn_out(const FfConn *conn);
/* Whether data is wanted. An unwanted peer is still watched for its hang-up. */
void ff_conn_set_reading(FfConn *conn, bool reading);
/* Reads everything that is there now, wanted or not; data() and end() are called. */
void ff_conn_read_rest(FfConn *conn);
/* Ends our direction as soon as the queue is written. */
void ff_conn_finish(FfConn *conn);
void ff_conn_free(FfConn *conn);

/* Connects to a private listening socket of QEMU's by FD, its name (O_PATH). Returns an fd, or
 * -errno. */
int ff_conn_to_qemu(int fd);
/* Connects to a unix socket, without waiting: -EAGAIN if it takes none now. The fd, or -errno. */
int ff_conn_to_path(const char *path);
/* FALSE: the socket is closed, and nobody will ever be taken there. QEMU sees nothing of it. */
bool ff_conn_qemu_listens(int fd);

#endif
