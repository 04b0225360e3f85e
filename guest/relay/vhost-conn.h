/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One connection between QEMU and the back-end of a device that is a process of its own. The main
 * loop's thread. */
#ifndef FF_GUEST_RELAY_VHOST_CONN_H
#define FF_GUEST_RELAY_VHOST_CONN_H

#include "guest/relay/shared.h"
#include "guest/vhost/session.h"

typedef struct FfVhostConn FfVhostConn;

typedef struct {
    /* TRUE: what the back-end gets of guest memory is held back now. */
    bool (*holds)(void *opaque);
    /* TRUE: it has the guest's memory, and may not write to it: a snapshot is being taken. */
    bool (*parks)(void *opaque);
    void (*came)(FfVhostConn *backend, void *opaque);
    void (*removed)(FfVhostConn *backend, void *opaque); /* QEMU has removed the chardev */
    void (*logs)(FfVhostConn *backend, void *opaque);
    /* A back-end has mapped the memory: another one of its process may. */
    void (*mapped)(void *opaque);
    /* The connection is about to end; it is over, and the next one may come. */
    void (*parts)(FfVhostConn *backend, void *opaque);
    void (*ended)(FfVhostConn *backend, void *opaque);
    /* TRUE: pages are missing, for longer than a moment. */
    bool (*misses)(void *opaque);
    /* As FfVhostSessionOps. */
    bool (*can_wait)(FfVhostConn *backend, void *opaque);
    bool (*hand)(FfVhostConn *backend, void *opaque);
    bool (*may_begin)(FfVhostConn *backend, void *opaque);
    void (*check)(FfVhostConn *backend, void *opaque);
    void (*all_there)(FfVhostConn *backend, void *opaque);
} FfVhostConnOps;

FfVhostConn *ff_vhost_conn_new(FfRelay *relay, const FfRelayMonitor *plan,
                               const FfVhostConnOps *ops, void *opaque);
/* The plan has changed: it was a spare one's, which is as one that was removed. */
void ff_vhost_conn_open(FfVhostConn *backend);
/* NULL: no back-end is connected, and none is stood in for. */
FfVhostSession *ff_vhost_conn_session(FfVhostConn *backend);
/* TRUE: QEMU has removed the chardev. Nobody is connected for it any more; if there is one with its
 * id again, it is QEMU's own. */
bool ff_vhost_conn_is_removed(FfVhostConn *backend);
const char *ff_vhost_conn_id(const FfVhostConn *backend);
/* Where it listens, or QEMU does; NULL: it came as an open connection. */
const char *ff_vhost_conn_path(const FfVhostConn *backend);
/* The same, as it is compared: absolute, and with "@" in front where it is abstract (g_free); "":
 * none. */
char *ff_vhost_conn_place(const FfVhostConn *b);
/* QEMU is answered in its place still, and nobody else has it: it has to connect. */
bool ff_vhost_conn_is_awaited(const FfVhostConn *b);
/* A network, and no disk. */
bool ff_vhost_conn_is_network(const FfVhostConn *backend);
/* Of its connection, or of the last one: another one has another number. */
uint32_t ff_vhost_conn_number(const FfVhostConn *backend);
/* One that no connection has. */
uint32_t ff_vhost_conn_next_number(void);
/* The process at its end, or the one that has begun to listen there; 0: it is not known. */
pid_t ff_vhost_conn_pid(const FfVhostConn *backend);
/* An engine can answer its faults now. */
void ff_vhost_conn_may_wait(FfVhostConn *backend);
/* Somebody answers its faults; it has registered its memory. */
void ff_vhost_conn_handed(FfVhostConn *backend);
void ff_vhost_conn_checked(FfVhostConn *backend);
/* It cannot wait for pages, whatever it says: its device stands, or, if that has begun already, the
 * connection is closed, and the next one stands. Not from inside of its session. */
void ff_vhost_conn_cannot_wait(FfVhostConn *backend);
/* Nothing of a message has come, waits to be read, or is under way; and no back-end waits for QEMU.
 */
bool ff_vhost_conn_rests(const FfVhostConn *backend);
/* Of one that rests; its fds and those of .rest (g_free) stay its own. .rest is NULL: none is
 * connected. */
FfRelayBackend ff_vhost_conn_describe(const FfVhostConn *backend);
/* It was another QEMU's, which has ended: it is connected to now. Safe to call twice. */
void ff_vhost_conn_is_free(FfVhostConn *backend);
/* Its connections end, and there is none again. */
void ff_vhost_conn_leave(FfVhostConn *backend);
/* What is held back is let go, if nothing need be held any more. */
void ff_vhost_conn_look(FfVhostConn *backend);
void ff_vhost_conn_end(FfVhostConn *backend);

#endif
