/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's greeting and its main, urgent and return path readers, without the other
 * threads. The first byte says which, and at what moment of a migration: what the coordinator would
 * have done by then is done before anything is read.
 */
#include "tests/fuzz/alone.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "relay/state.h"

typedef enum { STRANGER, GREETED, ARMED, FROZEN, LOADED, GIVEN, URGENT, MOMENTS } Moment;

static void reach(FfMigration *m, Moment moment)
{
    m->epoch = 1;
    m->peer_features = FF_FEATURE_ALIVE | FF_FEATURE_ZSTD;
    m->want_channel = moment == GREETED;
    if (moment >= ARMED) {
        g_autoptr(GError) error = NULL;

        m->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        g_assert_cmpint(m->uffd, >=, 0);
        ff_dest_arm(m, &error);
        g_assert_no_error(error);
    }
    m->frozen = moment >= FROZEN;
    if (moment >= LOADED) {
        m->events |= FF_EV_SHUT;
        m->cfg.state->phase = FF_PHASE_LOADED;
    }
    if (moment == GIVEN) {
        m->events |= FF_EV_GRANT;
        m->given = true;
        m->cfg.state->phase = FF_PHASE_GRANTED;
    }
}

static void read_it(FfMigration *m, Moment moment)
{
    g_autoptr(GError) error = NULL;

    if (moment == STRANGER) {
        if (!ff_dest_recognise_passed(m, &error) || !ff_dest_no_stock(m, &error) ||
            !ff_dest_greet(m, &error)) {
            g_assert_nonnull(error);
            return;
        }
    } else if (moment == URGENT) {
        m->main = alone_silent();
        m->urgent = g_steal_pointer(&m->arrived);
        ff_dest_urgent_reader(m);
        return;
    } else {
        m->main = g_steal_pointer(&m->arrived);
    }
    ff_dest_main_reader(m);
}

/* Nothing that a peer says leads beyond the moment it was said in. */
static void check(FfMigration *m, Moment moment)
{
    unsigned events = ff_m_events(m);
    uint64_t have = ff_bitmap_count(&m->blocks[0].bitmap);

    g_assert_cmpuint(m->done_pages, ==, have);
    g_assert_cmpuint(have, <=, ALONE_PAGES);
    g_assert_true(!(events & FF_EV_ALL) || have == ALONE_PAGES);
    g_assert_true(!(events & FF_EV_GRANT) || moment == LOADED || moment == GIVEN);
    g_assert_true(!m->granted_state || moment == LOADED);
    g_assert_true(!(events & FF_EV_FINISHED) || moment == GIVEN);
    g_assert_cmpint(m->cfg.state->run_right, ==, FF_RUN_NONE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || size > 64 << 10) {
        return 0;
    }
    Moment moment = data[0] % MOMENTS;
    FfMigration *m = alone_new(FF_ROLE_DESTINATION, data + 1, size - 1, false);

    alone_set_blocks(m);
    if (moment != STRANGER) {
        reach(m, moment);
    }
    read_it(m, moment);
    check(m, moment);
    alone_free(m);
    return 0;
}
