/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager that asks a peer, over real memory of this process and a socket pair: each page is
 * asked for once, and once more on the next connection.
 */
#include <sys/socket.h>

#include "content/pagers/peer.h"
#include "net/channel-read.h"
#include "tests/uffd/rig.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING

/* A space whose content is at the other end of `theirs`. */
typedef struct {
    Rig *r;
    FfPeerPager peer;
    uint64_t requests; /* atomic */
    FfChannel *ours, *theirs;
} Net;

static void connect_peer(Net *n, uint64_t epoch)
{
    int sv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    ff_channel_free(n->ours);
    ff_channel_free(n->theirs);
    n->ours = ff_channel_new(sv[0], FF_CHANNEL_URGENT);
    n->theirs = ff_channel_new(sv[1], FF_CHANNEL_URGENT);
    ff_peer_pager_connect(&n->peer, n->ours, epoch);
}

/* FALSE: skipped. */
static bool begin(Net *n, RigKind kind)
{
    *n = (Net){.r = rig_new(kind, MISSING, 0)};
    if (!n->r) {
        return false;
    }
    ff_peer_pager_init(&n->peer, &n->requests);
    ff_space_set_pager(n->r->s, &n->peer.pager);
    return true;
}

static void end(Net *n)
{
    rig_free(n->r);
    ff_channel_free(n->ours);
    ff_channel_free(n->theirs);
}

/* The next request that the peer gets, which must be of EPOCH. */
static FfRun hear(Net *n, uint64_t epoch)
{
    const char *why;
    FfFrame f;

    g_assert_cmpint(ff_channel_read_frame(n->theirs, &f, 60000, &why), ==, 0);
    g_assert_cmpint(f.type, ==, FF_FRAME_REQUEST);
    g_assert_cmpuint(f.length, ==, 0);
    g_assert_cmpuint(f.epoch, ==, epoch);
    return (FfRun){f.block, f.page, f.n_pages};
}

static gpointer answer_all(gpointer p)
{
    Net *n = p;

    for (unsigned i = 0; i < n->r->n_pages; i++) {
        FfRun run = hear(n, 7);
        g_assert_cmpuint(run.block, ==, 0);
        g_assert_cmpuint(run.n, ==, 1);
        rig_fill_pattern(n->r, &run);
    }
    return NULL;
}

static void test_peer(RigKind kind)
{
    Net n;

    if (!begin(&n, kind)) {
        return;
    }
    connect_peer(&n, 7);
    rig_start(n.r);
    GThread *peer = g_thread_new("peer", answer_all, &n);
    for (unsigned i = 0; i < n.r->n_pages; i++) {
        unsigned page = i * 5 % n.r->n_pages;
        rig_check(n.r, page, rig_page(n.r, page));
    }
    g_thread_join(peer);
    rig_stop(n.r);
    g_assert_cmpuint(n.requests, ==, n.r->n_pages);
    g_assert_cmpuint(ff_space_missing(n.r->s), ==, 0);
    end(&n);
}

static gpointer read_third(gpointer p)
{
    Net *n = p;

    rig_check(n->r, 3, rig_page(n->r, 3));
    return NULL;
}

/* It waits without a connection, on one that is lost, and on the next one. */
static void test_reconnect(RigKind kind)
{
    Net n;

    if (!begin(&n, kind)) {
        return;
    }
    ff_peer_pager_connect(&n.peer, NULL, 0);
    rig_start(n.r);
    GThread *waits = g_thread_new("waits", read_third, &n);
    rig_wait_began(n.r, 1);
    rig_stop_faults(n.r);
    connect_peer(&n, 1);
    rig_start_faults_again(n.r);
    g_assert_cmpuint(hear(&n, 1).first, ==, 3);
    ff_channel_shutdown(n.theirs);
    rig_stop_faults(n.r);
    connect_peer(&n, 2);
    rig_start_faults_again(n.r);
    FfRun run = hear(&n, 2);
    g_assert_cmpuint(run.first, ==, 3);
    rig_fill_pattern(n.r, &run);
    g_thread_join(waits);
    rig_stop(n.r);
    g_assert_cmpuint(n.r->ended, ==, 1);
    end(&n);
}

/* More than go out at once. */
static void test_many(RigKind kind)
{
    FfRun runs[150];
    Net n;

    if (!begin(&n, kind)) {
        return;
    }
    connect_peer(&n, 3);
    for (unsigned i = 0; i < G_N_ELEMENTS(runs); i++) {
        runs[i] = (FfRun){i % 2, i * 7, 1 + i};
    }
    g_assert_cmpint(n.peer.pager.request(&n.peer.pager, runs, G_N_ELEMENTS(runs)), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(runs); i++) {
        FfRun run = hear(&n, 3);
        g_assert_cmpuint(run.block, ==, runs[i].block);
        g_assert_cmpuint(run.first, ==, runs[i].first);
        g_assert_cmpuint(run.n, ==, runs[i].n);
    }
    g_assert_cmpuint(n.requests, ==, G_N_ELEMENTS(runs));
    end(&n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_add("/peer/all", RIG_ALL, test_peer);
    rig_add("/peer/reconnect", RIG_ALL, test_reconnect);
    rig_add("/peer/many", RIG_BIT(RIG_MEMFD), test_many);
    return g_test_run();
}
