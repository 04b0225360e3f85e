/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fetcher: a process that gets what CRIU's page server has (pager/remote/page-server.h) into a
 * memfd, over the one connection that such a server accepts. It outlives pagers. What somebody
 * waits for goes first.
 *
 * The server is not let go before the holder says so, when the processes have been restored: one
 * whose connection breaks lets its own processes run again. So does an end of all of farfault.
 */
#ifndef FF_PAGER_REMOTE_FETCH_H
#define FF_PAGER_REMOTE_FETCH_H

#include "net/address.h"
#include "pager/server/fetched-pages.h"

/* Pages that are one after the other at both ends. */
typedef struct {
    uint64_t first, pages, addr; /* FIRST: in the memfd */
    int32_t pid;
    uint32_t reserved;
} FfFetchRun;

typedef struct {
    FfFetchedPages *fetched;
    GArray *runs;     /* FfFetchRun, by `first`, without gaps */
    int server;       /* a connection; see ff_fetch_connect() */
    int link;         /* to the holder; FfHoldFetch (pager/holder/wire.h) */
    const char *name; /* of the server, for what is said */
    uint64_t rate;    /* bytes per second of what nobody waits for; 0: no limit */
} FfFetch;

/* All processes of the images in the folder DIR that have lazy pages. ERROR. */
bool ff_fetch_open(FfFetch *f, const char *dir, GError **error);
void ff_fetch_clear(FfFetch *f);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfFetch, ff_fetch_clear)
/* A connection whose last close the server takes for a failure. -1 and ERROR. */
int ff_fetch_connect(const FfAddress *address, GError **error);
/* TRUE: all is here, and the server has let its processes go. FALSE and ERROR (one line): the
 * connection is of no use any more. Closes nothing. */
bool ff_fetch_run(const FfFetch *f, GError **error);

#endif
