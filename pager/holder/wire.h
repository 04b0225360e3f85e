/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What holder and pager say to each other: messages of one size on a socketpair (SOCK_SEQPACKET),
 * with fds. Both are the same program; nobody else has the socket.
 */
#ifndef FF_PAGER_HOLDER_WIRE_H
#define FF_PAGER_HOLDER_WIRE_H

#include <assert.h>
#include <stdint.h>

typedef enum {
    /* Holder: a space, with the fds of FfHoldFd. Each parent before its children. */
    FF_HOLD_SPACE = 1,
    /* Holder: a process of the family ROOT may have ended. */
    FF_HOLD_PROBE,
    /* Holder: every space that was there when this pager began has been told. */
    FF_HOLD_READY,
    /* Holder: all must be placed as soon as possible; options that delay it do not count. */
    FF_HOLD_HURRY,
    /* Pager: nothing is to be done for the space any more; its fds are closed. TEXT: why, if there
     * is something to be said. */
    FF_HOLD_DROP,
} FfHoldType;

typedef enum {
    FF_HOLD_FD_UFFD,
    FF_HOLD_FD_RECORD,
    FF_HOLD_FD_ROOT, /* the record of the root, which may be the same */
    FF_HOLD_FD_NEWS, /* eventfd: the holder has put something into the record */
    FF_HOLD_FD_TOLD, /* eventfd, the family's: the pager has left the gate, or taken something */
    FF_HOLD_FDS,
} FfHoldFd;

typedef struct {
    uint64_t id, root, parent; /* of spaces; 0: none */
    uint32_t type;             /* FfHoldType */
    char text[228];            /* ends with 0 */
} FfHoldMessage;
static_assert(sizeof(FfHoldMessage) == 256, "both ends read as much");

/* What holder and fetcher say to each other, a byte each, on another socketpair. */
typedef enum {
    FF_HOLD_FETCHED = 'f',  /* fetcher: all is here */
    FF_HOLD_COMMIT = 'c',   /* holder: and the clients have been restored, so other copies of them
                               are to be given up */
    FF_HOLD_GIVEN_UP = 'g', /* fetcher: they are, when its connection has an orderly end; holder: it
                               will have that */
} FfHoldFetch;

/* The pager's end of the socketpair. */
#define FF_HOLD_LINK_FD 3

/* FDS can be NULL. 0 or -errno; -EAGAIN: the other end does not read. */
int ff_hold_send(int link, const FfHoldMessage *msg, const int *fds, unsigned n_fds);
/* 1; 0: the other end has gone; -errno, -EAGAIN: nothing is there; -EPROTO. *N_FDS of FDS
 * (FF_HOLD_FDS) are the caller's, close-on-exec. */
int ff_hold_receive(int link, FfHoldMessage *msg, int *fds, unsigned *n_fds);

#endif
