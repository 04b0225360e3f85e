/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much of a bulk socket's data may be on its way. What is queued in the network stands in
 * front of urgent packets of the same link, so the queue is kept short: the socket's send buffer
 * follows the round trip that TCP measures. Pure but for the socket's options; one thread at a
 * time.
 */
#ifndef FF_NET_WINDOW_H
#define FF_NET_WINDOW_H

#include <stdint.h>

typedef struct {
    int64_t next_us; /* not looked at before; monotonic time */
    unsigned bytes;  /* 0: as the kernel likes */
    uint64_t rate;   /* the best of late, bytes per second */
    int64_t measured_us;
    uint64_t acked; /* bytes, then */
} FfWindow;

/* What TCP knows of a connection. */
typedef struct {
    uint32_t rtt_us, min_rtt_us;
    uint64_t rate; /* that it can deliver, bytes per second */
} FfRoundTrip;

/* The window that follows on BYTES for a connection of which TCP says T. */
unsigned ff_window_next(unsigned bytes, const FfRoundTrip *t);
/* Looks at socket FD if it is time to, and sets its buffer. Sockets other than TCP stay as they
 * are. */
void ff_window_follow(FfWindow *w, int fd);

#endif
