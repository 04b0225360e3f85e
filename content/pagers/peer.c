/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests to a peer; see peer.h for the thread. No system calls of its own. */
#include "content/pagers/peer.h"

#include "base/trace-mark.h"
#include "net/channel-write.h"

/* Frames of one write. */
#define BATCH 64

static FfFrame frame_of(const FfPeerPager *p, const FfRun *run)
{
    FfFrame f = ff_frame(FF_FRAME_REQUEST, 0);

    f.epoch = p->epoch;
    f.block = run->block;
    f.page = run->first;
    f.n_pages = run->n;
    ff_frame_encode(&f);
    return f;
}

/* That a channel is broken is told by its reader; what is waited for is asked for again on the next
 * one. */
static int request_runs(FfPager *pager, const FfRun *runs, unsigned n)
{
    FfPeerPager *p = (FfPeerPager *)pager;
    FfFrame frames[BATCH];

    __atomic_fetch_add(p->requests, n, __ATOMIC_RELAXED);
    for (unsigned at = 0, some; p->ch && at < n; at += some) {
        some = MIN(BATCH, n - at);
        for (unsigned i = 0; i < some; i++) {
            FF_MARK3(page_asked, runs[at + i].block, runs[at + i].first, runs[at + i].n);
            frames[i] = frame_of(p, &runs[at + i]);
        }
        struct iovec iov = {frames, some * sizeof(FfFrame)};
        ff_channel_write_all(p->ch, &iov, 1, true);
    }
    return 0;
}

void ff_peer_pager_init(FfPeerPager *p, uint64_t *requests)
{
    *p = (FfPeerPager){.pager = {.request = request_runs}, .requests = requests};
}

void ff_peer_pager_connect(FfPeerPager *p, FfChannel *ch, uint64_t epoch)
{
    p->ch = ch;
    p->epoch = epoch;
}
