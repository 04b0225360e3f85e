/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pager whose content is at a peer: each page that somebody waits for is a REQUEST frame on a
 * channel. What answers it comes by a reader of the owner's, which places it.
 *
 * The fault thread asks; on the fault path: no allocation, no log, no lock but the channel's writer
 * lock. The channel is exchanged while no fault thread runs, so it needs none.
 */
#ifndef FF_CONTENT_PAGERS_PEER_H
#define FF_CONTENT_PAGERS_PEER_H

#include "net/channel.h"
#include "uffd/pager.h"

typedef struct {
    FfPager pager;      /* first */
    FfChannel *ch;      /* borrowed; NULL: there is no connection, and waiters wait */
    uint64_t epoch;     /* of the connection; each frame says it */
    uint64_t *requests; /* atomic, the owner's: pages that were asked for */
} FfPeerPager;

void ff_peer_pager_init(FfPeerPager *p, uint64_t *requests);
/* Requests leave on CH (NULL: none) from now on. While no fault thread runs; ff_faults_again()
 * follows, as nobody knows what became of those on the channel before. */
void ff_peer_pager_connect(FfPeerPager *p, FfChannel *ch, uint64_t epoch);

#endif
