/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much of a bulk socket's data may be on its way. What is queued in the network stands in
 * front of urgent packets of the same link, so the queue is kept short: the socket's send buffer
 * follows the round trip that TCP measures. Pure but for the socket's options; one thread at a
 * time.
 */
#ifndef FF_NET_WINDOW_H
#define FF_NET_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "net/round-trip.h"
#include "net/window-state.h"

/* The window that follows on BYTES for a connection of which TCP says T. */
unsigned ff_window_next(unsigned bytes, const FfRoundTrip *t);
/* ACKED bytes have arrived so far, and the sender has waited for the socket for WAITED_US in all,
 * at NOW. */
void ff_window_measure(FfWindow *w, uint64_t acked, uint64_t waited_us, int64_t now);
/* The window that follows on the one of W at NOW, also where others use the same link. W->bytes is
 * what was set, and what was measured is T's rate. */
unsigned ff_window_look(FfWindow *w, const FfRoundTrip *t, int64_t now);
/* Bytes that are best written at once, so that what comes between them does not wait for long. 0:
 * the window has no bound, and neither has a write. */
unsigned ff_window_piece(const FfWindow *w);
/* Looks at socket FD if it is time to, and sets its buffer. WAITED_US as above. Sockets other than
 * TCP stay as they are. */
void ff_window_follow(FfWindow *w, int fd, uint64_t waited_us);

#endif
