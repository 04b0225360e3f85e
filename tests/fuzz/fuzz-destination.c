/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A whole destination, fed from a hostile source. */
#include "tests/fuzz/peer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int peer;
    Side *s = fuzz_side(FF_ROLE_DESTINATION, &peer);

    fuzz_be_source(peer, data, size);
    fuzz_end(s, peer);
    return 0;
}
