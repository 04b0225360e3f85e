/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where the clients of one monitor come from. The main loop's thread. */
#ifndef FF_GUEST_RELAY_ACCEPT_H
#define FF_GUEST_RELAY_ACCEPT_H

#include "guest/relay/shared.h"

typedef struct FfAccept FfAccept;
/* A client has come; takes the fds (the same one twice for a socket). No other comes before
 * ff_accept_next(). */
typedef void FfAcceptClient(int in, int out, void *opaque);

/* CLIENT may be called at once. */
FfAccept *ff_accept_new(FfRelay *relay, const FfRelayMonitor *plan, FfAcceptClient *client,
                        void *opaque);
/* The client is gone. */
void ff_accept_next(FfAccept *accept);
/* FD is the client of one of FF_RELAY_DOOR that has none; it is taken. */
void ff_accept_give(FfAccept *accept, int fd);
/* The guest has become this QEMU's, or is it again (neither FF_MARK_BORROWED nor FF_MARK_MOVED):
 * clients may come. */
void ff_accept_open(FfAccept *accept);
void ff_accept_end(FfAccept *accept);

#endif
