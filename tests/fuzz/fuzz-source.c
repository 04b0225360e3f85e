/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A whole source, answered by a hostile destination. */
#include "tests/fuzz/peer.h"

#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int peer;

    if (size > 64 << 10) {
        return 0; /* more than the socket takes at once */
    }
    Side *s = fuzz_side(FF_ROLE_SOURCE, &peer);
    ff_migration_start_postcopy(s->m, NULL);
    G_GNUC_UNUSED ssize_t n = send(peer, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    fuzz_end(s, peer);
    return 0;
}
