/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's greeting, its main reader and its urgent thread, one after the other: what a hostile
 * destination says is read to its end, then the requests in it are answered. The first byte says
 * where it begins: with the greeting, after it, on an urgent connection of its own, or with a
 * recovery, which then continues to the end of the migration, or with the user's wish to have the
 * guest back.
 */
#include "tests/fuzz/alone.h"

#include <unistd.h>

#include "contract/state.h"

typedef enum { STRANGER, GREETED, URGENT, PAUSED, REVOKING, MOMENTS } Moment;

#define ROUNDS 3 /* were said on the main connection */

static bool meet(FfMigration *m)
{
    g_autoptr(GError) error = NULL;
    bool ok = ff_source_hello(&m->source, &error);

    g_assert_true(ok == !error);
    return ok;
}

static bool begin_behind(FfMigration *m)
{
    m->conn.main = ff_channel_new(alone_fd(m), FF_CHANNEL_MAIN);
    m->conn.peer_features = FF_FEATURE_ALIVE | FF_FEATURE_ZSTD | FF_FEATURE_COMPRESSED_DEVICE |
                            FF_FEATURE_DELTA_DEVICE | FF_FEATURE_ROUNDS | FF_FEATURE_ENDED;
    m->source.asked[FF_INDEX_MAIN] = ROUNDS;
    return ff_source_feed_urgent(&m->source, NULL);
}

static void answer_requests(FfMigration *m)
{
    uint64_t one = 1;

    m->source.guest_stopped = 1;
    g_assert_cmpint(write(m->source.urgent_wake, &one, sizeof(one)), ==, sizeof(one));
    ff_source_urgent(&m->source);
}

static void lose_connection(FfMigration *m)
{
    m->cfg.state->phase = FF_PHASE_GRANTED;
    m->cfg.state->run_right = FF_RUN_GIVEN;
    m->source.run_state = g_strdup("running");
    alone_pause(m, true);
}

/* Whatever is said, the guest stays the peer's. */
static void recover(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    lose_connection(m);
    ff_migration_resume(m, NULL, alone_fd(m), false, &error);
    g_assert_no_error(error);
    ff_source_see_through(&m->source);
    g_assert_cmpint(m->cfg.state->run_right, ==, FF_RUN_GIVEN);
    g_assert_true(m->control->granted && !m->source.revoked && !alone_runs());
}

/* The guest comes back by one word only. */
static void take_back(FfMigration *m, const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;

    lose_connection(m);
    ff_migration_revoke(m, NULL, alone_fd(m), false, &error);
    g_assert_no_error(error);
    ff_source_see_through(&m->source);
    g_assert_true(!m->source.revoked || alone_says(data, size, FF_FRAME_REVOKED, true));
    g_assert_cmpint(m->source.revoked, ==, alone_runs());
    g_assert_cmpint(m->cfg.state->run_right, ==, m->source.revoked ? FF_RUN_NONE : FF_RUN_GIVEN);
}

static void talk(FfMigration *m, Moment moment)
{
    if (moment == URGENT) {
        m->conn.main = alone_silent();
        m->conn.urgent = ff_channel_new(alone_fd(m), FF_CHANNEL_URGENT);
    } else if (!(moment == STRANGER ? meet(m) : begin_behind(m))) {
        return;
    } else {
        ff_source_main_reader(&m->source);
    }
    answer_requests(m);
    for (unsigned i = 0; i < G_N_ELEMENTS(m->source.asked); i++) {
        g_assert_cmpuint(m->source.answered[i], <=, m->source.asked[i]);
    }
    g_assert_false(m->control->granted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || size > 64 << 10) {
        return 0;
    }
    Moment moment = data[0] % MOMENTS;
    FfMigration *m = alone_new(FF_ROLE_SOURCE, data + 1, size - 1);

    alone_set_blocks(m);
    if (moment == PAUSED) {
        recover(m);
    } else if (moment == REVOKING) {
        take_back(m, data + 1, size - 1);
    } else {
        talk(m, moment);
    }
    uint64_t left = ff_bitmap_count(&m->ram.blocks[0].bitmap);
    g_assert_cmpuint(left, <=, ALONE_PAGES);
    /* What is claimed is sent: the pages are of zeros, each is counted once. */
    g_assert_true(m->stats.pages_zero + m->stats.pages_normal <= ALONE_PAGES - left);
    alone_free(m);
    return 0;
}
