/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's acceptor, its greeting, its main, urgent and bulk readers, and its recovery up
 * to the end of the migration, without the other threads. The first byte says at what moment of a
 * migration: what the coordinator would have done by then is done before anything is read.
 */
#include "tests/fuzz/alone.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "contract/state.h"

typedef enum {
    STRANGER,
    GREETED,
    ARMED,
    FROZEN,
    LOADED,
    GIVEN,
    URGENT,
    PAUSED,
    KNOCKED,
    UNGRANTED, /* paused as well, and the grant was perhaps given */
    FURTHER,   /* in precopy, on an additional bulk connection */
    MOMENTS
} Moment;

static void reach(FfMigration *m, Moment moment)
{
    m->conn.epoch = m->conn.want_epoch = 1;
    m->conn.peer_features = FF_FEATURE_ALIVE | FF_FEATURE_ZSTD | FF_FEATURE_COMPRESSED_DEVICE |
                            FF_FEATURE_DELTA_DEVICE | FF_FEATURE_ROUNDS | FF_FEATURE_ENDED;
    if (moment == FURTHER) {
        g_assert_cmpint(ff_dest_empty(&m->dest), ==, 0);
        return;
    }
    m->conn.want_channel = moment == GREETED || moment == KNOCKED;
    if (moment >= ARMED) {
        g_autoptr(GError) error = NULL;

        m->dest.uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        g_assert_cmpint(m->dest.uffd, >=, 0);
        ff_dest_arm(&m->dest, &error);
        g_assert_no_error(error);
    }
    m->dest.final = moment >= FROZEN && moment != KNOCKED;
    if (moment == FROZEN) {
        static const uint8_t page[FF_DELTA_PAGE] = {7};

        m->dest.device_base = ff_delta_new();
        g_assert_true(ff_delta_add(m->dest.device_base, page, sizeof(page)));
    }
    if (moment == ARMED || moment == FROZEN) {
        m->cfg.state->phase = FF_PHASE_LOADING;
        m->dest.inner = alone_silent();
    }
    if (moment >= LOADED && moment != KNOCKED) {
        /* An engine that has adopted the guest has not heard it. */
        m->control->events |= moment == PAUSED ? 0 : FF_EV_SHUT;
        m->cfg.state->phase = FF_PHASE_LOADED;
    }
    if (moment == GIVEN || moment == PAUSED) {
        m->control->events |= FF_EV_GRANT;
        m->control->granted = true;
        m->cfg.state->phase = FF_PHASE_GRANTED;
    }
}

static void meet(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    if (ff_dest_hello(&m->dest, &error)) {
        g_assert_true(alone_read(m));
    } else {
        g_assert_nonnull(error);
    }
}

/* It is a source, or an additional channel of one that is here, or nobody's. */
static void answer_knock(FfMigration *m)
{
    alone_knock(m);
    if (m->conn.arrived) {
        m->control->events = 0; /* that the port is gone */
        g_clear_pointer(&m->control->error, g_free);
        meet(m);
        return;
    }
    m->conn.main = alone_silent();
    m->dest.final = 1;
    m->conn.urgent = g_steal_pointer(&m->conn.arrived_urgent);
    if (m->conn.urgent) {
        ff_dest_urgent_reader(&m->dest);
    } else if (m->conn.n_bulk) {
        ff_dest_bulk_reader(&m->conn.bulk[0]);
    }
}

/* Half of the pages are here. */
static void recover(FfMigration *m, bool given)
{
    g_autoptr(GError) error = NULL;

    FfRun half = {0, 0, ALONE_PAGES / 2};
    g_assert_cmpint(ff_placer_zero(&m->dest.placer, &half), ==, 0);
    alone_pause(m, given);
    ff_migration_recover(m, NULL, alone_fd(m), &error);
    g_assert_no_error(error);
    if (given) {
        ff_dest_see_through(&m->dest);
    } else {
        ff_dest_end_loaded(&m->dest);
    }
}

static void read_it(FfMigration *m, Moment moment)
{
    if (moment == KNOCKED) {
        answer_knock(m);
    } else if (moment == STRANGER) {
        m->conn.arrived = ff_channel_new(alone_fd(m), FF_CHANNEL_MAIN);
        meet(m);
    } else if (moment == URGENT) {
        m->conn.main = alone_silent();
        m->conn.urgent = ff_channel_new(alone_fd(m), FF_CHANNEL_URGENT);
        ff_dest_urgent_reader(&m->dest);
    } else if (moment == FURTHER) {
        m->conn.main = alone_silent();
        ff_dest_bulk_reader(
            ff_conn_add_bulk_locked(&m->conn, ff_channel_new(alone_fd(m), FF_CHANNEL_MAIN)));
        g_assert_cmpint(m->dest.rounds_open, <=, 1);
    } else if (moment == PAUSED || moment == UNGRANTED) {
        recover(m, moment == PAUSED);
    } else {
        m->conn.main = ff_channel_new(alone_fd(m), FF_CHANNEL_MAIN);
        ff_dest_main_reader(&m->dest);
    }
}

/* Nothing that a peer says leads beyond the moment it was said in. */
static void check(FfMigration *m, Moment moment)
{
    unsigned events = ff_control_events(m->control);
    uint64_t have = ff_bitmap_count(&m->ram.blocks[0].bitmap);
    bool may_end = moment == PAUSED || moment == UNGRANTED;

    g_assert_cmpuint(m->ram.done_pages, ==, have);
    g_assert_cmpuint(have, <=, ALONE_PAGES);
    g_assert_true(!(events & FF_EV_ALL) || have == ALONE_PAGES);
    g_assert_true(!(events & FF_EV_GRANT) || moment == LOADED || moment == GIVEN || may_end);
    g_assert_true(!m->dest.granted_state || moment == LOADED || moment == UNGRANTED);
    g_assert_true(!(events & FF_EV_FINISHED) || moment == GIVEN || may_end);
    g_assert_true(m->control->status != FF_STATUS_COMPLETED || (may_end && have == ALONE_PAGES));
}

/* It runs by a grant that was said, and not if it told a source that it never will. */
static void check_right(FfMigration *m, Moment moment, const uint8_t *data, size_t size)
{
    bool granted = m->cfg.state->run_right == FF_RUN_MINE;

    g_assert_true(!alone_runs() || granted);
    g_assert_true(!granted || (moment == UNGRANTED && m->control->granted &&
                               ff_control_events(m->control) & FF_EV_GRANT &&
                               alone_says(data, size, FF_FRAME_GRANT, false)));
    if (ff_control_events(m->control) & FF_EV_ANSWERED) {
        g_assert_cmpint(m->cfg.state->phase, ==, FF_PHASE_DEAD);
        g_assert_false(granted);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || size > 64 << 10) {
        return 0;
    }
    Moment moment = data[0] % MOMENTS;
    FfMigration *m = alone_new(FF_ROLE_DESTINATION, data + 1, size - 1);

    alone_set_blocks(m);
    if (moment != STRANGER) {
        reach(m, moment);
    }
    read_it(m, moment);
    check(m, moment);
    check_right(m, moment, data + 1, size - 1);
    alone_free(m);
    return 0;
}
