/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A proxy between two engines that does what networks and kernels do: it cuts, half cuts, stalls
 * and calls back after so many bytes of one direction, counted over all connections. And it can be
 * mute: then it takes connections, reads all that comes and never says a byte.
 */
#ifndef FF_TESTS_CHAOS_PROXY_H
#define FF_TESTS_CHAOS_PROXY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    FAULT_CUT,      /* all connections are reset */
    FAULT_HALF_CUT, /* the direction ends, the other one stays */
    FAULT_STALL,    /* the direction stands still for a while */
    FAULT_CORRUPT,  /* a bit of the next byte is another one */
    FAULT_CALL,     /* of the test; what it does is its own */
} FaultKind;

typedef struct {
    FaultKind kind;
    bool to_source;             /* counts what the destination says, else what the source says */
    uint64_t at;                /* bytes; what lies before has been delivered */
    unsigned ms;                /* STALL */
    void (*call)(void *opaque); /* CALL: any thread */
    void *opaque;
    bool done;
} Fault;

typedef struct Proxy Proxy;
/* FAULTS (N) are borrowed. */
Proxy *proxy_new(Fault *faults, unsigned n);
/* Connections that come go nowhere: they are read, and nothing is ever said on them. */
void proxy_be_mute(Proxy *p);
/* Those that come from now on continue, if a mute one has come. Not when that one ends: its end may
 * be seen later than the connection that comes after it. */
void proxy_end_mute(Proxy *p);
/* Whether a mute connection has come, and how many bytes were read on those that there were. */
bool proxy_was_mute(Proxy *p, uint64_t *bytes);
/* CALL(OPAQUE) when the next connection has come and before it goes anywhere; once. The acceptor's
 * thread. */
void proxy_on_connect(Proxy *p, void (*call)(void *opaque), void *opaque);
/* Connections that come go to PORT of 127.0.0.1 from now on. */
void proxy_to(Proxy *p, unsigned port);
/* Where it listens. */
unsigned proxy_port(const Proxy *p);
/* Ends all connections, and itself. */
void proxy_free(Proxy *p);

#endif
