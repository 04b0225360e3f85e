/* SPDX-License-Identifier: GPL-2.0-or-later */
/* INIT: what a relay tells a new engine; fds come as they may. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/init.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int state = -1, other = -1; /* what is written to is not looked at: one does for all */
    g_autoptr(GError) error = NULL;
    int fds[8];
    unsigned n = size ? data[0] % G_N_ELEMENTS(fds) : 0;

    fuzz_quiet();
    if (state < 0) {
        state = ff_state_create(FF_POLICY_AUTO);
        other = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    for (unsigned i = 0; i < n; i++) {
        fds[i] = fcntl(i ? other : state, F_DUPFD_CLOEXEC, 0);
        g_assert_cmpint(fds[i], >=, 0);
    }
    g_autoptr(FfEngineInit) init = ff_engine_init_new((const char *)data, size, fds, n, &error);
    g_assert_true((init != NULL) == (error == NULL));
    for (unsigned i = 0; i < n; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    return 0;
}
