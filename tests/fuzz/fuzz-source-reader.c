/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's greeting, its main reader and its urgent thread, one after the other: what a hostile
 * destination says is read to its end, then the requests in it are answered. The first byte says
 * where it begins: with the greeting, behind it, or on an urgent connection of its own.
 */
#include "tests/fuzz/alone.h"

#include <sys/socket.h>
#include <unistd.h>

typedef enum { STRANGER, GREETED, URGENT, MOMENTS } Moment;

static void greeted(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    m->main = ff_channel_new(m->cfg.fd, FF_CHANNEL_MAIN);
    m->cfg.fd = -1;
    m->peer_features = FF_FEATURE_ALIVE | FF_FEATURE_ZSTD;
    ff_source_feed_urgent(m, &error);
    g_assert_no_error(error);
}

static void answer_requests(FfMigration *m)
{
    if (m->urgent_feed >= 0) {
        shutdown(m->urgent_feed, SHUT_WR);
    }
    m->frozen = 1;
    ff_source_urgent(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;

    if (!size || size > 64 << 10) {
        return 0;
    }
    Moment moment = data[0] % MOMENTS;
    FfMigration *m = alone_new(FF_ROLE_SOURCE, data + 1, size - 1, false);
    alone_set_blocks(m);
    if (moment == STRANGER) {
        g_assert_true(ff_source_connect(m, &error) == !error);
    } else if (moment == GREETED) {
        greeted(m);
    } else {
        m->main = alone_silent();
        m->urgent = m->urgent_in = ff_channel_new(m->cfg.fd, FF_CHANNEL_URGENT);
        m->cfg.fd = -1;
    }
    if (!error && moment != URGENT) {
        ff_source_main_reader(m);
    }
    if (!error) {
        answer_requests(m);
    }
    uint64_t left = ff_bitmap_count(&m->blocks[0].bitmap);
    g_assert_cmpuint(left, <=, ALONE_PAGES);
    /* What is claimed is sent: the pages are of zeros, each is counted once. */
    g_assert_true(m->stats.pages_zero + m->stats.pages_normal <= ALONE_PAGES - left);
    g_assert_false(m->given);
    alone_free(m);
    return 0;
}
