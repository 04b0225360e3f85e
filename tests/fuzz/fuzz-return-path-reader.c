/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The thread that reads what a hostile QEMU answers to its device state, without the others. It
 * knows nothing of a migration but the socket, the events and the error: one migration does for all
 * inputs. */
#include "tests/fuzz/alone.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static FfMigration *m;

    if (size > 64 << 10) {
        return 0;
    }
    if (!m) {
        m = alone_new(FF_ROLE_DESTINATION, NULL, 0);
    }
    m->dest.inner = ff_channel_new(alone_talk(data, size), FF_CHANNEL_MAIN);
    ff_dest_return_path(&m->dest);
    unsigned events = ff_control_events(m->control);
    g_assert_true(events == FF_EV_SHUT || events == FF_EV_DEAD);
    g_assert_cmpint(!m->control->error, ==, !(events & FF_EV_DEAD));
    m->control->events = 0;
    g_clear_pointer(&m->control->error, g_free);
    g_clear_pointer(&m->dest.inner, ff_channel_free);
    alone_hang_up();
    return 0;
}
