/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The thread that reads what a hostile QEMU answers to its device state, without the others. */
#include "tests/fuzz/alone.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 64 << 10) {
        return 0;
    }
    FfMigration *m = alone_new(FF_ROLE_DESTINATION, data, size);

    m->inner = ff_channel_new(alone_fd(m), FF_CHANNEL_MAIN);
    ff_dest_return_path(m);
    unsigned events = ff_m_events(m);
    g_assert_true(!(events & FF_EV_SHUT) != !(events & FF_EV_DEAD));
    g_assert_cmpint(!m->error, ==, !(events & FF_EV_DEAD));
    alone_free(m);
    return 0;
}
