/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The back-ends of a guest's devices that are processes of their own, all together, and what the
 * engine has to do with them (contract/backends.h). The main loop's thread. */
#ifndef FF_GUEST_RELAY_BACKENDS_H
#define FF_GUEST_RELAY_BACKENDS_H

#include "guest/relay/shared.h"

void ff_backends_start(FfRelay *relay);
/* A new engine's ends of two sockets; -1: no back-end is followed, or there is no socket. */
typedef struct {
    int asks;   /* contract/backends.h */
    int faults; /* contract/sharers.h */
} FfBackendsEnds;

/* *ENDS are the caller's; both -1: there is nothing to follow. Those of the engine before are at
 * their end. -errno: there are none, and an engine without would leave back-ends waiting. */
int ff_backends_offer(FfRelay *relay, FfBackendsEnds *ends);
void ff_backends_ends_close(FfBackendsEnds *ends);
/* There is no engine any more that could save a snapshot: what stands for that goes on. */
void ff_backends_engine_dead(FfRelay *relay);
/* The guest is another QEMU's, for good: the connections end, and there is none again. */
void ff_backends_leave(FfRelay *relay);
/* The QEMU whose back-ends these were has left them: they are connected to when the guest is this
 * one's. */
void ff_backends_left(FfRelay *relay);
/* The id of the first one that does not rest (guest/relay/vhost-conn.h); NULL: all do. */
const char *ff_backends_restless(const FfRelay *relay);
/* What is to be known of back-end I of the plan. FALSE: QEMU has removed its chardev. .had.rest
 * (g_free) is NULL where none is connected. */
bool ff_backends_describe(const FfRelay *relay, guint i, FfRelayBackend *had);
/* A chardev that QEMU has on the listening socket of spare SPARE now, and whose back-end listens at
 * PATH, which the relay connects to. What QEMU has removed is not used again. */
typedef struct {
    const char *id, *path;
    unsigned reconnect; /* seconds; 0: it is tried each second all the same */
    bool network;
} FfBackendPlug;
/* The next spare one, which is nobody else's from now on, and *IN_QEMU the number of its socket
 * there; -1: there is none. It is plugged, or used up. */
int ff_backends_spare(FfRelay *relay, int *in_qemu);
/* FD (taken): a connection to PATH. */
void ff_backends_plug(FfRelay *relay, int spare, const FfBackendPlug *plug, int fd);
/* What farfault run was told (--vhost-user). */
const char *ff_backends_option(const FfRelay *relay);
/* The relay stands in chardev ID. *NETWORK: of a network, and no disk. */
bool ff_backends_has(const FfRelay *relay, const char *id, bool *network);
/* QEMU has removed chardev ID. */
void ff_backends_unplugged(FfRelay *relay, const char *id);
/* Some are followed that were there at the start of QEMU. */
bool ff_backends_from_start(const FfRelay *relay);
void ff_backends_end(FfRelay *relay);

#endif
