/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One connection between QEMU and the back-end of a device that is a process of its own. The main
 * loop's thread. */
#ifndef FF_RELAY_VHOST_CONN_H
#define FF_RELAY_VHOST_CONN_H

#include "relay/shared.h"
#include "vhost/session.h"

typedef struct FfVhostConn FfVhostConn;

typedef struct {
    /* TRUE: what the back-end gets of guest memory is held back now. */
    bool (*holds)(void *opaque);
    void (*logs)(FfVhostConn *backend, void *opaque);
    /* The connection is over; the next one may come. */
    void (*ended)(FfVhostConn *backend, void *opaque);
} FfVhostConnOps;

FfVhostConn *ff_vhost_conn_new(FfRelay *relay, const FfRelayMonitor *plan,
                               const FfVhostConnOps *ops, void *opaque);
/* NULL: no back-end is connected. */
FfVhostSession *ff_vhost_conn_session(FfVhostConn *backend);
/* TRUE: QEMU has removed the chardev. Nobody is connected for it any more; if there is one with its
 * id again, it is QEMU's own. */
bool ff_vhost_conn_is_removed(FfVhostConn *backend);
const char *ff_vhost_conn_id(const FfVhostConn *backend);
/* What is held back is let go, if nothing need be held any more. */
void ff_vhost_conn_look(FfVhostConn *backend);
void ff_vhost_conn_end(FfVhostConn *backend);

#endif
